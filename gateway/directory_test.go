// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"context"
	"errors"
	"log/slog"
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
