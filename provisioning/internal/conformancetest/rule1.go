// SPDX-License-Identifier: Apache-2.0

package conformancetest

import (
	"fmt"
	"time"
)

// rule1 is the poll wait.
var rule1 = []Case{
	{
		Rule: 1, Name: "the hint is obeyed on the first answer",
		Peer: "Python: after register it waits 2 s whatever the hint; Edge: always 5 s",
		check: func(tr *Trial) {
			tr.Service.Script = InOrder(Assigning("7"), Assigned(Operation))
			_, _ = tr.register(device(toaster), EndAssigned)
			tr.story("register 0s, poll 7s")
		},
	},
	{
		Rule: 1, Name: "the hint is obeyed on every later answer",
		Peer: "Edge: always 5 s, the header is never read",
		check: func(tr *Trial) {
			tr.Service.Script = InOrder(Assigning("3"), Assigning("7"), Assigning("5"), Assigned(Operation))
			_, _ = tr.register(device(toaster), EndAssigned)
			tr.story("register 0s, poll 3s, poll 10s, poll 15s")
		},
	},
	{
		Rule: 1, Name: "a hint that is an HTTP date is obeyed",
		Peer: "C SDK: a date becomes 1 s; Python: raises inside, and register() hangs",
		check: func(tr *Trial) {
			tr.Service.Script = InOrder(Assigning(HTTPDate(13*time.Second)), Assigned(Operation))
			_, _ = tr.register(device(toaster), EndAssigned)
			tr.story("register 0s, poll 13s")
		},
	},
	{
		Rule: 1, Name: "a hint above 300 s is not cut short",
		Peer: "C SDK: a hint above 300 s becomes 1 s",
		check: func(tr *Trial) {
			tr.Service.Script = InOrder(Assigning("301"), Assigned(Operation))
			_, _ = tr.register(device(toaster), EndAssigned)
			tr.story("register 0s, poll 5m1s")
		},
	},
	{
		Rule: 1, Name: "the hint counts from the answer",
		Peer: "C SDK: counts from its own last send, so that the wait includes the round trip",
		check: func(tr *Trial) {
			tr.Service.Script = func(n int, _ Asked) Answer {
				if n == 0 {
					time.Sleep(2 * time.Second)
					return Assigning("3")
				}
				return Assigned(Operation)
			}
			_, _ = tr.register(device(toaster), EndAssigned)
			tr.story("register 0s, poll 5s")
		},
	},
	{
		Rule: 1, Name: "without a usable hint the waits are half a second, one, then two and a half",
		Peer: "Node, Python: always 2 s; C SDK: always 1 s, twice the documented rate; Python: 2.5 raises and hangs",
		check: func(tr *Trial) {
			for _, hint := range []string{"", "soon", "-1", "2.5"} {
				tr.part(fmt.Sprintf("hint %q", hint), func(tr *Trial) {
					tr.Service.Script = InOrder(Assigning(hint), Assigning(hint), Assigning(hint), Assigning(hint), Assigned(Operation))
					_, _ = tr.register(device(toaster), EndAssigned)
					tr.story("register 0s, poll 500ms, poll 1.5s, poll 4s, poll 6.5s")
				})
			}
		},
	},
	{
		Rule: 1, Name: "no device is polled more than five times in ten seconds, whatever the hint",
		Peer: "Node: a hint of 0 polls at once, without end; C SDK: ten in ten seconds",
		check: func(tr *Trial) {
			for _, hint := range []string{"0", "1"} {
				tr.part("hint "+hint, func(tr *Trial) {
					tr.Service.Script = func(n int, _ Asked) Answer {
						if n < 17 {
							return Assigning(hint)
						}
						return Assigned(Operation)
					}
					_, _ = tr.register(device(toaster), EndAssigned)
					polls := tr.at("poll")
					for i := 5; i < len(polls); i++ {
						if gap := polls[i] - polls[i-5]; gap < 10*time.Second {
							tr.find("six polls within %v, from %v on", gap, polls[i-5])
							return
						}
					}
					if len(polls) != 17 {
						tr.find("%d polls, want 17", len(polls))
						return
					}
					tr.between("the last of 17 polls", polls[16], 30*time.Second, 36*time.Second)
				})
			}
		},
	},
	{
		Rule: 1, Name: "the cap on polls is the device's and outlives an attempt",
		Peer: "every SDK: a caller's loop around it starts anew",
		check: func(tr *Trial) {
			tr.Service.Script = InOrder(Refusal(400, 400004, ""))
			client, resumed := tr.client(), device(toaster)
			resumed.OperationID = Operation
			for range 7 {
				_, _ = tr.registerWith(client, resumed, EndRefused)
			}
			tr.story("poll 0s, poll 0s, poll 0s, poll 0s, poll 0s, poll 10s, poll 10s")
		},
	},
}
