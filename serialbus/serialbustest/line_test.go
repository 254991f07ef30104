// SPDX-License-Identifier: Apache-2.0

package serialbustest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// members returns the message of a line as a value, nil for no line, and checks its trailer.
func members(t *testing.T, line string) any {
	t.Helper()
	if line == "" {
		return nil
	}
	message := line[:len(line)-9]
	if trailer([]byte(message)) != line[len(message):] {
		t.Fatalf("wrong trailer: %s", line)
	}
	var value any
	if err := json.Unmarshal([]byte(message), &value); err != nil {
		t.Fatal(err)
	}
	return value
}

// openRaw opens a line as a master would, at a speed.
func openRaw(t testing.TB, l *Line, baud uint32) *os.File {
	t.Helper()
	fd, err := unix.Open(l.Path(), unix.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	settings, err := unix.IoctlGetTermios(fd, unix.TCGETS2)
	if err != nil {
		t.Fatal(err)
	}
	settings.Cflag = settings.Cflag&^unix.CBAUD | unix.BOTHER
	settings.Ispeed, settings.Ospeed = baud, baud
	if err := unix.IoctlSetTermios(fd, unix.TCSETS2, settings); err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), l.Path())
	t.Cleanup(func() { f.Close() })
	return f
}

// exchangeRaw sends a request and reads n bytes.
func exchangeRaw(t testing.TB, f *os.File, request []byte, n int) []byte {
	t.Helper()
	if _, err := f.Write(request); err != nil {
		t.Fatal(err)
	}
	if err := f.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	var got []byte
	buf := make([]byte, 256)
	for len(got) < n {
		k, err := f.Read(buf)
		if err != nil {
			t.Fatalf("after %d of %d bytes: %v", len(got), n, err)
		}
		got = append(got, buf[:k]...)
	}
	return got
}

func newLine(t *testing.T, opts ...Option) *Line {
	t.Helper()
	l, err := NewModbusLine([]HeatPump{{Unit: 1, Vendor: "Contoso", Model: "HPSD-088", Firmware: "12.0.2.5"}}, opts...)
	if err != nil {
		t.Skipf("no pseudo-terminals here: %v", err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

// TestPacing: a reply takes at least as long as its bytes and those of the request do at the speed of the port.
func TestPacing(t *testing.T) {
	l := newLine(t)
	f := openRaw(t, l, 2400)
	start := time.Now()
	reply := exchangeRaw(t, f, fromHex(t, "01 11 C0 2C"), 31)
	const least = (4 + 31) * 11 * time.Second / 2400
	if took := time.Since(start); took < least || len(reply) != 31 {
		t.Errorf("%d bytes took %v, want at least %v", len(reply), took, least)
	}
}

func TestWrongSpeedIsGarbage(t *testing.T) {
	l := newLine(t, WithBaud(9600))
	request := fromHex(t, "01 11 C0 2C")
	if got := exchangeRaw(t, openRaw(t, l, 19200), request, 4); checksum(got) == 0 {
		t.Errorf("at the wrong speed: % X", got)
	}
	if got := exchangeRaw(t, openRaw(t, l, 9600), request, 31); checksum(got) != 0 {
		t.Errorf("at the right speed: % X", got)
	}
}

// TestExclusiveIsForgotten: a port whose owner was killed can be opened by others again, as a real one.
func TestExclusiveIsForgotten(t *testing.T) {
	l := newLine(t)
	if l.tty.closes == nil {
		t.Skip("this system has no inotify instance to spare")
	}
	f := openRaw(t, l, 9600)
	if err := unix.IoctlSetInt(int(f.Fd()), unix.TIOCEXCL, 0); err != nil {
		t.Fatal(err)
	}
	f.Close()
	slave := int(l.tty.slave.Fd())
	for end := time.Now().Add(time.Minute); ; {
		exclusive, err := unix.IoctlGetInt(slave, unix.TIOCGEXCL)
		if err != nil {
			t.Fatal(err)
		}
		if exclusive == 0 {
			return
		}
		if time.Now().After(end) {
			t.Fatal("the port stays exclusive")
		}
		time.Sleep(time.Millisecond) // the kernel tells by an event that a test cannot wait for
	}
}

func TestUnplugAndCloseTwice(t *testing.T) {
	l := newLine(t)
	f := openRaw(t, l, 9600)
	l.Unplug()
	l.Unplug()
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	if _, err := f.Write([]byte("x")); err == nil {
		t.Error("the port still takes bytes")
	}
}

func TestSettings(t *testing.T) {
	l := newLine(t)
	if l.Settings(9) != nil || l.Writes(9) != 0 {
		t.Error("a unit that is not there has settings")
	}
	got := l.Settings(1)
	if got["state"] != "off" || got["temperatureSetting"] != "60" {
		t.Errorf("got %v", got)
	}
}

// FuzzAppliances: no bytes make a simulated appliance panic, or hold more than a request.
func FuzzAppliances(f *testing.F) {
	f.Add([]byte("\x01\x10\x00\x64\x00\x01\x02\x00\x01\xff"), uint8(1))
	f.Add([]byte("\x01\x2b\x0e\x01\x00\x70\x77"), uint8(2))
	f.Add([]byte("{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"identify\"}*2F104B70\n"), uint8(9))
	f.Fuzz(func(t *testing.T, data []byte, step uint8) {
		modbus := &modbusLine{machines: []*machine{newMachine(HeatPump{Unit: 1}.asUnit())}}
		toast := &toaster{}
		modem := &talkative{Text: Modem("V", "M", "1", "2"), values: map[string]string{}}
		tape := &player{log: slog.New(slog.DiscardHandler), script: []question{{request: []byte("\x01\x03")}}}
		for len(data) > 0 {
			n := min(len(data), int(step)+1)
			modbus.hear(data[:n], time.Time{}, spare)
			toast.hear(data[:n], time.Time{}, spare)
			modem.hear(data[:n], time.Time{}, spare)
			tape.hear(data[:n], time.Time{}, spare)
			data = data[n:]
			if len(modbus.buf) > 256 || len(toast.buf) > 2*toasterMaxLine || len(modem.buf) > 2048 || len(tape.buf) > 1 {
				t.Fatalf("they hold %d, %d, %d and %d bytes", len(modbus.buf), len(toast.buf), len(modem.buf), len(tape.buf))
			}
		}
	})
}

func TestNewModbusLineRefuses(t *testing.T) {
	for name, units := range map[string][]HeatPump{
		"unit 0":      {{Unit: 0}},
		"unit 248":    {{Unit: 248}},
		"unit twice":  {{Unit: 1}, {Unit: 1}},
		"a long text": {{Unit: 1, Serial: string(make([]byte, 201))}},
	} {
		if l, err := NewModbusLine(units); err == nil {
			_ = l.Close()
			t.Errorf("%s was taken", name)
		}
	}
}

// TestPlugAgain: the stable name goes and comes back, and the appliances keep what they hold.
func TestPlugAgain(t *testing.T) {
	link := filepath.Join(t.TempDir(), "usb-adapter")
	l := newLine(t, WithLink(link), WithName("boiler room"))
	if err := l.Set(1, "state", "on"); err != nil {
		t.Fatal(err)
	}
	if l.Link() != link || l.Name() != "boiler room" {
		t.Errorf("%s, %s", l.Link(), l.Name())
	}
	for range 3 {
		if target, err := os.Readlink(link); err != nil || target != l.Path() {
			t.Fatalf("the link points to %s, %v", target, err)
		}
		exchangeRaw(t, openRaw(t, l, 115200), fromHex(t, "01 11 C0 2C"), 31)
		l.Unplug()
		if _, err := os.Lstat(link); err == nil {
			t.Fatal("the link outlives the adapter")
		}
		if l.Stop(true) == nil {
			t.Error("an unplugged line can be stopped")
		}
		if err := l.Plug(); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := l.Get(1, "state"); got != "on" || err != nil {
		t.Error(got, err)
	}
	if got := l.Stats(); got.Requests != 3 || got.BytesOut != 3*31 || got.BytesIn != 3*4 {
		t.Errorf("%+v", got)
	}
}

// TestStop: the port takes nothing until the line flows again.
func TestStop(t *testing.T) {
	l := newLine(t, WithoutPacing())
	f := openRaw(t, l, 9600)
	if err := l.Stop(true); err != nil {
		t.Fatal(err)
	}
	if err := f.SetWriteDeadline(time.Now().Add(20 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if n, err := f.Write([]byte("x")); n != 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("it took %d bytes, %v", n, err)
	}
	if err := errors.Join(l.Stop(false), f.SetWriteDeadline(time.Time{})); err != nil {
		t.Fatal(err)
	}
	exchangeRaw(t, f, fromHex(t, "01 11 C0 2C"), 31)
}

// TestStrangers: another master's questions are heard, and the answers to them; and so is noise.
func TestStrangers(t *testing.T) {
	l := newLine(t, WithStranger(Stranger{Kind: AnotherMaster, Every: 50 * time.Millisecond}))
	f := openRaw(t, l, 115200)
	if got := fmt.Sprintf("% X", exchangeRaw(t, f, nil, 15)); got != "01 03 00 00 00 01 84 0A 01 03 02 00 00 B8 44" {
		t.Errorf("heard %s", got)
	}
	l.SetStranger(nil)
	l.SetStranger(&Stranger{Kind: Noise})
	if got := exchangeRaw(t, f, nil, 200); checksum(got) == 0 {
		t.Error("that was no noise")
	}
	if _, err := ParseStranger("ghost"); err == nil {
		t.Error("a ghost was taken")
	}
}

// TestNobodyReads: a line does not wait for a master that reads nothing; what it could not get rid of is counted.
func TestNobodyReads(t *testing.T) {
	l, err := NewNoiseLine(WithoutPacing(), WithStranger(Stranger{Kind: Noise, Every: time.Nanosecond}))
	if err != nil {
		t.Skipf("no pseudo-terminals here: %v", err)
	}
	defer l.Close()
	for end := time.Now().Add(time.Minute); l.Stats().Dropped == 0; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%+v", l.Stats())
		}
	}
}

// TestEcho: the master hears itself before the answer.
func TestEcho(t *testing.T) {
	l := newLine(t, WithEcho())
	request := fromHex(t, "01 11 C0 2C")
	got := exchangeRaw(t, openRaw(t, l, 115200), request, 35)
	if !bytes.HasPrefix(got, request) || checksum(got[4:]) != 0 {
		t.Errorf("heard % X", got)
	}
}

// TestLateMeetsTheNextRequest: a reply that is late collides with the next request, as on a real bus. The request has
// to come within a tenth of a second, for which a machine that is stalled may take some tries.
func TestLateMeetsTheNextRequest(t *testing.T) {
	for left := 20; !lateMeetsTheNextRequest(t); left-- {
		if left == 0 {
			t.Fatal("a late reply comes whole, or the request beside it is heard")
		}
	}
}

// lateMeetsTheNextRequest reports whether neither the late reply nor the next request survived.
func lateMeetsTheNextRequest(t *testing.T) bool {
	t.Helper()
	l := newLine(t, WithRules(Rule{Fault: FaultLate, Times: 1, Delay: 20 * time.Millisecond}))
	f := openRaw(t, l, 2400)
	request := fromHex(t, "01 11 C0 2C")
	begin := time.Now()
	first := exchangeRaw(t, f, request, 3) // the late reply has begun
	if took, least := time.Since(begin), (4+3)*11*time.Second/2400+20*time.Millisecond; took < least {
		t.Errorf("it came after %v, want at least %v", took, least)
	}
	if string(first[:3]) != "\x01\x11\x1a" {
		t.Errorf("% X", first)
	}
	if _, err := f.Write(request); err != nil {
		t.Fatal(err)
	}
	if err := f.SetReadDeadline(time.Now().Add(time.Second)); err != nil {
		t.Fatal(err)
	}
	rest := make([]byte, 20)
	n, err := io.ReadFull(f, rest)
	if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatal(err)
	}
	got := l.Stats()
	t.Logf("%d bytes of the late reply, %+v", len(first)+n, got)
	if got.Faults["late"] != 1 {
		t.Errorf("the fault did not happen: %+v", got)
	}
	return n == len(rest) && checksum(append(first, rest...)) != 0 && got.Requests == 1
}
