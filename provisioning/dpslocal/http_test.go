// SPDX-License-Identifier: Apache-2.0

package dpslocal

import (
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
)

// TestHTTPSRegistration goes through register, poll and lookup over TLS, with
// the headers that the documentation shows.
func TestHTTPSRegistration(t *testing.T) {
	cfg := testConfig()
	cfg.RetryAfter = 0
	s := start(t, cfg, Options{WebhookTransport: always(200, goodAnswer)})
	client := caller(t, s)
	base := "https://" + s.HTTPSAddr() + "/" + testScope + "/registrations/" + toaster
	token := deviceToken(toaster, derive(testPrimary, toaster))

	response, body := do(t, client, "PUT", base+"/register?api-version=2021-06-01", token,
		`{"registrationId":"`+toaster+`"}`, "Content-Encoding", "utf-8")
	if response.StatusCode != 202 {
		t.Fatalf("register: %d %s", response.StatusCode, body)
	}
	for name, want := range map[string]string{
		"Content-Type": "application/json; charset=utf-8",
		"Retry-After":  "0",
		"Location":     "https://" + globalEndpoint + "/" + testScope + "/registrations/" + toaster + "/register",
	} {
		if got := response.Header.Get(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	for _, name := range []string{"x-ms-request-id", "Date"} {
		if response.Header.Get(name) == "" {
			t.Errorf("no %s", name)
		}
	}
	operation := decodeStatus(t, body).OperationID
	response, body = do(t, client, "GET", base+"/operations/"+operation+"?api-version=2021-06-01", token, "{}", "Content-Type", "text/plain")
	if got := decodeStatus(t, body); response.StatusCode != 200 || got.Status != "assigned" || response.Header.Get("Retry-After") != "" {
		t.Errorf("poll: %d %v %s", response.StatusCode, response.Header, body)
	}
	response, body = do(t, client, "POST", base+"?api-version=2021-06-01", token, "")
	var state struct{ Status, AssignedHub string }
	if err := json.Unmarshal(body, &state); err != nil || response.StatusCode != 200 || state.Status != "assigned" || state.AssignedHub != toasters {
		t.Errorf("lookup: %d %s", response.StatusCode, body)
	}
}

// TestEscapedPath presents one ID as two clients put it into a path: raw, as
// Node, and escaped with lower-case digits, as C.
func TestEscapedPath(t *testing.T) {
	s := start(t, testConfig(), Options{WebhookTransport: always(200, goodAnswer)})
	client := caller(t, s)
	for _, path := range []string{"Dev:A_1.x-Y", "Dev%3aA_1.x-Y"} {
		token := signText(testScope+"/registrations/Dev:A_1.x-Y", derive(testPrimary, "Dev:A_1.x-Y"), "4102444800") + "&skn=registration"
		response, body := do(t, client, "PUT", "https://"+s.HTTPSAddr()+"/"+testScope+"/registrations/"+path+"/register?api-version=2019-03-31", token,
			`{"registrationId":"Dev:A_1.x-Y"}`, "Request-Id", "1", "User-Agent", "azure-iot-provisioning-device/1.9.1")
		if response.StatusCode != 202 {
			t.Errorf("%s: %d %s", path, response.StatusCode, body)
		}
	}
}

func TestHTTPSErrors(t *testing.T) {
	s := start(t, testConfig(), Options{WebhookTransport: always(200, goodAnswer)})
	client := caller(t, s)
	registration := "/" + testScope + "/registrations/" + toaster
	token := deviceToken(toaster, derive(testPrimary, toaster))
	tests := []struct {
		name         string
		method, path string
		token, body  string
		headers      []string
		status, code int
	}{
		{"nothing there", "GET", "/", "", "", nil, 404, 404201},
		{"double slash", "PUT", "/" + registration + "/register?api-version=2021-06-01", token, "", nil, 404, 404201},
		{"bad escape in the ID", "PUT", "/" + testScope + "/registrations/a%2Fb/register?api-version=2021-06-01", token, "", nil, 400, 400004},
		{"method", "POST", registration + "/register?api-version=2021-06-01", token, "", nil, 405, 405001},
		{"no api-version", "PUT", registration + "/register", token, "", nil, 400, 400004},
		{"no credentials", "PUT", registration + "/register?api-version=2021-06-01", "", "{}", nil, 401, 401002},
		{"media type", "PUT", registration + "/register?api-version=2021-06-01", token, "{}", []string{"Content-Type", "text/plain"}, 415, 415001},
		{"too large", "PUT", registration + "/register?api-version=2021-06-01", token, strings.Repeat(" ", maxBody+1), nil, 413, 413001},
		{"operation", "GET", registration + "/operations/5.0.0?api-version=2021-06-01", token, "", nil, 404, 404201},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			response, body := do(t, client, tt.method, "https://"+s.HTTPSAddr()+tt.path, tt.token, tt.body, tt.headers...)
			got := decodeStatus(t, body)
			if response.StatusCode != tt.status || got.ErrorCode != tt.code || got.Message == "" {
				t.Errorf("got %d %s, want %d with %d", response.StatusCode, body, tt.status, tt.code)
			}
			if header := response.Header.Get("x-ms-error-code"); header == "" || response.Header.Get("Content-Type") != "application/json; charset=utf-8" {
				t.Errorf("headers %v, want a JSON error with its code", response.Header)
			}
		})
	}
	t.Run("a hub's name", func(t *testing.T) {
		req, err := http.NewRequestWithContext(t.Context(), "GET", "https://"+s.HTTPSAddr()+"/", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Host = toasters
		response, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		body, _ := io.ReadAll(response.Body)
		if response.StatusCode != 404 || !strings.Contains(string(body), "its devices over MQTT") {
			t.Errorf("got %d %s", response.StatusCode, body)
		}
	})
}

// TestHTTPSDroppedAnswer: the call took effect, the answer never came.
func TestHTTPSDroppedAnswer(t *testing.T) {
	var drop atomic.Bool
	drop.Store(true)
	s := start(t, testConfig(), Options{
		WebhookTransport: always(200, goodAnswer),
		Fault:            func(FaultPoint) Fault { return Fault{Drop: drop.Load()} },
	})
	client := caller(t, s)
	target := "https://" + s.HTTPSAddr() + "/" + testScope + "/registrations/" + toaster
	req, err := http.NewRequestWithContext(t.Context(), "PUT", target+"/register?api-version=2021-06-01", nil)
	if err != nil {
		t.Fatal(err)
	}
	token := deviceToken(toaster, derive(testPrimary, toaster))
	req.Header.Set("Authorization", token)
	if response, err := client.Do(req); err == nil {
		response.Body.Close()
		t.Fatalf("answered %d, want no answer", response.StatusCode)
	}
	drop.Store(false)
	response, body := do(t, client, "POST", target+"?api-version=2021-06-01", token, "")
	if response.StatusCode != 200 {
		t.Errorf("lookup: %d %s, want the registration that began", response.StatusCode, body)
	}
}
