// SPDX-License-Identifier: Apache-2.0

package provisioning

import (
	"errors"
	"fmt"
	"net/http"
	"time"
)

// CredentialError is a 401 that rule 5 could not mend: the service accepts neither of the device's keys although the
// clock is right, or not its certificate. It unwraps to the service's answer.
type CredentialError struct {
	Cause       *ServiceError
	Tried       int  // how many keys were tried
	Certificate bool // a certificate was shown in place of keys

	// Skew is how far the service's clock was ahead of the one that signed the first refused token, if SkewKnown: an MQTT
	// connection may be refused without a word about the time. Corrected says that it was more than five minutes, and
	// that the service refused tokens by its own clock too.
	Skew                 time.Duration
	SkewKnown, Corrected bool
}

// Error gives one line.
func (e *CredentialError) Error() string {
	what := "the key was not accepted"
	switch {
	case e.Certificate:
		what = "the certificate was not accepted"
	case e.Tried > 1:
		what = fmt.Sprintf("none of %d keys was accepted", e.Tried)
	}
	switch {
	case e.Corrected:
		what += fmt.Sprintf(", by the service's clock, which is %s off ours, neither", e.Skew.Abs().Round(time.Second))
	case e.SkewKnown && e.Skew.Abs() <= skewLimit:
		what += ", and the clock is right"
	case e.SkewKnown:
		what += fmt.Sprintf(", and the service's clock is %s off ours", e.Skew.Abs().Round(time.Second))
	}
	return e.Cause.Error() + "; " + what
}

// Unwrap returns the service's answer.
func (e *CredentialError) Unwrap() error { return e.Cause }

// remedies are what was done about the 401s to one kind of request. Each is tried once in an attempt, so that nothing
// goes round in circles.
type remedies struct {
	clock     bool
	keys      int // tried, the first one included
	skew      time.Duration
	skewKnown bool
}

// mend looks at an answer that is no success. It returns nil if the request is to be repeated because a 401 may have
// been mended: with the service's time, or else with the next key (rule 5).
func (a *attempt) mend(q question, answer reply, err error) error {
	var refused *ServiceError
	if !errors.As(err, &refused) || refused.HTTPStatus != http.StatusUnauthorized {
		return err
	}
	tried := a.tried[q.op]
	if tried == nil {
		tried = &remedies{keys: min(1, len(a.credential.keys))}
		a.tried[q.op] = tried
	}
	defer a.session.reset()

	if service := answer.clock(); !service.IsZero() && !tried.skewKnown && tried.keys > 0 {
		tried.skew, tried.skewKnown = a.credential.skew(service, answer.at), true
		// Another attempt may have corrected the clock since this token was signed.
		if tried.skew.Abs() > skewLimit && a.credential.clock.follow(service, answer.at) {
			tried.clock = true
			return a.again(refused)
		}
	}
	if tried.keys < len(a.credential.keys) {
		tried.keys++
		was := a.credential.using
		a.credential.turnKey()
		// The repeat waits for its turn behind others, which need not be refused first.
		a.worked.CompareAndSwap(int64(was), int64(a.credential.using))
		a.log.Warn("the provisioning service did not accept the key; trying the other", "doing", q.op, "key", a.credential.using+1, "err", refused)
		return a.again(refused)
	}
	return &CredentialError{
		Cause:       refused,
		Tried:       tried.keys,
		Certificate: len(a.credential.keys) == 0,
		Skew:        tried.skew,
		SkewKnown:   tried.skewKnown,
		Corrected:   tried.clock,
	}
}

// again reports that a refused request is repeated at once.
func (a *attempt) again(refused *ServiceError) error {
	if err := a.observe(Progress{Step: StepRetrying, Attempt: 1, Err: refused}); err != nil {
		return &observeError{err}
	}
	return nil
}
