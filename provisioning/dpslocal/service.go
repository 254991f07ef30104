// SPDX-License-Identifier: Apache-2.0

package dpslocal

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"
)

// service is the provisioning service behind both transports.
type service struct {
	idScope    string
	retryAfter time.Duration
	strict     bool
	weights    map[string]int               // lower-cased name of a hub → its share
	hubNames   []string                     // the linked hubs, in order
	cas        map[string]*x509.Certificate // by the name that groups refer to

	store       Store
	shared      SharedStore // the store again, if it is one of several instances
	lease       lease
	enrollments enrollments
	webhook     *webhook
	hubs        *hubs
	fault       func(FaultPoint) Fault
	script      faultScript
	gate        *gate
	throttle    *throttle
	logger      *slog.Logger

	// ctx ends with the server; what runs then is carried on at the next start.
	ctx context.Context

	group sync.WaitGroup // the goroutines of running operations

	mu      sync.Mutex            // guards running
	running map[string]*operation // operation ID → operation that runs in this process
}

// call is a device's request, as either transport understood it.
type call struct {
	transport      string
	kind           CallKind
	idScope        string
	registrationID string
	operationID    string // of a poll
	apiVersion     string
	token          string              // the SAS token, or ""
	chain          []*x509.Certificate // what the TLS client presented, leaf first
	body           []byte
}

// answer is what goes back, in the words that the transports share.
type answer struct {
	status     int
	code       int               // the error code, or 0
	retryAfter string            // the hint, or ""
	header     map[string]string // further headers, over HTTPS only
	body       []byte

	// A fault's doing.
	delay time.Duration // hold the answer back for so long
	skew  time.Duration // tell the time wrong by so much
	drop  bool          // close the connection instead
}

// apiVersionPattern takes any version, since the calls differ in nothing that
// matters here (dps-protocol 3.2).
var apiVersionPattern = regexp.MustCompile(`^20\d\d-\d\d-\d\d(-preview)?$`)

// serve answers a call. It is the one door into the service.
func (s *service) serve(ctx context.Context, c call) answer {
	if fault := s.faultAt(c); fault != (Fault{}) {
		return s.serveBadly(ctx, c, fault)
	}
	return s.judge(ctx, c)
}

// judge checks form and credentials, and hands a good call on.
func (s *service) judge(ctx context.Context, c call) answer {
	if !apiVersionPattern.MatchString(c.apiVersion) {
		return refuse(400, codeInvalid, "The api-version is missing or malformed.")
	}
	if !registrationIDPattern.MatchString(c.registrationID) {
		return refuse(400, codeInvalid, "The registration ID is malformed.")
	}
	if c.kind == RegisterCall && c.token == "" && len(c.chain) == 0 && namesTPM(c.body) {
		return refuse(400, codeInvalid, sentence(errTPM))
	}
	admitted, err := s.authenticate(c.idScope, c.registrationID, c.token, c.chain)
	if err != nil {
		s.logger.Info("device not admitted", "registration_id", c.registrationID, "err", err)
		return refuse(401, codeUnauthorized, "Unauthorized")
	}
	if wait := s.throttle.take(c.kind, c.registrationID); wait > 0 {
		return throttled(wait)
	}
	switch c.kind {
	case RegisterCall:
		return s.register(ctx, c, admitted)
	case PollCall:
		return s.poll(ctx, c)
	default:
		return s.lookup(ctx, c)
	}
}

// refuse makes an error answer with its body.
func refuse(status, code int, message string) answer {
	return answer{status: status, code: code, body: encodeJSON(errorBody{
		ErrorCode:    code,
		TrackingID:   newGUID(),
		Message:      message,
		TimestampUTC: utcTime(time.Now()),
	})}
}

// broken answers for a trouble of our own, which goes into the log and not to
// the device.
func (s *service) broken(c call, doing string, err error) answer {
	s.logger.Error(doing+": see to the store in the directory", "registration_id", c.registrationID, "err", err)
	return refuse(500, codeInternal, "Internal error. Please try again later.")
}

// admission is the outcome of authentication: the entry that let a device in.
type admission struct {
	enrollment Enrollment

	// keyID is the spelling of the registration ID from which the device derived
	// its key. It has no meaning for an individual enrollment.
	keyID string

	// certificates are the device's and, of a group, the one that vouches for it;
	// of a device with a key there are none.
	certificates []*x509.Certificate
}

// errScope is told to the log only; the device learns that it is not authorized.
var errScope = errors.New("the ID scope is not of this service")

// authenticate finds the enrollment that admits a device by dps-protocol 10.1:
// an individual one wins over any group, and otherwise it is the group one of
// whose keys, derived for this ID, signed the token. No match means 401,
// because without an enrollment there is no key to check against. Certificates
// count when there is no token.
func (s *service) authenticate(idScope, registrationID, token string, chain []*x509.Certificate) (admission, error) {
	if !strings.EqualFold(idScope, s.idScope) {
		return admission{}, errScope
	}
	if token == "" && len(chain) > 0 {
		return s.authenticateX509(registrationID, chain, time.Now())
	}
	sas, err := parseSASToken(token)
	if err != nil {
		return admission{}, err
	}
	if err := sas.check(idScope+"/registrations/"+registrationID, time.Now()); err != nil {
		return admission{}, err
	}
	individual, ok := s.enrollments.find(Individual, registrationID)
	if ok && sas.signedWith(individual.PrimaryKey, individual.SecondaryKey) {
		return admission{enrollment: individual, keyID: registrationID}, nil
	}
	if ok && individual.ProvisioningStatus != Disabled {
		return admission{}, errSASSignature
	}
	for _, group := range s.enrollments.groups() {
		keyID, signed := sas.signedInGroup(group, registrationID)
		switch {
		case !signed:
		case ok:
			// A disabled individual entry bars a device of a group, whose key its
			// own keys know nothing of.
			return admission{enrollment: individual, keyID: registrationID}, nil
		default:
			if keyID != registrationID {
				s.logger.Info("the device's key was derived from the lower-cased registration ID", "registration_id", registrationID)
			}
			return admission{enrollment: group, keyID: keyID}, nil
		}
	}
	return admission{}, errSASSignature
}

// signedWith tells whether one of two base64 keys made the signature.
func (t sasToken) signedWith(keys ...Secret) bool {
	for _, text := range keys {
		if key, err := decodeKey(string(text)); err == nil && t.signedBy(key) {
			return true
		}
	}
	return false
}

// signedInGroup tells whether a key derived from one of a group's keys made the
// signature, and from which spelling it was derived: the one presented, or the
// lower-cased one (dps-protocol 13.2).
func (t sasToken) signedInGroup(group Enrollment, registrationID string) (keyID string, ok bool) {
	for _, text := range []Secret{group.PrimaryKey, group.SecondaryKey} {
		key, err := decodeKey(string(text))
		if err != nil {
			continue
		}
		for _, spelling := range []string{registrationID, strings.ToLower(registrationID)} {
			if t.signedBy(deriveKey(key, spelling)) {
				return spelling, true
			}
		}
	}
	return "", false
}

// register begins an operation, or names the one that runs already.
func (s *service) register(ctx context.Context, c call, admitted admission) answer {
	payload, err := parseRegistration(c.body, c.registrationID, c.apiVersion)
	if err != nil {
		return refuse(400, codeInvalid, sentence(err))
	}
	record, begun, err := s.begin(ctx, c.registrationID, admitted, payload)
	if err != nil {
		return s.broken(c, "beginning an operation", err)
	}
	if !begun && s.strict {
		return refuse(409, codeConflict, "Precondition failed.")
	}
	return s.accepted(record.ID)
}

// accepted is the answer to every register that was taken: 202, also when the
// result is known already, since some clients take nothing else (dps-protocol 3.5).
func (s *service) accepted(operationID string) answer {
	return answer{
		status:     202,
		retryAfter: s.retryHint(),
		body:       encodeJSON(operationStatus{OperationID: operationID, Status: Assigning}),
	}
}

// retryHint is what a 202 says: whole seconds, since one client hangs on anything
// else.
func (s *service) retryHint() string { return strconv.Itoa(int(s.retryAfter / time.Second)) }

// holdPoll is how long a poll waits for its operation when devices were told
// to come back at once.
const holdPoll = time.Second

// poll tells how an operation stands.
func (s *service) poll(ctx context.Context, c call) answer {
	if s.retryAfter == 0 {
		s.hold(ctx, c)
	}
	record, err := s.store.Operation(ctx, c.registrationID, c.operationID)
	if errors.Is(err, ErrNotFound) {
		return refuse(404, codeUnknown, "Operation not found.")
	}
	if err != nil {
		return s.broken(c, "reading an operation", err)
	}
	if record.Status == Assigning {
		return answer{
			status:     202,
			retryAfter: s.retryHint(),
			body: encodeJSON(operationStatus{
				OperationID:       record.ID,
				Status:            Assigning,
				RegistrationState: assigningState(record.RegistrationID),
			}),
		}
	}
	return answer{status: 200, body: encodeJSON(operationStatus{
		OperationID:       record.ID,
		Status:            record.Status,
		RegistrationState: record.State,
	})}
}

// hold waits until the operation ends, but not long.
func (s *service) hold(ctx context.Context, c call) {
	s.mu.Lock()
	running := s.running[c.operationID]
	s.mu.Unlock()
	if running == nil && s.shared != nil {
		s.holdElsewhere(ctx, c)
	}
	if running == nil || !strings.EqualFold(running.record.RegistrationID, c.registrationID) {
		return
	}
	timer := time.NewTimer(holdPoll)
	defer timer.Stop()
	select {
	case <-running.done:
	case <-timer.C:
	case <-ctx.Done():
	case <-s.ctx.Done():
	}
}

// lookup tells how a registration stands, without beginning anything.
func (s *service) lookup(ctx context.Context, c call) answer {
	if _, err := parseRegistration(c.body, c.registrationID, c.apiVersion); err != nil {
		return refuse(400, codeInvalid, sentence(err))
	}
	r, err := s.store.Registration(ctx, c.registrationID)
	if errors.Is(err, ErrNotFound) {
		return refuse(404, codeUnknown, "Registration not found.")
	}
	if err != nil {
		return s.broken(c, "reading a registration", err)
	}
	return answer{status: 200, body: r.State}
}

// sentence makes an error's text one that a device's log can show by itself.
func sentence(err error) string {
	text := err.Error()
	return fmt.Sprintf("%s%s.", strings.ToUpper(text[:1]), text[1:])
}
