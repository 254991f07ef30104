// SPDX-License-Identifier: Apache-2.0

package provisioning

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"math/big"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"
)

// Whatever the service says, or somebody who poses as it, these hold. What each is checked with is written here anew
// and not taken from the code under test.

// FuzzParseRetryAfter: a wait is bounded, and a number means what it says.
func FuzzParseRetryAfter(f *testing.F) {
	now := time.Unix(946684800, 0)
	f.Add("3")
	f.Add("Fri, 31 Dec 1999 23:59:59 GMT")
	f.Add("-1")
	f.Fuzz(func(t *testing.T, text string) {
		wait, ok := parseRetryAfter(text, now)
		if wait < 0 || wait > 24*time.Hour || !ok && wait != 0 {
			t.Errorf("%q: %v, %t", text, wait, ok)
		}
		plain := strings.TrimSpace(text)
		seconds, number := new(big.Int).SetString(plain, 10)
		if number && len(plain) <= 64 && strings.Trim(plain, "0123456789") == "" {
			day := big.NewInt(24 * 60 * 60)
			if seconds.Cmp(day) > 0 {
				seconds = day
			}
			if want := time.Duration(seconds.Int64()) * time.Second; !ok || wait != want {
				t.Errorf("%q: %v, %t, want %v", text, wait, ok, want)
			}
			return
		}
		if _, err := http.ParseTime(plain); ok && err != nil {
			t.Errorf("%q is neither a number nor a date, and was taken for %v", text, wait)
		}
	})
}

// FuzzHint: nor does the service's own clock lead to more.
func FuzzHint(f *testing.F) {
	f.Add("3", "Fri, 31 Dec 1999 23:59:59 GMT")
	f.Add("Fri, 31 Dec 9999 23:59:59 GMT", "Mon, 01 Jan 0001 00:00:00 GMT")
	f.Add("Mon, 01 Jan 0001 00:00:00 GMT", "Fri, 31 Dec 9999 23:59:59 GMT")
	f.Fuzz(func(t *testing.T, text, date string) {
		r := reply{retryAfter: text, at: time.Unix(946684800, 0)}
		r.date, _ = http.ParseTime(date)
		if wait, ok := r.hint(); wait < 0 || wait > 24*time.Hour || !ok && wait != 0 {
			t.Errorf("%q at %q: %v, %t", text, date, wait, ok)
		}
	})
}

// hostName is what a hub may be called.
var hostName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9-]*(\.[A-Za-z0-9-]+)*\.?$`)

// FuzzParseOperation: an assignment names a host that can be dialled and a device ID that fits a topic, and all texts
// can be shown.
func FuzzParseOperation(f *testing.F) {
	f.Add([]byte(`{"operationId":"4.a","status":"assigning"}`))
	f.Add([]byte(assigned(testOp).Body))
	f.Add([]byte(failed(400207, "no").Body))
	f.Add([]byte(`null`))
	f.Add([]byte(`{"status":"assigned","registrationState":null}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		for _, parse := range []func([]byte, string) (operation, error){parseOperation, parseLookup} {
			op, err := parse(body, testID)
			if err != nil {
				if !errors.Is(err, ErrNotService) {
					t.Errorf("an error of another kind: %v", err)
				}
				mustShow(t, err.Error(), 1024)
				continue
			}
			if strings.ContainsAny(op.id, "/?#+&% \\") {
				t.Errorf("operation ID %q breaks out of a path or a topic", op.id)
			}
			if !op.final() {
				continue
			}
			a, err := op.assignment(testID)
			if err != nil {
				mustShow(t, err.Error(), 1024)
				continue
			}
			if !hostName.MatchString(a.AssignedHub) || len(a.AssignedHub) > 253 {
				t.Errorf("hub %q is no host name", a.AssignedHub)
			}
			if a.DeviceID == "" || len(a.DeviceID) > 128 || strings.ContainsAny(a.DeviceID, "/#+& \\\"") {
				t.Errorf("device ID %q breaks out of a topic", a.DeviceID)
			}
			if a.RegistrationID != testID {
				t.Errorf("it became about %q", a.RegistrationID)
			}
			for _, text := range []string{a.AssignedHub, a.DeviceID, string(a.Substatus), a.ETag, a.EnrollmentGroupID, a.OperationID} {
				mustShow(t, text, 256)
			}
			if a.Payload != nil && (!json.Valid(a.Payload) || len(a.Payload) > len(body)) {
				t.Errorf("payload %q", a.Payload)
			}
		}
	})
}

// FuzzServiceError: a refusal's texts can be shown, and its wait is bounded.
func FuzzServiceError(f *testing.F) {
	f.Add(401, []byte(refusal(401, 401002, "").Body), "3")
	f.Add(404, []byte("<html>"), "")
	f.Add(503, []byte(nil), "soon")
	f.Fuzz(func(t *testing.T, status int, body []byte, hint string) {
		status = 300 + (status&0xffff)%300
		err := reply{status: status, body: body, retryAfter: hint, at: time.Unix(946684800, 0)}.serviceError()
		mustShow(t, err.Error(), 1024)
		var refused *ServiceError
		switch {
		case errors.As(err, &refused):
			mustShow(t, refused.Message, 512)
			mustShow(t, refused.TrackingID, 128)
			if refused.RetryAfter < 0 || refused.RetryAfter > 24*time.Hour {
				t.Errorf("a wait of %v", refused.RetryAfter)
			}
			if refused.HTTPStatus != status || status < 400 {
				t.Errorf("status %d became %d", status, refused.HTTPStatus)
			}
		case !errors.Is(err, ErrNotService) || status >= 429:
			t.Errorf("an error of another kind to a %d: %v", status, err)
		}
	})
}

// mustShow checks that a text can go to a log, a terminal and a page.
func mustShow(t *testing.T, text string, most int) {
	t.Helper()
	hidden := func(r rune) bool { return !unicode.IsPrint(r) }
	if !utf8.ValidString(text) || strings.ContainsFunc(text, hidden) || utf8.RuneCountInString(text) > most {
		t.Errorf("a text that cannot be shown: %q", text)
	}
}

// token is a SAS token as the service reads it (dps-protocol 5.3).
var token = regexp.MustCompile(`^SharedAccessSignature sr=((?:[A-Za-z0-9._~!'()*-]|%[0-9A-F]{2})*)&sig=((?:[A-Za-z0-9]|%[0-9A-F]{2})+)&se=(-?[0-9]+)&skn=registration$`)

// FuzzSASToken derives a key, signs for any resource, and checks the token as the service would.
func FuzzSASToken(f *testing.F) {
	f.Add([]byte("sixteen bytes or more of a group key"), "0ne00002193", testID, int64(946684800))
	f.Add(bytes.Repeat([]byte{0xff}, 64), "a/b&sig=x", "Dev-01.\n", int64(-1))
	f.Fuzz(func(t *testing.T, material []byte, scope, id string, expiry int64) {
		group, err := ParseGroupKey(base64.StdEncoding.EncodeToString(material))
		if err != nil {
			if len(material) >= 16 && len(material) <= 1024 {
				t.Errorf("a key of %d bytes: %v", len(material), err)
			}
			return
		}
		derived := sign(material, id)
		resource := RegistrationResource(scope, id)
		text := group.Derive(id).SASToken(resource, "registration", time.Unix(expiry, 0)).Reveal()

		parts := token.FindStringSubmatch(text)
		if parts == nil {
			t.Fatalf("malformed: %q", text)
		}
		if plain, err := url.PathUnescape(parts[1]); err != nil || plain != resource {
			t.Errorf("sr is %q, %v, want %q", plain, err, resource)
		}
		signature, err := url.PathUnescape(parts[2])
		if want := base64.StdEncoding.EncodeToString(sign(derived, parts[1]+"\n"+parts[3])); err != nil || signature != want {
			t.Errorf("sig is %q, %v, want %q", signature, err, want)
		}
		if parts[3] != strconv.FormatInt(expiry, 10) {
			t.Errorf("se is %s, want %d", parts[3], expiry)
		}
	})
}

func sign(key []byte, text string) []byte {
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte(text))
	return mac.Sum(nil)
}
