// SPDX-License-Identifier: Apache-2.0

package cases

import (
	"encoding/xml"
	"fmt"
	"io"
	"strings"
	"time"
	"unicode/utf8"
)

// WriteJUnit writes a report as JUnit's XML, in the form that Jenkins, GitLab,
// Azure Pipelines and others read: one suite, one test case for each case.
func WriteJUnit(w io.Writer, report *Report) error {
	var total time.Duration
	for i := range report.Results {
		total += report.Results[i].Duration
	}
	suite := xmlSuite{
		Name: clean(report.File), Tests: len(report.Results), Failures: report.Failed(),
		Time: seconds(total), Timestamp: report.Began.UTC().Format("2006-01-02T15:04:05"), Hostname: "localhost",
	}
	for i := range report.Results {
		suite.Cases = append(suite.Cases, newXMLCase(report.File, &report.Results[i]))
	}
	if len(report.Unreached) > 0 {
		suite.Out = clean("rules that no case reached: " + strings.Join(report.Unreached, ", "))
	}
	all := xmlSuites{Tests: suite.Tests, Failures: suite.Failures, Time: suite.Time, Suites: []xmlSuite{suite}}
	if _, err := io.WriteString(w, xml.Header); err != nil {
		return err
	}
	encoder := xml.NewEncoder(w)
	encoder.Indent("", "  ")
	if err := encoder.Encode(all); err != nil {
		return err
	}
	_, err := io.WriteString(w, "\n")
	return err
}

type xmlSuites struct {
	XMLName  xml.Name   `xml:"testsuites"`
	Tests    int        `xml:"tests,attr"`
	Failures int        `xml:"failures,attr"`
	Errors   int        `xml:"errors,attr"`
	Time     string     `xml:"time,attr"`
	Suites   []xmlSuite `xml:"testsuite"`
}

type xmlSuite struct {
	Name      string    `xml:"name,attr"`
	Tests     int       `xml:"tests,attr"`
	Failures  int       `xml:"failures,attr"`
	Errors    int       `xml:"errors,attr"`
	Skipped   int       `xml:"skipped,attr"`
	Time      string    `xml:"time,attr"`
	Timestamp string    `xml:"timestamp,attr"`
	Hostname  string    `xml:"hostname,attr"`
	Cases     []xmlCase `xml:"testcase"`
	Out       string    `xml:"system-out,omitempty"`
}

type xmlCase struct {
	Name    string      `xml:"name,attr"`
	Class   string      `xml:"classname,attr"`
	File    string      `xml:"file,attr"`
	Line    int         `xml:"line,attr,omitempty"`
	Time    string      `xml:"time,attr"`
	Failure *xmlFailure `xml:"failure"`
}

type xmlFailure struct {
	Message string `xml:"message,attr"`
	Type    string `xml:"type,attr"`
	Text    string `xml:",chardata"`
}

func newXMLCase(file string, result *Result) xmlCase {
	c := xmlCase{Name: clean(result.Case.Name), Class: clean(className(file)), File: clean(file), Line: result.Case.Line, Time: seconds(result.Duration)}
	if !result.Passed() {
		where := fmt.Sprintf("%s:%d\n", file, result.Case.Line)
		c.Failure = &xmlFailure{Message: clean(result.Failures[0]), Type: "mismatch", Text: clean(where + strings.Join(result.Failures, "\n"))}
	}
	return c
}

// className is the file's name as the name of a class, in which a dot would begin
// another package.
func className(file string) string {
	name := file[strings.LastIndexAny(file, `/\`)+1:]
	return strings.ReplaceAll(strings.TrimSuffix(name, ".toml"), ".", "_")
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.6f", d.Seconds()) }

// clean replaces what XML cannot hold even as an escape.
func clean(text string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\t' || r == '\n' || r == '\r', r >= 0x20 && r <= 0xd7ff, r >= 0xe000 && r <= 0xfffd && r != utf8.RuneError, r >= 0x10000:
			return r
		default:
			return '\ufffd'
		}
	}, text)
}
