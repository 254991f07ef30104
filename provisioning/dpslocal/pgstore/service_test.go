// SPDX-License-Identifier: Apache-2.0

package pgstore_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"database/sql"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/contoso/gatewayd/provisioning/dpslocal"
)

// webhook answers all devices with one hub and counts.
type webhook struct {
	*httptest.Server

	// answer is asked for the status of a device's n-th call, from 1.
	answer func(id string, n int) int

	mu        sync.Mutex
	calls     map[string]int
	inside    map[string]int
	contested []string // devices that two callers asked about at once
}

func newWebhook(t *testing.T, answer func(id string, n int) int) *webhook {
	h := &webhook{answer: answer, calls: make(map[string]int), inside: make(map[string]int)}
	h.Server = httptest.NewServer(h)
	t.Cleanup(h.Close)
	return h
}

// count is how often a device was asked about.
func (h *webhook) count(id string) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.calls[id]
}

func (h *webhook) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var request struct {
		DeviceRuntimeContext struct{ RegistrationID string }
	}
	_ = json.NewDecoder(r.Body).Decode(&request)
	id := request.DeviceRuntimeContext.RegistrationID
	h.mu.Lock()
	h.calls[id]++
	n := h.calls[id]
	h.inside[id]++
	if h.inside[id] > 1 {
		h.contested = append(h.contested, id)
	}
	h.mu.Unlock()
	status := h.answer(id, n)
	h.mu.Lock()
	h.inside[id]--
	h.mu.Unlock()
	w.WriteHeader(status)
	_, _ = io.WriteString(w, `{"iotHubHostName":"`+toasters+`"}`)
}

// TestInstancesAreOneService: what one instance knows or has begun, the other
// one knows too.
func TestInstancesAreOneService(t *testing.T) {
	url := newDatabase(t)
	asked, release := make(chan struct{}), make(chan struct{})
	hook := newWebhook(t, func(_ string, n int) int {
		if n == 1 {
			close(asked)
			<-release
		}
		return http.StatusOK
	})
	cfg := dpslocal.Config{
		IDScope: scope,
		Hubs:    []dpslocal.Hub{{Name: toasters}},
		EnrollmentGroups: []dpslocal.EnrollmentGroup{{
			ID: group, AllocationPolicy: dpslocal.Custom, WebhookURL: dpslocal.Secret(hook.URL + "/api?code=SECRET"),
		}},
	}
	a, b := serve(t, url, cfg), serve(t, url, cfg)
	if !bytes.Equal(a.CAPEM(), b.CAPEM()) {
		t.Error("the instances have different CAs")
	}
	primary, secondary, err1 := a.GroupKeys(group)
	primary2, secondary2, err2 := b.GroupKeys(group)
	if err1 != nil || err2 != nil || primary != primary2 || secondary != secondary2 {
		t.Errorf("the instances generated different keys, or none: %v, %v", err1, err2)
	}

	d := device{trusting(t, a.CAPEM()), "Breakroom499", primary}
	begun, err := d.register(a.HTTPSAddr())
	if err != nil {
		t.Fatal(err)
	}
	<-asked
	if again, err := d.register(b.HTTPSAddr()); err != nil || again.OperationID != begun.OperationID {
		t.Errorf("register at the other instance: %+v, %v; want the running operation %s", again, err, begun.OperationID)
	}
	if s, err := d.poll(b.HTTPSAddr(), begun.OperationID); err != nil || s.Status != "assigning" {
		t.Errorf("poll at the other instance: %+v, %v; want assigning", s, err)
	}
	close(release)
	var s status
	for s.Status != "assigned" {
		if s, err = d.poll(b.HTTPSAddr(), begun.OperationID); err != nil || s.Status == "failed" {
			t.Fatalf("poll at the other instance: %+v, %v", s, err)
		}
	}
	if n := hook.count(d.id); n != 1 {
		t.Errorf("the webhook was called %d times for one operation", n)
	}
	if _, ok := b.Twin(toasters, d.id); !ok {
		t.Error("the other instance's hub does not know the device")
	}

	// A change of an enrollment reaches the other instance with its next look.
	disabled := cfg.EnrollmentGroups[0]
	disabled.ProvisioningStatus = dpslocal.Disabled
	if err := a.SetGroup(disabled); err != nil {
		t.Fatal(err)
	}
	for range 1000 {
		if s, err = d.register(b.HTTPSAddr()); err != nil {
			t.Fatal(err)
		}
		for operation := s.OperationID; s.Status == "assigning"; {
			if s, err = d.poll(b.HTTPSAddr(), operation); err != nil {
				t.Fatal(err)
			}
		}
		if s.Status == "disabled" {
			return
		}
	}
	t.Errorf("%+v; want disabled", s)
}

// TestCertificatesAtEveryInstance: a device with a certificate is let in also by
// an instance that has read the enrollments from the store again.
func TestCertificatesAtEveryInstance(t *testing.T) {
	url := newDatabase(t)
	certificate, text := selfSigned(t, "own-1")
	keys := dpslocal.EnrollmentGroup{ID: group, PrimaryKey: groupKey, AllocationPolicy: dpslocal.Static}
	cfg := dpslocal.Config{
		IDScope: scope, Hubs: []dpslocal.Hub{{Name: toasters}}, EnrollmentGroups: []dpslocal.EnrollmentGroup{keys},
		Enrollments: []dpslocal.IndividualEnrollment{{
			RegistrationID: "own-1", AllocationPolicy: dpslocal.Static,
			X509: dpslocal.X509Attestation{ClientCertificates: dpslocal.Slots{Primary: text}},
		}},
	}
	a, b := serve(t, url, cfg), serve(t, url, cfg)
	client := trusting(t, b.CAPEM())
	client.Transport.(*http.Transport).TLSClientConfig.Certificates = []tls.Certificate{certificate}

	// A disabled group is the sign that b has read the enrollments again.
	keys.ProvisioningStatus = dpslocal.Disabled
	if err := a.SetGroup(keys); err != nil {
		t.Fatal(err)
	}
	probe := device{trusting(t, b.CAPEM()), "breakroom499", groupKey}
	for s := (status{}); s.Status != "disabled"; {
		var err error
		if s, err = probe.register(b.HTTPSAddr()); err != nil {
			t.Fatal(err)
		}
		for operation := s.OperationID; s.Status == "assigning"; {
			if s, err = probe.poll(b.HTTPSAddr(), operation); err != nil {
				t.Fatal(err)
			}
		}
	}
	request, err := http.NewRequest(http.MethodPut, "https://"+b.HTTPSAddr()+"/"+scope+"/registrations/own-1/register?api-version=2021-06-01", nil)
	if err != nil {
		t.Fatal(err)
	}
	response, err := client.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusAccepted {
		t.Errorf("register with a certificate after the enrollments were read again: %s, want 202", response.Status)
	}
}

// selfSigned makes a device's certificate, and its PEM text.
func selfSigned(t *testing.T, name string) (tls.Certificate, string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, string(text)
}

// serve runs an instance in this process.
func serve(t *testing.T, url dpslocal.Secret, cfg dpslocal.Config) *dpslocal.Server {
	t.Helper()
	server, err := dpslocal.New(cfg, dpslocal.Options{Dir: t.TempDir(), Store: open(t, url)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- server.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	return server
}

// TestKilledInstance: two processes behind a balancer, one of which is killed in
// the middle of 500 registrations. All of them end, assigned once.
func TestKilledInstance(t *testing.T) {
	url := newDatabase(t)
	const devices = 500
	hook := newWebhook(t, func(id string, n int) int {
		time.Sleep(50 * time.Millisecond) // so that operations are under way at any moment
		if n == 1 && strings.HasSuffix(id, "7") {
			return http.StatusServiceUnavailable
		}
		return http.StatusOK
	})
	dir := t.TempDir()
	binary := filepath.Join(dir, "dpslocal")
	if output, err := exec.CommandContext(t.Context(), "go", "build", "-o", binary, "github.com/contoso/gatewayd/cmd/dpslocal").CombinedOutput(); err != nil {
		t.Fatalf("building: %v\n%s", err, output)
	}
	config := filepath.Join(dir, "dpslocal.toml")
	text := fmt.Sprintf("id_scope = %q\nretry_after = \"0s\"\n[[hub]]\nname = %q\n[[enrollment_group]]\nid = %q\nprimary_key = %q\nallocation_policy = \"custom\"\nwebhook_url = %q\n",
		scope, toasters, group, groupKey, hook.URL+"/api?code=SECRET")
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	doomed := launch(t, binary, config, filepath.Join(dir, "a"), url)
	heir := launch(t, binary, config, filepath.Join(dir, "b"), url)
	if !bytes.Equal(doomed.file(t, "server.pem"), heir.file(t, "server.pem")) || !bytes.Equal(doomed.file(t, "ca-key.pem"), heir.file(t, "ca-key.pem")) {
		t.Error("the instances do not share CA and certificate")
	}
	balancer := balance(t, doomed.https, heir.https)

	client := trusting(t, heir.file(t, "ca.pem"))
	var ended, calls atomic.Int64
	var group sync.WaitGroup
	ids := make(chan string)
	killed := make(chan struct{})
	begun := time.Now()
	for range 50 {
		group.Go(func() {
			for id := range ids {
				if n := registerUntilAssigned(t, device{client, id, groupKey}, balancer, &calls); n == 0 {
					return
				}
				if ended.Add(1) == devices/2 {
					_ = doomed.cmd.Process.Kill()
					close(killed)
				}
			}
		})
	}
	for i := range devices {
		select {
		case ids <- fmt.Sprintf("toaster-%04d", i):
		case <-t.Context().Done():
		}
	}
	close(ids)
	group.Wait()
	<-killed
	t.Logf("%d registrations, %d register calls, in %v", ended.Load(), calls.Load(), time.Since(begun).Round(time.Millisecond))

	heir.stop(t)
	taken := strings.Count(heir.stderr.String(), "registration taken over")
	t.Logf("%d operations taken over", taken)
	if taken == 0 {
		t.Error("nothing was taken over: the test proves nothing")
	}
	for _, check := range []struct {
		query string
		want  int64
	}{
		{`SELECT count(*) FROM registrations WHERE status = 'assigned' AND substatus = 'initialAssignment'`, devices},
		{`SELECT count(*) FROM devices`, devices},
		{`SELECT count(DISTINCT registration_key) FROM operations WHERE status = 'assigned' AND ended <> ''`, devices},
		{`SELECT count(*) FROM operations WHERE ended = '' OR status <> 'assigned'`, 0},
		{`SELECT count(*) FROM instances WHERE lease_until > clock_timestamp()`, 0},
	} {
		if got := number(t, url, check.query); got != check.want {
			t.Errorf("%s: got %d, want %d", check.query, got, check.want)
		}
	}
	// A register whose answer is lost and that is sent again may find its operation
	// ended, and begin another.
	if n := number(t, url, `SELECT count(*) FROM operations`); n > calls.Load() {
		t.Errorf("%d operations of %d register calls", n, calls.Load())
	}
	if len(hook.contested) > 0 {
		t.Errorf("two instances asked at once about %v", hook.contested)
	}
}

// registerUntilAssigned is what every SDK does: register, and again after an
// error; then poll, and again after an error. It returns the number of register
// calls, 0 if there is no hope.
func registerUntilAssigned(t *testing.T, d device, address string, calls *atomic.Int64) int {
	for n := 1; ; n++ {
		calls.Add(1)
		s, err := d.register(address)
		for operation := s.OperationID; err == nil && s.Status == "assigning"; {
			if next, trouble := d.poll(address, operation); trouble == nil {
				s = next
			}
		}
		if err == nil && (s.Status != "assigned" || s.RegistrationState.Substatus != "initialAssignment") {
			t.Errorf("%s: %+v", d.id, s)
			return 0
		}
		if err == nil {
			return n
		}
		if n == 100 {
			t.Errorf("%s: %v", d.id, err)
			return 0
		}
	}
}

// number runs a query for one number.
func number(t *testing.T, url dpslocal.Secret, query string) (n int64) {
	t.Helper()
	db, err := sql.Open("pgx", string(url))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if err := db.QueryRowContext(t.Context(), query).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

// process is an instance in a process of its own.
type process struct {
	cmd    *exec.Cmd
	dir    string
	https  string
	stderr *bytes.Buffer // to be read when it has ended
}

// launch starts the binary and waits until it serves.
func launch(t *testing.T, binary, config, dir string, url dpslocal.Secret) *process {
	t.Helper()
	p := &process{dir: dir, stderr: new(bytes.Buffer)}
	p.cmd = exec.Command(binary, "--config", config, "--dir", dir, "--https", "127.0.0.1:0", "--mqtt", "127.0.0.1:0", "--store", string(url))
	p.cmd.Stderr = p.stderr
	stdout, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill()
		_ = p.cmd.Wait()
		if t.Failed() {
			t.Logf("%s:\n%s", filepath.Base(dir), p.stderr)
		}
	})
	line, err := bufio.NewReader(stdout).ReadBytes('\n')
	if err != nil {
		t.Fatalf("the instance does not serve: %v", err)
	}
	var serving struct{ HTTPS string }
	if err := json.Unmarshal(line, &serving); err != nil {
		t.Fatal(err)
	}
	p.https = serving.HTTPS
	return p
}

// file is one of the instance's directory.
func (p *process) file(t *testing.T, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(p.dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// stop ends the instance in good order.
func (p *process) stop(t *testing.T) {
	t.Helper()
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	if err := p.cmd.Wait(); err != nil {
		t.Errorf("stopping: %v\n%s", err, p.stderr)
	}
}

// balance is a plain TCP balancer: each connection goes to the next backend that
// takes it.
func balance(t *testing.T, backends ...string) (address string) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var group sync.WaitGroup
	t.Cleanup(func() {
		_ = listener.Close()
		group.Wait()
	})
	group.Go(func() {
		for i := 0; ; i++ {
			front, err := listener.Accept()
			if err != nil {
				return
			}
			group.Go(func() { relay(front, backends[i%len(backends):], backends) })
		}
	})
	return listener.Addr().String()
}

// relay joins a connection with the first backend that answers.
func relay(front net.Conn, lists ...[]string) {
	defer front.Close()
	for _, backends := range lists {
		for _, backend := range backends {
			back, err := net.Dial("tcp", backend)
			if err != nil {
				continue
			}
			defer back.Close()
			var group sync.WaitGroup
			join := func(to, from net.Conn) {
				_, _ = io.Copy(to, from)
				_ = to.Close()
				_ = from.Close()
			}
			group.Go(func() { join(front, back) })
			join(back, front)
			group.Wait()
			return
		}
	}
}
