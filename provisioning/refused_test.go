// SPDX-License-Identifier: Apache-2.0

package provisioning

import (
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/contoso/gatewayd/provisioning/internal/mqttrpc/mqttrpctest"
)

// otherKey is the secondary of [testKey].
func otherKey() DeviceKey {
	key, err := ParseDeviceKey("6uejA9PfkQgmYylj8Zerp3kcbeVrGZ172YLa7VSnJzg=")
	if err != nil {
		panic(err)
	}
	return key
}

// unauthorized is a 401 of a service whose clock is ahead of the bubble's.
func unauthorized(ahead time.Duration) said {
	now := time.Now().Add(ahead).UTC()
	return said{
		Status: 401,
		Header: http.Header{"Date": {now.Format(http.TimeFormat)}},
		Body: `{"errorCode":401002,"trackingId":"00000000-0000-4000-8000-000000000000","message":"Unauthorized",` +
			`"timestampUtc":"` + now.Format("2006-01-02T15:04:05.0000000Z") + `"}`,
	}
}

// guarded is a script before another: it answers 401 to a token that has expired by the service's clock, or that is
// not signed by key.
func guarded(ahead time.Duration, key DeviceKey, then func(int, asked) said) func(int, asked) said {
	return func(n int, q asked) said {
		_, text, _ := strings.Cut(q.Token, "&se=")
		text, _, _ = strings.Cut(text, "&")
		expiry, _ := strconv.ParseInt(text, 10, 64)
		want := key.SASToken(RegistrationResource(testScope, q.RegistrationID), registrationPolicy, time.Unix(expiry, 0))
		if time.Unix(expiry, 0).Before(time.Now().Add(ahead)) || q.Token != want.Reveal() {
			return unauthorized(ahead)
		}
		return then(n, q)
	}
}

// logged makes the client's log readable.
func (d *dps) logged() *mutexedText {
	text := new(mutexedText)
	d.cfg.Logger = slog.New(slog.NewTextHandler(text, nil))
	return text
}

// mutexedText is a log that many goroutines write.
type mutexedText struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *mutexedText) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *mutexedText) count(what string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.text.String(), what)
}

// tell lists the requests without their times.
func (d *dps) tell() string {
	var parts []string
	for _, q := range d.requests() {
		parts = append(parts, strings.TrimSpace(q.Do+" "+q.OperationID))
	}
	return strings.Join(parts, ", ")
}

const years = 26 * 365 * 24 * time.Hour

func TestRule5AWrongClockIsMended(t *testing.T) {
	eachTransport(t, func(t *testing.T, service *dps) {
		log := service.logged()
		service.script = guarded(years, testKey(), inOrder(assigned(testOp)))
		client := service.client(t)
		for _, id := range []string{"first", "second"} {
			r := request()
			r.RegistrationID = id
			if _, err := client.Register(t.Context(), r); err != nil {
				t.Fatalf("%s: %v", id, err)
			}
		}
		// The first meets the 401; the second signs with the right time at once.
		if got, want := service.tell(), "register, register, register"; got != want {
			t.Errorf("got %s, want %s", got, want)
		}
		if said := log.count("the clock is wrong"); said != 1 {
			t.Errorf("said %d times, want once:\n%s", said, log.text.String())
		}
	})
}

// TestRule5ManyMeetAWrongClockAtOnce: the ones whose 401 comes after the correction are mended by it too.
func TestRule5ManyMeetAWrongClockAtOnce(t *testing.T) {
	eachTransport(t, func(t *testing.T, service *dps) {
		log := service.logged()
		service.script = guarded(years, testKey(), inOrder(assigned(testOp)))
		client := service.client(t)
		var group sync.WaitGroup
		for n := range 50 {
			group.Go(func() {
				r := request()
				r.RegistrationID = fmt.Sprintf("device-%d", n)
				if _, err := client.Register(t.Context(), r); err != nil {
					t.Error(err)
				}
			})
		}
		group.Wait()
		if got := len(service.requests()); got > 100 {
			t.Errorf("%d requests for 50 devices, want at most two each", got)
		}
		if said := log.count("the clock is wrong"); said != 1 {
			t.Errorf("said %d times, want once", said)
		}
	})
}

// TestRule5OnAPollKeepsTheOperation has the service change its mind about the time, and then about the key.
func TestRule5OnAPollKeepsTheOperation(t *testing.T) {
	eachTransport(t, func(t *testing.T, service *dps) {
		then := inOrder(assigning("3"), assigned(testOp))
		service.script = func(n int, q asked) said {
			if q.Do == "register" {
				return guarded(0, testKey(), then)(n, q)
			}
			return guarded(time.Hour+time.Minute, otherKey(), inOrder(assigned(testOp)))(n, q)
		}
		r := request()
		r.Keys = append(r.Keys, otherKey())
		got, err := service.client(t).Register(t.Context(), r)
		if err != nil {
			t.Fatal(err)
		}
		if got.Key != 1 {
			t.Errorf("key %d, want 1", got.Key)
		}
		poll := "poll " + testOp
		if got, want := service.tell(), "register, "+poll+", "+poll+", "+poll; got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	})
}

// TestRule5TheOtherKey: the next device begins with the key that was accepted.
func TestRule5TheOtherKey(t *testing.T) {
	for accepted, key := range []DeviceKey{testKey(), otherKey()} {
		t.Run(fmt.Sprintf("key %d", accepted), func(t *testing.T) {
			eachTransport(t, func(t *testing.T, service *dps) {
				service.script = guarded(0, key, inOrder(assigned(testOp)))
				client := service.client(t)
				for range 3 {
					r := request()
					r.Keys = []DeviceKey{testKey(), otherKey()}
					got, err := client.Register(t.Context(), r)
					if err != nil {
						t.Fatal(err)
					}
					if got.Key != accepted {
						t.Errorf("key %d, want %d", got.Key, accepted)
					}
				}
				if got, want := len(service.requests()), 3+accepted; got != want {
					t.Errorf("%d requests, want %d", got, want)
				}
				// One with a single key is not kept from it.
				if accepted == 0 {
					return
				}
				service.script = inOrder(assigned(testOp))
				if _, err := client.Register(t.Context(), request()); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// TestRule5ARolloverDrawsOne401: those that wait for their turn learn from the first.
func TestRule5ARolloverDrawsOne401(t *testing.T) {
	eachTransport(t, func(t *testing.T, service *dps) {
		service.cfg.RegistersPerMinute = 60
		service.script = guarded(0, otherKey(), inOrder(assigned(testOp)))
		client := service.client(t)
		var group sync.WaitGroup
		for n := range 20 {
			group.Go(func() {
				r := request()
				r.RegistrationID = fmt.Sprintf("device-%d", n)
				r.Keys = append(r.Keys, otherKey())
				if got, err := client.Register(t.Context(), r); err != nil || got.Key != 1 {
					t.Errorf("got key %d, %v", got.Key, err)
				}
			})
		}
		group.Wait()
		if got := len(service.requests()); got != 21 {
			t.Errorf("%d requests for 20 devices, want 21", got)
		}
	})
}

// TestRule5TheClockComesFirst: a key is not blamed before the clock is right.
func TestRule5TheClockComesFirst(t *testing.T) {
	eachTransport(t, func(t *testing.T, service *dps) {
		service.script = guarded(years, otherKey(), inOrder(assigned(testOp)))
		r := request()
		r.Keys = append(r.Keys, otherKey())
		if _, err := service.client(t).Register(t.Context(), r); err != nil {
			t.Fatal(err)
		}
		if got, want := service.tell(), "register, register, register"; got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	})
}

// TestRule5RefusedAfterEachRemedyOnce: nothing goes round in circles, and the error names which it was.
func TestRule5RefusedAfterEachRemedyOnce(t *testing.T) {
	tests := []struct {
		name  string
		ahead time.Duration
		keys  []DeviceKey
		sent  int
		want  CredentialError
		words string
	}{
		{
			"one key", 0,
			[]DeviceKey{testKey()},
			1,
			CredentialError{Tried: 1, SkewKnown: true},
			"the key was not accepted, and the clock is right",
		},
		{
			"two keys", 0,
			[]DeviceKey{testKey(), otherKey()},
			2,
			CredentialError{Tried: 2, SkewKnown: true},
			"none of 2 keys was accepted, and the clock is right",
		},
		{
			"the clock", years,
			[]DeviceKey{testKey()},
			2,
			CredentialError{Tried: 1, SkewKnown: true, Skew: years, Corrected: true},
			"by the service's clock, which is",
		},
		{
			"both", time.Hour,
			[]DeviceKey{testKey(), otherKey()},
			3,
			CredentialError{Tried: 2, SkewKnown: true, Skew: time.Hour, Corrected: true},
			"none of 2 keys was accepted, by the service's clock, which is 1h0m0s off ours, neither",
		},
	}
	for _, test := range tests {
		for _, kind := range []string{"register", "poll"} {
			t.Run(test.name+" on "+kind, func(t *testing.T) {
				eachTransport(t, func(t *testing.T, service *dps) {
					service.script = func(_ int, q asked) said {
						if q.Do == kind {
							return unauthorized(test.ahead)
						}
						return assigning("3")
					}
					r := request()
					r.Keys = test.keys
					_, err := service.client(t).Register(t.Context(), r)
					var refused *CredentialError
					if !errors.As(err, &refused) {
						t.Fatalf("got %v, want a CredentialError", err)
					}
					if off := (refused.Skew - test.want.Skew).Abs(); off > time.Second { // a Date has whole seconds
						t.Errorf("skew %v, want %v", refused.Skew, test.want.Skew)
					}
					got := *refused
					got.Cause, got.Skew = nil, test.want.Skew
					if got != test.want {
						t.Errorf("got %+v, want %+v", got, test.want)
					}
					if !strings.Contains(err.Error(), test.words) {
						t.Errorf("%q does not say %q", err, test.words)
					}
					var answered *ServiceError
					if !errors.As(err, &answered) || answered.Code != 401002 {
						t.Errorf("the service's answer is not in %v", err)
					}
					sent := 0
					for _, q := range service.requests() {
						if q.Do == kind {
							sent++
						}
					}
					if sent != test.sent {
						t.Errorf("sent %d times, want %d", sent, test.sent)
					}
				})
			})
		}
	}
}

// TestRule5ARefusedConnection: a CONNACK 4 or 5 says nothing about the time, so it is the key's turn.
func TestRule5ARefusedConnection(t *testing.T) {
	synctestOverMQTT(t, func(t *testing.T, service *dps) {
		other := otherKey()
		service.mqtt.Connect = func(c *mqttrpctest.Client) int {
			expiry := time.Now().Add(time.Hour)
			want := other.SASToken(RegistrationResource(testScope, testID), registrationPolicy, expiry).Reveal()
			if c.Password != want {
				return 5
			}
			return 0
		}
		r := request()
		r.Keys = append(r.Keys, other)
		got, err := service.client(t).Register(t.Context(), r)
		if err != nil || got.Key != 1 {
			t.Errorf("got key %d, %v", got.Key, err)
		}
		r.Keys = r.Keys[:1]
		_, err = service.client(t).Register(t.Context(), r)
		var refused *CredentialError
		if !errors.As(err, &refused) || refused.SkewKnown || refused.Tried != 1 {
			t.Errorf("got %v, want a CredentialError without a skew", err)
		}
	})
}

// TestRule5SomebodyElsesTime: only the provisioning service may set the clock.
func TestRule5SomebodyElsesTime(t *testing.T) {
	eachTransport(t, func(t *testing.T, service *dps) {
		if service.cfg.Transport != TransportHTTPS {
			t.Skip("nothing else answers on the service's topics")
		}
		portal := unauthorized(years)
		portal.Body = "<html>Sign in</html>"
		service.script = inOrder(portal)
		service.cfg.Clock = NewClock(time.Time{}, nil)
		_, err := service.client(t).Register(t.Context(), request())
		if !errors.Is(err, ErrNotService) {
			t.Errorf("got %v, want an answer that is not the service's", err)
		}
		if got := service.cfg.Clock.Now(); !got.Equal(time.Now()) {
			t.Errorf("the clock was moved by %v", time.Until(got))
		}
	})
}

// TestRule5CertificatesAreCheckedByTheClock: the floor counts, and a certificate out of its time is never accepted.
// The scripted service's is good from 1990 to 2090; the bubble's clock says 2000.
func TestRule5CertificatesAreCheckedByTheClock(t *testing.T) {
	tests := []struct {
		floor time.Time
		good  bool
	}{
		{time.Time{}, true},
		{time.Date(2089, 1, 1, 0, 0, 0, 0, time.UTC), true},
		{time.Date(2091, 1, 1, 0, 0, 0, 0, time.UTC), false},
	}
	for _, test := range tests {
		t.Run(test.floor.Format(time.DateOnly), func(t *testing.T) {
			eachTransport(t, func(t *testing.T, service *dps) {
				service.cfg.Clock = NewClock(test.floor, nil)
				_, err := service.client(t).Register(t.Context(), request())
				var invalid x509.CertificateInvalidError
				if expired := errors.As(err, &invalid) && invalid.Reason == x509.Expired; expired == test.good {
					t.Errorf("got %v, want success: %v", err, test.good)
				}
				var unreachable *UnreachableError
				if !test.good && !errors.As(err, &unreachable) {
					t.Errorf("got %v, want an UnreachableError", err)
				}
			})
		})
	}
}
