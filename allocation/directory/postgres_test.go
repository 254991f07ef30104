// SPDX-License-Identifier: Apache-2.0

package directory

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/contoso/gatewayd/allocation"
)

// TestPostgresView reads a view over a site's own tables, with types of all
// kinds.
func TestPostgresView(t *testing.T) {
	t.Parallel()
	config := newDatabase(t)
	execute(t, config,
		`CREATE TABLE assets (serial text, "Hub" varchar(40), floor int, share float8, price numeric(20, 4), wired boolean, seen timestamptz, born date, uid uuid, extra jsonb, raw bytea, tags text[], code char(4))`,
		`INSERT INTO assets VALUES
			('Oven-7', 'h1', 3, 0.5, 12.5, true, '2026-11-22 06:00:00+00', '2026-11-22', '7f2ad0b4-9fb0-4c51-a8d4-6a6d4d5c7c3d', '{"a": 1}', '\xff00', '{a,b}', 'ab'),
			('empty', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL),
			('odd', 'h2', -3, 'NaN', 9007199254740993, false, NULL, NULL, NULL, NULL, NULL, NULL, NULL)`,
		`INSERT INTO assets (serial) VALUES ('twice'), ('Twice')`,
		`CREATE VIEW devices AS SELECT lower(serial) AS registration_id, "Hub", floor, share, price, wired, seen AT TIME ZONE 'UTC' AS seen, born, uid, extra, raw, tags, code FROM assets`)
	d := open(t, config)
	for id, want := range map[string]allocation.Row{
		"oven-7": {
			"registration_id": "oven-7", "hub": "h1", "floor": int64(3), "share": 0.5, "price": 12.5, "wired": true, "seen": "2026-11-22T06:00:00Z",
			"born": "2026-11-22T00:00:00Z", "uid": "7f2ad0b4-9fb0-4c51-a8d4-6a6d4d5c7c3d", "extra": `{"a": 1}`, "raw": "ff00", "tags": "{a,b}", "code": "ab  ",
		},
		"empty": {
			"registration_id": "empty", "hub": nil, "floor": nil, "share": nil, "price": nil, "wired": nil, "seen": nil,
			"born": nil, "uid": nil, "extra": nil, "raw": nil, "tags": nil, "code": nil,
		},
		"odd": {
			"registration_id": "odd", "hub": "h2", "floor": int64(-3), "share": "NaN", "price": int64(9007199254740993), "wired": false, "seen": nil,
			"born": nil, "uid": nil, "extra": nil, "raw": nil, "tags": nil, "code": nil,
		},
	} {
		row := wantRow(t, d, id)
		if id == "odd" {
			row["price"] = int64(row["price"].(float64)) // it has four digits behind the point, so it is no whole number
			want["price"] = int64(9007199254740992)
		}
		if diff := cmp.Diff(want, row); diff != "" {
			t.Errorf("%s (-want +got):\n%s", id, diff)
		}
	}
	if _, _, err := d.Lookup(t.Context(), "twice"); err == nil || !strings.Contains(err.Error(), "several rows") {
		t.Errorf("twice: %v", err)
	}
	if err := d.Check(t.Context(), map[string]allocation.ColumnType{
		"hub": allocation.ColumnText, "floor": allocation.ColumnNumber, "price": allocation.ColumnNumber, "wired": allocation.ColumnBool, "extra": allocation.ColumnText,
	}); err != nil {
		t.Error(err)
	}
	err := d.Check(t.Context(), map[string]allocation.ColumnType{"price": allocation.ColumnText, "room": allocation.ColumnText})
	var wrong *allocation.DirectoryTableError
	if !errors.As(err, &wrong) || len(wrong.Problems) != 2 {
		t.Errorf("got %v", err)
	}
	if _, err := Import(t.Context(), config, strings.NewReader("registration_id\na"), ImportOptions{}); !errors.Is(err, errView) {
		t.Errorf("importing into a view: %v", err)
	}
	// The table changes while a statement on it is prepared.
	execute(t, config, "DROP VIEW devices", "CREATE VIEW devices AS SELECT lower(serial) AS registration_id, 'new' AS room FROM assets")
	if diff := cmp.Diff(allocation.Row{"registration_id": "oven-7", "room": "new"}, wantRow(t, d, "oven-7")); diff != "" {
		t.Errorf("after a change of the view (-want +got):\n%s", diff)
	}
}

// TestPostgresRowOfAnotherDevice is TestRowOfAnotherDevice for the types of this
// database.
func TestPostgresRowOfAnotherDevice(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ columns, stored, asked, want string }{
		{"registration_id uuid, hub text", "7f2ad0b4-9fb0-4c51-a8d4-6a6d4d5c7c3d", "7f2ad0b49fb04c51a8d46a6d4d5c7c3d", "declare registration_id as text"},
		{"registration_id int, hub text", "7", "007", "declare registration_id as text"},
		{"registration_id char(20), hub text", "breakroom499", "breakroom499", ""},
		{`registration_id text, hub text, "Hub" text`, "breakroom499", "breakroom499", "several columns hub"},
	} {
		config := newDatabase(t)
		execute(t, config, "CREATE TABLE devices ("+test.columns+")", "INSERT INTO devices (registration_id, hub) VALUES ('"+test.stored+"', 'h')")
		row, found, err := open(t, config).Lookup(t.Context(), test.asked)
		if test.want == "" && (err != nil || !found) || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
			t.Errorf("%s: got %v, %v, %v, want %s", test.columns, row, found, err, test.want)
		}
	}
}

// TestPostgresImport goes through every way in which rows come into the table.
func TestPostgresImport(t *testing.T) {
	t.Parallel()
	config := newDatabase(t)
	if err := open(t, config).Check(t.Context(), nil); err == nil || err.Error() != "the device directory does not fit: there is no table devices" {
		t.Errorf("no table: %v", err)
	}
	options := ImportOptions{Types: types}
	if report, err := Import(t.Context(), config, strings.NewReader("registration_id,hub,floor,wired\nA,h1,1,yes\n"), ImportOptions{Types: types, DryRun: true}); err != nil || report.Rows != 1 || report.Imported {
		t.Errorf("dry run: %v, %+v", err, report)
	}
	report := fill(t, config, options, "registration_id,hub,floor,wired", "A,\"h\n1\",1,yes", "b,,-0.25,no", "c,ü,9007199254740993,")
	if report.Before != 0 || report.After != 3 || report.Lowered != 1 {
		t.Errorf("got %+v", report)
	}
	want := "registration_id,hub,floor,wired\na,\"h\n1\",1,true\nb,,-0.25,false\nc,ü,9007199254740993,\n"
	if diff := cmp.Diff(want, exported(t, config)); diff != "" {
		t.Errorf("after the first import (-want +got):\n%s", diff)
	}
	execute(t, config, "CREATE ROLE reader_"+strings.TrimPrefix(databaseOf(config), "test")+" LOGIN", "GRANT SELECT ON devices TO reader_"+strings.TrimPrefix(databaseOf(config), "test"))
	reader := open(t, Config{URL: strings.Replace(config.URL, "postgres@", "reader_"+strings.TrimPrefix(databaseOf(config), "test")+"@", 1)})
	wantRow(t, reader, "a")

	report = fill(t, config, ImportOptions{}, "floor,registration_id", "7,B", "8,d")
	if report.Before != 3 || report.After != 4 {
		t.Errorf("got %+v", report)
	}
	want = "registration_id,hub,floor,wired\na,\"h\n1\",1,true\nb,,7,false\nc,ü,9007199254740993,\nd,,8,\n"
	if diff := cmp.Diff(want, exported(t, config)); diff != "" {
		t.Errorf("after rows were added (-want +got):\n%s", diff)
	}
	fill(t, config, ImportOptions{Replace: true}, "registration_id,wired,floor,hub", "e,1,9,h3")
	if diff := cmp.Diff("registration_id,hub,floor,wired\ne,h3,9,true\n", exported(t, config)); diff != "" {
		t.Errorf("after a replacement with the same columns (-want +got):\n%s", diff)
	}
	fill(t, config, ImportOptions{Replace: true, Types: map[string]allocation.ColumnType{"floor": allocation.ColumnText}}, "registration_id,floor,select", "e,07,x")
	if diff := cmp.Diff("registration_id,floor,select\ne,07,x\n", exported(t, config)); diff != "" {
		t.Errorf("after a replacement with others (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(allocation.Row{"registration_id": "e", "floor": "07", "select": "x"}, wantRow(t, reader, "e")); diff != "" {
		t.Errorf("a role that may only read sees (-want +got):\n%s", diff)
	}

	// A table of the site's own, with types that are none of ours.
	execute(t, config, "DROP TABLE devices", "CREATE TABLE devices (registration_id varchar(128) PRIMARY KEY, floor int2, seen timestamptz, uid uuid, wired bool NOT NULL)")
	own := "registration_id,floor,seen,uid,wired\na,3,2026-11-22T06:00:00Z,7f2ad0b4-9fb0-4c51-a8d4-6a6d4d5c7c3d,yes"
	fill(t, config, ImportOptions{}, own)
	fill(t, config, ImportOptions{Replace: true}, own)
	if row := wantRow(t, open(t, config), "a"); row["floor"] != int64(3) || row["uid"] != "7f2ad0b4-9fb0-4c51-a8d4-6a6d4d5c7c3d" {
		t.Errorf("got %v", row)
	}
	report, err := Import(t.Context(), config, strings.NewReader("registration_id,floor,wired\nb,1.5,no"), ImportOptions{})
	if err != nil || len(report.Problems) != 1 || report.Problems[0].String() != `line 2: floor is "1.5", and the column takes whole numbers only` {
		t.Errorf("got %v, %+v", err, report)
	}
	for _, bad := range []string{"registration_id,floor,wired\nb,70000,no", "registration_id,uid,wired\nb,x,no", "registration_id,wired\nb,"} {
		if report, err := Import(t.Context(), config, strings.NewReader(bad), ImportOptions{}); err == nil || !strings.Contains(err.Error(), "the table is as it was") || report.Imported {
			t.Errorf("%q: %v, %+v", bad, err, report)
		}
	}
	if d := open(t, config); len(exported(t, config)) == 0 || wantRow(t, d, "a")["floor"] != int64(3) {
		t.Error("the table has changed")
	}
}

// databaseOf is the name of a test's database.
func databaseOf(config Config) string {
	name, _, _ := strings.Cut(strings.TrimPrefix(config.URL, "postgres://postgres@/"), "?")
	return name
}

// TestPostgresServingWhileImported: a reader sees the old table or the new one.
func TestPostgresServingWhileImported(t *testing.T) {
	t.Parallel()
	config := newDatabase(t)
	serveWhileImported(t, config)
}

// TestSideBySide: gateways that share a directory, each with connections of its
// own, and no more than its own.
func TestSideBySide(t *testing.T) {
	t.Parallel()
	config := newDatabase(t)
	fill(t, config, ImportOptions{}, "registration_id,hub", "a,h1")
	var all sync.WaitGroup
	for range 8 {
		d := open(t, config)
		for range 32 {
			all.Go(func() {
				for range 20 {
					if row, found, err := d.Lookup(context.Background(), "a"); err != nil || !found || row["hub"] != "h1" {
						t.Errorf("%v, %v, %v", row, found, err)
					}
				}
			})
		}
	}
	all.Wait()
	if n := backends(t, config, "TRUE"); n > 8*postgresConnections {
		t.Errorf("%d connections of 8 gateways", n)
	}
}

// backends counts the server's connections to a database, but for the one that
// asks.
func backends(t *testing.T, config Config, where string) (n int) {
	t.Helper()
	db, err := sql.Open("pgx", config.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if err := db.QueryRowContext(context.Background(), "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() AND "+where).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

// readingPolicy assigns to the hub of the row.
type readingPolicy struct{ unavailable allocation.DirectoryOutcome }

func (p readingPolicy) DirectoryUse() allocation.DirectoryUse {
	return allocation.DirectoryUse{
		Used: true, Missing: allocation.DirectoryRefuse, Refusal: "unknown", Unavailable: p.unavailable, Default: allocation.Row{"hub": "h2"},
		Timeout: 300 * time.Millisecond, Columns: map[string]allocation.ColumnType{"hub": allocation.ColumnText},
	}
}

func (p readingPolicy) Decide(_ context.Context, q allocation.Question) (allocation.Response, error) {
	return allocation.Response{IoTHubHostName: q.Device["hub"].(string)}, nil
}

// ask sends a request through a webhook and gives the status and the hub.
func ask(handler http.Handler, id string) (status int, body string) {
	answer := httptest.NewRecorder()
	request := httptest.NewRequest(http.MethodPost, "/api/f", strings.NewReader(`{"deviceRuntimeContext":{"registrationId":"`+id+`"},"linkedHubs":["h1","h2"]}`))
	request.RemoteAddr = "127.0.0.1:1" // a caller without a limit of its own
	handler.ServeHTTP(answer, request)
	return answer.Code, answer.Body.String()
}

// webhook is one over a directory.
func webhook(d *Directory, unavailable allocation.DirectoryOutcome) http.Handler {
	return allocation.NewHandler(allocation.Config{
		Setup:  allocation.Setup{Policy: readingPolicy{unavailable}, Directory: d},
		Limits: allocation.Limits{Rate: 1e6, Concurrent: 1000}, // nothing here is about them
		Logger: slog.New(slog.DiscardHandler),
	})
}

const (
	assigned  = `{"iotHubHostName":"h1"}`
	byDefault = `{"iotHubHostName":"h2"}`
)

// TestSlowPostgres: a view that sleeps costs neither connections nor statements
// that go on at the server.
func TestSlowPostgres(t *testing.T) {
	t.Parallel()
	config := newDatabase(t)
	execute(t, config, "CREATE TABLE speed (slow bool)", "INSERT INTO speed VALUES (true)",
		`CREATE VIEW devices AS SELECT 'a' AS registration_id, 'h1' AS hub FROM speed WHERE NOT slow OR pg_sleep(3600) IS NOT NULL`)
	d := open(t, config)
	retry, instead := webhook(d, allocation.DirectoryRetry), webhook(d, allocation.DirectoryDefault)
	var all sync.WaitGroup
	for range 100 {
		all.Go(func() {
			if status, body := ask(retry, "a"); status != 503 {
				t.Errorf("got %d %s, want 503", status, body)
			}
			if status, body := ask(instead, "a"); status != 200 || body != byDefault {
				t.Errorf("got %d %s, want the default row's hub", status, body)
			}
		})
	}
	all.Wait()
	eventually(t, "too many connections are open", func() bool { // those that were given up take a moment
		return backends(t, config, "backend_type = 'client backend'") <= postgresConnections
	})
	eventually(t, "statements go on at the server", func() bool { return backends(t, config, "state = 'active'") == 0 })

	execute(t, config, "UPDATE speed SET slow = false")
	eventually(t, "the directory does not come back", func() bool { _, body := ask(retry, "a"); return body == assigned })
	eventually(t, "a device without a row is not refused", func() bool { // a loaded server may be slow once more
		status, body := ask(instead, "nobody")
		return status == 400 && body == "unknown"
	})
}

// TestStoppedPostgres: the server goes and comes back, over the whole webhook.
func TestStoppedPostgres(t *testing.T) {
	t.Parallel()
	if peer == nil {
		t.Skip("needs PostgreSQL: set PEERS=1")
	}
	own, err := newServer()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(own.remove)
	config := own.newDatabase(t)
	fill(t, config, ImportOptions{}, "registration_id,hub", "a,h1")
	d := open(t, config)
	retry, instead := webhook(d, allocation.DirectoryRetry), webhook(d, allocation.DirectoryDefault)
	eventually(t, "the directory does not answer", func() bool { _, body := ask(retry, "a"); return body == assigned })
	own.stop()
	for range 50 {
		if status, body := ask(retry, "a"); status != 503 {
			t.Errorf("got %d %s, want 503", status, body)
		}
		if status, body := ask(instead, "nobody"); status != 200 || body != byDefault {
			t.Errorf("got %d %s, want the default row's hub", status, body)
		}
	}
	if err := d.Check(t.Context(), nil); err == nil {
		t.Error("a server that is away was checked")
	} else if _, ok := errors.AsType[*allocation.DirectoryTableError](err); ok {
		t.Errorf("a server that is away has a wrong table: %v", err)
	}
	if err := own.start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the directory does not come back", func() bool { _, body := ask(retry, "a"); return body == assigned })
}

// TestStallingPostgres: the way to the server swallows everything, on open
// connections and on new ones.
func TestStallingPostgres(t *testing.T) {
	t.Parallel()
	config := newDatabase(t)
	fill(t, config, ImportOptions{}, "registration_id,hub", "a,h1")
	way := newWay(t, filepath.Join(peer.dir, ".s.PGSQL.5432"))
	d := open(t, Config{URL: strings.Replace(config.URL, "host="+peer.dir, "host="+way.dir, 1)})
	retry := webhook(d, allocation.DirectoryRetry)
	eventually(t, "the directory does not answer", func() bool { _, body := ask(retry, "a"); return body == assigned })
	before := way.most()
	way.stall(true)
	var all sync.WaitGroup
	for range 200 {
		all.Go(func() {
			if status, body := ask(retry, "a"); status != 503 {
				t.Errorf("got %d %s, want 503", status, body)
			}
		})
	}
	all.Wait()
	if n := way.most() - before; n > 4*postgresConnections {
		t.Errorf("%d connections were made", n)
	}
	way.stall(false)
	eventually(t, "the directory does not come back", func() bool { _, body := ask(retry, "a"); return body == assigned })
}

// eventually waits for what another program will have done in a moment.
func eventually(t *testing.T, what string, done func() bool) {
	t.Helper()
	for range 3600 { // 3 minutes at the least; only a fault takes so long
		if done() {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Fatal(what)
}

// way is a proxy before the server's socket, which can hold everything back.
type way struct {
	dir string

	mu     sync.Mutex
	free   chan struct{} // closed while bytes pass
	opened int
}

func newWay(t *testing.T, server string) *way {
	t.Helper()
	w := &way{dir: t.TempDir(), free: make(chan struct{})}
	close(w.free)
	listener, err := net.Listen("unix", filepath.Join(w.dir, ".s.PGSQL.5432"))
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(func() {
		cancel()
		listener.Close()
		all.Wait()
	})
	all.Go(func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			w.mu.Lock()
			w.opened++
			w.mu.Unlock()
			upstream, err := net.Dial("unix", server)
			if err != nil {
				client.Close()
				continue
			}
			stop := context.AfterFunc(ctx, func() { client.Close(); upstream.Close() })
			for _, pair := range [][2]net.Conn{{client, upstream}, {upstream, client}} {
				all.Go(func() {
					defer stop()
					defer client.Close()
					defer upstream.Close()
					_, _ = io.Copy(gated{ctx, w, pair[0]}, pair[1])
				})
			}
		}
	})
	return w
}

func (w *way) stall(stalled bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if stalled {
		w.free = make(chan struct{})
		return
	}
	close(w.free)
}

func (w *way) most() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.opened
}

// gated writes when the way is free.
type gated struct {
	ctx context.Context
	way *way
	to  io.Writer
}

func (g gated) Write(p []byte) (int, error) {
	g.way.mu.Lock()
	free := g.way.free
	g.way.mu.Unlock()
	select {
	case <-free:
		return g.to.Write(p)
	case <-g.ctx.Done():
		return 0, fmt.Errorf("the way is closed")
	}
}
