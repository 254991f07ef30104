// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"encoding/pem"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// rawService is a service API with one group whose writes go wrong as told: what
// a real one does at the worst moment, and seldom.
type rawService struct {
	mu     sync.Mutex
	url    string // of the webhook
	etag   string
	onPut  func(s *rawService, w http.ResponseWriter, wanted string) // under the lock
	onList func(w http.ResponseWriter) bool
}

func (s *rawService) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case r.Method == http.MethodPut:
		var group struct {
			CustomAllocationDefinition struct{ WebhookURL string }
		}
		body, err := io.ReadAll(r.Body)
		if err != nil || json.Unmarshal(body, &group) != nil || r.Header.Get("If-Match") != s.etag {
			s.refuse(w, http.StatusBadRequest)
			return
		}
		s.onPut(s, w, group.CustomAllocationDefinition.WebhookURL)
	case strings.HasSuffix(r.URL.Path, "/query"):
		if s.onList == nil || !s.onList(w) {
			io.WriteString(w, "[]") //nolint:errcheck // the client notices
		}
	case strings.HasSuffix(r.URL.Path, "/attestationmechanism"):
		io.WriteString(w, `{"type":"symmetricKey","symmetricKey":{"primaryKey":"`+groupKey+`","secondaryKey":"`+groupKey+`"}}`) //nolint:errcheck // the client notices
	default:
		s.answer(w)
	}
}

// answer shows the group.
func (s *rawService) answer(w http.ResponseWriter) {
	json.NewEncoder(w).Encode(map[string]any{ //nolint:errcheck // the client notices
		"enrollmentGroupId": "g", "etag": s.etag, "attestation": map[string]string{"type": "symmetricKey"}, "allocationPolicy": "custom",
		"provisioningStatus":         "enabled",
		"customAllocationDefinition": map[string]string{"webhookUrl": s.url, "apiVersion": "2021-10-01"},
	})
}

func (s *rawService) refuse(w http.ResponseWriter, status int) {
	w.WriteHeader(status)
	io.WriteString(w, `{"errorCode":412000,"message":"no"}`) //nolint:errcheck // the client notices
}

// store takes the new URL.
func (s *rawService) store(wanted string) { s.url, s.etag = wanted, `"2"` }

// hangUp closes the connection without an answer.
func hangUp(w http.ResponseWriter) {
	connection, _, err := w.(http.Hijacker).Hijack()
	if err == nil {
		connection.Close()
	}
}

// TestFailoverWriteTrouble: whatever a write comes to, the command finds out how
// things stand, or says that it does not know.
func TestFailoverWriteTrouble(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name   string
		onPut  func(s *rawService, w http.ResponseWriter, wanted string)
		onList func(w http.ResponseWriter) bool
		status int
		parts  []string
	}{
		{
			"quicker somebody", func(s *rawService, w http.ResponseWriter, _ string) {
				s.store("https://third.example/api/f?code=third-key-0123456789")
				s.refuse(w, http.StatusPreconditionFailed)
			}, nil, 1,
			[]string{"Somebody else has changed the enrollment group meanwhile, and this command left it alone. It is enabled, its webhook https://third.example/api/f?****.\n", "answered 412"},
		},
		{
			"answer lost after the write", func(s *rawService, w http.ResponseWriter, wanted string) { s.store(wanted); hangUp(w) }, nil, 0,
			[]string{"Swap      the webhook is the site's now", "End       Swapped, and not watched.\n"},
		},
		{
			"lost before the write", func(_ *rawService, w http.ResponseWriter, _ string) { hangUp(w) }, nil, 1,
			[]string{"End       Nothing was changed.\n", `updating enrollment group "g"`},
		},
		{
			"error after the write", func(s *rawService, w http.ResponseWriter, wanted string) {
				s.store(wanted)
				s.refuse(w, http.StatusInternalServerError)
			}, nil, 0,
			[]string{"Swap      the webhook is the site's now"},
		},
		{
			"no permission", func(s *rawService, w http.ResponseWriter, _ string) { s.refuse(w, http.StatusForbidden) }, nil, 1,
			[]string{"End       Nothing was changed.\n", "answered 403"},
		},
		{
			"gone for good", func(s *rawService, w http.ResponseWriter, _ string) { s.etag = ""; s.url = ""; hangUp(w) }, nil, 1,
			[]string{`updating enrollment group "g"`},
		},
		{
			"no list, no swap", func(s *rawService, w http.ResponseWriter, wanted string) { s.store(wanted); s.answer(w) },
			func(w http.ResponseWriter) bool { w.WriteHeader(http.StatusBadGateway); return true }, 1,
			[]string{"End       Nothing was changed.\n", "answered 502"},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			site := newWebhook(siteKey, nil)
			defer site.Close()
			raw := &rawService{url: "https://cloud.example/api/f?code=" + cloudKey, etag: `"1"`, onPut: test.onPut, onList: test.onList}
			service := httptest.NewTLSServer(raw)
			defer service.Close()
			dir := t.TempDir()
			for name, text := range map[string]string{
				"ca.pem":     string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: service.Certificate().Raw})),
				"connection": "HostName=example.com;SharedAccessKeyName=p;SharedAccessKey=" + policyKey, // a name in the certificate
				"site-url":   site.URL + "/api/f?code=" + siteKey,
			} {
				if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			args := []string{
				"enrollment-group", "failover", "g", "--to", "site", "--site-url-file", "site-url", "--cloud-url-file", "cloud-url", "--yes",
				"--webhook-ca-file", "ca.pem", "--ca-file", "ca.pem", "--connection-string-file", "connection", "--address", service.Listener.Addr().String(),
			}
			if test.onList == nil {
				args = append(args, "--watch", "0")
			}
			p := startProgram(t, dir, nil, args...)
			p.ends(test.status, test.parts...)
		})
	}
}
