// SPDX-License-Identifier: Apache-2.0

package conformancetest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// rule12 is about connections, and what may be repeated below the other rules.
var rule12 = []Case{
	{
		Rule: 12, Name: "devices share one pool of connections", only: []Transport{HTTPS},
		Peer: "C SDK: a connection for each device; Node: one agent for all, but only within a client",
		check: func(tr *Trial) {
			tr.Service.Script = InOrder(Assigning("1"), Assigned(Operation))
			client := tr.client()
			for i := range 20 {
				_, _ = tr.registerWith(client, device(fmt.Sprintf("device-%d", i)), EndAssigned)
			}
			if n := len(tr.Service.Connections()); n != 1 {
				tr.find("%d connections for 20 devices one after another, want 1", n)
			}
		},
	},
	{
		Rule: 12, Name: "a pool has an upper limit", only: []Transport{HTTPS},
		Peer: "every SDK: as many connections as devices",
		check: func(tr *Trial) {
			tr.Service.Script = func(n int, _ Asked) Answer {
				time.Sleep(10 * time.Millisecond) // so that all are under way at once
				return InOrder(Assigning("1"), Assigned(Operation))(n, Asked{})
			}
			registerAll(tr, tr.client(), 200)
			if n := len(tr.Service.Connections()); n == 0 || n > 64 {
				tr.find("%d connections for 200 devices at once, want up to 64", n)
			}
		},
	},
	{
		Rule: 12, Name: "each MQTT connection is one device's and is closed at the end", only: []Transport{MQTT, MQTTWebSocket},
		check: func(tr *Trial) {
			tr.Service.Script = InOrder(Assigning("1"), Assigned(Operation))
			client := tr.client()
			for i := range 5 {
				_, _ = tr.registerWith(client, device(fmt.Sprintf("device-%d", i)), EndAssigned)
			}
			owners := make(map[int]string)
			for _, q := range tr.Service.Requests() {
				if owner, seen := owners[q.Connection]; seen && owner != q.RegistrationID {
					tr.find("%s and %s shared a connection", owner, q.RegistrationID)
				}
				owners[q.Connection] = q.RegistrationID
			}
			if len(owners) != 5 {
				tr.find("%d connections for five devices", len(owners))
			}
			synctest.Wait()
			if left := tr.Service.MQTT.Clients(); left != 0 {
				tr.find("%d connections are left", left)
			}
		},
	},
	{
		Rule: 12, Name: "an answer is never asked for again below the rules",
		Peer: "go-retryablehttp and its kind: four quick tries of any 429 and 5xx",
		check: func(tr *Trial) {
			for _, status := range []int{429, 500, 502, 503} {
				tr.part(fmt.Sprint(status), func(tr *Trial) {
					tr.Service.Script = InOrder(Refusal(status, 0, "30"), Assigned(Operation))
					_, _ = tr.register(device(toaster), EndAssigned)
					tr.sequence("register register")
					if times := tr.at(""); len(times) > 1 {
						tr.between("the second request", times[1], 30*time.Second, 33*time.Second)
					}
				})
			}
		},
	},
	{
		Rule: 12, Name: "a register of which something was written is never repeated",
		Peer: "C#, Edge: the HTTP library's retry handler; MQTT libraries that publish again after a reconnect",
		check: func(tr *Trial) {
			tr.part("on a new connection", func(tr *Trial) {
				tr.Service.Script = InOrder(Answer{}, Assigned(Operation))
				_, _ = tr.register(device(toaster), EndUnreachable)
				tr.story("register 0s")
			})
			tr.part("on a kept connection", func(tr *Trial) {
				tr.Service.Script = InOrder(Assigned(Operation), Answer{}, Assigned(Operation))
				client := tr.client()
				_, _ = tr.registerWith(client, device(toaster), EndAssigned)
				_, _ = tr.registerWith(client, device(toaster), EndUnreachable)
				tr.sequence("register register")
			})
		},
	},
	{
		Rule: 12, Name: "a connection that cannot be made is tried again soon, a few times",
		Peer: "C SDK over HTTP: fails at once",
		check: func(tr *Trial) {
			tr.part("twice", func(tr *Trial) {
				tr.Service.Network.OnDial(func(_ string, n int) error {
					if n <= 2 {
						return errors.New("a cable was kicked")
					}
					return nil
				})
				_, _ = tr.register(device(toaster), EndAssigned)
				tr.between("two hiccups", time.Since(tr.Service.Begun), 200*time.Millisecond, time.Second)
			})
			tr.part("for ever", func(tr *Trial) {
				tr.Service.Network.OnDial(func(string, int) error { return errors.New("a cable was cut") })
				_, _ = tr.register(device(toaster), EndUnreachable)
				if dials := tr.Service.Network.Dials(HTTPSAddr) + tr.Service.Network.Dials(MQTTAddr); dials < 2 || dials > 5 {
					tr.find("%d dials, want a few", dials)
				}
			})
		},
	},
	{
		Rule: 12, Name: "one device's failure leaves the others' connections alone", only: []Transport{HTTPS},
		Peer: "go-retryablehttp: empties the shared pool after every failed request",
		check: func(tr *Trial) {
			tr.Service.Script = func(_ int, q Asked) Answer {
				if q.RegistrationID == "unlucky" {
					return Answer{}
				}
				time.Sleep(time.Second)
				return Assigned(Operation)
			}
			const devices = 5
			client := tr.client()
			registerAll(tr, client, devices)
			_, _ = tr.registerWith(client, device("unlucky"), EndUnreachable)
			before := len(tr.Service.Connections())
			registerAll(tr, client, devices)
			// The unlucky one broke the connection that it had itself, and no other.
			if more := len(tr.Service.Connections()) - before; more > 1 {
				tr.find("%d new connections for %d devices after one failure, want at most 1", more, devices)
			}
		},
	},
	{
		Rule: 12, Name: "a certificate has connections of its own, which are closed after the attempt",
		Peer: "HTTP libraries with one pool: the next device speaks under the last one's certificate",
		check: func(tr *Trial) {
			tr.Service.Script = InOrder(Assigning("1"), Assigned(Operation))
			client := tr.client()
			ids := []string{"cert-1", "cert-2", "key-1", "cert-1"}
			for _, id := range ids {
				d := device(id)
				if strings.HasPrefix(id, "cert") {
					d.Keys, d.Certificate = nil, issue(tr.t, id)
				}
				_, _ = tr.registerWith(client, d, EndAssigned)
			}
			synctest.Wait()
			for _, c := range tr.Service.Connections() {
				shown := c.Certificate()
				open := !c.Ended()
				for _, q := range tr.Service.Requests() {
					if q.Connection == c.Number && strings.HasPrefix(q.RegistrationID, "cert") && shown != q.RegistrationID {
						tr.find("a %s of %s came under the certificate %q", q.Do, q.RegistrationID, shown)
					}
					if q.Connection == c.Number && strings.HasPrefix(q.RegistrationID, "key") && shown != "" {
						tr.find("a %s of %s came under the certificate %q", q.Do, q.RegistrationID, shown)
					}
					if q.Connection == c.Number && q.Token != "" && shown != "" {
						tr.find("a %s of %s shows a token beside its certificate", q.Do, q.RegistrationID)
					}
				}
				if open && shown != "" {
					tr.find("the connection of %s is still open", shown)
				}
			}
			if n := len(tr.Service.Connections()); n != len(ids) {
				tr.find("%d connections for %d attempts", n, len(ids))
			}
		},
	},
}

// issue makes a certificate of a name, with its key, as PEM.
func issue(t testing.TB, name string) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		Subject:      pkix.Name{CommonName: name},
		NotBefore:    time.Date(1990, 1, 1, 0, 0, 0, 0, time.UTC),
		NotAfter:     time.Date(2090, 1, 1, 0, 0, 0, 0, time.UTC), // a bubble begins in the year 2000
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	return append(text, pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: private})...)
}

// registerAll registers devices at once.
func registerAll(tr *Trial, client Client, devices int) {
	var group sync.WaitGroup
	for i := range devices {
		group.Go(func() { _, _ = tr.registerWith(client, device(fmt.Sprintf("device-%d", i)), EndAssigned) })
	}
	group.Wait()
}
