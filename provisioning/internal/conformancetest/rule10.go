// SPDX-License-Identifier: Apache-2.0

package conformancetest

import (
	"encoding/json"
	"net/http"
	"strings"
	"time"
)

// rule10 is about SAS tokens.
var rule10 = []Case{
	{
		Rule: 10, Name: "a token is sr sig se skn with upper-case escapes for at most an hour",
		Peer: "C SDK: lower-case escapes; Node: sr not escaped at all; Python: no skn; C#: a day; Edge: 30 s and all in lower case",
		check: func(tr *Trial) {
			tr.Service.Script = func(n int, _ Asked) Answer { return InOrder(Assigning("3"), Assigned(Operation))(n, Asked{}) }
			client := tr.client()
			ids := []string{toaster, "Dev:A_1.x-Y"}
			for _, id := range ids {
				_, _ = tr.registerWith(client, device(id), EndAssigned)
			}
			signed := make(map[string]time.Duration) // when a token was first seen
			for _, q := range tr.Service.Requests() {
				if _, seen := signed[q.Token]; !seen {
					signed[q.Token] = q.At
				}
				if wrong := CheckToken(q.Token, q.RegistrationID, deviceKey, tr.Service.Begun.Add(signed[q.Token])); wrong != "" {
					tr.find("the token of a %s of %s: %s", q.Do, q.RegistrationID, wrong)
				}
			}
			if len(tr.Service.Requests()) != 2*len(ids) {
				tr.find("%d requests, want %d", len(tr.Service.Requests()), 2*len(ids))
			}
		},
	},
	{
		Rule: 10, Name: "each HTTPS request has a fresh token", only: []Transport{HTTPS},
		Peer: "C SDK, Node: one token for a whole registration, which may outlive it",
		check: func(tr *Trial) {
			tr.Service.Script = InOrder(Assigning("3"), Assigning("3"), Assigned(Operation))
			_, _ = tr.register(device(toaster), EndAssigned)
			freshEach(tr, func(q Asked) time.Duration { return q.At })
		},
	},
	{
		Rule: 10, Name: "each MQTT connection has a fresh token", only: []Transport{MQTT, MQTTWebSocket},
		Peer: "Node: the MQTT library connects again by itself with the old password",
		check: func(tr *Trial) {
			tr.Service.Script = InOrder(Assigning("30"), Answer{}, Assigning("30"), Answer{}, Assigned(Operation))
			_, _ = tr.register(device(toaster), EndAssigned)
			freshEach(tr, func(q Asked) time.Duration { return time.Duration(q.Connection) })
			if connections := len(tr.Service.Connections()); connections != 3 {
				tr.find("%d connections, want 3", connections)
			}
		},
	},
	{
		Rule: 10, Name: "no key, token or payload reaches a log or an error",
		Peer: "C SDK with logging on: the whole MQTT CONNECT, password included",
		check: func(tr *Trial) {
			const secret = "SECRET-in-the-payload"
			for name, script := range map[string]func(int, Asked) Answer{
				"assigned":  InOrder(Assigning("3"), Assigned(Operation)),
				"refused":   InOrder(Refusal(401, 401002, "")),
				"throttled": InOrder(Refusal(429, 429001, "2"), Assigning("3"), Refusal(503, 503001, ""), Refusal(429, 429001, "400")),
				"dropped":   InOrder(Answer{}),
				"nonsense":  InOrder(Answer{Status: http.StatusOK, Body: "<html>"}),
				"failed":    InOrder(Failed(400207, "No.")),
			} {
				tr.part(name, func(tr *Trial) {
					tr.Service.Script = script
					d := device(toaster)
					d.Payload = json.RawMessage(`{"secret":"` + secret + `"}`)
					_, err := tr.client().Register(tr.ctx, d)
					text := tr.log.String()
					if err != nil {
						text += err.Error()
					}
					for _, bad := range []string{"SharedAccessSignature", "sig=", "se=9", secret, deviceKey, escaped(deviceKey), "api-version"} {
						if strings.Contains(text, bad) {
							tr.find("the log or the error holds %q", bad)
						}
					}
				})
			}
		},
	},
}

// freshEach expects another token for each thing that is to have one of its own.
func freshEach(tr *Trial, owner func(Asked) time.Duration) {
	owners := make(map[string]time.Duration)
	for _, q := range tr.Service.Requests() {
		if first, seen := owners[q.Token]; seen && first != owner(q) {
			tr.find("a token was used again by a %s after %v", q.Do, q.At)
		} else if !seen {
			owners[q.Token] = owner(q)
		}
	}
}
