// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/contoso/gatewayd/allocation"
	"github.com/contoso/gatewayd/gateway/config"
)

// DeviceDirectory is an open device directory. Opening one neither connects nor
// looks for a file, since a database may be away when a gateway starts.
type DeviceDirectory interface {
	allocation.Directory

	// Check tells whether the table has what a policy reads: an error of type
	// *allocation.DirectoryTableError says what does not fit, any other that nobody
	// could be asked.
	Check(ctx context.Context, columns map[string]allocation.ColumnType) error

	// Close ends its connections. A lookup after it fails. It may be called again.
	Close() error
}

// OpenDeviceDirectory opens the directory in a SQLite file, or at the URL of a
// PostgreSQL database; the other one is empty.
type OpenDeviceDirectory func(file, url string) (DeviceDirectory, error)

// directoryTime bounds the check of a directory.
const directoryTime = 5 * time.Second

// openDirectory opens the directory that a policy reads; nil for a policy that
// reads none.
func openDirectory(cfg config.Allocation, policy allocation.Policy, open OpenDeviceDirectory, log *slog.Logger) (DeviceDirectory, error) {
	configured := cfg.Directory != "" || cfg.DirectoryURL != ""
	switch use := directoryUse(policy); {
	case !use.Used && configured:
		log.Warn("the configured device directory is not opened, because the policy does not read it")
		return nil, nil
	case !use.Used:
		return nil, nil
	case !configured:
		return nil, errNoDirectory
	case open == nil:
		return nil, errors.New("opening the device directory: this program is built without one")
	}
	url := ""
	if cfg.DirectoryURL != "" {
		var err error
		if url, err = config.ReadSecret(cfg.DirectoryURL); err != nil {
			return nil, fmt.Errorf("reading [allocation] directory_url: %w", err)
		}
	}
	directory, err := open(cfg.Directory, url)
	if err != nil {
		return nil, err // whatever came with it is not nil, perhaps
	}
	return directory, nil
}

var errNoDirectory = errors.New("the policy reads the device directory, and there is none: give [allocation] directory or directory_url, or take [directory] out of the policy")

func directoryUse(policy allocation.Policy) allocation.DirectoryUse {
	user, ok := policy.(allocation.DirectoryUser)
	if !ok {
		return allocation.DirectoryUse{}
	}
	return user.DirectoryUse()
}

// directories are the device directory that is read and those that a reload has
// replaced, which requests under way may still read. The zero value has none.
type directories struct {
	mu      sync.Mutex // guards what follows
	current DeviceDirectory
	retired map[DeviceDirectory]*time.Timer
}

// replace puts a directory, or nil, in the place of the one that was read until
// now. That is closed when no request can be reading it any more.
func (d *directories) replace(next DeviceDirectory) {
	d.mu.Lock()
	defer d.mu.Unlock()
	old := d.current
	d.current = next
	if old == nil {
		return
	}
	if d.retired == nil {
		d.retired = map[DeviceDirectory]*time.Timer{}
	}
	d.retired[old] = time.AfterFunc(webhookWriteTime, func() {
		d.mu.Lock()
		delete(d.retired, old)
		d.mu.Unlock()
		_ = old.Close() // it was only read
	})
}

// close closes all of them.
func (d *directories) close() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.current != nil {
		_ = d.current.Close()
	}
	for old, timer := range d.retired {
		timer.Stop()
		_ = old.Close()
	}
	d.current, d.retired = nil, nil
}

// checkDirectory tells whether a directory has what the policy reads. nil is a
// directory that cannot be asked, too: it may be back in a moment, and until then
// the policy says what happens.
func checkDirectory(ctx context.Context, directory DeviceDirectory, policy allocation.Policy, log *slog.Logger) error {
	if directory == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, directoryTime)
	defer cancel()
	err := directory.Check(ctx, directoryUse(policy).Columns)
	if wrong, ok := errors.AsType[*allocation.DirectoryTableError](err); ok {
		return wrong
	}
	if err != nil && !errors.Is(ctx.Err(), context.Canceled) {
		log.Warn("device directory not checked; it is asked again for each request", "err", err)
	}
	return nil
}
