// SPDX-License-Identifier: Apache-2.0

package conformancetest

import (
	"fmt"
	"slices"
	"sync"
	"time"
)

// rule2 is 429 and everything above it.
var rule2 = []Case{
	{
		Rule: 2, Name: "429 to a register is asked again after the hint",
		Peer:  "Node over HTTP: fails at once; C#: the first PUT is not retried at all; Edge: ignores the hint",
		check: func(tr *Trial) { obeysHint(tr, "register", 429, "40") },
	},
	{
		Rule: 2, Name: "429 to a poll is asked again after the hint",
		Peer:  "Node over HTTP: fails at once; C# over HTTP: the hint goes into a variable that the next loop overwrites",
		check: func(tr *Trial) { obeysHint(tr, "poll", 429, "40") },
	},
	{
		Rule: 2, Name: "500 and 503 are asked again after the hint",
		Peer: "Node over HTTP: fails at once; Edge: one 5xx to a poll fails the registration",
		check: func(tr *Trial) {
			for _, status := range []int{500, 503} {
				for _, kind := range []string{"register", "poll"} {
					tr.part(fmt.Sprintf("%d to a %s", status, kind), func(tr *Trial) { obeysHint(tr, kind, status, "40") })
				}
			}
		},
	},
	{
		Rule: 2, Name: "a hint that is an HTTP date is obeyed",
		Peer: "C SDK: a date becomes 1 s",
		check: func(tr *Trial) {
			for _, kind := range []string{"register", "poll"} {
				tr.part(kind, func(tr *Trial) { obeysHint(tr, kind, 429, "date") })
			}
		},
	},
	{
		Rule: 2, Name: "a date is measured by the service's clock", only: []Transport{HTTPS}, // an MQTT answer shows none
		Peer: "nobody measures; who reads dates at all reads them by the device's own clock",
		check: func(tr *Trial) {
			late := Refusal(429, 429001, "Sat, 21 Nov 2026 10:00:40 GMT")
			late.Header = map[string][]string{"Date": {"Sat, 21 Nov 2026 10:00:00 GMT"}}
			tr.Service.Script = InOrder(late, Assigned(Operation))
			_, _ = tr.register(device(toaster), EndAssigned)
			if times := tr.at(""); len(times) == 2 {
				tr.between("the retry", times[1], 40*time.Second, 44*time.Second)
			} else {
				tr.sequence("register register")
			}
		},
	},
	{
		Rule: 2, Name: "without a hint the waits grow, from 1 s by 9 s",
		Peer: "Node, Python: 2 s, for ever; C SDK: 1 s, for ever",
		check: func(tr *Trial) {
			for _, status := range []int{429, 503} {
				for _, kind := range []string{"register", "poll"} {
					tr.part(fmt.Sprintf("%d to a %s", status, kind), func(tr *Trial) {
						tr.Service.Script = Busy(kind, 9, Refusal(status, 0, ""))
						_, _ = tr.register(device(toaster), EndAssigned)
						times := tr.at(kind)
						if len(times) != 10 {
							tr.find("%d requests, want 10: nine failures and a success", len(times))
						}
						for n := 1; n < len(times); n++ {
							least := time.Duration(1+(n-1)*9) * time.Second
							tr.between(fmt.Sprintf("before retry %d", n), times[n]-times[n-1], least, tenthMore(least))
						}
					})
				}
			}
		},
	},
	{
		Rule: 2, Name: "a hint above five minutes ends the attempt and names the time",
		Peer: "C SDK: asks again after 1 s; Node: sleeps for as long as it says, without a word",
		check: func(tr *Trial) {
			for _, row := range []struct {
				hint string
				want time.Duration
			}{
				{"301", 301 * time.Second},
				{"3600", time.Hour},
				{"Sat, 01 Jan 2000 06:00:00 GMT", 6 * time.Hour},
				{"864000", 24 * time.Hour}, // never longer
				{"99999999999999999999", 24 * time.Hour},
			} {
				tr.part("hint "+row.hint, func(tr *Trial) {
					tr.Service.Script = InOrder(Refusal(429, 429001, row.hint))
					outcome, _ := tr.register(device(toaster), EndThrottled)
					tr.story("register 0s")
					tr.between("the attempt", time.Since(tr.Service.Begun), 0, 0)
					next := outcome.NextAttempt.Sub(tr.Service.Begun)
					tr.between("the next attempt", next, row.want, row.want)
				})
			}
		},
	},
	{
		Rule: 2, Name: "the tenth failure in a row ends the attempt",
		Peer: "Node over MQTT, Python, C SDK: for ever",
		check: func(tr *Trial) {
			for _, kind := range []string{"register", "poll"} {
				for status, want := range map[int]Ending{429: EndThrottled, 503: EndUnreachable} {
					tr.part(fmt.Sprintf("%d to a %s", status, kind), func(tr *Trial) {
						tr.Service.Script = Busy(kind, mostRequests, Refusal(status, 0, ""))
						_, _ = tr.register(device(toaster), want)
						if sent := len(tr.at(kind)); sent != 10 {
							tr.find("%d requests, want 10", sent)
						}
					})
				}
			}
		},
	},
	{
		Rule: 2, Name: "a good answer resets the count of failures",
		check: func(tr *Trial) {
			tr.Env.AttemptLimit = time.Hour
			polls := 0
			tr.Service.Script = func(_ int, q Asked) Answer {
				if q.Do == "register" {
					return Assigning("3")
				}
				polls++
				switch {
				case polls%6 != 0:
					return Refusal(503, 0, "")
				case polls < 18:
					return Assigning("3")
				}
				return Assigned(Operation)
			}
			_, _ = tr.register(device(toaster), EndAssigned) // fifteen failures, never more than five in a row
		},
	},
	{
		Rule: 2, Name: "devices with one hint do not come back in step, and never too early",
		Peer: "C SDK, Node, Python: no jitter",
		check: func(tr *Trial) {
			times := retriesOf(tr, 20, Refusal(429, 429001, "100"))
			if len(times) == 0 {
				return
			}
			tr.between("the first to come back", times[0], 100*time.Second, 105*time.Second)
			tr.between("the last to come back", times[len(times)-1], 100*time.Second, 110*time.Second)
			if spread := times[len(times)-1] - times[0]; spread < 2*time.Second {
				tr.find("%d devices came back within %v, want them spread over ten seconds", len(times), spread)
			}
		},
	},
	{
		Rule: 2, Name: "without a hint devices spread over the time that the whole fleet needs",
		Peer: "every SDK: the scale guide's formula is implemented by none",
		check: func(tr *Trial) {
			tr.Env.Fleet, tr.Env.RegistersPerMinute = 1000, 1000 // T = N / rate is a minute
			times := retriesOf(tr, 20, Refusal(503, 503001, ""))
			if len(times) == 0 {
				return
			}
			tr.between("the first to come back", times[0], time.Second, 31*time.Second)
			tr.between("the last to come back", times[len(times)-1], 31*time.Second, 61*time.Second)
		},
	},
	{
		Rule: 2, Name: "429 to a register holds back the other devices",
		Peer: "every SDK: one client a device, and none knows of the others",
		check: func(tr *Trial) {
			tr.Service.Script = func(n int, q Asked) Answer {
				if q.RegistrationID == "first" && n == 0 {
					return Refusal(429, 429001, "30")
				}
				return Assigned(Operation)
			}
			client := tr.client()
			var group sync.WaitGroup
			group.Go(func() { _, _ = tr.registerWith(client, device("first"), EndAssigned) })
			time.Sleep(time.Second)
			group.Go(func() { _, _ = tr.registerWith(client, device("second"), EndAssigned) })
			group.Wait()
			for _, q := range tr.Service.Requests()[1:] {
				tr.between(q.RegistrationID, q.At, 30*time.Second, 33*time.Second+time.Millisecond)
			}
		},
	},
	{
		Rule: 2, Name: "a long hint to one device ends the attempts of the others too",
		Peer: "every SDK: each device asks for itself",
		check: func(tr *Trial) {
			tr.Service.Script = InOrder(Refusal(429, 429001, "7200"))
			client := tr.client()
			for _, id := range []string{"first", "second"} {
				outcome, _ := tr.registerWith(client, device(id), EndThrottled)
				tr.between("the next attempt of "+id, outcome.NextAttempt.Sub(tr.Service.Begun), 2*time.Hour, 132*time.Minute)
			}
			tr.story("register 0s")
		},
	},
	{
		Rule: 2, Name: "429 to a poll does not hold back registers",
		check: func(tr *Trial) {
			tr.Service.Script = func(_ int, q Asked) Answer {
				switch {
				case q.Do == "poll" && q.RegistrationID == "first":
					return Refusal(429, 429001, "3600")
				case q.RegistrationID == "first":
					return Assigning("1")
				}
				return Assigned(Operation)
			}
			client := tr.client()
			_, _ = tr.registerWith(client, device("first"), EndThrottled)
			_, _ = tr.registerWith(client, device("second"), EndAssigned)
		},
	},
	{
		Rule: 2, Name: "a refusal below 429 is not asked again",
		Peer: "C SDK over HTTP: any status but 401 counts as trouble of the transport",
		check: func(tr *Trial) {
			for _, status := range []int{400, 403, 404, 412} {
				tr.part(fmt.Sprint(status), func(tr *Trial) {
					tr.Service.Script = InOrder(Refusal(status, status*1000+4, ""))
					_, _ = tr.register(device(toaster), EndRefused)
					tr.story("register 0s")
				})
			}
		},
	},
}

// obeysHint answers the first request of a kind badly and expects the next one after 40 s and up to a tenth more. The
// hint "date" is that time as a date.
func obeysHint(tr *Trial, kind string, status int, hint string) {
	first := true
	tr.Service.Script = func(_ int, q Asked) Answer {
		if q.Do == kind && first {
			first = false
			if hint == "date" {
				hint = HTTPDate(40 * time.Second)
			}
			return Refusal(status, status*1000+1, hint)
		}
		if q.Do == "register" {
			return Assigning("3")
		}
		return Assigned(Operation)
	}
	_, _ = tr.register(device(toaster), EndAssigned)
	times := tr.at(kind)
	if len(times) != 2 {
		tr.find("%d requests of the kind, want 2", len(times))
		return
	}
	tr.between("the retry", times[1]-times[0], 40*time.Second, 44*time.Second)
}

// retriesOf answers the first poll of several devices badly, and tells how long each took to come back, in order.
func retriesOf(tr *Trial, devices int, answer Answer) (waits []time.Duration) {
	tr.Service.Script = func(n int, q Asked) Answer {
		switch {
		case q.Do == "register":
			return Assigning("1")
		case n == 1:
			return answer
		}
		return Assigned(Operation)
	}
	client := tr.client()
	var group sync.WaitGroup
	for i := range devices {
		group.Go(func() { _, _ = tr.registerWith(client, device(fmt.Sprintf("device-%d", i)), EndAssigned) })
	}
	group.Wait()
	last := make(map[string]time.Duration)
	for _, q := range tr.Service.Requests() {
		if q.Do != "poll" {
			continue
		}
		if before, ok := last[q.RegistrationID]; ok {
			waits = append(waits, q.At-before)
		}
		last[q.RegistrationID] = q.At
	}
	if len(waits) != devices {
		tr.find("%d retries of %d devices", len(waits), devices)
	}
	slices.Sort(waits)
	return waits
}
