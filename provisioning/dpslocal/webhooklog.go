// SPDX-License-Identifier: Apache-2.0

package dpslocal

import (
	"bytes"
	"fmt"
	"io"
	"net/url"
	"path"
	"strconv"
	"strings"
	"sync"
	"time"
)

// webhookLog prints each exchange with a webhook in the form in which the Azure
// portal shows the log of the tutorial's function.
type webhookLog struct {
	mu sync.Mutex // one exchange after the other
	w  io.Writer
}

// write prints one exchange: the seven lines that the portal shows. A call that
// the service will repeat counts as failed, as a function that throws does; a
// refusal is a function that worked.
func (l *webhookLog) write(webhookURL string, request []byte, outcome webhookOutcome, begun, ended time.Time) {
	name := "webhook"
	if u, err := url.Parse(webhookURL); err == nil && u.Path != "" && u.Path != "/" {
		name = path.Base(u.Path)
	}
	id := newGUID()
	var text bytes.Buffer
	line := func(at time.Time, level, format string, args ...any) {
		fmt.Fprintf(&text, "%s [%s] %s\n", at.UTC().Format("2006-01-02T15:04:05.000"), level, printable(fmt.Sprintf(format, args...)))
	}
	line(begun, "Information", "Executing 'Functions.%s' (Reason='This function was programmatically called via the host APIs.', Id=%s)", name, id)
	line(begun, "Information", "C# HTTP trigger function processed a request.")
	line(begun, "Information", "Request.Body:...")
	line(begun, "Information", "%s", request)
	line(ended, "Information", "Response")
	result, level := "Succeeded", "Information"
	if outcome.again() {
		result, level = "Failed", "Error"
	}
	switch {
	case outcome.err != nil:
		line(ended, level, "%s", outcome.err)
	case len(outcome.body) == 0:
		line(ended, level, "status code: %d", outcome.status)
	default:
		line(ended, level, "%s", outcome.body)
	}
	line(ended, level, "Executed 'Functions.%s' (%s, Id=%s, Duration=%dms)", name, result, id, ended.Sub(begun).Milliseconds())

	l.mu.Lock()
	defer l.mu.Unlock()
	_, _ = l.w.Write(text.Bytes())
}

// printable escapes control characters: what a device or a webhook sent ends up
// on somebody's terminal.
func printable(text string) string {
	var b strings.Builder
	for _, r := range text {
		if strconv.IsPrint(r) {
			b.WriteRune(r)
		} else {
			b.WriteString(strings.Trim(strconv.QuoteRune(r), "'"))
		}
	}
	return b.String()
}
