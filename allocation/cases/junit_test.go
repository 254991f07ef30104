// SPDX-License-Identifier: Apache-2.0

package cases

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/contoso/gatewayd/allocation"
)

// sampleReport has everything that a report may have.
func sampleReport() *Report {
	return &Report{
		File: "site/cases.toml", Began: time.Date(2026, 11, 22, 10, 0, 0, 5e8, time.UTC), Unreached: []string{"rest", "a & b"},
		Results: []Result{
			{Case: Case{Name: "a toaster", Line: 5}, Duration: 1234 * time.Microsecond},
			{Case: Case{Name: `<"odd"> & ` + "\x1b\u20ac", Line: 9}, Answer: allocation.Answer{Status: 400}, Failures: []string{`hub: got "a", want "<b>"`, "rule: got \"x\x00\", want \"y\""}},
		},
	}
}

const sampleJUnit = `<?xml version="1.0" encoding="UTF-8"?>
<testsuites tests="2" failures="1" errors="0" time="0.001234">
  <testsuite name="site/cases.toml" tests="2" failures="1" errors="0" skipped="0" time="0.001234" timestamp="2026-11-22T10:00:00" hostname="localhost">
    <testcase name="a toaster" classname="cases" file="site/cases.toml" line="5" time="0.001234"></testcase>
    <testcase name="&lt;&#34;odd&#34;&gt; &amp; �€" classname="cases" file="site/cases.toml" line="9" time="0.000000">
      <failure message="hub: got &#34;a&#34;, want &#34;&lt;b&gt;&#34;" type="mismatch">site/cases.toml:9&#xA;hub: got &#34;a&#34;, want &#34;&lt;b&gt;&#34;&#xA;rule: got &#34;x�&#34;, want &#34;y&#34;</failure>
    </testcase>
    <system-out>rules that no case reached: rest, a &amp; b</system-out>
  </testsuite>
</testsuites>
`

func TestJUnit(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	if err := WriteJUnit(&out, sampleReport()); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(sampleJUnit, out.String()); diff != "" {
		t.Errorf("XML (-want +got):\n%s", diff)
	}
}

// debianPython is the interpreter that Debian's packages belong to.
const debianPython = "/usr/bin/python3"

// TestPeerJUnit has the report read by junitparser, which CI tools build on, and
// checked by xmllint.
func TestPeerJUnit(t *testing.T) {
	if os.Getenv("PEERS") != "1" {
		t.Skip("needs python3-junitparser and libxml2-utils: set PEERS=1 to run it")
	}
	path := filepath.Join(t.TempDir(), "junit.xml")
	var out bytes.Buffer
	if err := WriteJUnit(&out, sampleReport()); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, out.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	if text, err := exec.CommandContext(t.Context(), "xmllint", "--noout", path).CombinedOutput(); err != nil {
		t.Errorf("xmllint: %v\n%s", err, text)
	}
	const script = `
import sys
from junitparser import JUnitXml
xml = JUnitXml.fromfile(sys.argv[1])
print(xml.tests, xml.failures, xml.errors, xml.time)
for suite in xml:
    print(suite.name, suite.tests, suite.failures, suite.skipped, suite.timestamp, suite.hostname)
    for case in suite:
        print(case.classname, '|', case.name, '|', case.time, '|', [(r.type, r.message, r.text) for r in case.result])
`
	text, err := exec.CommandContext(t.Context(), debianPython, "-c", script, path).CombinedOutput()
	if err != nil {
		t.Fatalf("junitparser: %v\n%s", err, text)
	}
	want := `2 1 0 0.001234
site/cases.toml 2 1 0 2026-11-22T10:00:00 localhost
cases | a toaster | 0.001234 | []
cases | <"odd"> & �€ | 0.0 | [('mismatch', 'hub: got "a", want "<b>"', 'site/cases.toml:9\nhub: got "a", want "<b>"\nrule: got "x�", want "y"')]
`
	if diff := cmp.Diff(want, string(text)); diff != "" {
		t.Errorf("as junitparser reads it (-want +got):\n%s", diff)
	}
}
