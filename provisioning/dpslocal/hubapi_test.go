// SPDX-License-Identifier: Apache-2.0

package dpslocal

import (
	"encoding/json"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// operatorHub is newHub with policies.
func operatorHub(t *testing.T) (s *Server, dial func() *rawClient) {
	t.Helper()
	s = newCore(t, operatorConfig(), always(200, goodAnswer))
	register(t, s, request(RegisterCall, toaster))
	return s, serveMQTT(t, s)
}

// atHub is operate with the hub's own name and policy.
func atHub(s *Server, method, deviceID, body string, headers ...string) *httptest.ResponseRecorder {
	headers = append([]string{"Host", toasters, "Authorization", operatorToken(toasters, testHubPolicy)}, headers...)
	return operate(s, method, "/twins/"+deviceID, body, headers...)
}

// TestOperatorTwin: an operator reads a twin and changes it, and the device hears
// what was changed.
func TestOperatorTwin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, dial := operatorHub(t)
		w := atHub(s, "GET", toaster, "")
		golden(t, "hub-twin.json", append(w.Body.Bytes(), '\n'))
		if w.Header().Get("ETag") != `"AAAAAAAAAAE="` {
			t.Errorf("ETag %q", w.Header().Get("ETag"))
		}
		c := connected(t, dial)
		c.subscribe(twinDesiredFilter, 1)
		tests := []struct {
			name, method, body, ifMatch string
			want                        string // what the device hears
			desired, tags               string
		}{
			{
				"patch", "PATCH", `{"tags":{"floor":4,"deviceType":null},"properties":{"desired":{"darknessSetting":"dark","state":null,"n":{"a":1,"b":2}}}}`, `"AAAAAAAAAAE="`,
				`{"$version":2,"darknessSetting":"dark","n":{"a":1,"b":2},"state":null}`, `{"darknessSetting":"dark","n":{"a":1,"b":2}}`, `{"floor":4}`,
			},
			{
				"read and sent back", "PATCH", `{"deviceId":"x","version":1,"properties":{"desired":{"$version":2,"$metadata":{},"q":1},"reported":{"r":1}}}`, "AAAAAAAAAAM=",
				`{"$version":3,"q":1}`, `{"darknessSetting":"dark","n":{"a":1,"b":2},"q":1}`, `{"floor":4}`,
			},
			{
				"replace", "PUT", `{"properties":{"desired":{"darknessSetting":"dark","n":{"b":3,"c":null},"z":[1]}}}`, "*",
				`{"$version":4,"n":{"a":null,"b":3},"q":null,"z":[1]}`, `{"darknessSetting":"dark","n":{"b":3},"z":[1]}`, `{"floor":4}`,
			},
		}
		for _, tt := range tests {
			answered := make(chan *httptest.ResponseRecorder)
			go func() { answered <- atHub(s, tt.method, toaster, tt.body, "If-Match", tt.ifMatch) }()
			_, heard := c.message()
			w := <-answered
			var got twinDocument
			if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil || w.Code != 200 || got.ConnectionState != "Connected" {
				t.Errorf("%s: %d %s", tt.name, w.Code, w.Body)
			}
			twin, _ := s.Twin(toasters, toaster)
			if heard != tt.want || sectionText(twin.Desired) != tt.desired || sectionText(twin.Tags) != tt.tags {
				t.Errorf("%s: heard %s, desired %s, tags %s", tt.name, heard, sectionText(twin.Desired), sectionText(twin.Tags))
			}
		}
		// Tags are nothing to the device, and change the etag all the same.
		if w := atHub(s, "PATCH", toaster, `{"tags":{"floor":5}}`); w.Code != 200 || !strings.Contains(w.Body.String(), `"etag":"AAAAAAAAAAY="`) {
			t.Errorf("%d %s", w.Code, w.Body)
		}
	})
}

func TestHubAPIRefuses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := operatorHub(t)
		owner := operatorToken(toasters, testHubPolicy)
		patch := `{"properties":{"desired":{"a":1}}}`
		tests := []struct {
			name, method, host, target, token, ifMatch, body string
			status                                           int
			code                                             string
		}{
			{"by path", "GET", "localhost", "/" + strings.ToUpper(toasters) + "/twins/" + toaster, owner, "", "", 200, ""},
			{"by path, local token", "GET", "localhost:8443", "/" + toasters + "/Twins/" + toaster, operatorToken("localhost", testHubPolicy), "", "", 200, ""},
			{"longer resource", "GET", toasters, "/twins/" + toaster, operatorToken(toasters+"/twins/"+toaster, testHubPolicy), "", "", 200, ""},
			{"another hub's token", "GET", toasters, "/twins/" + toaster, operatorToken(heatPumps, testHubPolicy), "", "", 401, "IotHubUnauthorizedAccess"},
			{"no permission", "GET", toasters, "/twins/" + toaster, operatorToken(toasters, readerPolicy), "", "", 401, "IotHubUnauthorizedAccess"},
			{"service's policy", "GET", toasters, "/twins/" + toaster, operatorToken(toasters, testPolicy), "", "", 401, "IotHubUnauthorizedAccess"},
			{"wrong key", "PATCH", toasters, "/twins/" + toaster, signText(toasters, testPrimary, "4102444800") + "&skn=" + testHubPolicy, "", patch, 401, "IotHubUnauthorizedAccess"},
			{"device's token", "GET", toasters, "/twins/" + toaster, sign(toasters+"/devices/"+toaster, derive(testPrimary, toaster), time.Now().Add(time.Hour)), "", "", 401, "IotHubUnauthorizedAccess"},
			{"no device", "GET", toasters, "/twins/none", owner, "", "", 404, "DeviceNotFound"},
			{"device in other case", "PATCH", toasters, "/twins/" + strings.ToUpper(toaster), owner, "", patch, 404, "DeviceNotFound"},
			{"device of another hub", "GET", heatPumps, "/twins/" + toaster, operatorToken(heatPumps, testHubPolicy), "", "", 404, "DeviceNotFound"},
			{"old etag", "PATCH", toasters, "/twins/" + toaster, owner, `"AAAAAAAAAAA="`, patch, 412, "PreconditionFailed"},
			{"not JSON", "PATCH", toasters, "/twins/" + toaster, owner, "*", "{", 400, "ArgumentInvalid"},
			{"bad name", "PATCH", toasters, "/twins/" + toaster, owner, "*", `{"tags":{"a.b":1}}`, 400, "ArgumentInvalid"},
			{"too large", "PUT", toasters, "/twins/" + toaster, owner, "", `{"tags":{"a":"` + strings.Repeat("x", maxTwinTags) + `"}}`, 400, "ArgumentInvalid"},
			{"method", "DELETE", toasters, "/twins/" + toaster, owner, "", "", 405, "MethodNotAllowed"},
			{"path", "GET", toasters, "/devices/" + toaster, owner, "", "", 404, "NotFound"},
			{"service API on a hub", "GET", toasters, "/enrollments/x", owner, "", "", 404, "NotFound"},
		}
		for _, tt := range tests {
			w := operate(s, tt.method, tt.target, tt.body, "Host", tt.host, "Authorization", tt.token, "If-Match", tt.ifMatch)
			var body struct{ Message, ExceptionMessage string }
			if err := json.Unmarshal(w.Body.Bytes(), &body); err != nil || w.Code != tt.status || w.Header().Get("iothub-errorcode") != tt.code {
				t.Errorf("%s: %d %v %s", tt.name, w.Code, w.Header(), w.Body)
			}
			if tt.code != "" && (!strings.HasPrefix(body.Message, "ErrorCode:"+tt.code+";") || body.ExceptionMessage == "") {
				t.Errorf("%s: %s", tt.name, w.Body)
			}
		}
		if twin, _ := s.Twin(toasters, toaster); twin.version() != 1 {
			t.Errorf("%+v, want nothing changed", twin)
		}
		if w := operate(newCore(t, testConfig(), nil), "GET", "/twins/x", "", "Host", toasters, "Authorization", owner); w.Code != 401 {
			t.Errorf("without policies: %d", w.Code)
		}
	})
}

// TestDifference: whoever merges the difference ends up with what replaced.
func TestDifference(t *testing.T) {
	tests := []struct{ name, from, to, want string }{
		{"same", `{"a":1,"b":{"c":2}}`, `{"b":{"c":2},"a":1}`, `{}`},
		{"removed", `{"a":1,"b":{"c":2,"d":3}}`, `{"b":{"d":3}}`, `{"a":null,"b":{"c":null}}`},
		{"null is removed", `{"a":1}`, `{"a":null,"b":null}`, `{"a":null}`},
		{"other kind", `{"a":1,"b":{"c":2}}`, `{"a":{"x":1},"b":3}`, `{"a":{"x":1},"b":3}`},
	}
	for _, tt := range tests {
		from, to := objectOf(json.RawMessage(tt.from)), objectOf(json.RawMessage(tt.to))
		got := difference(from, to)
		if string(encodeJSON(got)) != tt.want {
			t.Errorf("%s: got %s, want %s", tt.name, encodeJSON(got), tt.want)
		}
		merged, err1 := merge(from, got, 1)
		replaced, err2 := merge(nil, to, 1)
		if string(encodeJSON(merged)) != string(encodeJSON(replaced)) || err1 != nil || err2 != nil {
			t.Errorf("%s: merged %s, replaced %s", tt.name, encodeJSON(merged), encodeJSON(replaced))
		}
	}
}
