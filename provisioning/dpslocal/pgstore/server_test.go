// SPDX-License-Identifier: Apache-2.0

package pgstore_test

import (
	"context"
	"database/sql"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/contoso/gatewayd/provisioning/dpslocal"
)

// postgres is a PostgreSQL server of the tests' own, never that of the machine.
type postgres struct {
	dir       string // of the data and the socket
	databases atomic.Int64
}

// peer is the server while the tests run, or nil without PEERS=1.
var peer *postgres

func TestMain(m *testing.M) {
	os.Exit(func() int {
		if os.Getenv("PEERS") == "1" {
			server, stop, err := startPostgres()
			if err != nil {
				fmt.Fprintln(os.Stderr, "PEERS=1, but there is no PostgreSQL (Debian's postgresql):", err)
				return 1
			}
			defer stop()
			peer = server
		}
		status := m.Run()
		if err := goleak.Find(); err != nil && status == 0 {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		return status
	}())
}

// startPostgres makes a server in a temporary directory, with a Unix socket
// there as the one way in. It does not run as root, so root lends it to the
// user postgres.
func startPostgres() (_ *postgres, stop func(), err error) {
	bins, _ := filepath.Glob("/usr/lib/postgresql/*/bin")
	if len(bins) == 0 {
		return nil, nil, fmt.Errorf("nothing in /usr/lib/postgresql")
	}
	bin := bins[len(bins)-1]
	dir, err := os.MkdirTemp("", "dpslocal-pg")
	if err != nil {
		return nil, nil, err
	}
	attr := &syscall.SysProcAttr{Pdeathsig: syscall.SIGQUIT}
	if os.Getuid() == 0 {
		owner, err := user.Lookup("postgres")
		if err != nil {
			return nil, nil, err
		}
		uid, _ := strconv.Atoi(owner.Uid)
		gid, _ := strconv.Atoi(owner.Gid)
		if err := os.Chown(dir, uid, gid); err != nil {
			return nil, nil, err
		}
		attr.Credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	}
	data := filepath.Join(dir, "data")
	initdb := exec.Command(filepath.Join(bin, "initdb"), "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-locale", "--no-sync")
	initdb.Dir, initdb.SysProcAttr = dir, attr
	if output, err := initdb.CombinedOutput(); err != nil {
		return nil, nil, fmt.Errorf("initdb: %w\n%s", err, output)
	}
	// The data need not outlive the tests, so nothing is synced to disk.
	server := exec.Command(filepath.Join(bin, "postgres"), "-D", data, "-k", dir, "-c", "listen_addresses=", "-c", "fsync=off")
	server.Dir, server.SysProcAttr = dir, attr
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		return nil, nil, err
	}
	server.Stdout, server.Stderr = log, log
	if err := server.Start(); err != nil {
		return nil, nil, err
	}
	stop = func() {
		_ = server.Process.Signal(syscall.SIGQUIT)
		_ = server.Wait()
		_ = log.Close()
		_ = os.RemoveAll(dir)
	}
	p := &postgres{dir: dir}
	db, err := sql.Open("pgx", string(p.url("postgres")))
	if err != nil {
		return nil, nil, err
	}
	defer db.Close()
	for range 300 {
		if err = db.PingContext(context.Background()); err == nil {
			return p, stop, nil
		}
		time.Sleep(50 * time.Millisecond) // another program starts
	}
	stop()
	return nil, nil, err
}

// url is that of a database of the server.
func (p *postgres) url(database string) dpslocal.Secret {
	return dpslocal.Secret("postgres://postgres@/" + database + "?host=" + p.dir)
}

// newDatabase makes an empty database and returns its URL. The test is skipped
// without PEERS=1.
func newDatabase(t *testing.T) dpslocal.Secret {
	t.Helper()
	if peer == nil {
		t.Skip("needs PostgreSQL: set PEERS=1")
	}
	name := fmt.Sprintf("test%d", peer.databases.Add(1))
	execute(t, peer.url("postgres"), "CREATE DATABASE "+name)
	return peer.url(name)
}

// execute runs statements beside the store, as another client.
func execute(t *testing.T, url dpslocal.Secret, statements ...string) {
	t.Helper()
	db, err := sql.Open("pgx", string(url))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	for _, statement := range statements {
		if _, err := db.ExecContext(t.Context(), statement); err != nil {
			t.Fatalf("%s: %v", strings.Fields(statement)[0], err)
		}
	}
}
