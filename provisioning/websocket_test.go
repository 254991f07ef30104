// SPDX-License-Identifier: Apache-2.0

package provisioning

import (
	"crypto/tls"
	"errors"
	"io"
	"log"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/contoso/gatewayd/provisioning/internal/mqttrpc/mqttrpctest"
)

// answerAt puts a web server of its own in the place of the service's, at an address.
func answerAt(t *testing.T, d *dps, address string, handler http.HandlerFunc) {
	t.Helper()
	authority := mqttrpctest.NewAuthority(t)
	d.cfg.RootCAs = d.cfg.RootCAs.Clone()
	authority.AddTo(d.cfg.RootCAs)
	web := &http.Server{Handler: handler, ErrorLog: log.New(io.Discard, "", 0)}
	listener := d.network.Listen(address)
	var serving sync.WaitGroup
	serving.Go(func() { _ = web.Serve(tls.NewListener(listener, authority.Server(t, testHost))) })
	t.Cleanup(func() {
		_ = web.Close()
		serving.Wait()
	})
}

// TestWebSocketRefused tells "later", which the service may mean, from the answers of somebody else.
func TestWebSocketRefused(t *testing.T) {
	tests := []struct {
		status  int
		kind    string
		foreign bool
		after   time.Duration
	}{
		{200, "not-dps", true, 0},
		{302, "not-dps", true, 0},
		{401, "not-dps", true, 0},
		{403, "not-dps", true, 0},
		{404, "not-dps", true, 0},
		{429, "throttled", false, 10 * time.Minute},
		{503, "throttled", false, 10 * time.Minute},
	}
	for _, test := range tests {
		t.Run(http.StatusText(test.status), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := newDPS(t, TransportMQTTWS)
				upgrades := 0
				answerAt(t, d, testHost+":443", func(w http.ResponseWriter, r *http.Request) {
					upgrades++
					if r.URL.Path != "/$iothub/websocket" || r.Header.Get("Authorization") != "" {
						t.Errorf("asked for %s with %v", r.URL.Path, r.Header)
					}
					w.Header().Set("Retry-After", "600") // beyond what an attempt waits for
					w.WriteHeader(test.status)
				})
				_, err := d.client(t).Register(t.Context(), request())
				if got := Verdict(err).Kind; got != test.kind {
					t.Errorf("got %s, want %s (%v)", got, test.kind, err)
				}
				if got := errors.Is(err, ErrNotService); got != test.foreign {
					t.Errorf("somebody else's answer: %t, want %t (%v)", got, test.foreign, err)
				}
				var throttled *ThrottledError
				if errors.As(err, &throttled) && time.Until(throttled.NextAttempt) != test.after {
					t.Errorf("the next attempt is in %v, want %v", time.Until(throttled.NextAttempt), test.after)
				}
				if upgrades != 1 {
					t.Errorf("%d upgrades were asked for, want 1: an answer is no hiccup", upgrades)
				}
			})
		})
	}
}
