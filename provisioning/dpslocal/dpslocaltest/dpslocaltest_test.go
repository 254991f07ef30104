// SPDX-License-Identifier: Apache-2.0

package dpslocaltest_test

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/contoso/gatewayd/provisioning/dpslocal"
	"github.com/contoso/gatewayd/provisioning/dpslocal/dpslocaltest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// register is a device of few words: it registers and polls until the end, which
// it returns with how often it was told to come back later.
func register(t *testing.T, dps *dpslocaltest.Server, id string) (hub string, throttled int) {
	t.Helper()
	client := dps.HTTPClient()
	defer client.CloseIdleConnections()
	base := dps.Endpoint() + "/" + dps.IDScope() + "/registrations/" + id
	method, target := "PUT", base+"/register"
	for {
		request, err := http.NewRequestWithContext(t.Context(), method, target+"?api-version=2021-06-01", nil)
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("Authorization", token(dps, id))
		response, err := client.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(response.Body)
		response.Body.Close()
		if err != nil {
			t.Fatal(err)
		}
		var status struct {
			OperationID       string
			RegistrationState struct{ AssignedHub string }
		}
		if err := json.Unmarshal(body, &status); err != nil {
			t.Fatalf("%s: %v", body, err)
		}
		switch response.StatusCode {
		case 200:
			return status.RegistrationState.AssignedHub, throttled
		case 202:
			method, target = "GET", base+"/operations/"+status.OperationID
		case 429:
			throttled++
		default:
			t.Fatalf("%d %s", response.StatusCode, body)
		}
		wait, err := time.ParseDuration(response.Header.Get("Retry-After") + "s")
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(wait)
	}
}

func token(dps *dpslocaltest.Server, id string) string {
	key, _ := base64.StdEncoding.DecodeString(dps.DeviceKey(id))
	sr, se := url.QueryEscape(dps.IDScope()+"/registrations/"+id), fmt.Sprint(time.Now().Add(time.Hour).Unix())
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte(sr + "\n" + se))
	return "SharedAccessSignature sr=" + sr + "&sig=" + url.QueryEscape(base64.StdEncoding.EncodeToString(mac.Sum(nil))) + "&se=" + se
}

func TestStart(t *testing.T) {
	dps := dpslocaltest.Start(t)
	if hub, _ := register(t, dps, "dev-1"); hub != dpslocaltest.Hub {
		t.Errorf("got hub %q, want %q", hub, dpslocaltest.Hub)
	}
	conn, err := dps.DialMQTT(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := tls.Client(conn, dps.TLSConfig()).HandshakeContext(t.Context()); err != nil {
		t.Errorf("MQTT listener: %v", err)
	}
}

// TestInABubble lets seven minutes pass: a throttle, and a webhook's trouble.
func TestInABubble(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dps := dpslocaltest.Start(t, dpslocaltest.InMemory, func(cfg *dpslocal.Config, _ *dpslocal.Options) {
			cfg.Throttle.Registrations = 1
			cfg.RetryAfter = 3 * time.Second
		})
		begun := time.Now()
		for i, want := range []int{0, 1, 1} {
			if hub, throttled := register(t, dps, fmt.Sprintf("dev-%d", i)); hub != dpslocaltest.Hub || throttled != want {
				t.Errorf("got hub %q after %d waits, want %q after %d", hub, throttled, dpslocaltest.Hub, want)
			}
		}
		if got := time.Since(begun); got < 2*time.Minute || got > 3*time.Minute {
			t.Errorf("took %s of the bubble's time, want two windows", got)
		}
		conn, err := dps.DialMQTT(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		silent := tls.Client(conn, dps.TLSConfig())
		begun = time.Now()
		if _, err := silent.Read(make([]byte, 1)); err == nil || time.Since(begun) != 5*time.Second {
			t.Errorf("a silent client: %v after %s, want closed after 5s", err, time.Since(begun))
		}
		conn.Close()
	})
}

func TestChange(t *testing.T) {
	store, err := dpslocal.OpenMemoryStore()
	if err != nil {
		t.Fatal(err)
	}
	dps := dpslocaltest.Start(t, func(cfg *dpslocal.Config, opts *dpslocal.Options) {
		cfg.Hubs = []dpslocal.Hub{{Name: "other.example"}}
		cfg.EnrollmentGroups = nil
		opts.Store = store
	})
	if key := dps.DeviceKey("dev-1"); key != "" {
		t.Errorf("got key %q without a group, want none", key)
	}
}
