// SPDX-License-Identifier: Apache-2.0

package provisioning

import (
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"strconv"
	"time"

	"github.com/contoso/gatewayd/provisioning/internal/netdial"
)

// ErrAttemptLimit is the cause of an [UnreachableError] when the service kept answering but the attempt reached its
// overall limit without an outcome. The operation may still end well: resume it by its operation ID.
var ErrAttemptLimit = errors.New("no outcome within the limit of one attempt")

// ErrNotService is wrapped by the cause of an [UnreachableError] when something answered that is not the
// provisioning service: a captive portal, a proxy's error page, an answer that makes no sense.
var ErrNotService = errors.New("the answer is not the provisioning service's")

// ErrPayload is wrapped, beside [ErrRequest], by complaints about a payload: no JSON object, or too large.
var ErrPayload = fmt.Errorf("%w: the payload", ErrRequest)

// ConfigError is what [New] says of a [Config] that cannot work.
type ConfigError struct {
	Field   string // the field's name, such as "IDScope"
	Problem string // what is wrong with it and what belongs there, one line
}

// Error gives one line.
func (e *ConfigError) Error() string { return "provisioning: " + e.Problem }

// ServiceError is an error answer of the provisioning service (dps-protocol 3.7).
type ServiceError struct {
	HTTPStatus int           // 300 to 599, over MQTT the topic's status
	Code       int           // six digits, the first three usually the status; 0 if none was given
	TrackingID string        // for a support request; "" if none was given
	Message    string        // the service's words, made printable and cut to 512 characters
	RetryAfter time.Duration // the service's hint; 0 if none was given
}

// Error gives one line.
func (e *ServiceError) Error() string {
	text := fmt.Sprintf("the provisioning service answered %d", e.HTTPStatus)
	if e.Code != 0 {
		text += fmt.Sprintf(" (code %d)", e.Code)
	}
	if e.Message != "" {
		text += ": " + e.Message
	}
	if e.TrackingID != "" {
		text += " [tracking ID " + e.TrackingID + "]"
	}
	return text
}

// LogValue gives the parts as attributes.
func (e *ServiceError) LogValue() slog.Value {
	return slog.GroupValue(
		slog.Int("http_status", e.HTTPStatus),
		slog.Int("code", e.Code),
		slog.String("tracking_id", e.TrackingID),
		slog.String("message", e.Message),
	)
}

// ProxyError is wrapped by the cause of an [UnreachableError] when the site's proxy did not connect us:
//
//	Proxy  string // host:port of the proxy; "" if the settings name none
//	Status int    // its answer to CONNECT: 407 or 401 credentials wanted or wrong, 403 refused, …; 0 if there was none that is HTTP
//	Cause  error
//
// With Status 0 the cause tells why: the network's error on the way to the proxy, TLS's, or that the answer is not HTTP.
// The user name and the password are in none of them.
type ProxyError = netdial.ProxyError

// FailedError is a registration that the service itself ended without an assignment.
type FailedError struct {
	Status  Status // StatusFailed or StatusDisabled
	Code    int    // 400207, 400208, 400209, …; 0 if none was given
	Message string // the service's words, made printable and cut to 512 characters
}

// Error gives one line.
func (e *FailedError) Error() string {
	if e.Status == StatusDisabled {
		return "the enrollment is disabled"
	}
	text := "the provisioning service ended the registration as " + string(e.Status)
	if e.Code != 0 {
		text += fmt.Sprintf(" (code %d)", e.Code)
	}
	if e.Message != "" {
		text += ": " + e.Message
	}
	return text
}

// webhookStatus finds the status in "Custom allocation failed with status code: 500" (dps-protocol 4).
var webhookStatus = regexp.MustCompile(`status code: ([1-5][0-9]{2})\b`)

// WebhookStatus returns the HTTP status with which the allocation webhook answered the service, if the message of a
// 400207 names it. 429 and above mean that the function was broken or busy until the service gave up; anything
// else, or none, is the policy's refusal.
func (e *FailedError) WebhookStatus() (status int, ok bool) {
	if e.Code != codeAllocationFailed {
		return 0, false
	}
	found := webhookStatus.FindStringSubmatch(e.Message)
	if found == nil {
		return 0, false
	}
	status, err := strconv.Atoi(found[1])
	return status, err == nil
}

// ThrottledError says that rule 2 ended an attempt: the service asked for a pause longer than an attempt waits, or
// answered 429 ten times in a row.
type ThrottledError struct {
	NextAttempt time.Time // not before this
	Cause       error     // the last answer, a *[ServiceError]; or nil when another registration drew the 429
}

// Error gives one line.
func (e *ThrottledError) Error() string {
	text := "throttled, not before " + e.NextAttempt.UTC().Format(time.RFC3339)
	if e.Cause != nil {
		text += ": " + e.Cause.Error()
	}
	return text
}

// Unwrap returns the cause.
func (e *ThrottledError) Unwrap() error { return e.Cause }

// UnreachableError says that an attempt ended without the provisioning service's word on the registration: no
// connection, no trust, no answer in time, an answer that is not the service's, or only 5xx.
type UnreachableError struct {
	Op          string    // what was being done: "connecting", "submitting", "polling operation", "looking up"
	Cause       error     // what went wrong
	NextAttempt time.Time // not before this, if the service named a time; else zero

	// Unsent says that no register request of this attempt can have reached the service, so that the next attempt is not
	// [Request.Interrupted] because of this one.
	Unsent bool
}

// Error gives one line.
func (e *UnreachableError) Error() string { return e.Op + ": " + e.Cause.Error() }

// Unwrap returns the cause.
func (e *UnreachableError) Unwrap() error { return e.Cause }
