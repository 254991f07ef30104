// SPDX-License-Identifier: Apache-2.0

package conformancetest

import (
	"encoding/json"
	"net/http"
	"strings"
	"unicode"
	"unicode/utf8"
)

// evil is where hostile answers would like a client to go.
const evil = "evil.test"

// rule9 is about what the service names: it is data.
var rule9 = []Case{
	{
		Rule: 9, Name: "a hub that is no host name is not handed out",
		Peer: "every SDK: the text goes to the next connection as it is",
		check: func(tr *Trial) {
			hostile(tr, []string{
				"", "hub.example:22", "hub.example/x", "hub\n.example", "user@hub.example", "hub..example", "hub.example\x00.test",
				"-hub.example", "hüb.example", "https://hub.example", "hub.example?x", strings.Repeat("a", 254),
			}, func(hub string) Answer { return AssignedTo(Operation, hub, "device-1") })
		},
	},
	{
		Rule: 9, Name: "a device ID that would break a topic or a resource is not handed out",
		Peer: "every SDK: the text goes into the next topic as it is",
		check: func(tr *Trial) {
			hostile(tr, []string{"", "a/b", "a+", "#", "a b", "a\r\nb", "a&b", `a"b`, "gerät", strings.Repeat("a", 129)},
				func(deviceID string) Answer { return AssignedTo(Operation, Hub, deviceID) })
		},
	},
	{
		Rule: 9, Name: "an operation ID that would leave its place in a URL or a topic is refused",
		Peer: "C SDK, Node: it goes into the path and the topic as received",
		check: func(tr *Trial) {
			hostile(tr, []string{"../../x", "a/b", "a?b", "a#", "a&b=c", "a+", "a%2fb", "a b", "a\nb", strings.Repeat("a", 257)},
				func(operationID string) Answer {
					text, _ := json.Marshal(map[string]string{"operationId": operationID, "status": "assigning"})
					return Answer{Status: http.StatusAccepted, RetryAfter: "1", Body: string(text)}
				})
		},
	},
	{
		Rule: 9, Name: "an answer about another registration ID is refused",
		Peer: "every SDK: registrationState.registrationId is not read",
		check: func(tr *Trial) {
			tr.Service.Script = InOrder(Answer{Status: http.StatusOK, Body: `{"operationId":"4.a","status":"assigned","registrationState":{` +
				`"registrationId":"somebody-else","assignedHub":"` + Hub + `","deviceId":"somebody-else","status":"assigned"}}`})
			_, _ = tr.register(device(toaster), EndUnreachable)
		},
	},
	{
		Rule: 9, Name: "an answer above 64 KiB is refused",
		Peer: "every SDK: it is read whole, whatever its size",
		check: func(tr *Trial) {
			long := Assigned(Operation)
			long.Body = strings.Replace(long.Body, "{", `{"x":"`+strings.Repeat("a", 64<<10)+`",`, 1)
			tr.Service.Script = InOrder(long)
			_, _ = tr.register(device(toaster), EndUnreachable)
		},
	},
	{
		Rule: 9, Name: "what is not the service's document is no answer",
		Peer: "Python: hangs; C#: a null reference",
		check: func(tr *Trial) {
			for _, body := range []string{
				"", "null", "[]", `"assigned"`, "<html>Welcome to the guest network</html>", `{"status":"assigned"}`, `{"status":"assigning"}`,
				`{"operationId":"4.a"}`, `{"operationId":"4.a","status":"splendid"}`, `{"operationId":4,"status":"assigned"}`, `{"operationId":"4.a","status":"assigned"`,
			} {
				tr.part(body, func(tr *Trial) {
					tr.Service.Script = InOrder(Answer{Status: http.StatusOK, Body: body})
					_, _ = tr.register(device(toaster), EndUnreachable)
					tr.story("register 0s")
				})
			}
		},
	},
	{
		Rule: 9, Name: "the service's words are printable and short when they are shown",
		Peer: "every SDK: the message goes to the log as it came",
		check: func(tr *Trial) {
			nasty := "one\ntwo\r\x1b[31m\a\u202e\u2028" + strings.Repeat("long ", 5000)
			text, _ := json.Marshal(nasty)
			for name, answer := range map[string]Answer{
				"refusal": {Status: http.StatusBadRequest, Body: `{"errorCode":400004,"trackingId":` + string(text) + `,"message":` + string(text) + `}`},
				"failed": {Status: http.StatusOK, Body: `{"operationId":"4.a","status":"failed","registrationState":{"status":"failed","errorCode":400207,` +
					`"errorMessage":` + string(text) + `}}`},
			} {
				tr.part(name, func(tr *Trial) {
					tr.Service.Script = InOrder(answer)
					want := map[string]Ending{"refusal": EndRefused, "failed": EndFailed}[name]
					_, err := tr.register(device(toaster), want)
					if err == nil {
						return
					}
					said := err.Error()
					if strings.ContainsFunc(said, func(r rune) bool { return !unicode.IsPrint(r) }) || !utf8.ValidString(said) {
						tr.find("the error holds what cannot be printed: %.80q", said)
					}
					if len(said) > 2048 {
						tr.find("the error has %d bytes", len(said))
					}
					if log := tr.log.String(); strings.ContainsAny(log, "\x1b\a\r\u202e") || strings.Contains(log, "one\ntwo") {
						tr.find("the log holds what cannot be printed")
					}
				})
			}
		},
	},
	{
		Rule: 9, Name: "no URL out of an answer is fetched",
		check: func(tr *Trial) {
			tr.Service.Network.Listen(evil + ":443") // nobody answers there: a dial would hang
			payload := `{"url":"https://` + evil + `/firmware","$ref":"https://` + evil + `/schema"}`
			answer := Assigned(Operation)
			answer.Body = strings.Replace(answer.Body, `"substatus"`, `"payload":`+payload+`,"substatus"`, 1)
			answer.Header = http.Header{"Location": {"https://" + evil + "/x"}, "Link": {"<https://" + evil + "/y>; rel=preload"}}
			tr.Service.Script = InOrder(Assigning("1"), answer)
			outcome, _ := tr.register(device(toaster), EndAssigned)
			if outcome.Payload != payload {
				tr.find("the payload is %s, want it as it came", outcome.Payload)
			}
			neverTo(tr, evil)
		},
	},
	{
		Rule: 9, Name: "a redirect is not followed", only: []Transport{HTTPS},
		Peer: "Node, C#: the HTTP library follows, a token with it",
		check: func(tr *Trial) {
			for _, status := range []int{301, 302, 307, 308} {
				for _, location := range []string{"https://" + evil + "/", "https://" + Host + "/elsewhere"} {
					tr.part(http.StatusText(status)+" to "+location, func(tr *Trial) {
						tr.Service.Network.Listen(evil + ":443")
						tr.Service.Script = InOrder(Answer{Status: status, Header: http.Header{"Location": {location}}})
						_, _ = tr.register(device(toaster), EndUnreachable)
						tr.story("register 0s")
						neverTo(tr, evil)
						for _, c := range tr.Service.Connections() {
							for _, heard := range c.Heard() {
								if strings.Contains(string(heard.Data), "/elsewhere") {
									tr.find("it followed to %s", location)
								}
							}
						}
					})
				}
			}
		},
	},
}

// hostile answers a register with each text in its place, and expects that the client takes none of them.
func hostile(tr *Trial, texts []string, answer func(text string) Answer) {
	for _, text := range texts {
		tr.part(abbreviated(text), func(tr *Trial) {
			tr.Service.Script = InOrder(answer(text), Assigned(Operation))
			_, _ = tr.register(device(toaster), EndUnreachable)
			tr.story("register 0s")
		})
	}
}

// neverTo expects that nobody dialled a host.
func neverTo(tr *Trial, host string) {
	for _, port := range []string{":80", ":443", ":8883"} {
		if n := tr.Service.Network.Dials(host + port); n > 0 {
			tr.find("it dialled %s%s", host, port)
		}
	}
}
