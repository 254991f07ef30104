// SPDX-License-Identifier: Apache-2.0

package conformancetest

import "net/http"

// rule3 is about an operation that is under way.
var rule3 = []Case{
	{
		Rule: 3, Name: "a poll that is answered badly keeps its operation ID",
		Peer: "Edge: a single 5xx to a poll fails the registration",
		check: func(tr *Trial) {
			for name, answer := range map[string]Answer{
				"429":                Refusal(429, 429001, "5"),
				"500":                Refusal(500, 500001, ""),
				"503 without a body": {Status: http.StatusServiceUnavailable},
			} {
				tr.part(name, func(tr *Trial) {
					tr.Service.Script = InOrder(Assigning("3"), answer, answer, Assigned(Operation))
					_, _ = tr.register(device(toaster), EndAssigned)
					tr.sequence("register poll poll poll")
					pollsOnly(tr)
				})
			}
		},
	},
	{
		Rule: 3, Name: "a poll over a broken connection goes on with the same operation",
		Peer: "C SDK over HTTP: a connection that is closed between polls fails the registration",
		check: func(tr *Trial) {
			tr.Service.Script = InOrder(Assigning("3"), Answer{}, Assigned(Operation))
			_, _ = tr.register(device(toaster), EndAssigned)
			tr.sequence("register poll poll")
			pollsOnly(tr)
		},
	},
	{
		Rule: 3, Name: "a resumed operation is polled and not registered again, over a broken connection too",
		Peer: "every SDK: an operation cannot be resumed",
		check: func(tr *Trial) {
			tr.Service.Script = InOrder(Answer{}, Assigned(Operation))
			resumed := device(toaster)
			resumed.OperationID = Operation
			_, _ = tr.register(resumed, EndAssigned)
			tr.sequence("poll poll")
			pollsOnly(tr)
		},
	},
	{
		Rule: 3, Name: "a 404 to a poll, and only that, begins a new registration",
		check: func(tr *Trial) {
			tr.Service.Script = func(_ int, q Asked) Answer {
				switch {
				case q.OperationID == "old":
					return Refusal(404, 404201, "")
				case q.Do == "register":
					return Assigning("3")
				}
				return Assigned(Operation)
			}
			resumed := device(toaster)
			resumed.OperationID = "old"
			outcome, _ := tr.register(resumed, EndAssigned)
			tr.story("poll 0s, register 0s, poll 3s")
			if outcome.OperationID != Operation {
				tr.find("the assignment is of operation %q, want the new one", outcome.OperationID)
			}
		},
	},
	{
		Rule: 3, Name: "a second 404 is the end",
		Peer: "Edge: an outer loop begins again every 5 s",
		check: func(tr *Trial) {
			tr.Service.Script = func(_ int, q Asked) Answer {
				if q.Do == "register" {
					return Assigning("3")
				}
				return Refusal(404, 404201, "")
			}
			_, _ = tr.register(device(toaster), EndRefused)
			tr.sequence("register poll register poll")
		},
	},
	{
		Rule: 3, Name: "a 404 of somebody else begins nothing", only: []Transport{HTTPS}, // nothing else answers on the topics
		Peer: "C SDK, Node: any 404 is the service's",
		check: func(tr *Trial) {
			tr.Service.Script = InOrder(Assigning("3"), Answer{Status: http.StatusNotFound, Body: "<html>Not found</html>"})
			_, _ = tr.register(device(toaster), EndUnreachable)
			tr.story("register 0s, poll 3s")
		},
	},
	{
		Rule: 3, Name: "the operation ID of a register stays, whatever a poll's answer names",
		check: func(tr *Trial) {
			tr.Service.Script = InOrder(
				Assigning("1"),
				Answer{Status: http.StatusAccepted, RetryAfter: "1", Body: `{"operationId":"other","status":"assigning"}`},
				Answer{Status: http.StatusAccepted, RetryAfter: "1", Body: `{"status":"assigning","registrationState":{"status":"assigning"}}`},
				Assigned(Operation),
			)
			_, _ = tr.register(device(toaster), EndAssigned)
			tr.sequence("register poll poll poll")
			pollsOnly(tr)
		},
	},
}

// pollsOnly expects every poll to be of the one operation.
func pollsOnly(tr *Trial) {
	for _, q := range tr.Service.Requests() {
		if q.Do == "poll" && q.OperationID != Operation {
			tr.find("it polled operation %q, want %q", q.OperationID, Operation)
		}
	}
}
