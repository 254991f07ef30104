// SPDX-License-Identifier: Apache-2.0

package conformancetest

import (
	"fmt"
	"sync"
	"time"
)

// rule4 is about the budgets that all devices share.
var rule4 = []Case{
	{
		Rule: 4, Name: "registers and polls are spread evenly over their budgets",
		Peer: "every SDK: a site that starts after a power cut registers all at once",
		check: func(tr *Trial) {
			tr.Env.RegistersPerMinute, tr.Env.PollsPerSecond = 60, 0.5
			tr.Service.Script = func(_ int, q Asked) Answer {
				if q.Do == "register" {
					return Assigning("0")
				}
				return Assigned(Operation)
			}
			client := tr.client()
			var group sync.WaitGroup
			for i := range 10 {
				group.Go(func() { _, _ = tr.registerWith(client, device(fmt.Sprintf("device-%d", i)), EndAssigned) })
			}
			group.Wait()
			for kind, every := range map[string]time.Duration{"register": time.Second, "poll": 2 * time.Second} {
				times := tr.at(kind)
				for i := 1; i < len(times); i++ {
					if gap := times[i] - times[i-1]; gap < every-time.Microsecond {
						tr.find("a %s came %v after the one before, want %v", kind, gap, every)
					}
				}
				if len(times) != 10 {
					tr.find("%d requests of the kind %s, want 10", len(times), kind)
					continue
				}
				tr.between("the last "+kind, times[9], 9*every, 10*every+time.Second)
			}
		},
	},
	{
		Rule: 4, Name: "the budget is remembered across restarts",
		Peer: "every SDK: a site whose gateways restart in a loop registers in a loop",
		check: func(tr *Trial) {
			tr.Env.RegistersPerMinute, tr.Env.Memory = 1, new(Memory)
			for i := range 3 {
				client := tr.client()
				_, _ = tr.registerWith(client, device(fmt.Sprintf("device-%d", i)), EndAssigned)
				client.Close()
				time.Sleep(time.Second)
			}
			times := tr.at("register")
			for i := 1; i < len(times); i++ {
				tr.between("from one register to the next", times[i]-times[i-1], time.Minute, time.Minute+time.Second)
			}
		},
	},
	{
		Rule: 4, Name: "the pause after a 429 is remembered across restarts",
		Peer: "every SDK: a restart asks again at once",
		check: func(tr *Trial) {
			tr.Env.Memory = new(Memory)
			tr.Service.Script = InOrder(Refusal(429, 429001, "200"), Assigned(Operation))
			first := tr.client()
			time.AfterFunc(10*time.Second, first.Close)
			_, _ = tr.registerWith(first, device(toaster), EndAbandoned)
			_, _ = tr.register(device(toaster), EndAssigned)
			tr.sequence("register register")
			if times := tr.at("register"); len(times) == 2 {
				tr.between("the second register", times[1], 200*time.Second, 220*time.Second)
			}
		},
	},
}

// rule6 is about an operation that takes its time.
var rule6 = []Case{
	{
		Rule: 6, Name: "seven minutes of assigning are normal",
		Peer: "every SDK with the timeouts of its samples",
		check: func(tr *Trial) {
			tr.Service.Script = func(int, Asked) Answer {
				if time.Since(tr.Service.Begun) < 415*time.Second { // as long as the service retries a webhook
					return Assigning("3")
				}
				return Assigned(Operation)
			}
			_, _ = tr.register(device(toaster), EndAssigned)
		},
	},
	{
		Rule: 6, Name: "an attempt ends after ten minutes",
		Peer: "Node, Python, C SDK: polls for ever",
		check: func(tr *Trial) {
			tr.Service.Script = InOrder(Assigning("3"))
			_, _ = tr.register(device(toaster), EndUnreachable)
			tr.between("the attempt", time.Since(tr.Service.Begun), 10*time.Minute-3*time.Second, 10*time.Minute)
		},
	},
	{
		Rule: 6, Name: "the wait for a turn in the budget does not count",
		check: func(tr *Trial) {
			tr.Env.RegistersPerMinute = 1.0 / 30 // one in half an hour
			client := tr.client()
			for range 2 {
				_, _ = tr.registerWith(client, device(toaster), EndAssigned)
			}
			tr.story("register 0s, register 30m0s")
		},
	},
}
