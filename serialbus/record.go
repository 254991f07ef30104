// SPDX-License-Identifier: Apache-2.0

package serialbus

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"runtime/debug"
	"strings"
	"time"
)

// recorder writes down what happens on one line, for people and for appliancesim's replay. The file is text. It begins
// with what is known of the line, one fact behind each "#"; the first line names the format:
//
//	# serial line recording 1
//	# program: gatewayd v0.2.0
//	# port: /dev/serial/by-id/usb-…
//	# baud: 19200
//	# parity: even
//	# stop bits: 1
//	# mode: master
//	# started: 2026-11-21T10:00:00.000000Z
//	0.000104 opened
//	0.101234 tx 01 03 00 00 00 01 84 0A  |........|
//	0.145678 rx 01 03 02 00 00 B8 44  |......D|
//	9.345678 lost the port is gone
//
// The mode is "master" if tx is what this program sent and rx what it received, each as the port took or gave it, and
// "passive" if it only listened; there rx are the bytes up to a silence. A record begins with the seconds since the
// start by a clock that nobody sets, with six decimals. Behind tx and rx stand the bytes as hex and, between bars, as
// ASCII. Other words tell what happened to the port: it was opened, closed or lost, or got another speed. Each record is written at once, so that a killed program loses
// none.
//
// The recorder belongs to the goroutine that owns the port.
type recorder struct {
	out     io.Writer
	log     *slog.Logger
	started time.Time
	broken  bool // a write failed: nothing more is recorded
}

// newRecorder writes the head of a recording.
func newRecorder(out io.Writer, port string, s speed, mode string, log *slog.Logger) *recorder {
	r := &recorder{out: out, log: log, started: time.Now()}
	// In one piece, so that a RecordFile knows what the head is.
	r.write(fmt.Sprintf("# serial line recording 1\n# program: %s\n# port: %s\n# baud: %d\n# parity: %s\n# stop bits: %d\n# mode: %s\n# started: %s\n",
		programVersion(), cleanText(port), s.baud, s.parity, s.stopBits, mode, r.started.UTC().Format("2006-01-02T15:04:05.000000Z")))
	return r
}

// programVersion is what the build recorded of this program.
func programVersion() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	name := info.Path[strings.LastIndexByte(info.Path, '/')+1:]
	return cleanText(name + " " + info.Main.Version)
}

// bytes records what went over the line at a time, in the direction "tx" or "rx".
func (r *recorder) bytes(at time.Time, direction string, data []byte) {
	text := make([]byte, len(data))
	for i, b := range data {
		text[i] = b
		if b < ' ' || b > '~' {
			text[i] = '.'
		}
	}
	r.write(fmt.Sprintf("%.6f %s % X  |%s|\n", at.Sub(r.started).Seconds(), direction, data, text))
}

// event records what happened to the port, now.
func (r *recorder) event(word, details string) {
	r.write(fmt.Sprintf("%.6f %s\n", time.Since(r.started).Seconds(), strings.TrimSpace(word+" "+cleanText(details))))
}

// write adds text. A recording that fails is told once and given up: the line is more important.
func (r *recorder) write(text string) {
	if r.broken {
		return
	}
	if _, err := io.WriteString(r.out, text); err != nil {
		r.broken = true
		r.log.Warn("recording the line failed and ends here", "err", err)
	}
}

// recordedPort is a port whose bytes are written down.
type recordedPort struct {
	port
	to *recorder
}

var _ port = recordedPort{}

// recordPort begins to record an open port.
func recordPort(p port, to *recorder) port {
	to.event("opened", "")
	return recordedPort{p, to}
}

// Read implements port.
func (p recordedPort) Read(buf []byte, wait time.Duration) (int, error) {
	n, err := p.port.Read(buf, wait)
	if n > 0 {
		p.to.bytes(time.Now(), "rx", buf[:n])
	}
	if isLost(err) {
		p.to.event("lost", err.Error())
	}
	return n, err
}

// Write implements port. The time is that of the beginning.
func (p recordedPort) Write(frame []byte) error {
	at := time.Now()
	err := p.port.Write(frame)
	p.to.bytes(at, "tx", frame)
	if isLost(err) {
		p.to.event("lost", err.Error())
	}
	return err
}

// SetSpeed implements port.
func (p recordedPort) SetSpeed(s speed) error {
	err := p.port.SetSpeed(s)
	p.to.event("speed", s.String())
	if isLost(err) {
		p.to.event("lost", err.Error())
	}
	return err
}

// Check implements port: it may be the first to see that the device is gone.
func (p recordedPort) Check() error {
	err := p.port.Check()
	if isLost(err) {
		p.to.event("lost", err.Error())
	}
	return err
}

// Flush implements port: what is thrown away unread was on the line as well.
func (p recordedPort) Flush() error {
	var scrap [maxFrame]byte
	for range 64 { // a line that never rests must not hold us
		if _, err := p.Read(scrap[:], 0); errors.Is(err, errTimeout) {
			break
		} else if err != nil {
			return err
		}
	}
	return p.port.Flush()
}

// Close implements port.
func (p recordedPort) Close() <-chan struct{} {
	p.to.event("closed", "")
	return p.port.Close()
}
