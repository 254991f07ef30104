// SPDX-License-Identifier: Apache-2.0

package allocation

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"runtime/debug"
	"slices"
	"time"
)

// How long an answer may take. The service is given one within five seconds
// (dps-protocol 12.3), and in front mode, where a function may have to be started
// first, within 15; what does not come in time is answered with 503.
const (
	answerTime = 4500 * time.Millisecond // everything that is asked here, together
	policyTime = 2 * time.Second         // the policy alone

	// UpstreamTime is what an Upstream may take besides.
	UpstreamTime = 8 * time.Second

	// AnswerTime is what the longest answer takes: a stop that waits for it cuts
	// nobody off.
	AnswerTime = UpstreamTime + answerTime
)

// Setup is everything that an answer depends on besides the request. A [Handler]
// replaces it as a whole: each request is answered by one setup from its key to
// its last tag. A setup is not changed once a handler has it.
type Setup struct {
	// Policy decides. Required.
	Policy Policy

	// PolicyDigest names the policy's text in the record of a decision. Default:
	// none, for a policy that is no text.
	PolicyDigest string

	// Directory has the rows that a policy which is a [DirectoryUser] reads.
	// Default: none, and such a policy cannot decide.
	Directory Directory

	// FunctionKeys are all valid at once, so that a key can be changed without a
	// gap. Without keys everyone is let in: the caller must then serve loopback
	// only.
	FunctionKeys []FunctionKey

	// Upstream, unless nil, is asked before the policy, which then decides only
	// while it is unavailable (front mode).
	Upstream Upstream

	use DirectoryUse // what Policy wants of Directory
}

// clone protects a handler from a caller that goes on using its lists, and asks
// the policy once what it wants of the directory.
func (s Setup) clone() *Setup {
	s.FunctionKeys = slices.Clone(s.FunctionKeys)
	s.use = directoryUse(s.Policy)
	return &s
}

// Replace puts a setup in the place of the one that answered until now. Requests
// under way are finished by the old one.
//
// Where there were function keys a setup without them is refused, and the old
// one stays: it would open a webhook that was locked.
func (h *Handler) Replace(setup Setup) error {
	if len(setup.FunctionKeys) == 0 && len(h.setup.Load().FunctionKeys) > 0 {
		return errors.New("replacing the function keys: the list is empty; the old keys stay in force")
	}
	h.setup.Store(setup.clone())
	return nil
}

// bound gives an answer its time. Where the policy alone is asked, which has a time
// of its own, there is nothing to bound.
func (s *Setup) bound(ctx context.Context) (context.Context, context.CancelFunc) {
	if s.Upstream == nil && !s.use.Used {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, s.time())
}

// time is how long an answer may take.
func (s *Setup) time() time.Duration {
	if s.Upstream == nil {
		return answerTime
	}
	return AnswerTime
}

// decide answers a request that was let in, from its body as it came and what was
// read in that: the setup's parts are asked in turn.
func (s *Setup) decide(ctx context.Context, body []byte, request Request) result {
	if s.Upstream == nil {
		return from(SourcePolicy, s.decideHere(ctx, request))
	}
	return s.decideUpstream(ctx, body, request)
}

// decideHere answers without asking anyone in the cloud: the policy decides, on
// the device's row in the site's directory.
func (s *Setup) decideHere(ctx context.Context, request Request) result {
	device, lookup, trouble, err := s.device(ctx, request.DeviceRuntimeContext.RegistrationID)
	var decided result
	if err != nil {
		decided = fromError(err)
	} else {
		decided = s.decideByPolicy(ctx, Question{Request: request, Device: device})
		decided.Device, decided.DirectoryTrouble = redactRow(device), trouble
	}
	decided.Lookup, decided.PolicyDigest = lookup, s.PolicyDigest
	return decided
}

// decideByPolicy turns what the policy says into a decision.
func (s *Setup) decideByPolicy(ctx context.Context, question Question) result {
	response, err := s.askPolicy(ctx, question)
	if err != nil {
		return fromError(err)
	}
	// The service fails a registration for a hub that it does not offer, and it
	// does so for good; a policy with such a mistake should be mended instead.
	if !slices.Contains(question.Request.LinkedHubs, response.IoTHubHostName) {
		return unavailable(fmt.Errorf("the policy chose the hub %q, which is not one of the enrollment's linked hubs", shorten(response.IoTHubHostName, maxLoggedID)))
	}
	wire, err := response.Encode()
	if err != nil {
		return unavailable(err)
	}
	decision := Decision{Status: http.StatusOK, Rule: response.Rule, AssignedHub: response.IoTHubHostName, Response: redact(wire)}
	return result{Decision: decision, wire: wire}
}

// askPolicy calls the policy and turns a panic into an error, so that a mistake
// in a policy costs one answer and not the connection.
func (s *Setup) askPolicy(ctx context.Context, question Question) (response Response, err error) {
	defer func() {
		if reason := recover(); reason != nil {
			err = fmt.Errorf("the policy panicked: %v\n%s", reason, debug.Stack())
		}
	}()
	if _, quick := s.Policy.(TutorialPolicy); quick {
		// It never waits, and a clock would cost more than its answer.
		return s.Policy.Decide(ctx, question)
	}
	ctx, cancel := context.WithTimeout(ctx, policyTime)
	defer cancel()
	return s.Policy.Decide(ctx, question)
}
