// SPDX-License-Identifier: Apache-2.0

package serialbustest

import (
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

const recorded = `# serial line recording 1
# program: gatewayd v0.2.0
# port: /dev/ttyUSB0
# mode: master
0.000104 opened
0.050000 rx FF  |.|
0.100000 tx 01 03 |..|
0.120000 rx 01  |.|
0.121000 rx 83 02  |..|
0.500000 tx 02 03  |..|
0.900000 lost the port is gone
1.000000 tx 01 03  |..|
1.030000 rx AA  ||||
`

func TestParseRecording(t *testing.T) {
	got, err := ParseRecording([]byte(recorded + "1.5 tx 0"))
	if err != nil {
		t.Fatal(err)
	}
	ms := time.Millisecond
	want := &Recording{
		Head: map[string]string{"program": "gatewayd v0.2.0", "port": "/dev/ttyUSB0", "mode": "master"},
		Records: []Record{
			{At: 104 * time.Microsecond, What: "opened"},
			{At: 50 * ms, What: "rx", Data: []byte{0xFF}},
			{At: 100 * ms, What: "tx", Data: []byte{1, 3}},
			{At: 120 * ms, What: "rx", Data: []byte{1}},
			{At: 121 * ms, What: "rx", Data: []byte{0x83, 2}},
			{At: 500 * ms, What: "tx", Data: []byte{2, 3}},
			{At: 900 * ms, What: "lost", Text: "the port is gone"},
			{At: 1000 * ms, What: "tx", Data: []byte{1, 3}},
			{At: 1030 * ms, What: "rx", Data: []byte{0xAA}},
		},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	const head = "# serial line recording 1\n"
	for text, says := range map[string]string{
		"":                                     "no recording",
		"# serial line recording 2\n":          "format 1",
		head + "tx 01\n":                       "no record",
		head + "1\n":                           "no record",
		head + "-1 tx 01\n":                    "no record",
		head + "NaN tx 01\n":                   "no record",
		head + "1 tx\n":                        "no hex",
		head + "1 tx 0g\n":                     "no hex",
		head + "2 opened\n1 closed\n":          "backwards",
		head + "1 lost \xff\n":                 "no text",
		head + strings.Repeat("x", 1e5) + "\n": "too long",
	} {
		if _, err := ParseRecording([]byte(text)); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%.40q: got %v, want something about %q", text, err, says)
		}
	}
}

func FuzzRecording(f *testing.F) {
	f.Add([]byte(recorded))
	f.Add([]byte("# serial line recording 1\n1e9 tx\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		r, err := ParseRecording(text)
		if err != nil {
			return
		}
		last := time.Duration(0)
		for _, record := range r.Records {
			if record.At < last || (record.What == "tx" || record.What == "rx") != (len(record.Data) > 0) {
				t.Fatalf("%+v", record)
			}
			last = record.At
		}
	})
}

// TestPlayer: requests as recorded get what came then; others are told.
func TestPlayer(t *testing.T) {
	r, err := ParseRecording([]byte(recorded))
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name  string
		asks  []string
		want  []string
		total Replayed
	}{
		{
			"as recorded",
			[]string{"\x01\x03", "\x02\x03", "\x01\x03"},
			[]string{"01 after 20ms, 83 02 after 21ms", "", "AA after 30ms"},
			Replayed{Matched: 3},
		},
		{"in pieces and glued", []string{"\x01", "\x03\x02\x03"}, []string{"", "01 after 20ms, 83 02 after 21ms"}, Replayed{Matched: 2}},
		{"one left out", []string{"\x02\x03", "\x01\x03"}, []string{"", "AA after 30ms"}, Replayed{Matched: 2, Skipped: 1}},
		{"another one", []string{"\x09\x03", "\x01\x03"}, []string{"", "01 after 20ms, 83 02 after 21ms"}, Replayed{Matched: 1, Strange: 1}},
		{"too many", []string{"\x01\x03", "\x02\x03", "\x01\x03", "\x01\x03"}, []string{"01 after 20ms, 83 02 after 21ms", "", "AA after 30ms", ""}, Replayed{Matched: 3, Strange: 1}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			l, err := NewReplayLine(r, 0)
			if err != nil {
				t.Skipf("no pseudo-terminals here: %v", err)
			}
			defer l.Close()
			p := l.device.(*player)
			for i, ask := range tc.asks {
				var replies []string
				for _, e := range p.hear([]byte(ask), time.Time{}, spare) {
					replies = append(replies, fmt.Sprintf("% X after %v", e.reply, e.think))
				}
				if got := strings.Join(replies, ", "); got != tc.want[i] {
					t.Errorf("request %d: got %q, want %q", i, got, tc.want[i])
				}
			}
			tc.total.Requests = 3
			if diff := cmp.Diff(tc.total, l.Replayed()); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestReplayLines: on a terminal, what the master sent is answered at the recorded time, and what was overheard comes
// by itself, faster if asked to.
func TestReplayLines(t *testing.T) {
	r, err := ParseRecording([]byte(recorded))
	if err != nil {
		t.Fatal(err)
	}
	var told strings.Builder
	l, err := NewReplayLine(r, 1, WithLogger(slog.New(slog.NewTextHandler(&told, nil))))
	if err != nil {
		t.Skipf("no pseudo-terminals here: %v", err)
	}
	defer l.Close()
	begin := time.Now()
	if got := string(exchangeRaw(t, openRaw(t, l, 9600), []byte("\x01\x03"), 3)); got != "\x01\x83\x02" {
		t.Errorf("got % X", got)
	}
	if took := time.Since(begin); took < 21*time.Millisecond {
		t.Errorf("it came after %v", took)
	}
	r.Head["mode"] = "passive"
	overheard, err := NewReplayLine(r, 10)
	if err != nil {
		t.Fatal(err)
	}
	defer overheard.Close()
	if got := string(exchangeRaw(t, openRaw(t, overheard, 9600), nil, 5)); got != "\xff\x01\x83\x02\xaa" {
		t.Errorf("got % X", got)
	}
	if _, err := NewReplayLine(r, -1); err == nil {
		t.Error("time ran backwards")
	}
	if _, err := NewReplayLine(&Recording{}, 1); err == nil {
		t.Error("an empty recording was played")
	}
	if (*Line).Replayed(newLine(t)) != (Replayed{}) {
		t.Error("a line that replays nothing says it does")
	}
}
