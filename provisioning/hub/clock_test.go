// SPDX-License-Identifier: Apache-2.0

package hub

import (
	"crypto/x509"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// TestRule5TheClockIsTheOwners: tokens and certificates go by Config.Now. The hub's certificate is good until 2090.
func TestRule5TheClockIsTheOwners(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, silent)
		now := time.Date(2089, 1, 1, 0, 0, 0, 0, time.UTC)
		var asked time.Time
		b.cfg.Now = func() time.Time { return now }
		b.cfg.Token = func(at time.Time) (string, error) {
			asked = at
			return "token", nil
		}
		b.connect(t)
		if !asked.Equal(now) {
			t.Errorf("the token was asked for at %v, want %v", asked, now)
		}
		now = now.AddDate(2, 0, 0)
		_, err := Connect(t.Context(), b.cfg)
		var invalid x509.CertificateInvalidError
		if !errors.As(err, &invalid) || invalid.Reason != x509.Expired {
			t.Errorf("two years later: got %v, want an expired certificate", err)
		}
	})
}
