// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"bytes"
	"fmt"
	"mime"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/contoso/gatewayd/allocation"
)

// Bounds of what is shown of others' words in a reason, in characters.
const (
	maxExcerpt = 120 // of an answer
	maxTrouble = 300 // of an error that may quote what came
)

// meaning turns an answer into what [Client.Ask] returns; the package's
// documentation has the table.
func (c *Client) meaning(response *http.Response, body []byte) ([]byte, error) {
	status := response.StatusCode
	page := isPage(response.Header.Get("Content-Type"), body)
	switch {
	case status >= http.StatusTooManyRequests:
		return nil, &hiccupError{allocation.UnavailableError{
			Reason:     answers(status) + c.excerpt(page, body),
			RetryAfter: retryAfter(response.Header.Get("Retry-After")),
		}}
	case status >= 300 && status < 400:
		return nil, away("%s, a redirect to %s, which is not followed: it may be a login page, or the app has moved", answers(status), c.target(response))
	case advice[status] != "":
		return nil, away("%s%s: %s", answers(status), c.excerpt(page, body), advice[status])
	case page:
		return nil, away("%s with a page for people, so something else speaks for it", answers(status))
	case status == http.StatusOK && len(body) > maxAnswer:
		return nil, fmt.Errorf("the cloud function answers more than %d KiB, which no AllocationResponse has", maxAnswer>>10)
	case status == http.StatusOK:
		return body, nil
	case status < 300, isAboutRequest(status):
		return nil, fmt.Errorf("the cloud function %s%s, which decides nothing", answers(status)[len("it "):], c.excerpt(page, body))
	default:
		return nil, allocation.Refusal{Message: c.refusal(status, body)}
	}
}

// advice holds the statuses below 429 that come from what stands in front of a
// function and not from the function itself, each with what to look at.
var advice = map[int]string{
	http.StatusUnauthorized:       "the function key is missing or wrong; give the current one (upstream_key and a reload, or gatewayctl's --key-file)",
	http.StatusForbidden:          "the app is stopped, over its quota, or closed to this address",
	http.StatusNotFound:           "there is no function at this address; compare upstream with the function's URL in the portal",
	http.StatusMethodNotAllowed:   "the function does not take POST; compare upstream with the function's URL in the portal",
	http.StatusProxyAuthRequired:  "a proxy wants a user name and password; set HTTPS_PROXY",
	http.StatusRequestTimeout:     "the request did not arrive in time",
	http.StatusMisdirectedRequest: "another server answers at this address",
	http.StatusTooEarly:           "the server wants the request again later",
	http.StatusUpgradeRequired:    "the server wants another protocol than HTTP/1.1",
}

// isAboutRequest tells whether a status judges the form of this one request. It
// says nothing of the appliance, and nothing of the function's health.
func isAboutRequest(status int) bool {
	switch status {
	case http.StatusLengthRequired, http.StatusRequestEntityTooLarge, http.StatusRequestURITooLong, http.StatusUnsupportedMediaType:
		return true
	default:
		return false
	}
}

// isPage tells a page for people, such as Azure's "this web app is stopped", from
// an answer by a function.
func isPage(contentType string, body []byte) bool {
	kind, _, _ := mime.ParseMediaType(contentType)
	return kind == "text/html" || bytes.HasPrefix(bytes.TrimSpace(body), []byte("<"))
}

func away(format string, args ...any) error {
	return &allocation.UnavailableError{Reason: fmt.Sprintf(format, args...)}
}

// answers words a status.
func answers(status int) string {
	return strings.TrimSpace(fmt.Sprintf("it answers %d %s", status, http.StatusText(status)))
}

// refusal is the function's word as one line; its reader bounds it.
func (c *Client) refusal(status int, body []byte) string {
	text := c.plain(string(body))
	if text == "" {
		text = fmt.Sprintf("The allocation function refused the device with status %d and gave no reason.", status)
	}
	return text
}

// excerpt shows the beginning of an answer that says why, quoted. Pages say
// nothing in their first lines.
func (c *Client) excerpt(page bool, body []byte) string {
	text := c.plain(string(body))
	if page || text == "" {
		return ""
	}
	return " (" + strconv.Quote(shorten(text, maxExcerpt)) + ")"
}

// shorten cuts text to at most limit characters and shows that it did.
func shorten(text string, limit int) string {
	if characters := []rune(text); len(characters) > limit {
		return string(characters[:limit]) + "…"
	}
	return text
}

// plain gives a text without line breaks, without control characters, and without
// the key, which a function might repeat.
func (c *Client) plain(text string) string {
	text = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(text, "\ufffd"))
	return c.key.hide(strings.Join(strings.Fields(text), " "))
}

// target is where a redirect leads, without its query.
func (c *Client) target(response *http.Response) string {
	location, err := url.Parse(response.Header.Get("Location"))
	if err != nil || location.String() == "" {
		return "nowhere"
	}
	location.User, location.RawQuery, location.Fragment = nil, "", ""
	return strconv.Quote(c.key.hide(location.String()))
}

// retryAfter reads the header in both its forms; 0 when there is none.
func retryAfter(header string) time.Duration {
	if seconds, err := strconv.ParseUint(header, 10, 31); err == nil {
		return time.Duration(seconds) * time.Second
	}
	if at, err := http.ParseTime(header); err == nil {
		return max(time.Until(at), 0)
	}
	return 0
}
