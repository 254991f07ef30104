// SPDX-License-Identifier: Apache-2.0

package dpslocal

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"sync/atomic"
	"testing"
)

// BenchmarkRegistration is one device's register and poll over HTTPS on kept
// connections, the webhook answered in the process, the store on disk.
func BenchmarkRegistration(b *testing.B) {
	cfg := testConfig()
	cfg.RetryAfter = 0
	s := startBenchmark(b, cfg)
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(s.CAPEM())
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}, MaxIdleConnsPerHost: 16}
	b.Cleanup(transport.CloseIdleConnections)
	client := &http.Client{Transport: transport}

	var devices atomic.Int64
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			id := fmt.Sprintf("device-%d", devices.Add(1))
			token := deviceToken(id, derive(testPrimary, id))
			base := "https://" + s.HTTPSAddr() + "/" + testScope + "/registrations/" + id
			status := exchange(b, client, "PUT", base+"/register?api-version=2021-06-01", token)
			for status.Status == "assigning" {
				status = exchange(b, client, "GET", base+"/operations/"+status.OperationID+"?api-version=2021-06-01", token)
			}
			if status.Status != "assigned" {
				b.Errorf("%s: %+v", id, status)
			}
		}
	})
}

func startBenchmark(b *testing.B, cfg Config) *Server {
	s, err := New(cfg, Options{Dir: b.TempDir(), WebhookTransport: always(200, goodAnswer)})
	if err != nil {
		b.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- s.Run(b.Context()) }()
	b.Cleanup(func() {
		if err := <-ended; err != nil {
			b.Errorf("Run: %v", err)
		}
	})
	return s
}

func exchange(b *testing.B, client *http.Client, method, target, token string) (status statusBody) {
	req, err := http.NewRequestWithContext(b.Context(), method, target, nil)
	if err != nil {
		b.Fatal(err)
	}
	req.Header.Set("Authorization", token)
	response, err := client.Do(req)
	if err != nil {
		b.Error(err)
		return status
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err == nil {
		err = json.Unmarshal(body, &status)
	}
	if err != nil {
		b.Errorf("%s: %v", body, err)
	}
	return status
}
