// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/contoso/gatewayd/gateway/config"
)

// TestCertificateFiles takes the files through two renewals, one of which stops
// half way.
func TestCertificateFiles(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		files := newCertificateFiles(filepath.Join(dir, "c.pem"), filepath.Join(dir, "k.pem"),
			slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelError})))
		write := func(cert, key []byte) {
			t.Helper()
			if err := os.WriteFile(files.certFile, cert, 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(files.keyFile, key, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		serial := func(when string, want int64) {
			t.Helper()
			got, err := files.get(nil)
			if err != nil {
				t.Fatal(err)
			}
			if got := got.Leaf.SerialNumber.Int64(); got != want {
				t.Errorf("%s: got certificate %d, want %d", when, got, want)
			}
		}
		cert1, key1 := testCertificate(t, 1)
		cert2, key2 := testCertificate(t, 2)
		cert3, key3 := testCertificate(t, 3)

		reload := func() error {
			pair, err := files.read()
			if err == nil {
				files.use(pair)
			}
			return err
		}
		if err := reload(); err == nil {
			t.Error("loaded a certificate that is not there")
		}
		write(cert1, key1)
		if err := reload(); err != nil {
			t.Fatal(err)
		}
		serial("at first", 1)
		write(cert2, key2)
		serial("within a second of the last look", 1)
		time.Sleep(certificateInterval)
		serial("after the renewal", 2)

		write(cert3, key2) // the key is still to come
		time.Sleep(certificateInterval)
		serial("half way", 2)
		if log.Len() > 0 {
			t.Errorf("a renewal under way is an error:\n%s", &log)
		}
		for range 3 {
			time.Sleep(certificateInterval)
			serial("stuck half way", 2)
		}
		if got := strings.Count(log.String(), "webhook certificate not reloaded; the old one stays in use"); got != 1 {
			t.Errorf("got %d error lines, want 1:\n%s", got, &log)
		}
		if err := reload(); err == nil {
			t.Error("a reload half way is no error")
		}
		write(cert3, key3)
		if err := reload(); err != nil {
			t.Errorf("reloading: %v", err)
		}
		serial("after the renewal was completed", 3)

		if err := os.Remove(files.certFile); err != nil {
			t.Fatal(err)
		}
		time.Sleep(certificateInterval)
		serial("after the file is gone", 3)
	})
}

// TestCertificateUnderLoad renews the certificate again and again, each time
// through a half-written pair, while callers connect anew for each request: none
// may notice anything.
func TestCertificateUnderLoad(t *testing.T) {
	dir := t.TempDir()
	certFile, keyFile := filepath.Join(dir, "c.pem"), filepath.Join(dir, "k.pem")
	roots := x509.NewCertPool()
	var certs, keys [][]byte
	for i := range 4 {
		cert, key := testCertificate(t, int64(i+1))
		certs, keys = append(certs, cert), append(keys, key)
		roots.AppendCertsFromPEM(cert)
	}
	put := func(file string, text []byte) {
		if err := os.WriteFile(file, text, 0o600); err != nil {
			t.Error(err)
		}
	}
	put(certFile, certs[0])
	put(keyFile, keys[0])
	w, err := newWebhook(config.Allocation{Listen: "127.0.0.1:0", TLSCert: certFile, TLSKey: keyFile}, nil, nil, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	w.certificate.interval = 0
	stop := serveWebhook(t, w)

	var group sync.WaitGroup
	renewing := make(chan struct{})
	for range 4 {
		group.Go(func() {
			client := &http.Client{Transport: &http.Transport{
				TLSClientConfig: &tls.Config{RootCAs: roots}, DisableKeepAlives: true, ForceAttemptHTTP2: true,
			}}
			for {
				select {
				case <-renewing:
					return
				default:
				}
				response, err := client.Post("https://"+w.listener.Addr().String()+"/api/f", "application/json", strings.NewReader(kettle))
				if err != nil {
					t.Errorf("a request was lost: %v", err)
					return
				}
				if response.StatusCode != http.StatusBadRequest || response.ProtoMajor != 1 {
					t.Errorf("got %s %s, want HTTP/1.1 400", response.Proto, response.Status)
				}
				if _, err := io.Copy(io.Discard, response.Body); err != nil {
					t.Errorf("an answer was cut off: %v", err)
				}
				response.Body.Close()
			}
		})
	}
	for i := range 60 {
		next := (i + 1) % len(certs)
		put(certFile, certs[next][:len(certs[next])/2])
		put(certFile, certs[next])
		put(keyFile, keys[next])
		if err := w.reload(w.cfg); err != nil {
			t.Errorf("reloading a whole pair: %v", err)
		}
	}
	close(renewing)
	group.Wait()
	stop()
	if got := w.certificate.inUse.certificate.Leaf.SerialNumber.Int64(); got != 60%4+1 {
		t.Errorf("ended with certificate %d, want %d", got, 60%4+1)
	}
}

// kettle is a request that the tutorial's policy refuses.
const kettle = `{"deviceRuntimeContext":{"registrationId":"kettle"},"linkedHubs":["a"]}`

// serveWebhook runs a webhook; stop ends it in an orderly way.
func serveWebhook(t *testing.T, w *webhook) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- w.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("the webhook ended: %v", err)
		}
	})
	t.Cleanup(stop)
	return stop
}

// testCertificate makes a certificate for 127.0.0.1 and its key, as PEM text.
func testCertificate(t *testing.T, number int64) (cert, key []byte) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(number), NotBefore: time.Unix(0, 0), NotAfter: time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})
}
