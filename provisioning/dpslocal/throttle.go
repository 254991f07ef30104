// SPDX-License-Identifier: Apache-2.0

package dpslocal

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Throttle is how many calls the service takes before it answers 429. A figure
// of 0 means no limit. The real service's own are 1000, 1000 and 5
// (dps-protocol 2.4).
type Throttle struct {
	// Registrations and Lookups are register and registration status calls of all
	// devices together, each in a minute.
	Registrations, Lookups int

	// Polls are operation status calls of one device in ten seconds.
	Polls int
}

const (
	callWindow = time.Minute
	pollWindow = 10 * time.Second

	// minThrottleHint and maxThrottleHint bound what a 429 tells a device to wait:
	// one client drops larger values and another lifts smaller ones
	// (dps-protocol 11.4).
	minThrottleHint = 2
	maxThrottleHint = 300
)

// validate reports everything that is wrong with t at once.
func (t Throttle) validate() error {
	var errs []error
	for _, limit := range []struct {
		key   string
		value int
	}{
		{"registrations_per_minute", t.Registrations},
		{"lookups_per_minute", t.Lookups},
		{"polls_per_10s", t.Polls},
	} {
		if limit.value < 0 {
			errs = append(errs, fmt.Errorf("throttle: %s %d: give how many calls are taken, or leave it out for no limit", limit.key, limit.value))
		}
	}
	return errors.Join(errs...)
}

// throttle counts calls against the limits. Its windows are fixed: one opens
// with the first call after the last has closed, so a device that waits for as
// long as it was told finds a new one.
type throttle struct {
	limits Throttle

	mu                     sync.Mutex
	registrations, lookups window
	polls                  map[string]window // lower-cased registration ID → its window
	swept                  time.Time         // when closed windows were last dropped from polls
}

// window counts the calls since it opened.
type window struct {
	opened time.Time
	calls  int
}

// take counts a call in. It returns 0, or how long the window that is full stays
// open.
func (w *window) take(now time.Time, length time.Duration, limit int) time.Duration {
	if limit == 0 {
		return 0
	}
	if now.Sub(w.opened) >= length {
		*w = window{opened: now}
	}
	if w.calls >= limit {
		return w.opened.Add(length).Sub(now)
	}
	w.calls++
	return 0
}

// newThrottle makes a throttle that has counted nothing.
func newThrottle(limits Throttle) *throttle {
	return &throttle{limits: limits, polls: make(map[string]window)}
}

// take counts a call of a device in, and returns how long the device has to wait
// when it is one too many. Only calls with good credentials are counted, so that
// strangers cannot use up what devices need.
func (t *throttle) take(kind CallKind, registrationID string) time.Duration {
	now := time.Now()
	t.mu.Lock()
	defer t.mu.Unlock()
	switch kind {
	case RegisterCall:
		return t.registrations.take(now, callWindow, t.limits.Registrations)
	case LookupCall:
		return t.lookups.take(now, callWindow, t.limits.Lookups)
	default:
		return t.takePoll(now, strings.ToLower(registrationID))
	}
}

// takePoll counts a poll in. It needs t.mu.
func (t *throttle) takePoll(now time.Time, device string) time.Duration {
	if t.limits.Polls == 0 {
		return 0
	}
	if now.Sub(t.swept) >= pollWindow {
		t.swept = now
		for key, w := range t.polls {
			if now.Sub(w.opened) >= pollWindow {
				delete(t.polls, key)
			}
		}
	}
	w := t.polls[device]
	wait := w.take(now, pollWindow, t.limits.Polls)
	t.polls[device] = w
	return wait
}

// throttled is the answer to one call too many. It begins nothing.
func throttled(wait time.Duration) answer {
	seconds := int((wait + time.Second - 1) / time.Second)
	a := refuse(429, codeThrottled, "Too many requests. Wait for as long as Retry-After says.")
	a.retryAfter = strconv.Itoa(min(max(seconds, minThrottleHint), maxThrottleHint))
	return a
}
