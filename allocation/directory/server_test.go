// SPDX-License-Identifier: Apache-2.0

package directory

import (
	"context"
	"database/sql"
	"errors"
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
)

// server is a PostgreSQL server of the tests' own, never that of the machine.
type server struct {
	bin, dir  string // programs; data and socket
	attr      *syscall.SysProcAttr
	process   *exec.Cmd
	databases atomic.Int64
}

// peer is the server while the tests run, or nil without PEERS=1.
var peer *server

func TestMain(m *testing.M) {
	os.Exit(func() int {
		if os.Getenv("PEERS") == "1" && os.Getenv("KILLED_IMPORT") == "" {
			s, err := newServer()
			if err != nil {
				fmt.Fprintln(os.Stderr, "PEERS=1, but there is no PostgreSQL (Debian's postgresql):", err)
				return 1
			}
			defer s.remove()
			peer = s
		}
		status := m.Run()
		if err := goleak.Find(); err != nil && status == 0 {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		return status
	}())
}

// newServer makes and starts a server in a temporary directory, with a Unix
// socket there as the one way in. It does not run as root, so root lends it to
// the user postgres.
func newServer() (*server, error) {
	bins, _ := filepath.Glob("/usr/lib/postgresql/*/bin")
	if len(bins) == 0 {
		return nil, errors.New("nothing in /usr/lib/postgresql")
	}
	dir, err := os.MkdirTemp("", "directory-pg")
	if err != nil {
		return nil, err
	}
	s := &server{bin: bins[len(bins)-1], dir: dir, attr: &syscall.SysProcAttr{Pdeathsig: syscall.SIGQUIT}}
	if os.Getuid() == 0 {
		owner, err := user.Lookup("postgres")
		if err != nil {
			return nil, err
		}
		uid, _ := strconv.Atoi(owner.Uid)
		gid, _ := strconv.Atoi(owner.Gid)
		if err := os.Chown(dir, uid, gid); err != nil {
			return nil, err
		}
		s.attr.Credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	}
	initdb := exec.Command(filepath.Join(s.bin, "initdb"), "-D", filepath.Join(dir, "data"), "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-locale", "--no-sync")
	initdb.Dir, initdb.SysProcAttr = dir, s.attr
	if output, err := initdb.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("initdb: %w\n%s", err, output)
	}
	return s, s.start()
}

// start starts the server and waits until it answers. The data need not outlive
// the tests, so nothing is synced to disk.
func (s *server) start() error {
	s.process = exec.Command(filepath.Join(s.bin, "postgres"), "-D", filepath.Join(s.dir, "data"), "-k", s.dir, "-c", "listen_addresses=", "-c", "fsync=off")
	s.process.Dir, s.process.SysProcAttr = s.dir, s.attr
	log, err := os.OpenFile(filepath.Join(s.dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	s.process.Stdout, s.process.Stderr = log, log
	if err := s.process.Start(); err != nil {
		return err
	}
	db, err := sql.Open("pgx", s.url("postgres"))
	if err != nil {
		return err
	}
	defer db.Close()
	for range 3600 {
		if err = db.PingContext(context.Background()); err == nil {
			return nil
		}
		time.Sleep(50 * time.Millisecond) // another program starts
	}
	return err
}

// stop ends the server at once.
func (s *server) stop() {
	_ = s.process.Process.Signal(syscall.SIGQUIT)
	_ = s.process.Wait()
}

func (s *server) remove() {
	s.stop()
	_ = os.RemoveAll(s.dir)
}

// url is that of a database of the server.
func (s *server) url(database string) string {
	return "postgres://postgres@/" + database + "?host=" + s.dir
}

// newDatabase makes an empty database of the server.
func (s *server) newDatabase(t testing.TB) Config {
	t.Helper()
	name := fmt.Sprintf("test%d", s.databases.Add(1))
	execute(t, Config{URL: s.url("postgres")}, "CREATE DATABASE "+name)
	return Config{URL: s.url(name)}
}

// newDatabase makes an empty database. The test is skipped without PEERS=1.
func newDatabase(t testing.TB) Config {
	t.Helper()
	if peer == nil {
		t.Skip("needs PostgreSQL: set PEERS=1")
	}
	return peer.newDatabase(t)
}

// execute runs statements, as another client.
func execute(t testing.TB, config Config, statements ...string) {
	t.Helper()
	db, err := sql.Open("pgx", config.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	for _, statement := range statements {
		if _, err := db.ExecContext(context.Background(), statement); err != nil {
			t.Fatalf("%s: %v", strings.Fields(statement)[0], err)
		}
	}
}
