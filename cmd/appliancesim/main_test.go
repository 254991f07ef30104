// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"

	"github.com/contoso/gatewayd/serialbus/serialbustest"
)

// limit ends a test that hangs; a stalled machine may take long for everything.
const limit = 5 * time.Minute

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"appliancesim": main})
}

// TestScripts runs the program as its users do.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata",
		Setup: func(env *testscript.Env) error {
			env.Setenv("GORACE", "atexit_sleep_ms=0")
			return nil
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			// ask sends bytes to a port as soon as it is there, and reads so many; answered compares them.
			"ask": func(ts *testscript.TestScript, _ bool, args []string) {
				size := 0
				if len(args) > 2 {
					size, _ = strconv.Atoi(args[2])
				}
				reply, err := exchange(ts.MkAbs(args[0]), args[1], size)
				ts.Check(err)
				ts.Setenv("ANSWER", reply)
			},
			// says waits until a file has a line like a pattern.
			"says": func(ts *testscript.TestScript, _ bool, args []string) {
				pattern := regexp.MustCompile(args[1])
				for end := time.Now().Add(limit); !pattern.MatchString(ts.ReadFile(args[0])); time.Sleep(time.Millisecond) {
					if time.Now().After(end) {
						ts.Fatalf("%s does not say %q:\n%s", args[0], args[1], ts.ReadFile(args[0]))
					}
				}
			},
			"answered": func(ts *testscript.TestScript, _ bool, args []string) {
				if got := ts.Getenv("ANSWER"); got != args[0] {
					ts.Fatalf("the port said %s", got)
				}
			},
			// answers compares standard output with a file, whatever the numbers of the terminals are.
			"answers": func(ts *testscript.TestScript, _ bool, args []string) {
				got := regexp.MustCompile(`(/dev/pts/\d+|PORT) *`).ReplaceAllString(ts.ReadFile("stdout"), "PORT ")
				if want := ts.ReadFile(args[0]); got != want {
					ts.Fatalf("got\n%s\nwant\n%s", got, want)
				}
			},
		},
	})
}

// session is a running program with its input and output.
type session struct {
	t    *testing.T
	in   io.WriteCloser
	out  *bufio.Scanner
	link string
}

// startSession runs the program until the end of the test.
func startSession(t *testing.T, args ...string) *session {
	t.Helper()
	inReader, in := io.Pipe()
	outReader, out := io.Pipe()
	s := &session{t: t, in: in, out: bufio.NewScanner(outReader), link: t.TempDir()}
	ended := make(chan int, 1)
	var stderr bytes.Buffer
	go func() {
		ended <- run(append([]string{"-o", "json", "-v", "--link", s.link}, args...), inReader, out, &stderr)
		out.Close()
	}()
	t.Cleanup(func() {
		go func() { _, _ = io.WriteString(in, "quit\n") }()
		go func() { _, _ = io.Copy(io.Discard, outReader) }()
		if status := <-ended; status != 0 {
			t.Errorf("exit status %d", status)
		}
		in.Close()
		if t.Failed() {
			t.Logf("it logged:\n%s", &stderr)
		}
	})
	return s
}

// next reads one object.
func (s *session) next() map[string]any {
	s.t.Helper()
	if !s.out.Scan() {
		s.t.Fatal("no more output")
	}
	var shown map[string]any
	if err := json.Unmarshal(s.out.Bytes(), &shown); err != nil {
		s.t.Fatalf("%v in %s", err, s.out.Text())
	}
	return shown
}

// say gives a command and returns its answer.
func (s *session) say(command string) string {
	s.t.Helper()
	if _, err := io.WriteString(s.in, command+"\n"); err != nil {
		s.t.Fatal(err)
	}
	shown := s.next()
	if shown["command"] != command {
		s.t.Fatalf("answer to %v, want one to %s", shown, command)
	}
	if shown["ok"] != true {
		return "error: " + shown["error"].(string)
	}
	text, _ := shown["answer"].(string)
	return text
}

// ask sends a frame to a port and returns the reply as hex.
func (s *session) ask(line, request string, size int) string {
	s.t.Helper()
	reply, err := exchange(s.link+"/"+line, request, size)
	if err != nil {
		s.t.Fatal(err)
	}
	return reply
}

// exchange waits for a port, sends a frame and reads so many bytes; both are hex.
func exchange(path, request string, size int) (string, error) {
	frame, err := hex.DecodeString(strings.ReplaceAll(request, " ", ""))
	if err != nil {
		return "", err
	}
	end := time.Now().Add(limit)
	port, err := os.OpenFile(path, os.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK, 0)
	for ; errors.Is(err, fs.ErrNotExist) && time.Now().Before(end); port, err = os.OpenFile(path, os.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK, 0) {
		time.Sleep(time.Millisecond)
	}
	if err != nil {
		return "", err
	}
	defer port.Close()
	if _, err := port.Write(frame); err != nil {
		return "", err
	}
	if err := port.SetReadDeadline(end); err != nil {
		return "", err
	}
	reply := make([]byte, size)
	_, err = io.ReadFull(port, reply)
	return strings.ToUpper(hex.EncodeToString(reply)), err
}

// TestSession: a line is read, set by hand, read again, unplugged and plugged in.
func TestSession(t *testing.T) {
	s := startSession(t, "--heatpumps", "2")
	port := s.next()
	if port["line"] != "heatpumps1" || port["speaks"] != "modbus-rtu" {
		t.Errorf("%v", port)
	}
	const read = "01 03 00 64 00 02 85 D4" // state and temperature
	if got := s.ask("heatpumps1", read, 9); !strings.HasPrefix(got, "01030400000258") {
		t.Errorf("got %s", got)
	}
	if got := s.say("set 1 state on"); got != "state=on" {
		t.Error(got)
	}
	if got := s.say("unplug heatpumps1"); got != "heatpumps1 is unplugged" {
		t.Error(got)
	}
	if _, err := os.Lstat(s.link + "/heatpumps1"); err == nil {
		t.Error("the link is there still")
	}
	if got := s.say("plug heatpumps1"); !strings.HasPrefix(got, "heatpumps1 is plugged in at /dev/pts/") {
		t.Error(got)
	}
	if got := s.ask("heatpumps1", read, 9); !strings.HasPrefix(got, "01030400010258") {
		t.Errorf("got %s", got)
	}
	s.say("echo heatpumps1 on")
	if got := s.ask("heatpumps1", read, 8+9); !strings.HasPrefix(got, "01030064000285D4"+"0103040001") {
		t.Errorf("got %s", got)
	}
	s.say("echo heatpumps1 off")
	if got := s.ask("heatpumps1", "01 10 00 65 00 01 02 02 BC AF 74", 8); got != "011000650001"+"11D6" {
		t.Errorf("got %s", got)
	}
	if got := s.say("wear 1"); got != "register 101: 1" {
		t.Error(got)
	}
	if got := s.say("stats"); !strings.HasPrefix(got, "heatpumps1: requests=4 ") {
		t.Error(got)
	}
	// Without power it says nothing; the unit beside it does.
	s.say("power 1 off")
	s.ask("heatpumps1", read, 0)
	if got := s.ask("heatpumps1", "02 03 00 64 00 01 C5 E6", 7); !strings.HasPrefix(got, "02030200") {
		t.Errorf("got %s", got)
	}
	if got := s.say("stats"); !strings.HasPrefix(got, "heatpumps1: requests=5 ") {
		t.Error(got)
	}
}

// TestTimedCommandsKeepTheirOrder however late the program gets to them.
func TestTimedCommandsKeepTheirOrder(t *testing.T) {
	var timed []serialbustest.Timed
	want := ""
	for i := range 20 {
		timed = append(timed, serialbustest.Timed{After: serialbustest.Duration(time.Millisecond), Do: fmt.Sprint("fly", i)})
		want += fmt.Sprintf("error: there is no command \"fly%d\"; help lists them\n", i)
	}
	quit := serialbustest.Timed{After: serialbustest.Duration(2 * time.Millisecond), Do: "quit"}
	timed = slices.Insert(timed, 3, quit) // where it is written does not matter
	var out bytes.Buffer
	if err := (&sim{out: &out}).obey(t.Context(), timed, strings.NewReader("")); err != nil {
		t.Fatal(err)
	}
	if got := out.String(); got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
}

func TestSplit(t *testing.T) {
	for _, tc := range []struct{ name, line, want string }{
		{"words", "get boiler 1", "[get boiler 1]"},
		{"tabs and spaces around", " \tget\t \tboiler ", "[get boiler]"},
		{"a name with spaces", `unplug "boiler room"`, "[unplug boiler room]"},
		{"a unit behind it", `get "boiler room"/3 state`, "[get boiler room/3 state]"},
		{"quotes around all of it", `get "boiler room/3" state`, "[get boiler room/3 state]"},
		{"nothing between quotes", `set 1 state ""`, "[set 1 state ]"},
		{"no end", `get "boiler`, `a " has no end`},
		{"empty", " ", "[]"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			words, err := split(tc.line)
			got := fmt.Sprint(words)
			if err != nil {
				got = err.Error()
			}
			if got != tc.want {
				t.Errorf("got %s, want %s", got, tc.want)
			}
		})
	}
}

// FuzzCommands: no line of input ends the program or makes it panic, but quit.
func FuzzCommands(f *testing.F) {
	for _, c := range commands {
		f.Add(c.name + " boiler-room/1 late=1ms-2ms share=0.1")
	}
	f.Add(`get "boiler room`)
	f.Add("help")
	ctx, cancel := context.WithCancel(f.Context())
	cancel() // so that wait does not
	f.Fuzz(func(t *testing.T, line string) {
		_, err := new(sim).do(ctx, line)
		if words, _ := split(line); errors.Is(err, errQuit) && words[0] != "quit" && words[0] != "exit" {
			t.Errorf("%q ended the program", line)
		}
		_, _ = parseRule(append(strings.Fields(line), "late"))
	})
}
