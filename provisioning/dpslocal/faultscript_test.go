// SPDX-License-Identifier: Apache-2.0

package dpslocal

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestFaultRules(t *testing.T) {
	at := func(transport string, call CallKind, id string) FaultPoint {
		return FaultPoint{Transport: transport, Call: call, RegistrationID: id}
	}
	bad := Fault{Status: 503}
	tests := []struct {
		name  string
		rules []FaultRule
		calls []FaultPoint
		want  string // for each call the rule that was applied, - for none
	}{
		{"no rules", nil, []FaultPoint{at("mqtt", PollCall, "a")}, "-"},
		{
			"by call, transport and ID",
			[]FaultRule{{Call: RegisterCall, Fault: bad}, {Transport: "mqtt", Fault: bad}, {RegistrationID: "Pump-?", Fault: bad}},
			[]FaultPoint{at("https", RegisterCall, "a"), at("mqtt", PollCall, "a"), at("https", PollCall, "pUMP-7"), at("https", PollCall, "pump-77")},
			"123-",
		},
		{
			"some first, some then",
			[]FaultRule{{Call: RegisterCall, After: 1, Count: 2, Fault: bad}},
			[]FaultPoint{
				at("https", RegisterCall, "a"), at("https", PollCall, "a"), at("https", RegisterCall, "b"),
				at("mqtt", RegisterCall, "c"), at("https", RegisterCall, "a"),
			},
			"--11-",
		},
		{
			"one after the other",
			[]FaultRule{{Count: 1, Fault: bad}, {Count: 2, Fault: bad}},
			[]FaultPoint{at("https", PollCall, "a"), at("https", PollCall, "a"), at("https", PollCall, "a"), at("https", PollCall, "a")},
			"122-",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var script faultScript
			for _, rule := range tt.rules {
				if _, err := script.add(rule); err != nil {
					t.Fatal(err)
				}
			}
			var got strings.Builder
			for _, call := range tt.calls {
				fault, rule := script.at(call)
				if (fault == bad) != (rule != 0) {
					t.Errorf("fault %+v by rule %d", fault, rule)
				}
				got.WriteString(strings.Replace(fmt.Sprint(rule), "0", "-", 1))
			}
			if got.String() != tt.want {
				t.Errorf("got %s, want %s", got.String(), tt.want)
			}
		})
	}
}

// TestProgramAndScript: Options.Fault is asked first, and the script when that
// has nothing against a call.
func TestProgramAndScript(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newCore(t, testConfig(), always(200, goodAnswer))
		own := Fault{Status: 503}
		s.service.fault = func(FaultPoint) Fault { return own }
		if _, err := s.AddFault(FaultRule{Fault: Fault{Status: 429}}); err != nil {
			t.Fatal(err)
		}
		c := request(RegisterCall, toaster)
		for _, want := range []int{503, 429, 202} {
			if a := s.service.serve(t.Context(), c); a.status != want {
				t.Errorf("got %+v, want %d", a, want)
			}
			if own == (Fault{}) {
				s.ClearFaults()
			}
			own = Fault{}
		}
	})
}

// overPipes runs a whole server in a bubble and returns a client of its HTTPS side.
func overPipes(t *testing.T, cfg Config) (*Server, *http.Client) {
	t.Helper()
	https := newPipeListener()
	store, err := OpenMemoryStore()
	if err != nil {
		t.Fatal(err)
	}
	s := start(t, cfg, Options{HTTPSListener: https, MQTTListener: newPipeListener(), Store: store, WebhookTransport: always(200, goodAnswer)})
	client := caller(t, s)
	client.Timeout = 0
	client.Transport.(*http.Transport).DialContext = func(context.Context, string, string) (net.Conn, error) { return https.dial() }
	return s, client
}

// TestFaultsOverHTTPS plays every fault as a client sees it.
func TestFaultsOverHTTPS(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := testConfig()
		day := 24 * time.Hour
		cfg.Faults = []FaultRule{
			{Count: 1, Fault: Fault{Delay: 5 * time.Minute}},
			{Count: 1, Fault: Fault{Status: 503, RetryAfter: "7", ClockSkew: -day}},
			{Count: 1, Fault: Fault{ClockSkew: day}},
			{Count: 1, Fault: Fault{Close: true}},
			{Count: 1, Fault: Fault{Away: 30 * time.Second}},
		}
		s, client := overPipes(t, cfg)
		defer client.CloseIdleConnections()
		token := deviceToken(toaster, derive(testPrimary, toaster))
		target := "https://" + globalEndpoint + "/" + testScope + "/registrations/" + toaster
		date := func(r *http.Response) time.Time {
			date, err := http.ParseTime(r.Header.Get("Date"))
			if err != nil {
				t.Error(err)
			}
			return date
		}
		fails := func(what string) {
			t.Helper()
			req, err := http.NewRequestWithContext(t.Context(), "POST", target+"?api-version=2021-06-01", nil)
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Authorization", token)
			if response, err := client.Do(req); err == nil {
				response.Body.Close()
				t.Errorf("%s: answered %d, want no answer", what, response.StatusCode)
			}
		}

		begun := time.Now()
		response, body := do(t, client, "PUT", target+"/register?api-version=2021-06-01", token, "{}")
		if got := time.Since(begun); response.StatusCode != 202 || got != 5*time.Minute {
			t.Errorf("delayed: %d %s after %s, want 202 after 5m", response.StatusCode, body, got)
		}
		response, body = do(t, client, "PUT", target+"/register?api-version=2021-06-01", token, "{}")
		if response.StatusCode != 503 || response.Header.Get("Retry-After") != "7" || !date(response).Equal(time.Now().Add(-day).Truncate(time.Second)) {
			t.Errorf("status: %d %v", response.StatusCode, response.Header)
		}
		if want := `"timestampUtc":"` + utcTime(time.Now().Add(-day)) + `"`; !strings.Contains(string(body), want) {
			t.Errorf("got %s, want %s in it", body, want)
		}
		response, body = do(t, client, "POST", target+"?api-version=2021-06-01", token, "")
		if response.StatusCode != 200 || !date(response).Equal(time.Now().Add(day).Truncate(time.Second)) || !strings.Contains(string(body), `"status":"assigned"`) {
			t.Errorf("clock: %d %v %s", response.StatusCode, response.Header, body)
		}
		fails("close")
		fails("away")
		time.Sleep(29 * time.Second)
		fails("still away")
		time.Sleep(time.Second)
		if response, body := do(t, client, "POST", target+"?api-version=2021-06-01", token, ""); response.StatusCode != 200 {
			t.Errorf("back: %d %s, want 200", response.StatusCode, body)
		}
		if n := len(s.Operations(toaster)); n != 1 {
			t.Errorf("%d operations, want the first only", n)
		}
		for _, f := range s.Faults() {
			if f.Used != 1 {
				t.Errorf("fault %d used %d times, want 1", f.ID, f.Used)
			}
		}
	})
}

func TestFaultsOverMQTT(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := testConfig()
		cfg.Faults = []FaultRule{
			{Transport: "https", Fault: Fault{Status: 500}},
			{Count: 1, Fault: Fault{Delay: 10 * time.Minute, RetryAfter: "9"}},
			{Count: 1, Fault: Fault{Status: 503, ClockSkew: time.Hour}},
			{Count: 1, Fault: Fault{Close: true}},
		}
		s := newCore(t, cfg, always(200, goodAnswer))
		c := serveMQTT(t, s)()
		c.connectDPS(toaster, deviceToken(toaster, derive(testPrimary, toaster)))
		c.send(publishPacket(registerTopic+"1", "", 0))
		time.Sleep(10*time.Minute - time.Nanosecond)
		begun := time.Now()
		if topic, _ := c.message(); topic != "$dps/registrations/res/202/?$rid=1&retry-after=9" || time.Since(begun) != time.Nanosecond {
			t.Errorf("got %s after %s", topic, time.Since(begun))
		}
		topic, body := c.request(registerTopic+"2", "")
		if topic != "$dps/registrations/res/503/?$rid=2" || !strings.Contains(body, utcTime(time.Now().Add(time.Hour))) {
			t.Errorf("got %s %s", topic, body)
		}
		c.send(publishPacket(registerTopic+"3", "", 0))
		c.expectClosed(time.Second)
		if n := len(s.Operations(toaster)); n != 1 {
			t.Errorf("%d operations, want the first only", n)
		}
	})
}

// TestGoAway closes an idle connection to a hub, and keeps new ones out.
func TestGoAway(t *testing.T) {
	s := start(t, testConfig(), Options{Admin: "127.0.0.1:0"})
	c := dialMQTT(t, s)
	c.connectDPS(toaster, deviceToken(toaster, derive(testPrimary, toaster)))
	client := &http.Client{Timeout: stuck}
	defer client.CloseIdleConnections()
	if response, body := do(t, client, "POST", "http://"+s.AdminAddr()+"/away", "", `{"for":"1h"}`); response.StatusCode != 204 {
		t.Fatalf("away: %d %s", response.StatusCode, body)
	}
	c.expectClosed(stuck)
	conn, err := net.Dial("tcp", s.HTTPSAddr())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetReadDeadline(time.Now().Add(stuck))
	if _, err := conn.Read(make([]byte, 1)); err == nil || strings.Contains(err.Error(), "timeout") {
		t.Errorf("got %v, want a closed connection", err)
	}
}

func TestAdminPort(t *testing.T) {
	s := newCore(t, testConfig(), nil)
	handler := newAdminServer(s.service).Handler
	steps := []struct {
		name, method, target, body string
		headers                    []string
		status                     int
		want                       string // the body, or a part of an error's
	}{
		{"nothing yet", "GET", "/faults", "", nil, 200, "[]\n"},
		{
			"add", "POST", "/faults", `{"call":"register","registration_id":"a*","count":3,"status":429,"retry_after":"10"}`, nil,
			201, `{"id":1,"used":0,"call":"register","registration_id":"a*","count":3,"status":429,"retry_after":"10"}` + "\n",
		},
		{"add another", "POST", "/faults", `{"transport":"mqtt","after":1,"drop":true,"delay":"90s","clock_skew":"-1h"}`, nil, 201, `{"id":2,"used":0,"transport":"mqtt","after":1,"delay":"1m30s","drop":true,"clock_skew":"-1h0m0s"}` + "\n"},
		{"unknown member", "POST", "/faults", `{"statsu":429}`, nil, 400, `unknown field "statsu"`},
		{"no effect", "POST", "/faults", `{}`, nil, 400, "it does nothing"},
		{"bad duration", "POST", "/faults", `{"delay":"x"}`, nil, 400, `delay "x": write a duration`},
		{"two documents", "POST", "/faults", `{"drop":true}{"drop":true}`, nil, 400, "more than one document"},
		{"too long", "POST", "/faults", `{"call":"` + strings.Repeat("x", maxAdminBody) + `"}`, nil, 400, "too large"},
		{"no JSON", "POST", "/faults", `{"drop":true}`, []string{"Content-Type", "text/plain"}, 400, "Content-Type"},
		{"a web page", "POST", "/faults", `{"drop":true}`, []string{"Origin", "https://example.com"}, 403, "programs on this machine"},
		{"a page led here", "GET", "/faults", "", []string{"Host", "example.com:9000"}, 403, "programs on this machine"},
		{"by name", "GET", "/faults", "", []string{"Host", "localhost:9000"}, 200, `[{"id":1,`},
		{"remove", "DELETE", "/faults/1", "", nil, 204, ""},
		{"remove again", "DELETE", "/faults/1", "", nil, 404, "no fault of this id"},
		{"what is left", "GET", "/faults", "", nil, 200, `[{"id":2,`},
		{"remove all", "DELETE", "/faults", "", nil, 204, ""},
		{"nothing left", "GET", "/faults", "", nil, 200, "[]\n"},
		{"away for nothing", "POST", "/away", `{"for":"0s"}`, nil, 400, `for "0s": write a duration up to`},
		{"away", "POST", "/away", `{"for":"1s"}`, nil, 204, ""},
	}
	for _, step := range steps {
		r := httptest.NewRequest(step.method, step.target, strings.NewReader(step.body))
		r.Host = "127.0.0.1:9000"
		r.Header.Set("Content-Type", "application/json")
		for i := 0; i < len(step.headers); i += 2 {
			if r.Header.Set(step.headers[i], step.headers[i+1]); step.headers[i] == "Host" {
				r.Host = step.headers[i+1]
			}
		}
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, r)
		if w.Code != step.status || !strings.Contains(w.Body.String(), step.want) {
			t.Errorf("%s: got %d %s, want %d %s", step.name, w.Code, w.Body, step.status, step.want)
		}
	}
}

func TestAdminAddress(t *testing.T) {
	for _, address := range []string{"0.0.0.0:0", ":0", "192.0.2.1:0", "example.com:0", "127.0.0.1"} {
		s, err := New(testConfig(), Options{Dir: t.TempDir(), Admin: address})
		if err == nil {
			s.Close()
		}
		if err == nil || !strings.Contains(err.Error(), "admin address") {
			t.Errorf("%s: got %v, want it refused", address, err)
		}
	}
}

func TestFaultScriptIsBounded(t *testing.T) {
	var script faultScript
	for range maxFaultRules {
		if _, err := script.add(FaultRule{Fault: Fault{Drop: true}}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := script.add(FaultRule{Fault: Fault{Drop: true}}); err == nil {
		t.Error("one rule too many was taken")
	}
}

// FuzzFaultRule: what the admin port takes comes back as it was meant.
func FuzzFaultRule(f *testing.F) {
	f.Add([]byte(`{"call":"register","registration_id":"a*","count":3,"status":429,"retry_after":"10"}`), "breakroom")
	f.Add([]byte(`{"transport":"mqtt","after":1,"drop":true,"close":true,"delay":"90s","clock_skew":"-1h","away":"1s"}`), "[")
	f.Add([]byte(`{"registration_id":"[a-z]-?\\*"}`), "")
	f.Fuzz(func(t *testing.T, body []byte, id string) {
		var raw rawFault
		if err := json.Unmarshal(body, &raw); err != nil {
			return
		}
		rule, err := raw.rule()
		if err != nil || rule.validate() != nil {
			return
		}
		again, err := rule.text().rule()
		if err != nil || again != rule {
			t.Errorf("%+v became %+v, %v", rule, again, err)
		}
		rule.chooses(FaultPoint{RegistrationID: id, Call: rule.Call, Transport: rule.Transport})
	})
}
