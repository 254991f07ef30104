// SPDX-License-Identifier: Apache-2.0

package conformancetest

import (
	"fmt"
	"net/http"
	"time"
)

// The answers of scripts, written by hand and not by any client's types.

// Assigning is a 202 with a hint, or without one if it is "".
func Assigning(retryAfter string) Answer {
	return Answer{
		Status: http.StatusAccepted, RetryAfter: retryAfter,
		Body: `{"operationId":"` + Operation + `","status":"assigning"}`,
	}
}

// Assigned is the good end.
func Assigned(operationID string) Answer { return AssignedTo(operationID, Hub, "device-1") }

// AssignedTo is the good end at a hub, under a device ID.
func AssignedTo(operationID, hub, deviceID string) Answer {
	return Answer{Status: http.StatusOK, Body: fmt.Sprintf(`{"operationId":%q,"status":"assigned","registrationState":{`+
		`"assignedHub":%q,"deviceId":%q,"status":"assigned","substatus":"initialAssignment"}}`, operationID, hub, deviceID)}
}

// Failed is the bad end: status 200, and a code in the body.
func Failed(code int, message string) Answer {
	return Answer{Status: http.StatusOK, Body: fmt.Sprintf(
		`{"operationId":%q,"status":"failed","registrationState":{"status":"failed","errorCode":%d,"errorMessage":%q}}`,
		Operation, code, message)}
}

// Refusal is an error answer.
func Refusal(status, code int, retryAfter string) Answer {
	return Answer{
		Status: status, RetryAfter: retryAfter,
		Body: fmt.Sprintf(`{"errorCode":%d,"trackingId":"00000000-0000-4000-8000-000000000000","message":"No.",`+
			`"timestampUtc":"2000-01-01T00:00:00.0000000Z"}`, code),
	}
}

// InOrder answers one after the other, and the last one again and again.
func InOrder(answers ...Answer) func(int, Asked) Answer {
	return func(n int, _ Asked) Answer { return answers[min(n, len(answers)-1)] }
}

// Busy has the first failures of one kind of request fail, and all else go well.
func Busy(kind string, failures int, answer Answer) func(int, Asked) Answer {
	left := failures
	return func(_ int, q Asked) Answer {
		if q.Do == kind && left > 0 {
			left--
			return answer
		}
		if q.Do == "register" {
			return Assigning("3")
		}
		return Assigned(Operation)
	}
}

// HTTPDate is the time in so long, as a Retry-After may say it.
func HTTPDate(in time.Duration) string { return time.Now().Add(in).UTC().Format(http.TimeFormat) }
