// SPDX-License-Identifier: Apache-2.0

package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// instance is a gatewayd that hosts the webhook over TLS, and nothing else.
type instance struct {
	daemon           *daemon
	webhook, metrics string
	client           *http.Client // trusts the instance's certificate
}

// instanceOf gives the instance of a name, or ends the script.
func instanceOf(ts *testscript.TestScript, name string) *instance {
	i := ts.Value(worldKey{}).(*scriptWorld).instances[name]
	if i == nil {
		ts.Fatalf("there is no instance %q; call instance %s first", name, name)
	}
	return i
}

// scriptInstance starts an instance with files and state in a folder of its name,
// where the policy file is put too:
//
//	instance NAME [POLICYFILE]
func scriptInstance(ts *testscript.TestScript, _ bool, args []string) {
	name, dir := args[0], ts.MkAbs(args[0])
	ts.Check(os.Mkdir(dir, 0o700))
	i := &instance{}
	var err error
	i.webhook, err = freeAddress()
	ts.Check(err)
	i.metrics, err = freeAddress()
	ts.Check(err)
	roots, err := writeCertificate(filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem"))
	ts.Check(err)
	i.client = &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}, DisableKeepAlives: true}}
	ts.Check(os.WriteFile(filepath.Join(dir, "function-keys"), []byte(functionKey+"\n"), 0o600))
	policy := ""
	if len(args) > 1 {
		policy = "policy.toml" // beside the configuration
		ts.Check(os.WriteFile(filepath.Join(dir, policy), []byte(ts.ReadFile(args[1])), 0o600))
	}
	ts.Check(os.WriteFile(filepath.Join(dir, "gatewayd.toml"), fmt.Appendf(nil, `state_dir = %q
[allocation]
listen = %q
function_keys = %q
tls_cert = %q
tls_key = %q
policy = %q
[metrics]
listen = %q
`, filepath.Join(dir, "state"), i.webhook, filepath.Join(dir, "function-keys"), filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem"), policy, i.metrics), 0o600))
	i.daemon, err = startDaemon(filepath.Join(dir, "gatewayd.toml"))
	ts.Check(err)
	ts.Defer(i.daemon.kill)
	ts.Value(worldKey{}).(*scriptWorld).instances[name] = i
	scriptLook(ts, false, []string{name, "/readyz", "200", `"ready": true`})
}

// scriptAsk posts a file to an instance and compares status and body:
//
//	ask NAME KEY FILE STATUS [BODYFILE]
func scriptAsk(ts *testscript.TestScript, _ bool, args []string) {
	i := instanceOf(ts, args[0])
	response, err := post(i.client, "https://"+i.webhook+"/api/HttpTrigger1?code="+args[1], strings.TrimSuffix(ts.ReadFile(args[2]), "\n"))
	ts.Check(err)
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	ts.Check(err)
	if got := strconv.Itoa(response.StatusCode); got != args[3] {
		ts.Fatalf("status %s, want %s: %s\n%s", got, args[3], answer, i.daemon.log())
	}
	if len(args) > 4 && string(answer) != strings.TrimSuffix(ts.ReadFile(args[4]), "\n") {
		ts.Fatalf("body:\n%s\nwant %s", answer, args[4])
	}
}

// scriptLook reads a path of the watchers' listener, until it answers so:
//
//	look NAME PATH STATUS PATTERN
func scriptLook(ts *testscript.TestScript, _ bool, args []string) {
	i, pattern := instanceOf(ts, args[0]), regexp.MustCompile("(?m)"+args[3])
	status, text := "", ""
	for deadline := time.Now().Add(scriptWait); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		response, err := http.Get("http://" + i.metrics + args[1])
		if err != nil {
			status, text = "none", err.Error() // it may be starting
			continue
		}
		body, err := io.ReadAll(response.Body)
		response.Body.Close()
		ts.Check(err)
		if status, text = strconv.Itoa(response.StatusCode), string(body); status == args[2] && pattern.MatchString(text) {
			return
		}
	}
	ts.Fatalf("%s answers %s, want %s and %q:\n%s\n%s", args[1], status, args[2], args[3], text, i.daemon.log())
}

// scriptReload sends SIGHUP and waits until the instance has said a text:
//
//	reload NAME TEXT
func scriptReload(ts *testscript.TestScript, _ bool, args []string) {
	d := instanceOf(ts, args[0]).daemon
	ts.Check(d.command.Process.Signal(syscall.SIGHUP))
	if !d.waitUntil(scriptWait, func() bool { return strings.Contains(d.log(), args[1]) }) {
		ts.Fatalf("not said: %q\n%s", args[1], d.log())
	}
}

// scriptQuit sends SIGTERM and wants an orderly end, and a text in the log:
//
//	quit NAME TEXT
func scriptQuit(ts *testscript.TestScript, _ bool, args []string) {
	d := instanceOf(ts, args[0]).daemon
	ts.Check(d.command.Process.Signal(syscall.SIGTERM))
	select {
	case <-d.ended:
	case <-time.After(scriptWait):
		ts.Fatalf("not stopped:\n%s", d.log())
	}
	if got := d.command.ProcessState.ExitCode(); got != 0 || !strings.Contains(d.log(), args[1]) {
		ts.Fatalf("exit status %d; want 0, and %q in the log:\n%s", got, args[1], d.log())
	}
}

// writeCertificate writes a certificate for 127.0.0.1, and gives what trusts it.
func writeCertificate(certFile, keyFile string) (*x509.CertPool, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	certificate := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	if err := os.WriteFile(certFile, certificate, 0o600); err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(certificate)
	return roots, os.WriteFile(keyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}), 0o600)
}
