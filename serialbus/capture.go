// SPDX-License-Identifier: Apache-2.0

package serialbus

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"
)

// CaptureConfig says which line [Capture] listens on.
type CaptureConfig struct {
	Port     string
	Baud     int    // 0 = 19,200
	Parity   Parity // empty = even
	StopBits int    // 1 or 2; 0 = 1
}

// Validate returns what is wrong with the configuration, and what is allowed; it opens nothing.
func (c CaptureConfig) Validate() error {
	if c.StopBits < 0 || c.StopBits > 2 {
		return fmt.Errorf("stop bits %d: allowed are 1 and 2", c.StopBits)
	}
	return c.line().Validate()
}

// line is the line as a bus with anybody on it.
func (c CaptureConfig) line() Config {
	return Config{Port: c.Port, Driver: DriverModbusRTU, Baud: c.Baud, Parity: c.Parity, Units: []byte{minUnit}}
}

// Captured is what [Capture] has heard.
type Captured struct {
	Bytes   int
	Records int // runs of bytes between silences
}

// Capture listens on a port, sends nothing, and writes all it hears to out as a recording, until ctx ends; then it
// returns nil. A port that is lost is opened again for ever. It is an error if the port cannot be opened at first, or
// if out takes no more. With a second adapter on the wires of a bus it hears both directions, without telling them
// apart.
func Capture(ctx context.Context, cfg CaptureConfig, out io.Writer, log *slog.Logger) (Captured, error) {
	if err := cfg.Validate(); err != nil {
		return Captured{}, fmt.Errorf("capturing: %w", err)
	}
	if cfg.StopBits == 0 {
		cfg.StopBits = 1
	}
	plain, err := loadProfile("")
	if err != nil {
		return Captured{}, err
	}
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	line := cfg.line().withDefaults(plain)
	s := speed{line.Baud, line.Parity, cfg.StopBits}
	open := func() (port, error) { return openTTY(line.Port, s, opening{}) }
	return capture(ctx, line.Port, s, open, out, log)
}

// capture is Capture with a port of any kind.
func capture(ctx context.Context, path string, s speed, open func() (port, error), out io.Writer, log *slog.Logger) (Captured, error) {
	p, err := open()
	if err != nil {
		return Captured{}, fmt.Errorf("capturing: %w", err)
	}
	var (
		heard = Captured{}
		rec   = newRecorder(out, path, s, "passive", log)
		quiet = max(s.timing().quiet, 5*time.Millisecond)
		delay backoff
	)
	for {
		rec.event("opened", "")
		err := listen(ctx, p, rec, quiet, &heard)
		free := p.Close()
		if ctx.Err() != nil || rec.broken {
			rec.event("closed", "")
			if rec.broken {
				return heard, fmt.Errorf("capturing %s: the recording cannot be written", path)
			}
			return heard, nil
		}
		rec.event("lost", err.Error())
		log.Warn("the line is down, trying again", "port", path, "err", err)
		select {
		case <-ctx.Done():
			return heard, nil
		case <-free:
		}
		for p, err = open(); err != nil; p, err = open() {
			if pause(ctx, delay.next()) != nil {
				return heard, nil
			}
		}
		delay.reset()
		log.Info("the line is up", "port", path)
	}
}

// listen records what an open port hears, cut at silences, until the port is lost, ctx ends or the recording breaks.
func listen(ctx context.Context, p port, rec *recorder, quiet time.Duration, heard *Captured) error {
	const longest = 4 * maxFrame
	var (
		run   []byte
		begun time.Time
		buf   [maxFrame]byte
	)
	end := func() {
		if len(run) > 0 {
			rec.bytes(begun, "rx", run)
			heard.Bytes += len(run)
			heard.Records++
			run = run[:0]
		}
	}
	defer end()
	for ctx.Err() == nil && !rec.broken {
		wait := readSlice
		if len(run) > 0 {
			wait = quiet
		}
		n, err := p.Read(buf[:], wait)
		switch {
		case errors.Is(err, errTimeout):
			end()
			continue
		case err != nil:
			return err
		case len(run) == 0:
			begun = time.Now()
		}
		run = append(run, buf[:n]...)
		if len(run) >= longest {
			end()
		}
	}
	return ctx.Err()
}
