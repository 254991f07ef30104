// SPDX-License-Identifier: Apache-2.0

package allocation

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"text/tabwriter"
	"time"
)

// BenchmarkLoad puts load on the real gatewayd, and in turns on what it is
// compared with, each a process of its own on the same core, with keep-alive,
// from another core. It needs wrk, h2load and node; make bench-allocation
// installs them. It prints a line for each server at 1, 16 and 256 connections
// over HTTP and TLS:
//
//	requests/s   the median of the rounds, by wrk
//	of bare      as a part of the bare handler's, which is the limit; budget for
//	             the built-in policy: at least 0.7
//	of node      as a multiple of the same function's under Node, with its log as
//	             we have ours; budget: at least 2, on all cores
//	CPU          the server's time on a core for one request
//	p50 … p99.9  of the answers, while wrk sends as much as it can
//
// then for each server what its callers see at half of its maximum load, sent at a
// constant rate by h2load (budget for the 99th percentile: 5 ms), and at last what
// each does with all cores, of which Node's one process uses one.
//
// On one core nothing that is made with net/http can do twice what Node does: there
// is a line for Node without a log too, and it is above the bare handler.
//
// LOAD_TIME is the length of one measurement (default 3s), LOAD_ROUNDS how many
// of them (default 3), LOAD_ONLY an expression for the names of the servers to take.
func BenchmarkLoad(b *testing.B) {
	for _, program := range []string{"wrk", "h2load", "node", "taskset"} {
		if _, err := exec.LookPath(program); err != nil {
			b.Fatalf("%v: run make bench-allocation", err)
		}
	}
	lab := newLab(b)
	servers := lab.start(b)
	for _, s := range servers {
		if err := s.answers(lab); err != nil {
			b.Fatalf("%s: %v", s.name, err)
		}
	}
	table := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(table, "\nscheme\tconnections\tserver\trequests/s\tof bare\tof node\tCPU µs\tp50 ms\tp99 ms\tp99.9 ms\t")
	most := map[*server]float64{}
	for _, scheme := range []string{"http", "https"} {
		for _, connections := range []int{1, 16, 256} {
			measured := lab.saturate(b, servers, scheme, connections)
			bare, node := measured["bare net/http"], measured["node with its log"]
			for _, s := range servers {
				m, ok := measured[s.name]
				if !ok {
					continue
				}
				fmt.Fprintf(table, "%s\t%d\t%s\t%.0f\t%s\t%s\t%.1f\t%.2f\t%.2f\t%.2f\t\n", scheme, connections, s.name, m.rate,
					ratio(m.rate, bare.rate), ratio(m.rate, node.rate), m.cpu, m.p50, m.p99, m.p999)
				if scheme == "http" {
					most[s] = max(most[s], m.rate)
				}
				if s.name == "built-in" && connections == 16 && scheme == "http" && bare.rate > 0 {
					b.ReportMetric(m.rate/bare.rate, "of-bare")
				}
			}
		}
	}
	fmt.Fprintln(table, "\nat half of the maximum, 16 connections\t\tserver\trequests/s\t\t\tCPU µs\tp50 ms\tp99 ms\tp99.9 ms\t")
	for _, s := range servers {
		m := lab.halfLoad(b, s, most[s]/2)
		fmt.Fprintf(table, "http\t16\t%s\t%.0f\t\t\t%.1f\t%.2f\t%.2f\t%.2f\t\n", s.name, m.rate, m.cpu, m.p50, m.p99, m.p999)
		if s.name == "built-in" {
			b.ReportMetric(m.p99, "p99-ms-at-half")
		}
	}
	if runtime.NumCPU() > 1 {
		lab.widen(b, servers)
		fmt.Fprintf(table, "\nall %d cores, shared with the load\t\tserver\trequests/s\tof bare\tof node\tCPU µs\tp50 ms\tp99 ms\tp99.9 ms\t\n", runtime.NumCPU())
		measured := lab.saturate(b, servers, "http", 256)
		bare, node := measured["bare net/http"], measured["node with its log"]
		for _, s := range servers {
			m := measured[s.name]
			fmt.Fprintf(table, "http\t256\t%s\t%.0f\t%s\t%s\t%.1f\t%.2f\t%.2f\t%.2f\t\n", s.name, m.rate,
				ratio(m.rate, bare.rate), ratio(m.rate, node.rate), m.cpu, m.p50, m.p99, m.p999)
			if s.name == "built-in" && node.rate > 0 {
				b.ReportMetric(m.rate/node.rate, "of-node")
			}
		}
	}
	if err := table.Flush(); err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(0, "ns/op")
}

func ratio(part, whole float64) string {
	if whole == 0 {
		return "-"
	}
	return strconv.FormatFloat(part/whole, 'f', 2, 64)
}

// measurement is what one server did for one kind of load; the median of the
// rounds by rate.
type measurement struct {
	rate           float64 // requests a second
	cpu            float64 // µs a request
	p50, p99, p999 float64 // ms
}

// lab is where the servers run.
type lab struct {
	dir        string
	cert, key  string // PEM files
	client     *http.Client
	want       []byte
	request    string // file
	seconds    time.Duration
	rounds     int
	only       *regexp.Regexp
	serverCore []string // a command line's beginning
	loadCore   []string
}

func newLab(b *testing.B) *lab {
	seconds, err := time.ParseDuration(cmp.Or(os.Getenv("LOAD_TIME"), "3s"))
	if err != nil {
		b.Fatal(err)
	}
	rounds, err := strconv.Atoi(cmp.Or(os.Getenv("LOAD_ROUNDS"), "3"))
	if err != nil {
		b.Fatal(err)
	}
	only, err := regexp.Compile(os.Getenv("LOAD_ONLY"))
	if err != nil {
		b.Fatal(err)
	}
	l := &lab{
		dir: b.TempDir(), want: golden(b, "tutorial-toaster.response.json"), request: "testdata/tutorial-toaster.request.json",
		seconds: seconds, rounds: rounds, only: only,
	}
	if runtime.NumCPU() > 1 {
		l.serverCore, l.loadCore = []string{"taskset", "-c", "0"}, []string{"taskset", "-c", "1"}
	}
	l.makeCertificate(b)
	return l
}

// makeCertificate writes a certificate for 127.0.0.1 and makes a client that
// trusts it.
func (l *lab) makeCertificate(b *testing.B) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		b.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "127.0.0.1"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
	}
	certificate, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		b.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		b.Fatal(err)
	}
	roots := x509.NewCertPool()
	certificatePEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate})
	roots.AppendCertsFromPEM(certificatePEM)
	l.client = &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}, DisableKeepAlives: true}}
	l.cert = l.write(b, "cert.pem", string(certificatePEM))
	l.key = l.write(b, "key.pem", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})))
}

func (l *lab) write(b *testing.B, name, text string) string {
	path := filepath.Join(l.dir, name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		b.Fatal(err)
	}
	return path
}

// server is one of the programs under load: a process for each scheme.
type server struct {
	name      string
	processes map[string]process // by scheme
}

type process struct {
	url string
	pid int
	log string // file, which is emptied after each measurement
}

// start builds what must be built and starts all servers; those that are not
// asked at the moment cost nothing.
func (l *lab) start(b *testing.B) []*server {
	bare, gatewayd := filepath.Join(l.dir, "bare"), filepath.Join(l.dir, "gatewayd")
	l.run(b, "go", "build", "-o", bare, "./testdata/bench/bare.go")
	l.run(b, "go", "build", "-o", gatewayd, "../cmd/gatewayd")
	keys := l.write(b, "keys", keyOne+"\n"+keyTwo+"\n")

	var servers []*server
	add := func(name, query string, command func(scheme, port string) []string) {
		if !l.only.MatchString(name) {
			return
		}
		s := &server{name: name, processes: map[string]process{}}
		for _, scheme := range []string{"http", "https"} {
			port := freePort(b)
			log := l.write(b, fmt.Sprintf("%s-%s.log", strings.ReplaceAll(strings.ReplaceAll(name, " ", "-"), "/", "-"), scheme), "")
			pid := l.spawn(b, log, command(scheme, port))
			s.processes[scheme] = process{url: scheme + "://127.0.0.1:" + port + "/api/HttpTrigger1" + query, pid: pid, log: log}
		}
		servers = append(servers, s)
	}
	withTLS := func(scheme string, arguments ...string) []string {
		if scheme == "https" {
			return append(arguments, l.cert, l.key)
		}
		return arguments
	}
	add("bare net/http", "", func(scheme, port string) []string { return withTLS(scheme, bare, "127.0.0.1:"+port) })
	add("node without a log", "", func(scheme, port string) []string {
		return withTLS(scheme, "node", "testdata/bench/function.mjs", port, "quiet")
	})
	add("node with its log", "", func(scheme, port string) []string {
		return withTLS(scheme, "node", "testdata/bench/function.mjs", port, "log")
	})
	for _, v := range l.variants(b) {
		add(v.name, "?code="+keyTwo, func(scheme, port string) []string {
			text := "site = \"bench\"\nstate_dir = \"" + b.TempDir() + "\"\n[allocation]\nlisten = \"127.0.0.1:" + port + "\"\nfunction_keys = \"" + keys + "\"\nrequests_per_second = 1000000\n"
			if scheme == "https" {
				text += "tls_cert = \"" + l.cert + "\"\ntls_key = \"" + l.key + "\"\n"
			}
			return []string{gatewayd, "--config", l.write(b, port+".toml", text+v.config)}
		})
	}
	return servers
}

// variant is one way to set gatewayd up. All of them give the tutorial's answer.
type variant struct{ name, config string }

func (l *lab) variants(b *testing.B) []variant {
	const answer = `hub = { contains = "-toasters-", pick = "last" }
desired = { state = "ready", darknessSetting = "medium" }
tags = { deviceType = "toaster" }
`
	var plain, expressions strings.Builder
	for i := range 99 {
		fmt.Fprintf(&plain, "[[rule]]\nwhen = { registration_id = { prefix = \"building%d-\", suffix = \"-007\" }, enrollment_group = \"group-%d\", firmware.from = \"12.0\" }\nhub.contains = \"-toasters-\"\n", i, i)
	}
	for i := range 19 {
		fmt.Fprintf(&expressions, "[[rule]]\nwhen = 'request.deviceRuntimeContext.registrationId.startsWith(\"building%d-\") || payload.?model.orValue(\"\") == \"model-%d\"'\nhub.contains = \"-toasters-\"\n", i, i)
	}
	expressions.WriteString("[[rule]]\nwhen = 'request.deviceRuntimeContext.registrationId.endsWith(\"-007\")'\n" + answer + "[[rule]]\nrefuse = \"Unknown.\"\n")
	const byDirectory = "[directory]\ncolumns = { hub = \"text\" }\n[[rule]]\nhub.cel = 'device.hub'\n" +
		"desired = { state = \"ready\", darknessSetting = \"medium\" }\ntags = { deviceType = \"toaster\" }\n"

	rows := "registration_id,hub\nbreakroom499-contoso-tstrsd-007,contoso-toasters-hub-1098.azure-devices.net\n"
	for i := range 10_000 {
		rows += fmt.Sprintf("room%d-contoso-tstrsd-007,contoso-toasters-hub-1098.azure-devices.net\n", i)
	}
	directory, gatewayctl := filepath.Join(l.dir, "devices.db"), filepath.Join(l.dir, "gatewayctl")
	l.run(b, "go", "build", "-o", gatewayctl, "../cmd/gatewayctl")
	l.run(b, gatewayctl, "directory", "import", "--directory", directory, l.write(b, "devices.csv", rows))

	withPolicy := func(file, text string) string {
		return fmt.Sprintf("policy = %q\n", l.write(b, file, text))
	}
	return []variant{
		{"built-in", ""},
		{"built-in, no decision log", "decision_log = \"\"\n"},
		{"100 plain rules", withPolicy("plain.toml", plain.String()+"[[rule]]\n"+answer)},
		{"20 CEL rules", withPolicy("cel.toml", expressions.String())},
		{"SQLite directory", withPolicy("directory.toml", byDirectory) + fmt.Sprintf("directory = %q\n", directory)},
	}
}

func (l *lab) run(b *testing.B, command string, arguments ...string) {
	c := exec.Command(command, arguments...)
	c.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := c.CombinedOutput(); err != nil {
		b.Fatalf("%s: %v: %s", c, err, out)
	}
}

// spawn starts a server on the servers' core and stops it at the end.
func (l *lab) spawn(b *testing.B, logFile string, command []string) (pid int) {
	log, err := os.OpenFile(logFile, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		b.Fatal(err)
	}
	defer log.Close()
	command = slices.Concat(l.serverCore, command)
	c := exec.Command(command[0], command[1:]...)
	c.Stdout, c.Stderr = log, log
	if err := c.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		_ = c.Process.Signal(syscall.SIGTERM)
		_ = c.Wait() // by the signal, or a server's own word for it
	})
	return c.Process.Pid
}

// answers waits until the server is there and looks at one answer of each of
// its processes.
func (s *server) answers(l *lab) error {
	for scheme, p := range s.processes {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		for dialer := (net.Dialer{}); ; time.Sleep(20 * time.Millisecond) {
			address := strings.Split(p.url, "/")[2]
			connection, err := dialer.DialContext(ctx, "tcp", address)
			if err == nil {
				connection.Close()
				break
			}
			if ctx.Err() != nil {
				text, _ := os.ReadFile(p.log)
				return fmt.Errorf("%s: %w: %s", scheme, err, text)
			}
		}
		body, err := os.Open(l.request)
		if err != nil {
			return err
		}
		response, err := l.client.Post(p.url, "application/json", body)
		if err != nil {
			return err
		}
		got, err := io.ReadAll(response.Body)
		response.Body.Close()
		if err != nil {
			return err
		}
		if !bytes.Equal(bytes.TrimSpace(got), l.want) {
			return fmt.Errorf("%s: got %d %s", scheme, response.StatusCode, got)
		}
	}
	return nil
}

// widen lets servers and load use all cores.
func (l *lab) widen(b *testing.B, servers []*server) {
	l.loadCore = nil
	for _, s := range servers {
		for _, p := range s.processes {
			l.run(b, "taskset", "--all-tasks", "--cpu-list", "--pid", fmt.Sprintf("0-%d", runtime.NumCPU()-1), strconv.Itoa(p.pid))
		}
	}
	time.Sleep(2 * time.Second) // Go's runtime looks at its cores once a second
}

// saturate lets wrk send as much as it can, server by server in each round, so
// that what else this machine does falls on all of them.
func (l *lab) saturate(b *testing.B, servers []*server, scheme string, connections int) map[string]measurement {
	rounds := map[string][]measurement{}
	for range l.rounds {
		for _, s := range servers {
			p := s.processes[scheme]
			before := cpuTime(b, p.pid)
			seconds := strconv.Itoa(max(1, int(l.seconds.Seconds()))) + "s"
			out := l.load(b, "wrk", "--threads", "1", "--connections", strconv.Itoa(connections), "--duration", seconds, "--timeout", "10s",
				"--script", "testdata/bench/post.lua", p.url, "--", l.request)
			var m measurement
			var failed int
			_, numbers, _ := strings.Cut(out, "numbers ")
			if _, err := fmt.Sscan(numbers, &m.rate, &m.p50, &m.p99, &m.p999, &failed); err != nil || failed > 0 {
				b.Fatalf("%s over %s, %d connections: %d bad answers, %v: %s", s.name, scheme, connections, failed, err, out)
			}
			m.p50, m.p99, m.p999 = m.p50/1000, m.p99/1000, m.p999/1000
			m.cpu = float64((cpuTime(b, p.pid) - before).Microseconds()) / (m.rate * l.seconds.Seconds())
			rounds[s.name] = append(rounds[s.name], m)
			l.emptyLog(b, p)
		}
	}
	medians := map[string]measurement{}
	for name, all := range rounds {
		slices.SortFunc(all, func(x, y measurement) int { return cmp.Compare(x.rate, y.rate) })
		medians[name] = all[len(all)/2]
	}
	return medians
}

// halfLoad sends at a constant rate, whatever the server does, and gives the
// median round by the 99th percentile.
func (l *lab) halfLoad(b *testing.B, s *server, rate float64) measurement {
	const clients = 16
	p := s.processes["http"]
	var rounds []measurement
	for round := range l.rounds {
		log := filepath.Join(l.dir, fmt.Sprintf("h2load-%d", round))
		requests := int(rate * l.seconds.Seconds())
		before := cpuTime(b, p.pid)
		out := l.load(b, "h2load", "--h1", "--clients", strconv.Itoa(clients), "--requests", strconv.Itoa(requests),
			"--rps", strconv.FormatFloat(rate/clients, 'f', 1, 64), "--data", l.request,
			"--header", "content-type: application/json; charset=utf-8", "--log-file", log, p.url)
		m := measurement{rate: rate, cpu: float64((cpuTime(b, p.pid) - before).Microseconds()) / float64(requests)}
		times := answerTimes(b, log)
		if len(times) != requests {
			b.Fatalf("%s: %d answers to %d requests: %s", s.name, len(times), requests, out)
		}
		slices.Sort(times)
		at := func(part float64) float64 { return float64(times[int(part*float64(len(times)-1))]) / 1000 }
		m.p50, m.p99, m.p999 = at(0.5), at(0.99), at(0.999)
		rounds = append(rounds, m)
		if err := os.Remove(log); err != nil {
			b.Fatal(err)
		}
		l.emptyLog(b, p)
	}
	slices.SortFunc(rounds, func(x, y measurement) int { return cmp.Compare(x.p99, y.p99) })
	return rounds[len(rounds)/2]
}

// answerTimes reads h2load's log: start, status and time, one request a line, in
// microseconds.
func answerTimes(b *testing.B, path string) []int {
	file, err := os.Open(path)
	if err != nil {
		b.Fatal(err)
	}
	defer file.Close()
	var times []int
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		var start, status, took int
		if _, err := fmt.Sscan(lines.Text(), &start, &status, &took); err != nil || status != http.StatusOK {
			b.Fatalf("h2load's log: %q: %v", lines.Text(), err)
		}
		times = append(times, took)
	}
	if err := lines.Err(); err != nil {
		b.Fatal(err)
	}
	return times
}

// load runs a load generator on its core and gives what it prints.
func (l *lab) load(b *testing.B, command ...string) string {
	command = slices.Concat(l.loadCore, command)
	out, err := exec.Command(command[0], command[1:]...).CombinedOutput()
	if err != nil {
		b.Fatalf("%s: %v: %s", command, err, out)
	}
	return string(out)
}

func (l *lab) emptyLog(b *testing.B, p process) {
	if err := os.Truncate(p.log, 0); err != nil {
		b.Fatal(err)
	}
}

// cpuTime gives the time that a process had on a core. Linux counts it in
// hundredths of a second.
func cpuTime(b *testing.B, pid int) time.Duration {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		b.Fatal(err)
	}
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	user, err1 := strconv.Atoi(fields[11])
	system, err2 := strconv.Atoi(fields[12])
	if err1 != nil || err2 != nil {
		b.Fatalf("/proc/%d/stat: %s", pid, stat)
	}
	return time.Duration(user+system) * 10 * time.Millisecond
}

func freePort(b *testing.B) string {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer listener.Close()
	_, port, err := net.SplitHostPort(listener.Addr().String())
	if err != nil {
		b.Fatal(err)
	}
	return port
}
