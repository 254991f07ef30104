// SPDX-License-Identifier: Apache-2.0

package conformancetest

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// otherKey is a second key of the toaster's, and wrongKey is nobody's.
const (
	otherKey = "6uejA9PfkQgmYylj8Zerp3kcbeVrGZ172YLa7VSnJzg="
	wrongKey = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
)

// rule5 is about a 401.
var rule5 = []Case{
	{
		Rule: 5, Name: "a clock that is off is set by the service's, and that is said once",
		Peer: "C SDK, Node, Python, C#: a gateway without a battery gets 401 until somebody sets its clock",
		check: func(tr *Trial) {
			for _, skew := range []time.Duration{26 * 365 * 24 * time.Hour, 10 * time.Minute, -90 * time.Minute} {
				tr.part(skew.String(), func(tr *Trial) {
					tr.Service.Script = func(_ int, q Asked) Answer { return checked(q, time.Now().Add(skew), deviceKey) }
					client := tr.client()
					_, _ = tr.registerWith(client, device("first"), EndAssigned)
					_, _ = tr.registerWith(client, device("second"), EndAssigned)
					tr.story("register 0s, register 0s, register 0s")
					if said := warnings(tr, "clock"); said != 1 {
						tr.find("the log warns of the clock %d times, want once", said)
					}
				})
			}
		},
	},
	{
		Rule: 5, Name: "a clock that is right is left alone",
		check: func(tr *Trial) {
			tr.Service.Script = func(_ int, q Asked) Answer { return checked(q, time.Now().Add(4*time.Minute), wrongKey) }
			_, err := tr.register(device(toaster), EndRefused)
			tr.story("register 0s")
			if err != nil && !strings.Contains(err.Error(), "key") {
				tr.find("the error does not name the key: %v", err)
			}
			if said := warnings(tr, "clock"); said != 0 {
				tr.find("the log warns of the clock")
			}
		},
	},
	{
		Rule: 5, Name: "a clock that is said to be off is set once, and not again and again",
		Peer: "nobody measures; a loop without an end is what a naive correction comes to",
		check: func(tr *Trial) {
			ahead := time.Duration(0)
			tr.Service.Script = func(_ int, q Asked) Answer {
				ahead += 24 * time.Hour // it runs away
				return checked(q, time.Now().Add(ahead), wrongKey)
			}
			_, _ = tr.register(device(toaster), EndRefused)
			tr.story("register 0s, register 0s")
		},
	},
	{
		Rule: 5, Name: "the clock of somebody else is not believed", only: []Transport{HTTPS}, // nothing else answers on the topics
		check: func(tr *Trial) {
			portal := Answer{Status: http.StatusUnauthorized, Body: "<html>Log in</html>"}
			portal.Header = http.Header{"Date": {"Sat, 21 Nov 2026 10:00:00 GMT"}}
			tr.Service.Script = InOrder(portal, Assigned(Operation))
			client := tr.client()
			_, _ = tr.registerWith(client, device(toaster), EndUnreachable)
			_, _ = tr.registerWith(client, device(toaster), EndAssigned)
			for _, q := range tr.Service.Requests() {
				if wrong := CheckToken(q.Token, toaster, deviceKey, tr.Service.Begun.Add(q.At)); wrong != "" {
					tr.find("the token of the %s at %v: %s", q.Do, q.At, wrong)
				}
			}
		},
	},
	{
		Rule: 5, Name: "the secondary key is tried when the primary is refused",
		Peer: "every SDK: one key a client; a rollover strands whoever was away",
		check: func(tr *Trial) {
			tr.Service.Script = func(_ int, q Asked) Answer { return checked(q, time.Now(), otherKey) }
			d := device(toaster)
			d.Keys = []string{deviceKey, otherKey}
			_, _ = tr.register(d, EndAssigned)
			tr.story("register 0s, register 0s")
		},
	},
	{
		Rule: 5, Name: "a key that rolls over during an operation loses nothing",
		Peer: "every SDK: the registration fails, and its operation is forgotten",
		check: func(tr *Trial) {
			tr.Service.Script = func(n int, q Asked) Answer {
				if n == 0 {
					return Assigning("3")
				}
				if n == 1 { // over MQTT the token is that of the connection, which the service may well look at again
					return unauthorized(time.Now())
				}
				return checked(q, time.Now(), otherKey)
			}
			d := device(toaster)
			d.Keys = []string{deviceKey, otherKey}
			_, _ = tr.register(d, EndAssigned)
			tr.story("register 0s, poll 3s, poll 3s")
		},
	},
	{
		Rule: 5, Name: "each key is tried once, and then it is refused",
		Peer: "MQTT libraries that connect again for ever",
		check: func(tr *Trial) {
			tr.Service.Script = func(_ int, q Asked) Answer { return checked(q, time.Now(), wrongKey) }
			d := device(toaster)
			d.Keys = []string{deviceKey, otherKey}
			_, _ = tr.register(d, EndRefused)
			tr.story("register 0s, register 0s")
			used := make(map[string]bool)
			for _, q := range tr.Service.Requests() {
				for _, key := range d.Keys {
					if CheckToken(q.Token, toaster, key, tr.Service.Begun.Add(q.At)) == "" {
						used[key] = true
					}
				}
			}
			if len(used) != 2 {
				tr.find("%d keys were tried, want both", len(used))
			}
		},
	},
}

// checked assigns who shows a token that is good at a time by a key, and otherwise answers 401 as the service does: over
// HTTPS with a Date, and with the time in the body.
func checked(q Asked, now time.Time, key string) Answer {
	_, rest, _ := strings.Cut(q.Token, "&se=")
	digits, _, _ := strings.Cut(rest, "&")
	ends, err := strconv.ParseInt(digits, 10, 64)
	expiry := time.Unix(ends, 0)
	// A device that is a few minutes off is served; CheckToken wants the time at which the device signed.
	signed := expiry.Add(-tokenLifetime)
	if err != nil || now.Sub(signed).Abs() > 5*time.Minute || CheckToken(q.Token, q.RegistrationID, key, signed) != "" {
		return unauthorized(now)
	}
	return Assigned(Operation)
}

func unauthorized(now time.Time) Answer {
	return Answer{
		Status: http.StatusUnauthorized,
		Header: http.Header{"Date": {now.UTC().Format(http.TimeFormat)}},
		Body: fmt.Sprintf(`{"errorCode":401002,"trackingId":"00000000-0000-4000-8000-000000000000","message":"Unauthorized","timestampUtc":%q}`,
			now.UTC().Format("2006-01-02T15:04:05.0000000Z")),
	}
}

// warnings counts the warnings of the log that hold a word.
func warnings(tr *Trial, word string) (count int) {
	for line := range strings.Lines(tr.log.String()) {
		if strings.Contains(line, "level=WARN") && strings.Contains(line, word) {
			count++
		}
	}
	return count
}
