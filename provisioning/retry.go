// SPDX-License-Identifier: Apache-2.0

package provisioning

import (
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// statusLater is the first status that means "ask again later": 429 and everything above it (rule 2).
const statusLater = http.StatusTooManyRequests

// Rule 2's numbers. The service documents count 10, initial interval 1 s, increment 9 s for its own retries
// (dps-protocol 12.5) and we return the courtesy.
const (
	maxFailures    = 10
	retryInitial   = time.Second
	retryIncrement = 9 * time.Second
	longestHint    = 5 * time.Minute // a longer one ends the attempt
	longestNextTry = 24 * time.Hour  // no hint keeps a device away for longer
	jitterShare    = 10              // per cent
)

// documentedDelay is the least wait before retry n, from 1: 1 s, then 9 s more each time.
func documentedDelay(n int) time.Duration {
	return retryInitial + time.Duration(n-1)*retryIncrement
}

// retryDelay is rule 2's wait before retry n. With a hint it is the hint and up to a tenth more; without one, which
// a hint of zero counts as, it is the documented delay and a random part of spread, the time that the whole fleet
// needs within its budget (dps-protocol 11.3), so that neighbours do not come back in step.
func retryDelay(n int, hint, spread time.Duration) time.Duration {
	if hint > 0 {
		return hint + upTo(hint*jitterShare/100)
	}
	delay := documentedDelay(n)
	return delay + upTo(max(spread, delay*jitterShare/100))
}

// fleetSpread is T = N / rate of the scale guide (dps-protocol 11.3), with the whole budget as the load.
func fleetSpread(devices int, perMinute float64) time.Duration {
	return time.Duration(float64(max(devices, 1)) / perMinute * float64(time.Minute))
}

// upTo draws a duration from 0 to most.
func upTo(most time.Duration) time.Duration {
	if most <= 0 {
		return 0
	}
	return rand.N(most + 1)
}

// Rule 1's numbers.
const (
	pollWindow   = 10 * time.Second
	pollsInIt    = 5 // documented: 5 polls per 10 s per device (dps-protocol 2.4)
	steadyPolls  = 2500 * time.Millisecond
	secondPollIn = time.Second
	firstPollIn  = 500 * time.Millisecond
)

// pollDelay is rule 1's wait after answer n, from 1, counted from the answer.
func pollDelay(n int, hint time.Duration, hinted bool) time.Duration {
	switch {
	case hinted:
		return hint
	case n == 1:
		return firstPollIn
	case n == 2:
		return secondPollIn
	default:
		return steadyPolls
	}
}

// hint is how long the service asks to wait, counted from the answer.
func (r reply) hint() (wait time.Duration, hinted bool) {
	// A date is meant by the service's clock. Where the answer shows that clock we measure by it, because a gateway
	// without a battery may be years off.
	now := r.at
	if !r.date.IsZero() {
		now = r.date
	}
	return parseRetryAfter(r.retryAfter, now)
}

// parseRetryAfter reads a hint: whole seconds, or an HTTP date, which is compared with now. Anything else is no
// hint. The result is never negative and at most a day.
func parseRetryAfter(text string, now time.Time) (wait time.Duration, ok bool) {
	text = strings.TrimSpace(text)
	if text == "" || len(text) > 64 {
		return 0, false
	}
	if strings.Trim(text, "0123456789") == "" {
		seconds, err := strconv.ParseInt(text, 10, 64)
		if err != nil || seconds > int64(longestNextTry/time.Second) {
			return longestNextTry, true
		}
		return time.Duration(seconds) * time.Second, true
	}
	at, err := http.ParseTime(text)
	if err != nil {
		return 0, false
	}
	return min(max(at.Sub(now), 0), longestNextTry), true
}
