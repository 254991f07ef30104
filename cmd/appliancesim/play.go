// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/contoso/gatewayd/serialbus/serialbustest"
)

// sim is the simulated lines and whom they are shown to.
type sim struct {
	lines  []*serialbustest.Line
	speaks map[string]string // by the name of a line
	json   bool
	out    io.Writer
}

// play starts the lines of a script and obeys commands until quit or the end of ctx.
func play(ctx context.Context, script *serialbustest.Script, s *settings, log *slog.Logger, stdin io.Reader, stdout io.Writer) error {
	m := &sim{speaks: make(map[string]string), json: s.output == "json", out: stdout}
	for i, l := range script.Lines {
		if l.Name == "" {
			script.Lines[i].Name = fmt.Sprintf("line%d", i+1)
		}
		m.speaks[script.Lines[i].Name] = l.Speaks
	}
	var err error
	m.lines, err = script.Start(func(name string) []serialbustest.Option {
		opts := []serialbustest.Option{serialbustest.WithLogger(log)}
		if s.link != "" {
			opts = append(opts, serialbustest.WithLink(filepath.Join(s.link, fileName(name))))
		}
		return opts
	})
	if err != nil {
		return err
	}
	defer func() {
		for _, l := range m.lines {
			_ = l.Close()
		}
	}()
	if err := m.list(); err != nil {
		return err
	}
	return m.obey(ctx, script.At, stdin)
}

// fileName makes a line's name one for a file.
func fileName(name string) string {
	return strings.Map(func(r rune) rune {
		if r == '/' || r == ' ' || r < ' ' {
			return '-'
		}
		return r
	}, name)
}

// obey does the commands of the script when their time has come, and those of the input as they come.
func (m *sim) obey(ctx context.Context, timed []serialbustest.Timed, stdin io.Reader) error {
	done := make(chan struct{})
	defer close(done)
	commands := make(chan string)
	give := func(command string) bool {
		select {
		case commands <- command:
			return true
		case <-done:
			return false
		}
	}
	go func() {
		begun := time.Now()
		for _, t := range inTime(timed) {
			select {
			case <-done:
				return
			case <-time.After(time.Until(begun.Add(time.Duration(t.After)))):
			}
			if !give(t.Do) {
				return
			}
		}
	}()
	go func() { // it ends with the process if the input never does
		for input := bufio.NewScanner(stdin); input.Scan(); {
			if !give(input.Text()) {
				return
			}
		}
	}()
	for {
		select {
		case <-ctx.Done():
			return nil
		case command := <-commands:
			answer, err := m.do(ctx, command)
			if errors.Is(err, errQuit) {
				return nil
			}
			if err := m.answer(command, answer, err); err != nil {
				return err
			}
		}
	}
}

// inTime sorts commands by their time; those of one time stay as they were written.
func inTime(timed []serialbustest.Timed) []serialbustest.Timed {
	sorted := slices.Clone(timed)
	slices.SortStableFunc(sorted, func(a, b serialbustest.Timed) int { return cmp.Compare(a.After, b.After) })
	return sorted
}

// answer shows what came of a command.
func (m *sim) answer(command, answer string, failed error) error {
	if m.json {
		shown := struct {
			Command string `json:"command"`
			OK      bool   `json:"ok"`
			Answer  string `json:"answer,omitempty"`
			Error   string `json:"error,omitempty"`
		}{Command: command, OK: failed == nil, Answer: strings.TrimSuffix(answer, "\n")}
		if failed != nil {
			shown.Error = failed.Error()
		}
		return json.NewEncoder(m.out).Encode(shown)
	}
	text := strings.TrimSuffix(answer, "\n")
	if failed != nil {
		text = "error: " + failed.Error()
	}
	if text == "" {
		return nil
	}
	_, err := fmt.Fprintln(m.out, text)
	return err
}

// list shows the ports.
func (m *sim) list() error {
	if !m.json {
		_, err := io.WriteString(m.out, m.table())
		return err
	}
	encoder := json.NewEncoder(m.out)
	for _, l := range m.lines {
		shown := struct {
			Line   string `json:"line"`
			Port   string `json:"port"`
			Link   string `json:"link,omitempty"`
			Speaks string `json:"speaks"`
			Units  []int  `json:"units"`
		}{Line: l.Name(), Port: l.Path(), Speaks: m.speaks[l.Name()], Units: l.Units()}
		if l.Link() != l.Path() {
			shown.Link = l.Link()
		}
		if err := encoder.Encode(shown); err != nil {
			return err
		}
	}
	return nil
}

// table shows the ports to people.
func (m *sim) table() string {
	var text strings.Builder
	rows := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
	fmt.Fprintln(rows, "LINE\tPORT\tLINK\tSPEAKS\tUNITS")
	for _, l := range m.lines {
		link := "-"
		if l.Link() != l.Path() {
			link = l.Link()
		}
		fmt.Fprintf(rows, "%s\t%s\t%s\t%s\t%s\n", l.Name(), l.Path(), link, m.speaks[l.Name()], unitsText(l.Units()))
	}
	_ = rows.Flush() // into memory
	return text.String()
}

// unitsText writes addresses as people do: "1-32,40"; "-" for a line without.
func unitsText(units []int) string {
	var parts []string
	for i := 0; i < len(units); {
		end := i
		for end+1 < len(units) && units[end+1] == units[end]+1 {
			end++
		}
		if end > i {
			parts = append(parts, fmt.Sprintf("%d-%d", units[i], units[end]))
		} else {
			parts = append(parts, fmt.Sprint(units[i]))
		}
		i = end + 1
	}
	if len(parts) == 0 || len(units) == 1 && units[0] == 0 {
		return "-"
	}
	return strings.Join(parts, ",")
}
