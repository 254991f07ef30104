// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/contoso/gatewayd/allocation"
)

func TestDirectoryUse(t *testing.T) {
	t.Parallel()
	columns := map[string]allocation.ColumnType{"hub": allocation.ColumnText, "floor": allocation.ColumnNumber, "vip": allocation.ColumnBool}
	const typed = "columns = { hub = \"text\", floor = \"number\", vip = \"bool\" }\n"
	tests := []struct {
		name, section string
		want          allocation.DirectoryUse
	}{
		{"none", "", allocation.DirectoryUse{}},
		{"defaults", "[directory]\n" + typed, allocation.DirectoryUse{
			Used: true, Missing: allocation.DirectoryRetry, Unavailable: allocation.DirectoryRetry, Timeout: allocation.DefaultDirectoryTimeout, Columns: columns,
		}},
		{"everything", "[directory]\n" + typed + "missing = { refuse = \"Not ours.\" }\nunavailable = \"default\"\ntimeout = \"150ms\"\ndefault = { hub = \"h\", floor = 2, vip = true }\n", allocation.DirectoryUse{
			Used: true, Missing: allocation.DirectoryRefuse, Refusal: "Not ours.", Unavailable: allocation.DirectoryDefault, Timeout: 150 * time.Millisecond,
			Columns: columns, Default: allocation.Row{"hub": "h", "floor": int64(2), "vip": true},
		}},
		{"default for a missing row", "[directory]\n" + typed + "default = { floor = 1.5 }\nmissing = \"default\"\n", allocation.DirectoryUse{
			Used: true, Missing: allocation.DirectoryDefault, Unavailable: allocation.DirectoryRetry, Timeout: allocation.DefaultDirectoryTimeout,
			Columns: columns, Default: allocation.Row{"floor": 1.5},
		}},
	}
	for _, test := range tests {
		p := mustParse(t, test.section+"[[rule]]\nrefuse = \"no\"\n")
		if diff := cmp.Diff(test.want, p.DirectoryUse()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", test.name, diff)
		}
	}
}

// TestMissingRow: a question without a row gets what the policy says of one.
func TestMissingRow(t *testing.T) {
	t.Parallel()
	for missing, want := range map[string]string{
		"":                                       `trouble: policy.toml: the device directory has no row for the device, and missing = "retry"`,
		"missing = { refuse = \"Not ours.\" }\n": "[directory] missing refuses: Not ours.",
		"missing = \"default\"\ndefault = { }\n": `trouble: policy.toml:7:21: rule 1: "room" is absent for this device; write .?room with orValue(…), or ask with has(…)`,
		"missing = \"default\"\ndefault.room=\"r\"": "rule 1 refuses: r",
	} {
		p := mustParse(t, "[directory]\ncolumns.room = \"text\"\n"+missing+"\n[[rule]]\nrefuse.cel = 'device.room'\n")
		if got := ask(t, p, allocation.Question{Request: mustRequest(t, bareRequest)}); got != want {
			t.Errorf("%q: got %s, want %s", missing, got, want)
		}
		if got := ask(t, p, allocation.Question{Request: mustRequest(t, bareRequest), Device: allocation.Row{"room": "own", "other": 3}}); got != "rule 1 refuses: own" {
			t.Errorf("%q: got %s with a row of its own", missing, got)
		}
	}
}

// TestRowOfAnotherType: a row that does not hold what the policy was written for
// is trouble before a rule misreads it.
func TestRowOfAnotherType(t *testing.T) {
	t.Parallel()
	p := mustParse(t, exampleDirectory+"[[rule]]\nrefuse = \"no\"\n")
	for column, value := range map[string]any{"hub": int64(1), "floor": "3", "vip": 1.5, "room": []byte("x")} {
		got := ask(t, p, allocation.Question{Device: allocation.Row{column: value}})
		if want := "trouble: policy.toml: column \"" + column + "\" of the device directory holds a "; len(got) < len(want) || got[:len(want)] != want {
			t.Errorf("got %s, want %s…", got, want)
		}
	}
	if got := ask(t, p, allocation.Question{Device: allocation.Row{"hub": nil, "floor": 1.5}}); got != "rule 1 refuses: no" {
		t.Errorf("got %s for a row with a column that is NULL", got)
	}
}

// TestNoDirectoryNoRow: a policy that reads no directory does not see a row.
func TestNoDirectoryNoRow(t *testing.T) {
	t.Parallel()
	x := Tutorial().Explain(t.Context(), allocation.Question{Request: mustRequest(t, fullRequest), Device: fullRow})
	if x.Device != nil {
		t.Errorf("the rules saw %v", x.Device)
	}
}
