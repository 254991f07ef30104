// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/contoso/gatewayd/provisioning"
)

// What the programs of [BenchmarkRegister] are told. Budgets of a run would be all that is measured, and the
// service has no limits that they would protect, so they are out of the way.
const (
	benchScope       = "0ne00ABCDEF"
	benchConcurrency = maxConcurrency
	benchPerMinute   = "1e7"
	benchPerSecond   = "1e6"
)

// BenchmarkRegister measures whole processes that register devices with one dpslocal: gatewayctl over each
// transport, beside Microsoft's client for Node and, for one device, curl. They take turns, each round with new
// devices; the table has the medians. Nothing fails for being slow, and a peer that fails only loses its row.
//
// It is gatewayctl, as it ships, and not a program made for the purpose, because its start is part of what a person
// waits for. Microsoft's client runs all devices at once in one process; without node its rows are left out.
func BenchmarkRegister(b *testing.B) {
	if _, err := os.Stat("/proc/self/status"); err != nil {
		b.Skip("peak memory is read the way Linux tells it")
	}
	site := startBenchSite(b)
	fmt.Printf("gatewayctl register --concurrency %d --registers-per-minute %s --polls-per-second %s; dpslocal with retry_after = \"0s\"\n",
		benchConcurrency, benchPerMinute, benchPerSecond)
	var budgets []string
	for _, plan := range []struct{ devices, rounds int }{{1, 15}, {200, 9}, {1000, 5}} {
		table := &benchTable{devices: plan.devices, rounds: plan.rounds}
		for _, v := range site.variants(b) {
			if v.only == 0 || v.only == plan.devices {
				row := benchRow{variant: v}
				row.connections, row.peak, row.failed = site.look(b, v, plan.devices)
				table.rows = append(table.rows, row)
			}
		}
		for range plan.rounds {
			for i := range table.rows {
				row := &table.rows[i]
				if row.failed != nil {
					continue
				}
				run, err := site.run(b, row.variant, plan.devices, site.direct, func(int) {})
				row.runs, row.failed = append(row.runs, run), err
			}
		}
		table.print(os.Stdout)
		budgets = append(budgets, table.budgets()...)
	}
	fmt.Println("\nBudgets:")
	for _, line := range budgets {
		fmt.Println("-", line)
	}
	b.ReportMetric(0, "ns/op") // of nothing in particular
}

// benchSite is a dpslocal in a process of its own, and the programs that register with it.
type benchSite struct {
	dir     string // of the programs and their files
	peers   string // of Microsoft's client's scripts
	modules string // of its packages; "" without node
	direct  addresses
	roots   *x509.CertPool
	key     provisioning.GroupKey
	named   atomic.Int64 // devices
}

// addresses are where a service answers, host:port.
type addresses struct{ https, mqtt string }

// startBenchSite builds the programs and starts the service.
func startBenchSite(b *testing.B) *benchSite {
	b.Helper()
	s := &benchSite{dir: b.TempDir(), roots: x509.NewCertPool()}
	var err error
	if s.key, err = provisioning.ParseGroupKey(groupKey); err != nil {
		b.Fatal(err)
	}
	if s.peers, err = filepath.Abs("../../provisioning/dpslocal/testdata/peers"); err != nil {
		b.Fatal(err)
	}
	s.modules = installPeers(b, s.peers)

	build := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", s.dir+"/", ".", "../dpslocal")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if output, err := build.CombinedOutput(); err != nil {
		b.Fatalf("building: %v\n%s", err, output)
	}
	config := "id_scope = \"" + benchScope + "\"\nretry_after = \"0s\"\n[[hub]]\nname = \"h.example\"\n" +
		"[[enrollment_group]]\nid = \"g\"\nprimary_key = \"" + groupKey + "\"\n"
	for name, text := range map[string]string{"dpslocal.toml": config, "group-key": groupKey + "\n"} {
		if err := os.WriteFile(filepath.Join(s.dir, name), []byte(text), 0o600); err != nil {
			b.Fatal(err)
		}
	}

	server := exec.Command("./dpslocal", "--config", "dpslocal.toml", "--dir", "d", "--https", "127.0.0.1:0", "--mqtt", "127.0.0.1:0")
	server.Dir = s.dir
	var log bytes.Buffer
	server.Stderr = &log
	stdout, err := server.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := server.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		_ = server.Process.Signal(syscall.SIGTERM)
		if err := server.Wait(); err != nil {
			b.Errorf("dpslocal: %v\n%s", err, log.String())
		}
	})
	var line struct{ HTTPS, MQTT string }
	if err := json.NewDecoder(stdout).Decode(&line); err != nil {
		b.Fatalf("dpslocal: %v", err)
	}
	s.direct = addresses{https: line.HTTPS, mqtt: line.MQTT}
	pem, err := os.ReadFile(filepath.Join(s.dir, "d/ca.pem"))
	if err != nil || !s.roots.AppendCertsFromPEM(pem) {
		b.Fatalf("the CA of dpslocal: %v", err)
	}
	return s
}

// installPeers returns the folder of Microsoft's packages, "" without node.
func installPeers(b *testing.B, peers string) string {
	b.Helper()
	for _, program := range []string{"node", "npm"} {
		if _, err := exec.LookPath(program); err != nil {
			fmt.Printf("there is no %s: without Microsoft's client\n", program)
			return ""
		}
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		b.Fatal(err)
	}
	dir := filepath.Join(cache, "gatewayd-peers", "dpslocal")
	if output, err := exec.Command(filepath.Join(peers, "install.sh"), dir).CombinedOutput(); err != nil {
		b.Fatalf("installing the packages: %v\n%s", err, output)
	}
	return filepath.Join(dir, "node_modules")
}

// benchVariant is a program that registers devices in one way.
type benchVariant struct {
	name    string
	only    int // the one number of devices that it is for; 0 is all
	command func(ids benchIDs, at addresses) *exec.Cmd
}

// The rows that budgets are about.
const (
	oursHTTPS = "gatewayctl https"
	nodeHTTP  = "Node's client http"
	curlTwice = "curl, two requests"
)

// benchIDs are PREFIX-1 to PREFIX-COUNT.
type benchIDs struct {
	prefix string
	count  int
}

// variants are those that this machine can run.
func (s *benchSite) variants(b *testing.B) []benchVariant {
	b.Helper()
	variants := []benchVariant{
		{name: oursHTTPS, command: s.gatewayctl("https")},
		{name: "gatewayctl mqtt", command: s.gatewayctl("mqtt")},
		{name: "gatewayctl mqtt-ws", command: s.gatewayctl("mqtt-ws")},
	}
	if s.modules != "" {
		variants = append(
			variants,
			benchVariant{name: nodeHTTP, command: s.node("http")},
			benchVariant{name: "Node's client mqtt", command: s.node("mqtt")},
			benchVariant{name: "Node's client mqtt-ws", command: s.node("mqtt-ws")},
		)
	}
	if _, err := exec.LookPath("curl"); err == nil {
		variants = append(variants, benchVariant{name: curlTwice, only: 1, command: func(ids benchIDs, at addresses) *exec.Cmd {
			return s.curl(b, ids.prefix+"-1", at)
		}})
	} else {
		fmt.Println("there is no curl: without its row")
	}
	return variants
}

func (s *benchSite) gatewayctl(transport string) func(benchIDs, addresses) *exec.Cmd {
	return func(ids benchIDs, at addresses) *exec.Cmd {
		args := []string{
			"register", "--endpoint", at.of(transport), "--id-scope", benchScope, "--group-key-file", "group-key", "--ca-file", "d/ca.pem",
			"--transport", transport, "-o", "json", "--concurrency", strconv.Itoa(benchConcurrency),
			"--registers-per-minute", benchPerMinute, "--polls-per-second", benchPerSecond,
		}
		for i := range ids.count {
			args = append(args, "--registration-id", fmt.Sprintf("%s-%d", ids.prefix, i+1))
		}
		return exec.Command("./gatewayctl", args...)
	}
}

func (s *benchSite) node(kind string) func(benchIDs, addresses) *exec.Cmd {
	return func(ids benchIDs, at addresses) *exec.Cmd {
		_, port, _ := net.SplitHostPort(at.of(kind))
		cmd := exec.Command("node", filepath.Join(s.peers, "registermany.js"), kind, "localhost:"+port, benchScope, groupKey, ids.prefix, strconv.Itoa(ids.count))
		cmd.Env = append(os.Environ(), "NODE_PATH="+s.modules, "NODE_EXTRA_CA_CERTS=d/ca.pem", "NODE_NO_WARNINGS=1")
		return cmd
	}
}

// of is where a transport is served.
func (a addresses) of(transport string) string {
	if transport == "mqtt" {
		return a.mqtt
	}
	return a.https
}

// curl makes the two requests of a registration in one process. It cannot read the one's answer before it makes the
// other, so it polls an operation of the same device that has ended before: a poll that is never held.
func (s *benchSite) curl(b *testing.B, id string, at addresses) *exec.Cmd {
	b.Helper()
	resource := provisioning.RegistrationResource(benchScope, id)
	token := s.key.Derive(id).SASToken(resource, "registration", time.Now().Add(time.Hour)).Reveal()
	body := `{"registrationId":"` + id + `"}`
	base := "https://" + s.direct.https + "/" + benchScope + "/registrations/" + id
	const query = "?api-version=2021-06-01"

	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: s.roots}}}
	defer client.CloseIdleConnections()
	ask := func(method, url, body string) (operation struct{ OperationID, Status string }) {
		request, err := http.NewRequestWithContext(b.Context(), method, url+query, strings.NewReader(body))
		if err != nil {
			b.Fatal(err)
		}
		request.Header.Set("Authorization", token)
		request.Header.Set("Content-Type", "application/json")
		response, err := client.Do(request)
		if err != nil {
			b.Fatal(err)
		}
		defer func() { _ = response.Body.Close() }()
		if err := json.NewDecoder(response.Body).Decode(&operation); err != nil {
			b.Fatal(err)
		}
		return operation
	}
	operation := ask(http.MethodPut, base+"/register", body)
	url := base + "/operations/" + operation.OperationID
	for operation.Status == "assigning" {
		operation = ask(http.MethodGet, url, "")
	}

	base = strings.Replace(base, s.direct.https, at.https, 1)
	url = strings.Replace(url, s.direct.https, at.https, 1)
	each := []string{"-sS", "--fail", "--cacert", "d/ca.pem", "-H", "Authorization: " + token}
	args := slices.Concat(each, []string{"-X", "PUT", "-H", "Content-Type: application/json", "-d", body, base + "/register" + query, "--next"}, each, []string{url + query})
	return exec.Command("curl", args...)
}

// benchRun is what one process took, from its start to its end.
type benchRun struct{ time, cpu time.Duration }

// run runs a program to its end. While the process runs, so does watch in a goroutine of its own. Every device must
// be assigned: it is an error if a peer does not manage that, and the end of the benchmark if we do not.
func (s *benchSite) run(b *testing.B, v benchVariant, devices int, at addresses, watch func(pid int)) (benchRun, error) {
	b.Helper()
	cmd := v.command(benchIDs{prefix: fmt.Sprintf("run%d", s.named.Add(1)), count: devices}, at)
	cmd.Dir = s.dir
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	begun := time.Now()
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	var watching sync.WaitGroup
	watching.Go(func() { watch(cmd.Process.Pid) })
	err := cmd.Wait()
	took := time.Since(begun)
	watching.Wait()
	assigned := strings.Count(stdout.String(), `"status":"assigned","a`) // "…,"assignedHub", once a device
	if strings.HasPrefix(v.name, "Node") && strings.HasPrefix(stdout.String(), fmt.Sprintf(`{"assigned":%d}`, devices)) {
		assigned = devices
	}
	if v.name == curlTwice && strings.Contains(stdout.String(), `"status":"assigned"`) {
		assigned = devices
	}
	if err != nil || assigned != devices {
		err = fmt.Errorf("%s: not all devices were assigned: %v\n%s\n%s", v.name, err, stdout.String(), stderr.String())
		if strings.HasPrefix(v.name, "gatewayctl") {
			b.Fatal(err)
		}
		return benchRun{}, err
	}
	return benchRun{time: took, cpu: cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()}, nil
}

// look runs a program once behind a proxy that counts the connections it opens, and looks often at its memory. That
// run is slower than others, so it is not measured; it serves to warm up as well.
func (s *benchSite) look(b *testing.B, v benchVariant, devices int) (connections, peakKiB int, err error) {
	b.Helper()
	var count atomic.Int64
	var serving sync.WaitGroup
	var listeners []net.Listener
	defer func() {
		for _, listener := range listeners {
			_ = listener.Close()
		}
		serving.Wait()
	}()
	proxy := func(target string) string {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			b.Fatal(err)
		}
		listeners = append(listeners, listener)
		serving.Go(func() {
			for {
				conn, err := listener.Accept()
				if err != nil {
					return
				}
				count.Add(1)
				serving.Go(func() { join(conn, target) })
			}
		})
		return listener.Addr().String()
	}
	at := addresses{https: proxy(s.direct.https), mqtt: proxy(s.direct.mqtt)}
	_, err = s.run(b, v, devices, at, func(pid int) { peakKiB = watchPeak(pid) })
	return int(count.Load()), peakKiB, err
}

// watchPeak returns the last peak of resident memory that a process had before it ended. What wait4 tells of a child is
// never less than what its parent has, and a test's process has more than curl needs.
func watchPeak(pid int) (kib int) {
	for {
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		_, rest, found := strings.Cut(string(status), "VmHWM:")
		if err != nil || !found { // it has ended
			return kib
		}
		kib, _ = strconv.Atoi(strings.Fields(rest)[0])
		time.Sleep(time.Millisecond)
	}
}

// join carries bytes between conn and target until either ends.
func join(conn net.Conn, target string) {
	defer func() { _ = conn.Close() }()
	other, err := net.Dial("tcp", target)
	if err != nil {
		return
	}
	defer func() { _ = other.Close() }()
	go func() {
		_, _ = io.Copy(other, conn)
		_ = other.Close()
	}()
	_, _ = io.Copy(conn, other)
}

// benchTable is what is printed for one number of devices.
type benchTable struct {
	devices, rounds int
	rows            []benchRow
}

type benchRow struct {
	variant     benchVariant
	connections int
	peak        int // resident, KiB
	runs        []benchRun
	failed      error // a peer did not manage it
}

// print shows the medians; the ratios are Node's client's over HTTP to the row's.
func (t *benchTable) print(w io.Writer) {
	fmt.Fprintf(w, "\nDevices: %d. Medians of %d rounds.\n", t.devices, t.rounds)
	out := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprint(out, "\ttime\tfastest\tslowest\tCPU\tpeak\tconnections\tfaster\tless CPU\t\n")
	node, hasNode := t.median(nodeHTTP)
	for _, row := range t.rows {
		if row.failed != nil {
			continue
		}
		m := row.median()
		times := row.sorted(wall)
		fmt.Fprintf(out, "%s\t%s\t%s\t%s\t%s\t%.0f MiB\t%d\t", row.variant.name, ms(m.time), ms(times[0]), ms(times[len(times)-1]), ms(m.cpu), float64(row.peak)/1024, row.connections)
		if hasNode {
			fmt.Fprintf(out, "%.1f x\t%.1f x\t", ratio(node.time, m.time), ratio(node.cpu, m.cpu))
		}
		fmt.Fprintln(out)
	}
	_ = out.Flush()
	for _, row := range t.rows {
		if row.failed != nil {
			fmt.Fprintln(w, row.failed)
		}
	}
}

// budgets says how the numbers stand to what was promised.
func (t *benchTable) budgets() (lines []string) {
	ours, _ := t.median(oursHTTPS)
	if node, ok := t.median(nodeHTTP); ok && t.devices == 200 {
		lines = append(lines, fmt.Sprintf("200 devices over HTTPS beside Node's client: %.1f x faster (at least 3), %.1f x less CPU (at least 4)",
			ratio(node.time, ours.time), ratio(node.cpu, ours.cpu)))
	}
	if curl, ok := t.median(curlTwice); ok {
		lines = append(lines, fmt.Sprintf("one device over HTTPS: %s above curl (at most 20 ms)", ms(ours.time-curl.time)))
	}
	for _, row := range t.rows {
		if row.variant.name == oursHTTPS && t.devices > 1 {
			lines = append(lines, fmt.Sprintf("%d devices over HTTPS: %d connections (at most one for each of the pool's 64 places)", t.devices, row.connections))
		}
	}
	return lines
}

func (t *benchTable) median(name string) (benchRun, bool) {
	for _, row := range t.rows {
		if row.variant.name == name && row.failed == nil {
			return row.median(), true
		}
	}
	return benchRun{}, false
}

// median is each quantity's own.
func (r benchRow) median() benchRun {
	middle := len(r.runs) / 2
	return benchRun{time: r.sorted(wall)[middle], cpu: r.sorted(cpu)[middle]}
}

func (r benchRow) sorted(quantity func(benchRun) time.Duration) []time.Duration {
	var all []time.Duration
	for _, run := range r.runs {
		all = append(all, quantity(run))
	}
	slices.Sort(all)
	return all
}

func wall(r benchRun) time.Duration { return r.time }
func cpu(r benchRun) time.Duration  { return r.cpu }

func ms(d time.Duration) string { return fmt.Sprintf("%.0f ms", float64(d)/float64(time.Millisecond)) }

func ratio(theirs, ours time.Duration) float64 { return float64(theirs) / float64(max(ours, 1)) }
