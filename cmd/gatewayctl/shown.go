// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/term"

	"github.com/contoso/gatewayd/allocation"
)

// azureHubs ends the names of hubs in Azure. Where room is short it is left out.
const azureHubs = ".azure-devices.net"

// printable makes text of others safe to print on one line: what could steer a
// terminal is escaped.
func printable(text string) string {
	var shown strings.Builder
	for i := 0; i < len(text); {
		r, size := utf8.DecodeRuneInString(text[i:])
		switch {
		case r == utf8.RuneError && size == 1:
			fmt.Fprintf(&shown, `\x%02x`, text[i])
		case unicode.IsPrint(r):
			shown.WriteRune(r)
		case r > 0xffff:
			fmt.Fprintf(&shown, `\U%08x`, r)
		default:
			fmt.Fprintf(&shown, `\u%04x`, r)
		}
		i += size
	}
	return shown.String()
}

// clipped is printable text of at most width characters.
func clipped(text string, width int) string {
	text = printable(text)
	if utf8.RuneCountInString(text) <= width {
		return text
	}
	return string([]rune(text)[:max(width-1, 0)]) + "…"
}

// widthOf is how many columns a writer has: those of its terminal, or 80.
func widthOf(out io.Writer) int {
	if file, ok := out.(*os.File); ok {
		if width, _, err := term.GetSize(int(file.Fd())); err == nil && width >= 40 {
			return width
		}
	}
	return 80
}

// shortHub is a hub's name without what all have in common.
func shortHub(hub string) string { return strings.TrimSuffix(hub, azureHubs) }

// answerText says in few words what an answer is.
func answerText(a allocation.Answer) string {
	switch a.Status {
	case http.StatusOK:
		return said(a)
	case http.StatusBadRequest:
		return "refused: " + said(a)
	default:
		return fmt.Sprintf("%d: %s", a.Status, said(a))
	}
}

// said is answerText where the status stands beside it.
func said(a allocation.Answer) string {
	if a.Status == http.StatusOK {
		return shortHub(a.Hub())
	}
	return a.Refusal
}

// padded is text filled up to width characters.
func padded(text string, width int) string {
	return text + strings.Repeat(" ", max(0, width-utf8.RuneCountInString(text)))
}
