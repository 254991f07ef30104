// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/contoso/gatewayd/serialbus"
)

// newCaptureCommand builds capture.
func newCaptureCommand() *cobra.Command {
	var (
		line    serialbus.CaptureConfig
		parity  string
		maxSize string
		limit   time.Duration
	)
	cmd := &cobra.Command{
		Use:   "capture --port PATH FILE",
		Short: "Record what goes over a serial line",
		Long: `Capture listens on a port, sends nothing, and writes every byte it hears to a file
with its time, until Ctrl-C. Clip a second adapter to the wires of a bus, with its
own A to A and B to B: it hears the gateway and the appliances. The file is text; "-"
shows the recording instead. "appliancesim replay FILE" plays it back.

A recording does not grow without end: at half of --max-size it becomes FILE.1, in
place of the one before, and a new one begins. So does a FILE that is there already.

What the daemon itself sends and receives is recorded with "record" in a [[bus]] of
its configuration.`,
		Example: `  gatewayctl capture --port /dev/ttyUSB1 --baud 9600 --parity none line.rec
  gatewayctl capture --port /dev/ttyUSB1 -`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) != 1 {
				return wrongUsage(cmd, `name one file for the recording, or "-"`)
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if line.Port == "" {
				return wrongUsage(cmd, "--port is missing")
			}
			size, err := parseSize(maxSize)
			if err != nil {
				return wrongUsage(cmd, "--max-size: %v", err)
			}
			line.Parity = serialbus.Parity(parity)
			if err := line.Validate(); err != nil {
				return wrongUsage(cmd, "%v", err)
			}
			ctx := cmd.Context()
			if limit > 0 {
				var cancel context.CancelFunc
				ctx, cancel = context.WithTimeout(ctx, limit)
				defer cancel()
			}
			return runCapture(ctx, cmd, line, args[0], size)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&line.Port, "port", "", "the tty to listen on (required)")
	flags.IntVar(&line.Baud, "baud", 19200, "speed of the line")
	flags.StringVar(&parity, "parity", "even", "parity of the line: none, even or odd")
	flags.IntVar(&line.StopBits, "stop-bits", 1, "stop bits of the line: 1 or 2")
	flags.StringVar(&maxSize, "max-size", "64M", "what the recording may take on the disk, such as 500K, 64M or 2G")
	flags.DurationVar(&limit, "for", 0, "end after this time, such as 10m (default: at Ctrl-C)")
	return cmd
}

// runCapture records a line into a file, or to standard output.
func runCapture(ctx context.Context, cmd *cobra.Command, line serialbus.CaptureConfig, path string, size int64) (err error) {
	out := cmd.OutOrStdout()
	where := "on standard output"
	// The port first: a mistyped one must not push an old recording aside.
	open := func() (io.Writer, error) { return out, nil }
	if path != "-" {
		where = "in " + path
		open = func() (io.Writer, error) { return serialbus.CreateRecordFile(path, size) }
	}
	file := &lateFile{open: open}
	defer func() { err = errors.Join(err, file.Close()) }()
	log := slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), nil))
	heard, err := serialbus.Capture(ctx, line, file, log)
	if file.failed != nil {
		return file.failed
	}
	if trouble := serialbus.Diagnose(err); trouble != nil {
		fmt.Fprintf(cmd.ErrOrStderr(), "gatewayctl: %s\n  Next: %s\n", trouble.Heard, trouble.Next)
		return errReported
	}
	if err != nil {
		return err
	}
	fmt.Fprintf(cmd.ErrOrStderr(), "Heard %d bytes in %d runs; the recording is %s.\n", heard.Bytes, heard.Records, where)
	if heard.Bytes == 0 {
		fmt.Fprintln(cmd.ErrOrStderr(), "  Next: check that somebody talks on the line, the wires A and B, and that this adapter sits on the same pair.")
	}
	return nil
}

// lateFile is opened when there is something to write.
type lateFile struct {
	open   func() (io.Writer, error)
	to     io.Writer
	failed error // why it could not be opened or written
}

// Write implements io.Writer.
func (f *lateFile) Write(p []byte) (n int, err error) {
	if f.to == nil {
		if f.to, f.failed = f.open(); f.failed != nil {
			return 0, f.failed
		}
	}
	n, f.failed = f.to.Write(p)
	return n, f.failed
}

// Close closes what was opened; standard output stays.
func (f *lateFile) Close() error {
	if file, is := f.to.(*serialbus.RecordFile); is && file != nil {
		return file.Close()
	}
	return nil
}

// parseSize reads a number of bytes with the suffix K, M or G, or none.
func parseSize(text string) (int64, error) {
	number, shift := text, 0
	for i, suffix := range []string{"K", "M", "G"} {
		if before, has := strings.CutSuffix(text, suffix); has {
			number, shift = before, 10*(i+1)
		}
	}
	n, err := strconv.ParseInt(number, 10, 32)
	if err != nil || n <= 0 {
		return 0, fmt.Errorf("%q is no size; write it like 500K, 64M or 2G", text)
	}
	return n << shift, nil
}
