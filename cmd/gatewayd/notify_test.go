// SPDX-License-Identifier: Apache-2.0

package main

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestNotify watches the protocol of sd_notify on a real socket: READY with a
// STATUS once everything is at work, WATCHDOG at half the interval, STOPPING on
// SIGTERM. In between SIGHUP makes it read its file again, a broken one too.
func TestNotify(t *testing.T) {
	// A socket's path is short: the test's own directory may be too deep.
	directory, err := os.MkdirTemp("", "notify")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(directory) })
	path := filepath.Join(directory, "s")
	socket, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()

	webhook, err := freeAddress()
	if err != nil {
		t.Fatal(err)
	}
	config := filepath.Join(t.TempDir(), "gatewayd.toml")
	if err := os.WriteFile(config, []byte("state_dir = \""+t.TempDir()+"\"\n[allocation]\nlisten = \""+webhook+"\"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	d, err := startDaemon(config, "NOTIFY_SOCKET="+path, "WATCHDOG_USEC=200000")
	if err != nil {
		t.Fatal(err)
	}
	defer d.kill()

	began := time.Now()
	next := func(want string) string {
		t.Helper()
		buffer := make([]byte, 4096)
		for {
			if err := socket.SetReadDeadline(time.Now().Add(scriptWait)); err != nil {
				t.Fatal(err)
			}
			n, err := socket.Read(buffer)
			if err != nil {
				t.Fatalf("waiting for %s: %v; the daemon said:\n%s", want, err, d.log())
			}
			if text := string(buffer[:n]); strings.Contains(text, want) {
				return text
			}
		}
	}
	if got := next("READY=1"); !strings.Contains(got, "STATUS=") {
		t.Errorf("got %q, want a STATUS with READY", got)
	}
	next("WATCHDOG=1")
	for _, reload := range []struct{ text, want string }{
		{"[allocation]\nlissten = \"" + webhook + "\"\n", `unknown key \"allocation.lissten\"`},
		{"[allocation]\nlisten = \"" + webhook + "\"\n", "webhook reloaded"},
	} {
		if err := os.WriteFile(config, []byte(reload.text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := d.command.Process.Signal(syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
		for !strings.Contains(d.log(), reload.want) {
			next("WATCHDOG=1") // as long as they come
			if time.Since(began) > scriptWait {
				t.Fatalf("SIGHUP did not lead to %s:\n%s", reload.want, d.log())
			}
		}
	}
	if err := d.command.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	next("STOPPING=1")
	<-d.ended
	if got := d.command.ProcessState.ExitCode(); got != 0 {
		t.Errorf("exit status %d, want 0:\n%s", got, d.log())
	}
}
