// SPDX-License-Identifier: Apache-2.0

package allocation_test

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// mostUnderAttack is what gatewayd may take at its most, in KiB: half of its unit's
// MemoryMax. 90 MiB were seen.
const mostUnderAttack = 128 << 10

// TestUnderAttack lets slowhttptest and ab at a real gatewayd, and asks it the
// tutorial's question all the while: with 1,000 connections that are slow with
// their headers, their bodies or their reading, and with floods, a good caller is
// answered as ever, and the process stays small. Only slow bodies under a valid
// key make it tell others to come again.
func TestUnderAttack(t *testing.T) {
	if os.Getenv("PEERS") == "" {
		t.Skip("needs slowhttptest and ab: run make test-peers")
	}
	request, err := filepath.Abs("testdata/tutorial-toaster.request.json")
	if err != nil {
		t.Fatal(err)
	}
	body, err := os.ReadFile(request)
	if err != nil {
		t.Fatal(err)
	}
	url, pid := startGatewayd(t)
	slow := func(arguments ...string) []string {
		return append([]string{"slowhttptest", "-c", "1000", "-r", "300", "-i", "2", "-l", "300"}, arguments...)
	}
	const key = "?code=" + fuzzKey
	for _, attack := range []struct {
		name    string
		command []string
		want    int

		connections int // that show that the attack is under way; 0 where none stays
	}{
		{"slow headers", slow("-H", "-u", url), http.StatusOK, 300},
		{"slow bodies without a key", slow("-B", "-s", "200000", "-t", "POST", "-u", url), http.StatusOK, 0},
		{"slow bodies with a key", slow("-B", "-s", "200000", "-t", "POST", "-u", url+key), http.StatusServiceUnavailable, 250},
		{"slow reading", slow("-X", "-w", "1", "-y", "2", "-n", "1", "-z", "1", "-k", "3", "-u", url+key), http.StatusOK, 300},
		{"flood without a key", []string{"ab", "-q", "-c", "100", "-n", "10000000", "-t", "300", "-p", request, url}, http.StatusOK, 50},
		{"flood with a key", []string{"ab", "-q", "-k", "-c", "100", "-n", "10000000", "-t", "300", "-p", request, url + key}, http.StatusOK, 50},
	} {
		t.Run(attack.name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			command := exec.CommandContext(ctx, attack.command[0], attack.command[1:]...)
			if err := command.Start(); err != nil {
				t.Fatal(err)
			}
			defer command.Wait() //nolint:errcheck // it is killed
			defer cancel()
			// The good caller asks on a connection of its own each time, while the
			// attack builds up and then 1,000 times.
			transport := &http.Transport{DisableKeepAlives: true}
			statuses, asked := map[int]int{}, 0
			limit := time.Now().Add(3 * time.Minute)
			for under := 0; under < 1000; asked++ {
				if under > 0 || openFiles(t, pid) > attack.connections {
					under++
				}
				if under == 0 && time.Now().After(limit) {
					t.Fatal("the attack does not begin")
				}
				response, err := (&http.Client{Transport: transport}).Post(url+key, "application/json", strings.NewReader(string(body)))
				if err != nil {
					t.Fatalf("a good caller got no answer: %v", err)
				}
				response.Body.Close()
				statuses[response.StatusCode]++
			}
			allowed := statuses[http.StatusOK]
			if attack.want != http.StatusOK {
				allowed += statuses[attack.want]
			}
			if allowed != asked {
				t.Errorf("a good caller got these statuses: %v", statuses)
			}
			if peak := peakMemory(t, pid); peak > mostUnderAttack {
				t.Errorf("gatewayd took %d KiB", peak)
			}
			t.Logf("statuses %v, peak memory %d KiB", statuses, peakMemory(t, pid))
		})
	}
}

// startGatewayd gives a listener to a real gatewayd, as systemd does.
func startGatewayd(t *testing.T) (url string, pid int) {
	t.Helper()
	dir := t.TempDir()
	program := filepath.Join(dir, "gatewayd")
	if out, err := exec.Command("go", "build", "-o", program, "../cmd/gatewayd").CombinedOutput(); err != nil {
		t.Fatalf("building gatewayd: %v\n%s", err, out)
	}
	file, keys := filepath.Join(dir, "gatewayd.toml"), filepath.Join(dir, "keys")
	for name, text := range map[string]string{
		keys: fuzzKey,
		file: fmt.Sprintf("state_dir = %q\n[allocation]\nfunction_keys = %q\n", dir, keys),
	} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	socket, err := listener.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { log.Close() })
	daemon := exec.Command("sh", "-c", `LISTEN_PID=$$ exec "$0" --config "$1"`, program, file)
	daemon.Env = append(os.Environ(), "LISTEN_FDS=1", "LISTEN_FDNAMES=webhook")
	daemon.ExtraFiles = []*os.File{socket}
	daemon.Stderr = log
	if err := daemon.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = daemon.Process.Signal(syscall.SIGTERM)
		if err := daemon.Wait(); err != nil {
			text, _ := os.ReadFile(log.Name())
			t.Errorf("gatewayd ended: %v\n%s", err, text[:min(len(text), 4096)])
		}
	})
	return "http://" + listener.Addr().String() + "/api/f", daemon.Process.Pid
}

// openFiles counts the descriptors of a process.
func openFiles(t *testing.T, pid int) int {
	t.Helper()
	files, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		t.Fatal(err)
	}
	return len(files)
}

// peakMemory gives the most that a process has had resident, in KiB.
func peakMemory(t *testing.T, pid int) int {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(status)) {
		if value, found := strings.CutPrefix(line, "VmHWM:"); found {
			kib, err := strconv.Atoi(strings.Fields(value)[0])
			if err != nil {
				t.Fatal(err)
			}
			return kib
		}
	}
	t.Fatal("no VmHWM")
	return 0
}
