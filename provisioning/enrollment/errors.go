// SPDX-License-Identifier: Apache-2.0

package enrollment

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// ErrNotService is wrapped by the error of an answer that is not the
// provisioning service's: a login page, a proxy's error, a document that makes
// no sense.
var ErrNotService = errors.New("the answer is not the provisioning service's")

// ServiceError is an error answer of the service (dps-protocol 17.6, 3.7). Of its
// statuses 401 is a token that was not accepted, 404 an entry that does not
// exist, 409 one that does, 412 an etag of the past, 429 too many requests.
type ServiceError struct {
	HTTPStatus int           // 400 to 599
	Code       int           // six digits, the first three usually the status; 0 if none was given
	TrackingID string        // for a support request; "" if none was given
	Message    string        // the service's words, made printable and cut to 512 characters
	RetryAfter time.Duration // the service's hint, at most a day; 0 if none was given
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

// serviceError reads an answer that is no success. Below 429 it must look like
// the service's, or a login page's 404 would pass for an entry that does not
// exist; above, a front end may answer for the service without its JSON.
func serviceError(status int, header http.Header, body []byte) error {
	var document struct {
		ErrorCode  int    `json:"errorCode"`
		TrackingID string `json:"trackingId"`
		Message    string `json:"message"` // read in any case, so the hubs' "Message" too
	}
	isJSON := json.Unmarshal(body, &document) == nil
	theirs := header.Get("X-Ms-Error-Code") != "" || header.Get("X-Ms-Request-Id") != "" ||
		isJSON && (document.ErrorCode != 0 || document.TrackingID != "" || document.Message != "")
	if status < 400 || status < http.StatusTooManyRequests && !theirs {
		return fmt.Errorf("%w: status %d", ErrNotService, status)
	}
	if document.ErrorCode == 0 {
		document.ErrorCode, _ = strconv.Atoi(header.Get("X-Ms-Error-Code"))
	}
	return &ServiceError{
		HTTPStatus: status,
		Code:       document.ErrorCode,
		TrackingID: printable(document.TrackingID, maxTrackingID),
		Message:    printable(document.Message, maxMessage),
		RetryAfter: retryAfter(header.Get("Retry-After")),
	}
}

// maxRetryAfter keeps a hint from overflowing.
const maxRetryAfter = 24 * time.Hour

// retryAfter reads a number of seconds, the only form that the service uses.
func retryAfter(text string) time.Duration {
	seconds, err := strconv.ParseUint(strings.TrimSpace(text), 10, 31)
	if err != nil {
		return 0
	}
	return min(time.Duration(seconds)*time.Second, maxRetryAfter)
}
