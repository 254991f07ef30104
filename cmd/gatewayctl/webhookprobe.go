// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/contoso/gatewayd/allocation"
	"github.com/contoso/gatewayd/provisioning"
	"github.com/contoso/gatewayd/provisioning/enrollment"
)

const (
	// probeID is the registration ID of a dry request. It is no appliance's, so
	// a policy refuses it, or treats it as any device that it does not know.
	probeID = "gatewayd-probe"

	// probeHub stands for the linked hubs of an enrollment that names none: only
	// the service knows them.
	probeHub = "gatewayd-probe.azure-devices.net"

	// probeTimeout bounds a dry request. What the service allows a webhook is not
	// documented (dps-protocol 12.3).
	probeTimeout = 15 * time.Second

	// slowAnswer is when an answer is worth a word: a webhook is a link in a
	// chain that a device waits for.
	slowAnswer = 5 * time.Second

	maxProbeAnswer = 64 << 10 // of an AllocationResponse
	maxQuotedText  = 200      // of a refusal, in characters
)

// prober asks webhooks what the service would ask them.
type prober struct{ client *http.Client }

// newProber makes one that trusts roots, or the system's for nil. It asks once
// and follows no redirect, like the service as far as is known.
func newProber(roots *x509.CertPool) prober {
	return prober{&http.Client{
		Timeout: probeTimeout,
		Transport: &http.Transport{
			Proxy:             http.ProxyFromEnvironment,
			TLSClientConfig:   &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots},
			ForceAttemptHTTP2: true,
			DisableKeepAlives: true, // one request, and no connection left behind
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// dryRequest is an AllocationRequest of this enrollment for a device that does
// not exist (dps-protocol 12.1). Keys are not in it, and the webhook's URL is
// masked, as in the service's own.
func dryRequest[E enrollment.Kind](kind entryKind[E], e E) (body []byte, hubs []string, err error) {
	entry := kind.entry(&e) // of our copy
	entry.Attestation = enrollment.Attestation{Type: entry.Attestation.Type}
	document, err := json.Marshal(e)
	if err != nil {
		return nil, nil, err
	}
	id := probeID
	request := allocation.Request{DeviceRuntimeContext: allocation.DeviceRuntimeContext{RegistrationID: &id}}
	switch {
	case len(entry.IoTHubs) > 0:
		request.LinkedHubs = entry.IoTHubs
	case entry.IoTHubHostName != "":
		request.LinkedHubs = []string{entry.IoTHubHostName}
	default:
		request.LinkedHubs = []string{probeHub}
	}
	if kind.group {
		request.EnrollmentGroup = document
	} else {
		request.IndividualEnrollment = document
	}
	if entry.Attestation.Type == enrollment.AttestationX509 {
		request.DeviceRuntimeContext.X509 = json.RawMessage(`{}`)
	} else {
		request.DeviceRuntimeContext.SymmetricKey = json.RawMessage(`{}`)
	}
	body, err = json.Marshal(request)
	return body, request.LinkedHubs, err
}

// probeCheck names the finding of a dry request.
const probeCheck = "webhook"

// ask sends a dry request and says what the service would make of the answer.
// An answer with which devices can be assigned or refused is ok.
func (p prober) ask(ctx context.Context, address enrollment.WebhookURL, body []byte, hubs []string) finding {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, address.Reveal(), bytes.NewReader(body))
	if err != nil {
		return wrong(probeCheck, "Write it as https://host/api/name?code=key.", "its URL cannot be used")
	}
	request.Header.Set("Content-Type", "application/json; charset=utf-8")
	request.Header.Set("User-Agent", "gatewayctl")
	began := time.Now()
	response, err := p.client.Do(request)
	if err != nil {
		return unreachable(err)
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(response.Body, maxProbeAnswer+1))
	if err != nil {
		return unreachable(err)
	}
	elapsed := time.Since(began)
	found := judgeAnswer(response.StatusCode, response.Header, answer, hubs)
	found.What += fmt.Sprintf(" (%s)", max(elapsed.Round(time.Millisecond), time.Millisecond))
	if found.Verdict == verdictOK && elapsed > slowAnswer {
		found.Verdict, found.Next = verdictNote, "Look for what it waits for: how long DPS waits for a webhook is not documented."
	}
	return found
}

// judgeAnswer reads an answer as the service does, row by row of dps-protocol 12.4.
func judgeAnswer(status int, header http.Header, answer []byte, hubs []string) finding {
	const looksLikeAPage = "See whether the URL is the function's own: a login page or a proxy answers in its place."
	text := quoteAnswer(answer)
	isPage := strings.HasPrefix(header.Get("Content-Type"), "text/html") || strings.HasPrefix(text, "<")
	switch {
	case status == http.StatusOK:
		var response allocation.Response
		if json.Unmarshal(answer, &response) != nil || len(answer) > maxProbeAnswer {
			return wrong(probeCheck, looksLikeAPage, "it answers 200 without an AllocationResponse, for which devices fail with 400207")
		}
		switch hub := response.IoTHubHostName; {
		case hub == "":
			return wrong(probeCheck, "Have the function name a hub, or refuse with 400.", "it answers 200 without a hub, for which devices fail with 400208")
		case !slices.ContainsFunc(hubs, func(linked string) bool { return strings.EqualFold(linked, hub) }):
			return wrong(probeCheck, "Have the function choose among the request's linkedHubs, or add the hub to the enrollment.",
				"it chooses the hub %s, which the enrollment does not have", cell(hub))
		default:
			return ok(probeCheck, "it answers, and would send a device that it does not know to %s", cell(hub))
		}
	case status == http.StatusBadRequest && isPage:
		return wrong(probeCheck, looksLikeAPage, "it answers 400 with a web page, which no function does")
	case status == http.StatusBadRequest:
		return ok(probeCheck, "it answers, and refuses a device that it does not know: %s", text)
	case status == http.StatusUnauthorized:
		return wrong(probeCheck, "Copy the function's key again, and put it behind ?code= in the URL; gatewayd's are in the file of [allocation] function_keys.",
			"it answers 401: the function key is missing or wrong, and devices fail with 400209")
	case status == http.StatusForbidden:
		return wrong(probeCheck, "See whether the function app is stopped, or lets in certain addresses, networks or client certificates only: DPS can satisfy none of these.",
			"it answers 403, and devices fail with 400207")
	case status == http.StatusNotFound:
		return wrong(probeCheck, "Correct the path of the URL: gatewayd answers at /api/ and any one name, a function app at /api/ and the function's.",
			"it answers 404: there is no function at this path, and devices fail with 400207")
	case status >= 300 && status < 400:
		return wrong(probeCheck, "Give the address that it redirects to: whether DPS follows is not documented.",
			"it redirects elsewhere (%d)", status)
	case status == http.StatusTooManyRequests || status == http.StatusServiceUnavailable:
		return wrong(probeCheck, "Wait, or see in its log what it lacks; DPS would ask again for seven minutes.", "it answers %d: not at the moment", status)
	case status > http.StatusTooManyRequests:
		return wrong(probeCheck, "See its log; behind a proxy, whether the proxy reaches it. DPS would ask again for seven minutes, then devices fail with 400207.",
			"it answers %d: it is in trouble", status)
	default:
		return wrong(probeCheck, "See its log: a webhook answers 200, or 400 for a device that must not be here.",
			"it answers %d, and devices fail with 400207", status)
	}
}

// quoteAnswer shows the beginning of what a stranger said, on one line.
func quoteAnswer(answer []byte) string {
	clean := strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) || r == unicode.ReplacementChar {
			return ' '
		}
		return r
	}, string(answer[:min(len(answer), 4*maxQuotedText)]))
	text := strings.Join(strings.Fields(clean), " ")
	if letters := []rune(text); len(letters) > maxQuotedText {
		text = string(letters[:maxQuotedText-1]) + "…"
	}
	if text == "" {
		return "(without a word)"
	}
	return text
}

// unreachable says why there was no answer. The kinds are those of a
// registration's diagnosis; the words are about a webhook.
func unreachable(err error) finding {
	if wrapped, isURL := errors.AsType[*url.Error](err); isURL {
		err = wrapped.Err // without the URL, which holds the key
	}
	switch kind := provisioning.Verdict(err).Kind; kind {
	case "dns", "dns-silent":
		return wrong(probeCheck, "Check its spelling, and that it is in the public DNS.", "its host name is not known here")
	case "connection-refused":
		return wrong(probeCheck, "See whether it runs, and listens on this port and address.", "the connection is refused: nothing listens there")
	case "no-route":
		return wrong(probeCheck, "Check the address, and this machine's network.", "there is no way from here to its address")
	case "timeout":
		return wrong(probeCheck, "See whether it runs, and whether a firewall drops packets on the way.", "there is no answer within %s", probeTimeout)
	case "tls-untrusted":
		return wrong(probeCheck, "Serve a certificate of a public authority with its intermediates: as far as is known DPS trusts nothing else. For a local service give --webhook-ca-file.",
			"its certificate is not signed by a trusted root, or its intermediates are missing")
	case "tls-name":
		return wrong(probeCheck, "Use the name in the certificate, or have one made for this name.", "its certificate is for another name")
	case "tls-expired", "tls-clock":
		return wrong(probeCheck, "Renew it; if it is good, check this machine's clock.", "its certificate is not valid today")
	case "tls-refused", "tls-refused-certificate":
		return wrong(probeCheck, "Ask for no client certificate, and speak TLS 1.2 at least: DPS presents none.", "it breaks off the TLS handshake")
	case "interrupted":
		return wrong(probeCheck, "Run the command again.", "the question was interrupted")
	case "connection-lost":
		return wrong(probeCheck, "See whether it speaks TLS on this port, and whether a proxy closes the connection.", "it closes the connection without an answer")
	default:
		return wrong(probeCheck, "See whether it speaks HTTPS on this port.", "there is no answer: %s", quoteAnswer([]byte(err.Error())))
	}
}
