// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/contoso/gatewayd/serialbus/serialbustest"
)

// replaySettings are the flags of replay.
type replaySettings struct {
	link, output string
	speed        float64
	last         time.Duration
}

// replay plays a recording on a pseudo-terminal until it is told to stop, and says then how it went.
func replay(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	var s replaySettings
	flags := flag.NewFlagSet("appliancesim replay", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.StringVar(&s.link, "link", "", "`path` of a symbolic link to the port")
	flags.Float64Var(&s.speed, "speed", 1, "how many `times` as fast as recorded")
	flags.DurationVar(&s.last, "for", 0, "end after this `time`; 0 = at a signal")
	flags.StringVar(&s.output, "o", "text", "output `format`: text, or json with one object a line")
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return err
		}
		return fmt.Errorf("%w: %w", errUsage, err)
	}
	switch {
	case flags.NArg() != 1:
		return fmt.Errorf("%w: name one recording", errUsage)
	case s.speed <= 0:
		return fmt.Errorf("%w: --speed %v: allowed are numbers above 0", errUsage, s.speed)
	case s.output != "text" && s.output != "json":
		return fmt.Errorf("%w: -o %q: allowed are text and json", errUsage, s.output)
	}
	recording, err := readRecording(flags.Arg(0))
	if err != nil {
		return err
	}
	opts := []serialbustest.Option{serialbustest.WithName("replay"), serialbustest.WithLogger(slog.New(slog.NewTextHandler(stderr, nil)))}
	if s.link != "" {
		if err := os.MkdirAll(filepath.Dir(s.link), 0o777); err != nil {
			return fmt.Errorf("making the directory for the link: %w", err)
		}
		opts = append(opts, serialbustest.WithLink(s.link))
	}
	line, err := serialbustest.NewReplayLine(recording, s.speed, opts...)
	if err != nil {
		return err
	}
	defer line.Close()
	if err := s.announce(line, recording, stdout); err != nil {
		return err
	}
	if s.last > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, s.last)
		defer cancel()
	}
	<-ctx.Done()
	return s.sumUp(line, recording, stdout)
}

// readRecording reads a file that this program can hold in its memory.
func readRecording(path string) (*serialbustest.Recording, error) {
	const most = 256 << 20
	if info, err := os.Stat(path); err == nil && info.Size() > most {
		return nil, fmt.Errorf("%s has %d bytes; allowed are %d: cut a part out, with the lines that begin with #", path, info.Size(), most)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("reading the recording: %w", err)
	}
	recording, err := serialbustest.ParseRecording(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return recording, nil
}

// announce prints the port, and what the line was like.
func (s replaySettings) announce(line *serialbustest.Line, r *serialbustest.Recording, stdout io.Writer) error {
	if s.output == "json" {
		return json.NewEncoder(stdout).Encode(struct {
			Port    string            `json:"port"`
			Link    string            `json:"link,omitempty"`
			Records int               `json:"records"`
			Head    map[string]string `json:"head"`
		}{line.Path(), s.link, len(r.Records), r.Head})
	}
	what := "answers the master as recorded"
	if r.Passive() {
		what = "plays what was overheard"
	}
	_, err := fmt.Fprintf(stdout, "%s %s: %s, %s baud, parity %s, %d records\n",
		line.Link(), what, r.Head["port"], r.Head["baud"], r.Head["parity"], len(r.Records))
	return err
}

// sumUp prints how far the master kept to the recording.
func (s replaySettings) sumUp(line *serialbustest.Line, r *serialbustest.Recording, stdout io.Writer) error {
	if r.Passive() {
		return nil
	}
	told := line.Replayed()
	if s.output == "json" {
		return json.NewEncoder(stdout).Encode(told)
	}
	_, err := fmt.Fprintf(stdout, "%d of %d requests came as recorded; %d were left out, %d were others\n",
		told.Matched, told.Requests, told.Skipped, told.Strange)
	return err
}
