// SPDX-License-Identifier: Apache-2.0

package hub

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/contoso/gatewayd/provisioning/internal/mqttrpc/mqttrpctest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// update rewrites the golden files: go test ./provisioning/hub -update, then read the diff.
var update = flag.Bool("update", false, "rewrite the golden files")

const (
	host     = "contoso-toasters-hub-1098.azure-devices.net"
	deviceID = "breakroom499-contoso-tstrsd-007"
)

// bench is a scripted hub and a configuration to reach it.
type bench struct {
	network *mqttrpctest.Network
	server  *mqttrpctest.Server
	cfg     Config
	log     bytes.Buffer
}

// newBench starts a hub whose server does what answer says: it gets the path of a request, its request ID and body.
func newBench(t *testing.T, answer func(c *mqttrpctest.Client, path, rid string, body []byte)) *bench {
	t.Helper()
	authority := mqttrpctest.NewAuthority(t)
	b := &bench{network: mqttrpctest.NewNetwork()}
	b.server = &mqttrpctest.Server{Publish: func(c *mqttrpctest.Client, topic string, body []byte) {
		path, rid, _ := strings.Cut(topic, "?$rid=")
		answer(c, path, rid, body)
	}}
	b.cfg = Config{
		Host:        host,
		DeviceID:    deviceID,
		Token:       func(time.Time) (string, error) { return "token", nil },
		RootCAs:     authority.Pool,
		DialContext: b.network.DialContext,
		Logger:      slog.New(slog.NewTextHandler(&b.log, nil)),
	}
	listener := b.network.Listen(host + ":8883")
	b.server.Serve(listener, authority.Server(t, host))
	t.Cleanup(func() {
		_ = listener.Close()
		b.server.Close()
	})
	return b
}

func (b *bench) connect(t *testing.T) *Session {
	t.Helper()
	s, err := Connect(t.Context(), b.cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

// silent answers nothing.
func silent(*mqttrpctest.Client, string, string, []byte) {}

func raw(text string) json.RawMessage { return json.RawMessage(text) }

// vectors reads the hub's part of the published vectors.
func vectors(t *testing.T) (v struct {
	Connect struct {
		ClientID string `json:"client_id"`
		Username string `json:"username"`
	} `json:"connect"`
	TwinGet struct {
		Publish   string          `json:"publish"`
		Subscribe string          `json:"subscribe"`
		Topic     string          `json:"response_topic"`
		Body      json.RawMessage `json:"response_body"`
	} `json:"twin_get"`
	Reported struct {
		Publish string          `json:"publish"`
		Body    json.RawMessage `json:"body"`
		Topic   string          `json:"response_topic"`
	} `json:"reported"`
	Desired struct {
		Subscribe string          `json:"subscribe"`
		Topic     string          `json:"push_topic"`
		Body      json.RawMessage `json:"push_body"`
	} `json:"desired"`
},
) {
	t.Helper()
	text, err := os.ReadFile("../testdata/dps-vectors.json")
	if err != nil {
		t.Fatal(err)
	}
	file := struct {
		Hub any `json:"hub_mqtt"`
	}{&v}
	if err := json.Unmarshal(text, &file); err != nil {
		t.Fatal(err)
	}
	return v
}

// TestSessionVectors plays the published exchange against the session, and writes down what it sends.
func TestSessionVectors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := vectors(t)
		var wire strings.Builder
		var rids int
		withRID := func(topic, rid string) string {
			before, _, _ := strings.Cut(topic, "$rid=")
			_, params, more := strings.Cut(topic, "&")
			if more {
				return before + "$rid=" + rid + "&" + params
			}
			return before + "$rid=" + rid
		}
		b := newBench(t, func(c *mqttrpctest.Client, path, rid string, body []byte) {
			rids++
			fmt.Fprintf(&wire, "publish: %s?$rid={rid}\n%s\n", path, body)
			switch path + "?" {
			case strings.SplitAfter(v.TwinGet.Publish, "?")[0]:
				c.Publish(withRID(v.TwinGet.Topic, rid), v.TwinGet.Body)
			case strings.SplitAfter(v.Reported.Publish, "?")[0]:
				c.Publish(withRID(v.Reported.Topic, rid), nil)
				c.Publish(v.Desired.Topic, v.Desired.Body)
			}
		})
		b.server.Connect = func(c *mqttrpctest.Client) int {
			fmt.Fprintf(&wire, "client ID: %s\nuser name: %s\npassword:  %s\nkeep alive: %d s, clean session: %t, protocol level: %d\n",
				c.ID, c.Username, c.Password, c.KeepAlive, c.CleanSession, c.ProtocolVersion)
			if want := v.Connect.Username + "&DeviceClientType=gatewayd"; c.Username != want || c.ID != v.Connect.ClientID {
				t.Errorf("connected as %s %s, want %s %s", c.ID, c.Username, v.Connect.ClientID, want)
			}
			return 0
		}
		subscribed := map[string]bool{}
		b.server.Subscribe = func(_ *mqttrpctest.Client, filter string) byte {
			fmt.Fprintf(&wire, "subscribe: %s\n", filter)
			subscribed[filter] = true
			return 1
		}

		s := b.connect(t)
		if !subscribed[v.TwinGet.Subscribe] || !subscribed[v.Desired.Subscribe] {
			t.Errorf("subscribed to %v only before the first GET", subscribed)
		}
		twin, err := s.Twin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		wantTwin := Twin{
			Desired:  Properties{Values: map[string]json.RawMessage{"state": raw(`"ready"`), "darknessSetting": raw(`"medium"`)}, Version: 1},
			Reported: Properties{Values: map[string]json.RawMessage{}, Version: 1},
		}
		if diff := cmp.Diff(wantTwin, twin); diff != "" {
			t.Errorf("twin (-want +got):\n%s", diff)
		}

		var patch map[string]json.RawMessage
		if err := json.Unmarshal(v.Reported.Body, &patch); err != nil {
			t.Fatal(err)
		}
		version, err := s.Report(t.Context(), patch)
		if err != nil || version != 2 {
			t.Errorf("reported version %d, %v, want 2", version, err)
		}
		change := <-s.Desired()
		wantChange := Properties{Values: map[string]json.RawMessage{"darknessSetting": raw(`"dark"`)}, Version: 2}
		if diff := cmp.Diff(wantChange, change); diff != "" {
			t.Errorf("change (-want +got):\n%s", diff)
		}

		const path = "testdata/session.golden"
		if *update {
			if err := os.WriteFile(path, []byte(wire.String()), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(want), wire.String()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", path, diff)
		}
	})
}

func TestConnectErrors(t *testing.T) {
	tests := []struct {
		name   string
		change func(b *bench)
		want   string
	}{
		{"CONNACK 1", func(b *bench) { b.server.Connect = connack(1) }, "*hub.RefusedError 1"},
		{"CONNACK 3", func(b *bench) { b.server.Connect = connack(3) }, "*hub.BusyError"},
		{"CONNACK 4", func(b *bench) { b.server.Connect = connack(4) }, "*hub.RefusedError 4"},
		{"CONNACK 5", func(b *bench) { b.server.Connect = connack(5) }, "*hub.RefusedError 5"},
		{"no CONNACK", func(b *bench) { b.server.Connect = connack(-1) }, "other"},
		{"nobody listens", func(b *bench) { b.cfg.Address = "elsewhere:8883" }, "*net.OpError"},
		{"no token", func(b *bench) { b.cfg.Token = func(time.Time) (string, error) { return "", errors.New("no key") } }, "other"},
		{"no token function", func(b *bench) { b.cfg.Token = nil }, "other"},
		{"token function and certificate", func(b *bench) {
			b.cfg.Certificate = func() (*tls.Certificate, error) { return new(tls.Certificate), nil }
		}, "other"},
		{"no host", func(b *bench) { b.cfg.Host = "" }, "other"},
		{"host with a path", func(b *bench) { b.cfg.Host = "hub/devices" }, "other"},
		{"device ID with a wildcard", func(b *bench) { b.cfg.DeviceID = "a+" }, "other"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t, silent)
				test.change(b)
				s, err := Connect(t.Context(), b.cfg)
				if err == nil {
					s.Close()
					t.Fatal("connected")
				}
				var refused *RefusedError
				var busy *BusyError
				var network *net.OpError
				got := "other"
				switch {
				case errors.As(err, &refused):
					got = fmt.Sprintf("%T %d", refused, refused.Code)
				case errors.As(err, &busy):
					got = fmt.Sprintf("%T", busy)
				case errors.As(err, &network):
					got = fmt.Sprintf("%T", network)
				}
				if got != test.want {
					t.Errorf("got %s (%v), want %s", got, err, test.want)
				}
			})
		})
	}
}

func connack(code int) func(*mqttrpctest.Client) int {
	return func(*mqttrpctest.Client) int { return code }
}

// TestAddressOverridesOnlyWhereToDial: the TLS name and the user name stay the hub's.
func TestAddressOverridesOnlyWhereToDial(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, silent)
		var username string
		b.server.Connect = func(c *mqttrpctest.Client) int {
			username = c.Username
			return 0
		}
		dial := b.cfg.DialContext
		var dialled string
		b.cfg.Address = "127.0.0.1:18883"
		b.cfg.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
			dialled = address
			return dial(ctx, network, host+":8883")
		}
		b.connect(t)
		if dialled != "127.0.0.1:18883" || !strings.HasPrefix(username, host+"/"+deviceID+"/?") {
			t.Errorf("dialled %s as %s", dialled, username)
		}
	})
}

// TestWebSocket reaches the hub on port 443, where nothing but WebSocket is spoken.
func TestWebSocket(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, func(c *mqttrpctest.Client, _, rid string, _ []byte) {
			c.Publish("$iothub/twin/res/200/?$rid="+rid, []byte(`{"desired":{"$version":4},"reported":{"$version":2}}`))
		})
		authority := mqttrpctest.NewAuthority(t)
		b.cfg.RootCAs = authority.Pool
		listener := b.network.Listen(host + ":443")
		defer func() { _ = listener.Close() }()
		b.server.ServeWebSocket(listener, authority.Server(t, host))
		b.cfg.WebSocket = true
		twin, err := b.connect(t).Twin(t.Context())
		if err != nil || twin.Desired.Version != 4 {
			t.Errorf("got %+v, %v, want version 4", twin, err)
		}
	})
}

func TestAFreshTokenForEachConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, silent)
		var passwords []string
		b.server.Connect = func(c *mqttrpctest.Client) int {
			passwords = append(passwords, c.Password)
			return 0
		}
		b.cfg.Token = func(now time.Time) (string, error) { return now.UTC().Format("15:04:05"), nil }
		b.connect(t).Close()
		time.Sleep(time.Hour)
		b.connect(t)
		if got := fmt.Sprint(passwords); got != "[00:00:00 01:00:00]" {
			t.Errorf("passwords %s", got)
		}
	})
}

func TestTwinErrors(t *testing.T) {
	answers := map[string]struct {
		topic, body string
		want        string
	}{
		"throttled":           {"429/?$rid=RID&retry-after=7", "", "status 429, wait 7s"},
		"throttled, no hint":  {"429/?$rid=RID", "", "status 429, wait 0s"},
		"hint beyond reason":  {"503/?$rid=RID&retry-after=4000000000", "", "status 503, wait 24h0m0s"},
		"hint in words":       {"503/?$rid=RID&retry-after=soon", "", "status 503, wait 0s"},
		"bad request":         {"400/?$rid=RID", "{}", "status 400, wait 0s"},
		"no JSON":             {"200/?$rid=RID", "hello", "no sense"},
		"no object":           {"200/?$rid=RID", "[]", "no sense"},
		"half a twin":         {"200/?$rid=RID", `{"desired":{"$version":1}}`, "no sense"},
		"version in words":    {"200/?$rid=RID", `{"desired":{"$version":"x"},"reported":{}}`, "no sense"},
		"longer than allowed": {"200/?$rid=RID", `{"desired":{"a":"` + strings.Repeat("x", maxDocument) + `"},"reported":{}}`, "no sense"},
	}
	for name, answer := range answers {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t, func(c *mqttrpctest.Client, _, rid string, _ []byte) {
					c.Publish("$iothub/twin/res/"+strings.ReplaceAll(answer.topic, "RID", rid), []byte(answer.body))
				})
				s := b.connect(t)
				_, err := s.Twin(t.Context())
				var twin *TwinError
				got := fmt.Sprint(err)
				switch {
				case errors.As(err, &twin):
					got = fmt.Sprintf("status %d, wait %v", twin.Status, twin.RetryAfter)
				case errors.Is(err, ErrAnswer):
					got = "no sense"
				}
				if got != answer.want {
					t.Errorf("got %s, want %s", got, answer.want)
				}
				if s.Err() != nil {
					t.Errorf("the session ended: %v", s.Err())
				}
			})
		})
	}
}

func TestReport(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var got string
		b := newBench(t, func(c *mqttrpctest.Client, _, rid string, body []byte) {
			got = string(body)
			c.Publish("$iothub/twin/res/204/?$rid="+rid, nil)
		})
		s := b.connect(t)
		version, err := s.Report(t.Context(), map[string]json.RawMessage{"state": raw(`"ready"`), "old": raw("null"), "t": raw("65")})
		if err != nil || version != 0 {
			t.Errorf("got version %d, %v", version, err)
		}
		if want := `{"old":null,"state":"ready","t":65}`; got != want {
			t.Errorf("sent %s, want %s", got, want)
		}
		for name, patch := range map[string]map[string]json.RawMessage{
			"nothing":  {},
			"no JSON":  {"a": raw("{")},
			"too much": {"a": raw(`"` + strings.Repeat("x", maxReport) + `"`)},
		} {
			got = ""
			if _, err := s.Report(t.Context(), patch); err == nil || got != "" {
				t.Errorf("%s: %v, sent %q", name, err, got)
			}
		}
	})
}

// TestDesiredKeepsTheNewest: a reader that sleeps costs the connection nothing, and sees by the gap what it missed.
func TestDesiredKeepsTheNewest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const pushes = 100
		b := newBench(t, func(c *mqttrpctest.Client, _, rid string, _ []byte) {
			for version := 2; version < 2+pushes; version++ {
				c.Publish(fmt.Sprintf("$iothub/twin/PATCH/properties/desired/?$version=%d", version), fmt.Appendf(nil, `{"n":%d,"$version":%d}`, version, version))
			}
			c.Publish("$iothub/twin/res/204/?$rid="+rid, nil)
		})
		s := b.connect(t)
		if _, err := s.Report(t.Context(), map[string]json.RawMessage{"a": raw("1")}); err != nil {
			t.Fatalf("the answer did not come past the changes that nobody read: %v", err)
		}
		var versions []int64
		for len(s.Desired()) > 0 {
			versions = append(versions, (<-s.Desired()).Version)
		}
		if len(versions) != pushesKept || versions[0] != 2+pushes-pushesKept || versions[len(versions)-1] != 1+pushes {
			t.Errorf("kept %v, want the last %d up to %d", versions, pushesKept, 1+pushes)
		}
	})
}

func TestDesiredIgnoresWhatMakesNoSense(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, func(c *mqttrpctest.Client, _, rid string, _ []byte) {
			c.Publish("$iothub/methods/POST/reboot/?$rid=1", []byte(`{"$version":9}`))
			for _, body := range []string{"hello", "[]", `{"a":1}`, `{"$version":0}`, `{"$version":3,"$metadata":{},"a":{"b":null}}`} {
				c.Publish("$iothub/twin/PATCH/properties/desired/?$version=3", []byte(body))
			}
			c.Publish("$iothub/twin/res/204/?$rid="+rid, nil)
		})
		s := b.connect(t)
		if _, err := s.Report(t.Context(), map[string]json.RawMessage{"a": raw("1")}); err != nil {
			t.Fatal(err)
		}
		want := Properties{Values: map[string]json.RawMessage{"a": raw(`{"b":null}`)}, Version: 3}
		if diff := cmp.Diff(want, <-s.Desired()); diff != "" {
			t.Errorf("change (-want +got):\n%s", diff)
		}
		if n := strings.Count(b.log.String(), "cannot be read"); n != 4 {
			t.Errorf("%d warnings, want 4:\n%s", n, b.log.String())
		}
	})
}

func TestSessionEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, func(c *mqttrpctest.Client, _, _ string, _ []byte) { c.Drop() })
		s := b.connect(t)
		if s.Err() != nil {
			t.Errorf("while it lives, Err is %v", s.Err())
		}
		if _, err := s.Twin(t.Context()); !errors.Is(err, ErrLost) {
			t.Errorf("the call ended with %v, want ErrLost", err)
		}
		<-s.Done()
		if !errors.Is(s.Err(), ErrLost) {
			t.Errorf("Err is %v, want ErrLost", s.Err())
		}
		s.Close()

		s = b.connect(t)
		s.Close()
		s.Close()
		<-s.Done()
		if !errors.Is(s.Err(), ErrClosed) {
			t.Errorf("Err is %v, want ErrClosed", s.Err())
		}
		if _, err := s.Twin(t.Context()); !errors.Is(err, ErrClosed) {
			t.Errorf("a call afterwards ended with %v, want ErrClosed", err)
		}
	})
}

func TestSessionCancelled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, silent)
		s := b.connect(t)
		begun := time.Now()
		if _, err := s.Twin(t.Context()); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("without an answer: %v, want a time-out", err)
		}
		if took := time.Since(begun); took != callTimeout {
			t.Errorf("it took %v, want %v", took, callTimeout)
		}
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		if _, err := s.Twin(ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("cancelled: %v", err)
		}
		if s.Err() != nil {
			t.Errorf("the session ended with the call: %v", s.Err())
		}
		time.Sleep(time.Hour) // pings keep it alive
		if s.Err() != nil {
			t.Errorf("an idle session ended: %v", s.Err())
		}
	})
}

func FuzzParseTwin(f *testing.F) {
	f.Add([]byte(`{"desired":{"state":"ready","$version":1},"reported":{"$version":1}}`))
	f.Add([]byte(`{"desired":null,"reported":{}}`))
	f.Add([]byte(`{"n":1,"$version":2}`))
	f.Add([]byte(`[]`))
	f.Fuzz(func(t *testing.T, body []byte) {
		check := func(p Properties) {
			for name, value := range p.Values {
				if strings.HasPrefix(name, "$") || !json.Valid(value) {
					t.Errorf("property %q: %s", name, value)
				}
			}
		}
		if twin, err := parseTwin(body); err == nil {
			check(twin.Desired)
			check(twin.Reported)
		} else if !errors.Is(err, ErrAnswer) {
			t.Errorf("an error of another kind: %v", err)
		}
		if change, err := parseDesired(body); err == nil {
			check(change)
			if change.Version <= 0 {
				t.Errorf("version %d", change.Version)
			}
		}
	})
}

// TestSilentHub is a hub that takes the connection and never says a word: its caller gets its hands free again.
func TestSilentHub(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ours, theirs := net.Pipe()
		defer theirs.Close()
		go io.Copy(io.Discard, theirs) //nolint:errcheck // it only listens
		began := time.Now()
		_, err := Connect(t.Context(), Config{
			Host: "hub.example", DeviceID: "dev", Token: func(time.Time) (string, error) { return "token", nil },
			DialContext: func(context.Context, string, string) (net.Conn, error) { return ours, nil },
		})
		if err == nil || time.Since(began) != connectTime {
			t.Errorf("got %v after %s, want an error after %s", err, time.Since(began), connectTime)
		}
		theirs.Close()
		synctest.Wait()
	})
}
