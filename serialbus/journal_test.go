// SPDX-License-Identifier: Apache-2.0

package serialbus

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// notes is a journal that keeps what it was told, and can be told to fail.
type notes struct {
	told    []string
	pending bool
	counts  map[uint16]int
	fail    string // this step fails
}

func (n *notes) Pending(context.Context, string) (bool, error) {
	return n.pending, n.failing("pending")
}

func (n *notes) Plan(_ context.Context, e Entry, cells []Cell) error {
	if err := n.failing("plan"); err != nil {
		return err
	}
	for _, c := range cells {
		if n.counts[c.Register] >= c.PerDay {
			return &LimitError{Property: c.Property, Writes: c.PerDay, Next: time.Date(2026, 11, 23, 0, 0, 0, 0, time.UTC)}
		}
	}
	text := "plan"
	for _, c := range cells {
		n.counts[c.Register]++
		text += fmt.Sprintf(" %d", c.Register)
	}
	n.note(text, e)
	n.pending = true
	return nil
}

func (n *notes) Written(_ context.Context, e Entry) error {
	n.note("written", e)
	return n.failing("written")
}

func (n *notes) Verified(_ context.Context, e Entry) error {
	n.note("verified", e)
	n.pending = false
	return n.failing("verified")
}

func (n *notes) note(what string, e Entry) {
	n.told = append(n.told, fmt.Sprintf("%s %s@%d", what, e.RegistrationID, e.Revision))
}

func (n *notes) failing(step string) error {
	if n.fail == step {
		return errors.New("the disk is full")
	}
	return nil
}

// pump has state in register 1 and three temperatures in 2, 3 and 5.
const pump = "[[property]]\nname='state'\ntype='bool'\nregister=1\n" +
	"[[property]]\nname='t2'\ntype='number'\nunit='degC'\nregister_unit='degC'\nmin=0\nmax=90\nregister=2\n" +
	"[[property]]\nname='t3'\ntype='number'\nunit='degC'\nregister_unit='degC'\nmin=0\nmax=90\nregister=3\n" +
	"[[property]]\nname='t5'\ntype='number'\nunit='degC'\nregister_unit='degC'\nmin=0\nmax=90\nregister=5\n"

// TestRegisterWrites: what is sent for settings, and what the journal is told, in order.
func TestRegisterWrites(t *testing.T) {
	const all = `{"state":true,"t2":20,"t3":30,"t5":50}`
	for _, tc := range []struct {
		name     string
		profile  string // keys before the properties
		notes    notes
		desired  string
		script   script
		reported map[string]string
		told     []string
		rejected string
		limited  string
		wantErr  error
	}{
		{
			name: "one range, and what lies apart", profile: "write_ranges=true\n", desired: all,
			script: script{
				"01 03 00 01 00 03":                      {"01 03 06 00 00 00 00 00 00", "01 03 06 00 01 00 14 00 1E"},
				"01 10 00 01 00 03 06 00 01 00 14 00 1E": {"01 10 00 01 00 03"},
				"01 03 00 05 00 01":                      {"01 03 02 00 32"},
			},
			reported: map[string]string{"state": "true", "t2": "20", "t3": "30", "t5": "50"},
			told:     []string{"plan 1 2 3 pump@7", "written pump@7", "verified pump@7"},
		},
		{
			name: "an equal register in the middle is not written again", profile: "write_ranges=true\n", desired: `{"state":true,"t2":20,"t3":30}`,
			script: script{
				"01 03 00 01 00 03":          {"01 03 06 00 00 00 14 00 00"},
				"01 10 00 01 00 01 02 00 01": {"01 10 00 01 00 01"},
				"01 03 00 01 00 01":          {"01 03 02 00 01"},
				"01 10 00 03 00 01 02 00 1E": {"01 10 00 03 00 01"},
				"01 03 00 03 00 01":          {"01 03 02 00 1E"},
			},
			reported: map[string]string{"state": "true", "t2": "20", "t3": "30"},
			told:     []string{"plan 1 pump@7", "written pump@7", "plan 3 pump@7", "written pump@7", "verified pump@7"},
		},
		{
			name: "a range that is refused is written one by one, which shows whose fault it is", profile: "write_ranges=true\n", desired: `{"t2":20,"t3":30}`,
			script: script{
				"01 03 00 02 00 02":                {"01 03 04 00 00 00 00"},
				"01 10 00 02 00 02 04 00 14 00 1E": {"01 90 03"},
				"01 03 00 02 00 01":                {"01 03 02 00 00", "01 03 02 00 14"},
				"01 10 00 02 00 01 02 00 14":       {"01 10 00 02 00 01"},
				"01 03 00 03 00 01":                {"01 03 02 00 00"},
				"01 10 00 03 00 01 02 00 1E":       {"01 90 03"},
			},
			reported: map[string]string{"t2": "20", "t3": "0"},
			told:     []string{"plan 2 3 pump@7", "plan 2 pump@7", "written pump@7", "plan 3 pump@7", "verified pump@7"},
			rejected: "t3",
		},
		{
			name: "without write_ranges one value per write", desired: `{"t2":20,"t3":30}`,
			script: script{
				"01 03 00 02 00 01":          {"01 03 02 00 00", "01 03 02 00 14"},
				"01 10 00 02 00 01 02 00 14": {"01 10 00 02 00 01"},
				"01 03 00 03 00 01":          {"01 03 02 00 1E"},
			},
			reported: map[string]string{"t2": "20", "t3": "30"},
			told:     []string{"plan 2 pump@7", "written pump@7", "verified pump@7"},
		},
		{
			name: "equal values: no write, no note", desired: `{"t2":20}`,
			script:   script{"01 03 00 02 00 01": {"01 03 02 00 14"}},
			reported: map[string]string{"t2": "20"},
		},
		{
			name: "cut off, and the write took place: no second one", desired: `{"t2":20}`, notes: notes{pending: true},
			script:   script{"01 03 00 02 00 01": {"01 03 02 00 14"}},
			reported: map[string]string{"t2": "20"},
			told:     []string{"verified pump@7"},
		},
		{
			name: "a repeated write is counted again", desired: `{"t2":20}`,
			script: script{
				"01 03 00 02 00 01":          {"01 03 02 00 00", "01 03 02 00 00", "01 03 02 00 14"},
				"01 10 00 02 00 01 02 00 14": {"", "01 10 00 02 00 01"},
			},
			reported: map[string]string{"t2": "20"},
			told:     []string{"plan 2 pump@7", "plan 2 pump@7", "written pump@7", "verified pump@7"},
		},
		{
			name: "accepted but slow: asked for a while, not written again", desired: `{"t2":20}`,
			script: script{
				"01 03 00 02 00 01":          {"01 03 02 00 00", "01 03 02 00 00", "01 03 02 00 00", "01 03 02 00 14"},
				"01 10 00 02 00 01 02 00 14": {"01 90 05"},
			},
			reported: map[string]string{"t2": "20"},
			told:     []string{"plan 2 pump@7", "verified pump@7"},
		},
		{
			name: "the limit of the day: nothing is sent, the others are set", desired: `{"t2":20,"t3":30}`, notes: notes{counts: map[uint16]int{2: 10}},
			script: script{
				"01 03 00 02 00 01":          {"01 03 02 00 00"},
				"01 03 00 03 00 01":          {"01 03 02 00 00", "01 03 02 00 1E"},
				"01 10 00 03 00 01 02 00 1E": {"01 10 00 03 00 01"},
			},
			reported: map[string]string{"t2": "0", "t3": "30"},
			told:     []string{"plan 3 pump@7", "written pump@7", "verified pump@7"},
			limited:  "t2",
		},
		{
			name: "the limit of one in a range holds back that one", profile: "write_ranges=true\nwrites_per_day=2\n", desired: `{"t2":20,"t3":30}`, notes: notes{counts: map[uint16]int{2: 2}},
			script: script{
				"01 03 00 02 00 02":          {"01 03 04 00 00 00 00"},
				"01 03 00 02 00 01":          {"01 03 02 00 00"},
				"01 03 00 03 00 01":          {"01 03 02 00 00", "01 03 02 00 1E"},
				"01 10 00 03 00 01 02 00 1E": {"01 10 00 03 00 01"},
			},
			reported: map[string]string{"t2": "0", "t3": "30"},
			told:     []string{"plan 3 pump@7", "written pump@7", "verified pump@7"},
			limited:  "t2",
		},
		{
			name: "a journal that takes no note: nothing is sent", desired: `{"t2":20}`, notes: notes{fail: "plan"},
			script:   script{"01 03 00 02 00 01": {"01 03 02 00 00"}},
			reported: map[string]string{"t2": "0"},
			wantErr:  errAny,
		},
		{
			name: "unlocked first", profile: "unlock={register=138,value=1}\n", desired: `{"t2":20,"t3":30}`,
			script: script{
				"01 03 00 02 00 01":          {"01 03 02 00 00", "01 03 02 00 14"},
				"01 03 00 8A 00 01":          {"01 03 02 00 00", "01 03 02 00 01"},
				"01 10 00 8A 00 01 02 00 01": {"01 10 00 8A 00 01"},
				"01 10 00 02 00 01 02 00 14": {"01 10 00 02 00 01"},
				"01 03 00 03 00 01":          {"01 03 02 00 00", "01 03 02 00 1E"},
				"01 10 00 03 00 01 02 00 1E": {"01 10 00 03 00 01"},
			},
			reported: map[string]string{"t2": "20", "t3": "30"},
			told:     []string{"plan 138 pump@7", "written pump@7", "plan 2 pump@7", "written pump@7", "plan 3 pump@7", "written pump@7", "verified pump@7"},
		},
		{
			name: "open already: the unlock is not written again", profile: "unlock={register=138,value=1}\n", desired: `{"t2":20}`,
			script: script{
				"01 03 00 02 00 01":          {"01 03 02 00 00", "01 03 02 00 14"},
				"01 03 00 8A 00 01":          {"01 03 02 00 01"},
				"01 10 00 02 00 01 02 00 14": {"01 10 00 02 00 01"},
			},
			reported: map[string]string{"t2": "20"},
			told:     []string{"plan 2 pump@7", "written pump@7", "verified pump@7"},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := tc.notes
				if n.counts == nil {
					n.counts = map[uint16]int{}
				}
				d := &modbusDriver{master: newTestRTU(tc.script.wire(t)), profile: profileOf(t, tc.profile+pump), journal: &n}
				got, err := d.apply(t.Context(), 1, Settings{Desired: desiredOf(t, tc.desired), RegistrationID: "pump", Revision: 7})
				var limit *LimitError
				if errors.As(err, &limit) != (tc.limited != "") || tc.limited != "" && limit.Property != tc.limited {
					t.Errorf("got %v, want %q limited", err, tc.limited)
				}
				if tc.limited != "" {
					if !strings.Contains(err.Error(), "times today") || !strings.Contains(err.Error(), "tomorrow") {
						t.Errorf("the words are %v", err)
					}
					err = nil
				}
				checkApplied(t, got, err, tc.reported, got.Wrote, tc.rejected, tc.wantErr)
				if diff := cmp.Diff(tc.told, n.told); diff != "" {
					t.Error("journal:", diff)
				}
			})
		})
	}
}

// TestCutOffWriteIsAwaited: a write that was cut off shows only after the settle time; read before, it would be
// written once more.
func TestCutOffWriteIsAwaited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begun := time.Now()
		w := &wire{answer: func(request []byte) []burst {
			if request[1] != fcReadRegisters {
				t.Errorf("unexpected request % X", request)
				return nil
			}
			if time.Since(begun) < time.Second {
				return soon(frameOf(t, "01 03 02 00 00"))
			}
			return soon(frameOf(t, "01 03 02 00 14"))
		}}
		d := &modbusDriver{master: newTestRTU(w), profile: profileOf(t, pump), journal: &notes{pending: true}}
		settings := Settings{Desired: desiredOf(t, `{"t2":20}`), RegistrationID: "pump"}
		if _, err := d.apply(t.Context(), 1, settings); err != nil {
			t.Error(err)
		}
		begun = time.Now()
		if holds, err := d.holds(t.Context(), 1, settings); err != nil || !holds {
			t.Errorf("got %v, %v, want that it holds them", holds, err)
		}
	})
}

// TestHoldsWritesNothing: looking at settings that differ says so and leaves them.
func TestHoldsWritesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &modbusDriver{master: newTestRTU(script{"01 03 00 02 00 01": {"01 03 02 00 00"}}.wire(t)), profile: profileOf(t, pump)}
		if holds, err := d.holds(t.Context(), 1, Settings{Desired: desiredOf(t, `{"t2":20}`)}); err != nil || holds {
			t.Errorf("modbus: got %v, %v", holds, err)
		}
		m := &memory{}
		if holds, err := testALP(t, speaker(m.call).wire(), "alp").holds(t.Context(), 0, Settings{Desired: desiredOf(t, `{"state":"ready"}`)}); err != nil || holds || m.stages+m.commits > 0 {
			t.Errorf("alp: got %v, %v after %d stages", holds, err, m.stages)
		}
	})
}

// TestJournalOfALP: stage and commit are one write, noted before the first of them.
func TestJournalOfALP(t *testing.T) {
	for _, tc := range []struct {
		name   string
		memory memory
		notes  notes
		told   []string
		stages int
	}{
		{"set", memory{}, notes{}, []string{"plan toaster@3", "written toaster@3", "verified toaster@3"}, 1},
		{"it cannot be noted: nothing is staged", memory{}, notes{fail: "plan"}, nil, 0},
		{"it refuses for now: the entry stays open", memory{refuse: `"error":{"code":-32000,"message":"toasting"}`}, notes{}, []string{"plan toaster@3"}, 0},
		{"it refuses for good: nothing is open", memory{refuse: `"error":{"code":-32602,"message":"no"}`}, notes{}, []string{"plan toaster@3", "verified toaster@3"}, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := testALP(t, speaker(tc.memory.call).wire(), "alp")
				d.journal = &tc.notes
				_, _ = d.apply(t.Context(), 0, Settings{Desired: desiredOf(t, `{"state":"ready"}`), RegistrationID: "toaster", Revision: 3})
				if diff := cmp.Diff(tc.told, tc.notes.told); diff != "" || tc.memory.stages != tc.stages {
					t.Errorf("%d stages, want %d; journal: %s", tc.memory.stages, tc.stages, diff)
				}
			})
		})
	}
}

func TestHashOfSettings(t *testing.T) {
	a := Settings{Desired: desiredOf(t, `{"a":1,"b":2}`)}
	b := Settings{Desired: desiredOf(t, `{"b":2,"a":1}`)}
	c := Settings{Desired: desiredOf(t, `{"a":1,"b":3}`)}
	if a.hash() != b.hash() || a.hash() == c.hash() {
		t.Error("equal settings must have equal hashes, others other ones")
	}
}
