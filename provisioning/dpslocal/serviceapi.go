// SPDX-License-Identifier: Apache-2.0

package dpslocal

import (
	"context"
	"errors"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// serviceAPI is the enrollment API, by which operators see and change what the
// devices meet (dps-protocol 17).
type serviceAPI struct {
	service  *service
	linked   []Hub
	policies policies
	hosts    []string // the names that a token may be for
}

// operatorCall is a request to the service API, admitted or about to be.
type operatorCall struct {
	kind EnrollmentKind // of a call on enrollments
	id   string         // of the entry, the registration or, in a query, the group

	ifMatch                string
	maxItems, continuation string
	body                   []byte
}

// route is one operation of an operator's API.
type route struct {
	need Permission
	call func(context.Context, operatorCall) answer
}

// The fixed words of the paths.
const (
	enrollmentsPath  = "enrollments"
	groupsPath       = "enrollmentgroups"
	registrationPath = "registrations"
	queryPath        = "query"
	attestationPath  = "attestationmechanism"
)

// splitPath decodes the segments of a path once each. One trailing slash is let
// pass, as some clients send it; further empty segments are not.
func splitPath(u *url.URL) (segments []string, ok bool) {
	path := strings.TrimSuffix(strings.TrimPrefix(u.EscapedPath(), "/"), "/")
	for segment := range strings.SplitSeq(path, "/") {
		plain, err := url.PathUnescape(segment)
		if err != nil || plain == "" {
			return nil, false
		}
		segments = append(segments, plain)
	}
	return segments, true
}

// routes returns what can be done at a path, by method, and the part of the call
// that the path tells. The fixed words are compared without case. There is
// nothing when the path is not one of the service API's.
func (a *serviceAPI) routes(segments []string) (map[string]route, operatorCall) {
	var c operatorCall
	first := strings.ToLower(segments[0])
	if len(segments) > 1 {
		c.id = segments[1]
	}
	last := strings.ToLower(segments[len(segments)-1])
	switch first {
	case enrollmentsPath:
		c.kind = Individual
	case groupsPath:
		c.kind = Group
	case registrationPath:
		switch {
		case len(segments) == 2:
			return map[string]route{
				http.MethodGet:    {RegistrationStatusRead, a.getRegistration},
				http.MethodDelete: {RegistrationStatusWrite, a.deleteRegistration},
			}, c
		case len(segments) == 3 && last == queryPath:
			return map[string]route{http.MethodPost: {RegistrationStatusRead, a.queryRegistrations}}, c
		}
		return nil, c
	default:
		return nil, c
	}
	switch {
	case len(segments) == 1:
		return map[string]route{http.MethodPost: {EnrollmentWrite, a.bulk}}, c
	case len(segments) == 2:
		at := map[string]route{
			http.MethodGet:    {EnrollmentRead, a.getEnrollment},
			http.MethodPut:    {EnrollmentWrite, a.putEnrollment},
			http.MethodDelete: {EnrollmentWrite, a.deleteEnrollment},
		}
		if last == queryPath { // which may also be the name of an entry
			at[http.MethodPost] = route{EnrollmentRead, a.queryEnrollments}
		}
		return at, c
	case len(segments) == 3 && last == attestationPath:
		// The keys are for those who may write: whoever has them can be any device.
		return map[string]route{http.MethodPost: {EnrollmentWrite, a.showAttestation}}, c
	}
	return nil, c
}

// serves tells whether a path is of the service API.
func (a *serviceAPI) serves(segments []string) bool {
	at, _ := a.routes(segments)
	return at != nil
}

// serveHTTP answers one request to a path that serves has found.
func (a *serviceAPI) serveHTTP(w http.ResponseWriter, r *http.Request, segments []string) {
	at, c := a.routes(segments)
	chosen, ok := at[r.Method]
	if !ok {
		w.Header().Set("Allow", strings.Join(slices.Sorted(maps.Keys(at)), ", "))
		respond(w, refuse(405, codeMethodNotAllowed, "The method is not allowed here."))
		return
	}
	if !apiVersionPattern.MatchString(r.URL.Query().Get("api-version")) {
		respond(w, refuse(400, codeInvalid, "The api-version is missing or malformed."))
		return
	}
	policy, err := a.policies.authorize(r.Header.Get("Authorization"), a.hosts, segments, chosen.need)
	if err != nil {
		a.service.logger.Info("operator not admitted", "method", r.Method, "path", r.URL.Path, "err", err)
		respond(w, refuse(401, codeUnauthorized, "Unauthorized"))
		return
	}
	body, refused := readBody(w, r)
	if refused != nil {
		respond(w, *refused)
		return
	}
	c.ifMatch, c.body = r.Header.Get("If-Match"), body
	c.maxItems, c.continuation = r.Header.Get("x-ms-max-item-count"), r.Header.Get("x-ms-continuation")
	result := chosen.call(r.Context(), c)
	if r.Method != http.MethodGet {
		a.service.logger.Info("operator's call", "policy", policy, "method", r.Method, "path", r.URL.Path, "status", result.status)
	}
	respond(w, result)
}

// The reasons for which an operator's change is refused.
var (
	errExists = errors.New("it exists already; send If-Match to replace it")
	errETag   = errors.New("the etag is not that of what is stored; read it again")
	errBusy   = errors.New("the device is registering just now; try again")
)

// explain tells status, code and text for an operator's call that ended with an
// error. unknown is the code for what is not there.
func (a *serviceAPI) explain(err error, unknown int) (status, code int, message string) {
	invalid, isInvalid := errors.AsType[*ConfigError](err)
	switch {
	case isInvalid:
		return 400, codeInvalid, sentence(invalid.Err)
	case errors.Is(err, ErrNotFound):
		return 404, unknown, "There is nothing of that name."
	case errors.Is(err, errExists):
		return 409, codeExists, sentence(errExists)
	case errors.Is(err, errBusy):
		return 409, codeConflict, sentence(errBusy)
	case errors.Is(err, errETag):
		return 412, codeETag, sentence(errETag)
	}
	a.service.logger.Error("answering an operator: see to the store", "err", err)
	return 500, codeInternal, "Internal error. Please try again later."
}

// failure is the answer that explain explains.
func (a *serviceAPI) failure(err error, unknown int) answer {
	return refuse(a.explain(err, unknown))
}

// unknownCode is the error code for an entry that is not there.
func (k EnrollmentKind) unknownCode() int {
	if k == Group {
		return codeGroupUnknown
	}
	return codeUnknown
}

// getEnrollment shows an entry, an individual one with its registration.
func (a *serviceAPI) getEnrollment(ctx context.Context, c operatorCall) answer {
	e, ok := a.service.enrollments.find(c.kind, c.id)
	if !ok {
		return a.failure(ErrNotFound, c.kind.unknownCode())
	}
	d := e.document(false)
	if c.kind == Individual {
		state, err := a.registrationOf(ctx, e)
		if err != nil {
			return a.failure(err, codeUnknown)
		}
		d.RegistrationState = state
	}
	return answer{status: 200, body: encodeJSON(d)}
}

// registrationOf is the registration that an individual entry let in, or nil
// when there is none yet.
func (a *serviceAPI) registrationOf(ctx context.Context, e Enrollment) ([]byte, error) {
	r, err := a.service.store.Registration(ctx, e.ID)
	if errors.Is(err, ErrNotFound) || (err == nil && r.EnrollmentKind != Individual) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	document, _, err := registrationDocument(r)
	return document, err
}

// putEnrollment makes an entry, or replaces it if If-Match fits.
func (a *serviceAPI) putEnrollment(_ context.Context, c operatorCall) answer {
	e, err := parseEnrollment(c.kind, c.id, c.body)
	if err != nil {
		return refuse(400, codeInvalid, sentence(err))
	}
	stored, err := a.write(e, func(existing Enrollment, found bool) error {
		switch {
		case found && c.ifMatch == "":
			return errExists
		case c.ifMatch != "" && (!found || !etagMatches(c.ifMatch, existing.ETag)):
			return errETag
		}
		return nil
	})
	if err != nil {
		return a.failure(err, c.kind.unknownCode())
	}
	return answer{status: 200, body: encodeJSON(stored.document(true))}
}

// write makes or replaces an entry that came over the wire.
func (a *serviceAPI) write(e Enrollment, allow func(existing Enrollment, found bool) error) (Enrollment, error) {
	if existing, ok := a.service.enrollments.find(e.Kind, e.ID); ok {
		e.keepCertificates(existing)
	}
	return a.service.writeEnrollment(e, a.linked, allow)
}

// deleteEnrollment removes an entry, with If-Match only that which was read.
func (a *serviceAPI) deleteEnrollment(_ context.Context, c operatorCall) answer {
	err := a.service.deleteEnrollment(c.kind, c.id, func(existing Enrollment) error {
		if c.ifMatch != "" && !etagMatches(c.ifMatch, existing.ETag) {
			return errETag
		}
		return nil
	})
	if err != nil {
		return a.failure(err, c.kind.unknownCode())
	}
	return answer{status: 204}
}

// showAttestation shows an entry's attestation with the keys.
func (a *serviceAPI) showAttestation(_ context.Context, c operatorCall) answer {
	e, ok := a.service.enrollments.find(c.kind, c.id)
	if !ok {
		return a.failure(ErrNotFound, c.kind.unknownCode())
	}
	return answer{status: 200, body: encodeJSON(e.attestation(true))}
}

// queryEnrollments lists the entries of a kind, a page at a time.
func (a *serviceAPI) queryEnrollments(_ context.Context, c operatorCall) answer {
	if err := parseQuery(c.body); err != nil {
		return refuse(400, codeInvalid, sentence(err))
	}
	p, err := parsePage(c.maxItems, c.continuation)
	if err != nil {
		return refuse(400, codeInvalid, sentence(err))
	}
	entries := a.service.enrollments.list(c.kind)
	entries = slices.DeleteFunc(entries, func(e Enrollment) bool { return strings.ToLower(e.ID) <= p.after && p.after != "" })
	documents := []entryDocument{}
	for _, e := range entries[:min(p.size, len(entries))] {
		documents = append(documents, e.document(false))
	}
	itemType, next := "enrollment", ""
	if c.kind == Group {
		itemType = "enrollmentGroup"
	}
	if len(entries) > p.size {
		next = continueAfter(entries[p.size-1].ID)
	}
	return listing(encodeJSON(documents), itemType, next)
}

// listing is one page of a query. The last page has no continuation header: for
// clients its presence means that there is more (dps-protocol 17.2).
func listing(body []byte, itemType, next string) answer {
	header := map[string]string{"x-ms-item-type": itemType}
	if next != "" {
		header["x-ms-continuation"] = next
	}
	return answer{status: 200, header: header, body: body}
}
