// SPDX-License-Identifier: Apache-2.0

package allocation

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"
)

// Source says who made a decision.
type Source string

// The sources.
const (
	SourcePolicy   Source = "policy"   // the site's policy, which nobody stands before
	SourceUpstream Source = "upstream" // the cloud function of front mode
	SourceFallback Source = "fallback" // the site's policy, because the function was unavailable
)

// Upstream is a cloud function that is asked before the site's policy (front
// mode). Ask is called from many goroutines at once, with the body of a request
// as it came. It returns within [UpstreamTime], so that the policy has its time.
//
// It returns one of these:
//
//   - the bytes of an AllocationResponse, which are checked and then passed on;
//   - an error of type [Refusal]: the function's No, which is passed on;
//   - an error that wraps an *[UnavailableError]: nobody spoke for the function,
//     and the site's policy decides in its place;
//   - any other error: the function did speak, but what it says cannot be passed
//     on. Nobody else decides then, and the service asks again.
type Upstream interface {
	Ask(ctx context.Context, body []byte) ([]byte, error)
}

// UnavailableError says that a cloud function could not be asked.
type UnavailableError struct {
	// Reason is one line for a log, such as "it answers 503 Service Unavailable".
	// It holds no secret.
	Reason string

	// Slow is set when the function let its time run out, which costs an appliance
	// more than a function that is away.
	Slow bool

	// RetryAfter is how long the function asked to be left alone, or zero.
	RetryAfter time.Duration
}

// Error gives the reason.
func (e *UnavailableError) Error() string { return "the cloud function is unavailable: " + e.Reason }

// decideUpstream asks the function, and the site's policy where that is
// unavailable.
func (s *Setup) decideUpstream(ctx context.Context, body []byte, request Request) result {
	response, err := s.Upstream.Ask(ctx, body)
	if away, ok := errors.AsType[*UnavailableError](err); ok {
		decided := from(SourceFallback, s.decideHere(ctx, request))
		decided.FallbackReason = oneLine(away.Reason)
		return decided
	}
	return from(SourceUpstream, passOn(response, err, request.LinkedHubs))
}

// from names who decided.
func from(source Source, decided result) result {
	decided.Source = source
	return decided
}

// passOn turns what the function said into a decision.
func passOn(response []byte, err error, linkedHubs []string) result {
	if err != nil {
		return fromError(err)
	}
	hub, err := responseHub(response, linkedHubs)
	if err != nil {
		return unavailable(fmt.Errorf("the cloud function answers 200, but %w", err))
	}
	decision := Decision{Status: http.StatusOK, AssignedHub: hub, Response: redact(bytes.TrimSpace(withoutByteOrderMark(response)))}
	return result{Decision: decision, wire: response}
}

// responseHub checks an AllocationResponse that somebody else has written, and
// gives the hub it names. Members that are not known here are the service's
// business. A hub that is named twice is refused, because the service may read
// the other one.
func responseHub(response []byte, linkedHubs []string) (string, error) {
	response = bytes.TrimSpace(withoutByteOrderMark(response))
	switch {
	case len(response) == 0:
		return "", errors.New("the answer is empty")
	case !json.Valid(response):
		return "", fmt.Errorf("the answer is not valid JSON at byte %d", errorOffset(response))
	case response[0] != '{':
		return "", errors.New("the answer is no JSON object")
	}
	var hub json.RawMessage
	for name, value := range members(response) {
		switch {
		case strings.EqualFold(string(name), "iotHubHostName"):
			if hub != nil {
				return "", errors.New("the answer names iotHubHostName twice")
			}
			hub = value
		case strings.EqualFold(string(name), "initialTwin") && value[0] != '{' && !isNull(value):
			return "", errors.New("the answer's initialTwin is not an object")
		}
	}
	if isNull(hub) || string(hub) == `""` {
		return "", errors.New("the answer names no iotHubHostName")
	}
	if hub[0] != '"' {
		return "", errors.New("the answer's iotHubHostName is not text")
	}
	name := unquote(hub)
	if !slices.Contains(linkedHubs, name) {
		return "", fmt.Errorf("the answer names the hub %q, which is not one of the enrollment's linked hubs", shorten(name, maxLoggedID))
	}
	return name, nil
}
