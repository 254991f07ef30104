// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/contoso/gatewayd/allocation"
	"github.com/contoso/gatewayd/allocation/directory"
	"github.com/contoso/gatewayd/gateway/config"
)

// The program's directory is what a gateway asks for.
var _ DeviceDirectory = (*directory.Directory)(nil)

// rowPolicy reads the directory's column hub.
type rowPolicy struct{}

func (rowPolicy) DirectoryUse() allocation.DirectoryUse {
	return allocation.DirectoryUse{Used: true, Columns: map[string]allocation.ColumnType{"hub": allocation.ColumnText}}
}

func (rowPolicy) Decide(context.Context, allocation.Question) (allocation.Response, error) {
	return allocation.Response{}, errors.New("not asked here")
}

// someDirectory notes that it was closed.
type someDirectory struct {
	config directory.Config
	wrong  error
	closed atomic.Bool
}

func (d *someDirectory) Lookup(context.Context, string) (allocation.Row, bool, error) {
	return nil, false, nil
}

func (d *someDirectory) Check(context.Context, map[string]allocation.ColumnType) error {
	return d.wrong
}
func (d *someDirectory) Close() error { d.closed.Store(true); return nil }

// TestOpenDirectory: which directory is opened for which policy, and which is a
// mistake in the configuration.
func TestOpenDirectory(t *testing.T) {
	t.Parallel()
	secret := filepath.Join(t.TempDir(), "directory-url")
	if err := os.WriteFile(secret, []byte("postgres://u:SECRET@h/d\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	open := func(file, url string) (DeviceDirectory, error) {
		return &someDirectory{config: directory.Config{File: file, URL: url}}, nil
	}
	failing := func(string, string) (DeviceDirectory, error) { return (*someDirectory)(nil), errors.New("no URL") }
	tests := []struct {
		name    string
		cfg     config.Allocation
		policy  allocation.Policy
		open    OpenDeviceDirectory
		want    directory.Config // zero: none is opened
		wantErr string
		wantLog string
	}{
		{"no directory", config.Allocation{}, allocation.Tutorial(), open, directory.Config{}, "", ""},
		{"file", config.Allocation{Directory: "/d.db"}, rowPolicy{}, open, directory.Config{File: "/d.db"}, "", ""},
		{"URL", config.Allocation{DirectoryURL: secret}, rowPolicy{}, open, directory.Config{URL: "postgres://u:SECRET@h/d\n"}, "", ""},
		{"not read", config.Allocation{Directory: "/d.db"}, allocation.Tutorial(), open, directory.Config{}, "", "the policy does not read it"},
		{"none", config.Allocation{}, rowPolicy{}, open, directory.Config{}, "the policy reads the device directory, and there is none: give [allocation] directory or directory_url", ""},
		{"no secret", config.Allocation{DirectoryURL: secret + "x"}, rowPolicy{}, open, directory.Config{}, "reading [allocation] directory_url: opening: open ", ""},
		{"not possible", config.Allocation{Directory: "/d.db"}, rowPolicy{}, nil, directory.Config{}, "built without one", ""},
		{"fails", config.Allocation{Directory: "/d.db"}, rowPolicy{}, failing, directory.Config{}, "no URL", ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			var log strings.Builder
			got, err := openDirectory(test.cfg, test.policy, test.open, slog.New(slog.NewTextHandler(&log, nil)))
			if (err == nil) != (test.wantErr == "") || err != nil && !strings.Contains(err.Error(), test.wantErr) {
				t.Errorf("got %v, want %q", err, test.wantErr)
			}
			if !strings.Contains(log.String(), test.wantLog) || strings.Contains(log.String(), "SECRET") {
				t.Errorf("logged %q, want %q", &log, test.wantLog)
			}
			if test.want == (directory.Config{}) {
				if got != nil {
					t.Errorf("got %v, want none", got)
				}
				return
			}
			if got == nil || got.(*someDirectory).config != test.want {
				t.Errorf("got %+v, want %+v", got, test.want)
			}
		})
	}
}

// TestCheckDirectory: what is certain is an error, what may pass is a warning.
func TestCheckDirectory(t *testing.T) {
	t.Parallel()
	wrong := &allocation.DirectoryTableError{Problems: []string{"no column hub"}}
	for _, test := range []struct {
		name      string
		directory DeviceDirectory
		wantErr   error
		wantLog   string
	}{
		{"none", nil, nil, ""},
		{"fits", &someDirectory{}, nil, ""},
		{"does not fit", &someDirectory{wrong: wrong}, wrong, ""},
		{"away", &someDirectory{wrong: errors.New("connection refused")}, nil, "connection refused"},
	} {
		var log strings.Builder
		err := checkDirectory(t.Context(), test.directory, rowPolicy{}, slog.New(slog.NewTextHandler(&log, nil)))
		if !errors.Is(err, test.wantErr) || (log.Len() > 0) != (test.wantLog != "") || !strings.Contains(log.String(), test.wantLog) {
			t.Errorf("%s: got %v and logged %q", test.name, err, &log)
		}
	}
}

// TestReplacedDirectory: requests under way can finish with the old one, and after
// their time it is closed; a stop closes all at once.
func TestReplacedDirectory(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var d directories
		first, second, third := &someDirectory{}, &someDirectory{}, &someDirectory{}
		d.replace(nil)
		d.replace(first)
		d.replace(second)
		time.Sleep(webhookWriteTime - time.Nanosecond)
		synctest.Wait()
		if first.closed.Load() || second.closed.Load() {
			t.Error("closed while a request may read it")
		}
		time.Sleep(time.Nanosecond)
		synctest.Wait()
		if !first.closed.Load() || second.closed.Load() {
			t.Errorf("after the time: first closed %v, second closed %v", first.closed.Load(), second.closed.Load())
		}
		d.replace(third)
		d.close()
		if !second.closed.Load() || !third.closed.Load() {
			t.Error("not closed by the stop")
		}
		d.close()
	})
}

// hubByRow is a policy that assigns by the directory's column hub.
const hubByRow = `[directory]
columns = { hub = "text", floor = "number" }
missing = { refuse = "This appliance is not in the site's books." }
unavailable = "default"
default = { hub = "hub-b-1", floor = 0 }

[[rule]]
name = "by the site's books"
hub.cel = 'device.hub'
`

// TestDirectoryOfTheSite: a policy file and a SQLite file, through the running
// webhook: found, missing, changed by an import, gone and back; and what a reload
// makes of a table that does not fit.
func TestDirectoryOfTheSite(t *testing.T) {
	dir := t.TempDir()
	file := directory.Config{File: filepath.Join(dir, "devices.db")}
	cfg := config.Allocation{Listen: "127.0.0.1:0", Policy: filepath.Join(dir, "policy.toml"), Directory: file.File}
	replaceFile(t, cfg.Policy, hubByRow)
	open := func(file, url string) (DeviceDirectory, error) {
		return directory.Open(directory.Config{File: file, URL: url})
	}
	fill := func(lines ...string) {
		t.Helper()
		options := directory.ImportOptions{Replace: true, Types: map[string]allocation.ColumnType{}}
		if strings.Contains(lines[0], "floor") {
			options.Types["floor"] = allocation.ColumnNumber
		}
		report, err := directory.Import(t.Context(), file, strings.NewReader(strings.Join(lines, "\n")), options)
		if err != nil || !report.Imported {
			t.Fatalf("%v, %v", err, report.Problems)
		}
	}
	fill("registration_id,hub,floor", "plain-1,hub-a-1,3")
	log := &lockedBuffer{}
	w, err := newWebhook(cfg, open, nil, slog.New(slog.NewTextHandler(log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	stop := serveWebhook(t, w)
	ask := func(id string) string {
		t.Helper()
		body := strings.Replace(hubsAB, "%s-1", id, 1)
		response, err := http.Post("http://"+w.listener.Addr().String()+"/api/f", "application/json", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		answer, err := io.ReadAll(response.Body)
		if err != nil {
			t.Fatal(err)
		}
		return response.Status[:3] + " " + string(answer)
	}
	want := func(id, want string) {
		t.Helper()
		if got := ask(id); got != want {
			t.Errorf("%s: got %s, want %s", id, got, want)
		}
	}
	const a, b, unknown = `200 {"iotHubHostName":"hub-a-1"}`, `200 {"iotHubHostName":"hub-b-1"}`, "400 This appliance is not in the site's books."
	want("Plain-1", a)
	want("plain-2", unknown)
	fill("registration_id,hub,floor", "plain-2,hub-a-1,3")
	want("plain-1", unknown)
	want("plain-2", a)

	// A table that does not fit any more: the default row, and no reload.
	fill("registration_id,hub", "plain-2,hub-a-1")
	want("plain-2", b)
	if err := w.reload(cfg); err == nil || !strings.Contains(err.Error(), `has no column "floor", which the policy reads; it has registration_id, hub; the old ones stay in force`) {
		t.Errorf("reloading: %v", err)
	}
	replaceFile(t, cfg.Policy, strings.Replace(strings.Replace(hubByRow, `, floor = "number"`, "", 1), ", floor = 0", "", 1))
	if err := w.reload(cfg); err != nil {
		t.Errorf("reloading: %v", err)
	}
	want("plain-2", a)

	// A file that is gone is no reason against a reload.
	if err := os.Rename(file.File, file.File+".away"); err != nil {
		t.Fatal(err)
	}
	if err := w.reload(cfg); err != nil {
		t.Errorf("reloading without the file: %v", err)
	}
	want("plain-2", b)
	if err := os.Rename(file.File+".away", file.File); err != nil {
		t.Fatal(err)
	}
	if err := w.reload(cfg); err != nil { // which forgets that it was away
		t.Errorf("reloading: %v", err)
	}
	want("plain-2", a)

	none := cfg
	none.Directory = ""
	if err := w.reload(none); err == nil || !strings.Contains(err.Error(), "the policy reads the device directory, and there is none") {
		t.Errorf("reloading without a directory: %v", err)
	}
	want("plain-2", a)
	stop()
	for _, said := range []string{"directory_trouble=", "device directory not checked"} {
		if !strings.Contains(log.String(), said) {
			t.Errorf("the log does not say %q", said)
		}
	}
}

// TestStartWithoutFit: a table that does not fit is told at the start, and the
// webhook serves.
func TestStartWithoutFit(t *testing.T) {
	dir := t.TempDir()
	cfg := config.Allocation{Listen: "127.0.0.1:0", Policy: filepath.Join(dir, "policy.toml"), Directory: "/some.db"}
	replaceFile(t, cfg.Policy, hubByRow)
	d := &someDirectory{wrong: &allocation.DirectoryTableError{Problems: []string{"no column hub"}}}
	log := &lockedBuffer{}
	w, err := newWebhook(cfg, func(string, string) (DeviceDirectory, error) { return d, nil }, nil, slog.New(slog.NewTextHandler(log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	serveWebhook(t, w)()
	if !d.closed.Load() {
		t.Error("the directory is still open after the stop")
	}
	if !strings.Contains(log.String(), `level=ERROR msg="the policy cannot decide by the device directory" err="the device directory does not fit: no column hub"`) {
		t.Errorf("got %s", log)
	}
}
