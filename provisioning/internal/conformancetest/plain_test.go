// SPDX-License-Identifier: Apache-2.0

package conformancetest

import (
	"cmp"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// plain is a small client of its own that keeps the rules, all in one place and with nothing to be proud of: what it
// shares with the client of package provisioning is the rules. It has at most one defect (broken_test.go), and the
// suite must see that.
type plain struct {
	env    Environment
	defect defect
	pool   *http.Transport
	cancel context.CancelFunc // of everything
	life   context.Context

	mu     sync.Mutex    // guards what follows
	offset time.Duration // of the service's clock, once a 401 showed that it matters
	held   time.Time
	next   map[string]time.Time   // of each budget, its next free turn
	polls  map[string][]time.Time // of each device

	firstPool *http.Transport // with a defect, that of the first device for all
	running   sync.WaitGroup
}

// withDefect makes a factory of clients with one defect, or "" for none.
func withDefect(d defect) Factory {
	return func(env Environment) (Client, error) {
		p := &plain{env: env, defect: d, next: make(map[string]time.Time), polls: make(map[string][]time.Time)}
		p.pool = p.newPool(new(Device))
		p.life, p.cancel = context.WithCancel(context.Background())
		if env.Memory != nil && env.Memory.Load() != nil && !p.has(forgets) {
			var kept [2]time.Time
			if err := json.Unmarshal(env.Memory.Load(), &kept); err != nil {
				return nil, err
			}
			p.next["register"], p.held = kept[0], kept[1]
		}
		return p, nil
	}
}

func (p *plain) has(d defect) bool { return p.defect == d }

// Close implements [Client].
func (p *plain) Close() {
	p.cancel()
	p.running.Wait()
	p.pool.CloseIdleConnections()
	if p.firstPool != nil {
		p.firstPool.CloseIdleConnections()
	}
}

// ended is how an attempt ended, if not well.
type ended struct {
	Outcome
	why string
}

func (e *ended) Error() string { return e.why }

func end(ending Ending, why string, args ...any) error {
	return &ended{Outcome: Outcome{Ending: ending}, why: fmt.Sprintf(why, args...)}
}

// Register implements [Client].
func (p *plain) Register(ctx context.Context, d Device) (Outcome, error) {
	p.running.Add(1)
	defer p.running.Done()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(p.life, cancel)()

	if p.has(anyID) && d.RegistrationID == "" {
		d.RegistrationID = "nobody"
	}
	if p.has(lowerCaseID) {
		d.RegistrationID = strings.ToLower(d.RegistrationID)
	}
	a := &attempt{plain: p, device: d}
	a.wire = p.newWire(&a.device)
	defer a.wire.close()
	outcome, err := a.run(ctx)
	var how *ended
	switch {
	case errors.As(err, &how):
		outcome = how.Outcome
	case err != nil:
		outcome.Ending = EndAbandoned
	default:
		outcome.Ending = EndAssigned
	}
	return outcome, err
}

// attempt is one registration.
type attempt struct {
	*plain
	device   Device
	wire     wire
	deadline time.Time
	failures int // in a row; or ever, with a defect
	keys     int // tried, beside the first
	mended   bool
}

// save writes down what outlives the client; the lock is held.
func (p *plain) save() {
	if p.env.Memory != nil {
		text, _ := json.Marshal([2]time.Time{p.next["register"], p.held})
		p.env.Memory.Save(text)
	}
}

// now is the time by the service's clock, if that is another.
func (p *plain) now() time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	return time.Now().Add(p.offset)
}

// wire is a transport. An error is no answer.
type wire interface {
	exchange(ctx context.Context, kind, operationID string, body []byte) (answer, error)
	close()
}

// answer is one, over whatever transport.
type answer struct {
	status   int
	hint     string
	sent, at time.Time
	date     time.Time // the service's clock, if it showed it
	body     []byte
}

var validID = regexp.MustCompile(`^[A-Za-z0-9\-._:]{0,127}[A-Za-z0-9\-]$`) // dps-protocol 2.2

func (a *attempt) run(ctx context.Context) (Outcome, error) {
	if !validID.MatchString(a.device.RegistrationID) && !a.has(anyID) {
		return Outcome{}, end(EndInvalid, "the registration ID is not valid")
	}
	operation := a.device.OperationID
	if a.has(neverResumes) {
		operation = ""
	}
	for restarted := false; ; restarted = true {
		var said document
		var got answer
		var err error
		if operation == "" {
			if said, got, err = a.ask(ctx, "register", ""); err != nil {
				return Outcome{}, err
			}
			if said.OperationID == "" && said.Status == "assigning" {
				return Outcome{}, end(EndUnreachable, "no operation")
			}
			operation = said.OperationID
		}
		said, err = a.follow(ctx, operation, said, got)
		var how *ended
		if errors.As(err, &how) && how.why == unknownOperation && (!restarted || a.has(restartsForEver)) && !a.has(neverRestarts) {
			operation = ""
			continue
		}
		if err != nil {
			return Outcome{}, err
		}
		if said.Status != "assigned" {
			return Outcome{}, end(EndFailed, "it failed: %s", a.shown(said.State.ErrorMessage))
		}
		if a.has(fetches) {
			a.fetch(ctx, said.State.Payload)
		}
		return Outcome{
			AssignedHub: said.State.AssignedHub, DeviceID: said.State.DeviceID,
			Payload: string(said.State.Payload), OperationID: cmp.Or(said.OperationID, operation),
		}, nil
	}
}

const unknownOperation = "the service does not know the operation"

// follow polls to the end.
func (a *attempt) follow(ctx context.Context, operation string, said document, got answer) (document, error) {
	var mine []time.Time // polls of this attempt
	for n := 1; said.Status != "assigned" && said.Status != "failed" && said.Status != "disabled"; n++ {
		if !got.at.IsZero() {
			if err := a.sleepUntil(ctx, a.pollTime(n, got), EndUnreachable, time.Time{}); err != nil {
				return said, err
			}
		}
		if err := a.pollTurn(ctx, &mine); err != nil {
			return said, err
		}
		var err error
		if said, got, err = a.ask(ctx, "poll", operation); err != nil {
			return said, err
		}
		if a.has(followsPolls) && said.OperationID != "" {
			operation = said.OperationID
		}
	}
	said.OperationID = operation
	return said, nil
}

// pollTime is rule 1.
func (a *attempt) pollTime(n int, got answer) time.Time {
	from := got.at
	if a.has(countsFromSending) {
		from = got.sent
	}
	wait, ok := a.hint(got)
	switch {
	case a.has(fixedFirstWait) && n == 1:
		wait = 2 * time.Second
	case a.has(fixedLaterWaits) && n > 1:
		wait = 5 * time.Second
	case a.has(cutsLongHints) && wait > 300*time.Second:
		wait = time.Second
	case ok:
	case a.has(twoSeconds):
		wait = 2 * time.Second
	default:
		wait = []time.Duration{500 * time.Millisecond, time.Second, 2500 * time.Millisecond}[min(n, 3)-1]
	}
	return from.Add(wait)
}

// hint is what the service asks to wait.
func (a *attempt) hint(got answer) (time.Duration, bool) {
	if n, err := strconv.ParseUint(got.hint, 10, 64); err == nil || errors.Is(err, strconv.ErrRange) {
		return time.Duration(min(n, 86400)) * time.Second, true
	}
	at, err := http.ParseTime(got.hint)
	switch {
	case err != nil:
		return 0, false
	case a.has(dateIsOneSecond):
		return time.Second, true
	case !got.date.IsZero() && !a.has(ownClock):
		return min(max(at.Sub(got.date), 0), 24*time.Hour), true
	}
	return min(max(time.Until(at), 0), 24*time.Hour), true
}

// pollTurn is the cap of five polls in ten seconds, and the budget.
func (a *attempt) pollTurn(ctx context.Context, mine *[]time.Time) error {
	a.mu.Lock()
	recent := a.polls[a.device.RegistrationID]
	a.mu.Unlock()
	if a.has(capPerAttempt) {
		recent = *mine
	}
	due := time.Time{}
	if len(recent) >= 5 && !a.has(noCap) {
		due = recent[len(recent)-5].Add(10 * time.Second)
	}
	if err := a.sleepUntil(ctx, due, EndUnreachable, time.Time{}); err != nil {
		return err
	}
	if err := a.budget(ctx, "poll", a.env.PollsPerSecond); err != nil {
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	*mine = append(*mine, time.Now())
	a.polls[a.device.RegistrationID] = append(recent, time.Now())
	return nil
}

// registerTurn is the hold-back and the budget.
func (a *attempt) registerTurn(ctx context.Context) error {
	for {
		a.mu.Lock()
		held := a.held
		a.mu.Unlock()
		if time.Until(held) > 5*time.Minute {
			return &ended{Outcome: Outcome{Ending: EndThrottled, NextAttempt: held}, why: "held back"}
		}
		if err := a.sleepUntil(ctx, held, EndThrottled, held); err != nil {
			return err
		}
		if err := a.budget(ctx, "register", a.env.RegistersPerMinute/60); err != nil {
			return err
		}
		a.mu.Lock()
		held = a.held
		a.mu.Unlock()
		if !time.Now().Before(held) {
			return nil
		}
	}
}

func (a *attempt) budget(ctx context.Context, kind string, perSecond float64) error {
	a.mu.Lock()
	turn := a.next[kind]
	if turn.Before(time.Now()) {
		turn = time.Now()
	}
	if !a.has(noBudget) {
		a.next[kind] = turn.Add(time.Duration(float64(time.Second) / perSecond))
	}
	a.save()
	a.mu.Unlock()
	if a.has(waitCounts) {
		a.begin()
	}
	return a.sleepUntil(ctx, turn, EndUnreachable, time.Time{})
}

func (a *attempt) begin() {
	if !a.deadline.IsZero() {
		return
	}
	limit := cmp.Or(a.env.AttemptLimit, 10*time.Minute)
	if a.has(impatient) {
		limit = 2 * time.Minute
	}
	if a.has(noLimit) {
		limit = 1000 * time.Hour
	}
	a.deadline = time.Now().Add(limit)
}

// sleepUntil ends the attempt at once when it would have to sleep past its limit.
func (a *attempt) sleepUntil(ctx context.Context, until time.Time, ending Ending, next time.Time) error {
	if !a.deadline.IsZero() && until.After(a.deadline) {
		return &ended{Outcome: Outcome{Ending: ending, NextAttempt: next}, why: "out of time"}
	}
	timer := time.NewTimer(time.Until(until))
	defer timer.Stop()
	select {
	case <-timer.C:
		return ctx.Err()
	case <-ctx.Done():
		return ctx.Err()
	}
}

// ask repeats a request as rule 2 says.
func (a *attempt) ask(ctx context.Context, kind, operation string) (document, answer, error) {
	for {
		if kind == "register" {
			if err := a.registerTurn(ctx); err != nil {
				return document{}, answer{}, err
			}
		}
		a.begin()
		got, err := a.wire.exchange(ctx, kind, operation, a.body())
		switch {
		case ctx.Err() != nil:
			return document{}, answer{}, ctx.Err()
		case err != nil:
			return document{}, answer{}, end(EndUnreachable, "no answer: %v", withoutURL(err))
		case got.status < 300:
			if !a.has(neverResets) {
				a.failures = 0
			}
			said, err := a.read(got.body)
			return said, got, err
		case got.status == 401 && (isService(got.body) || a.has(anybodysClock)) && a.mend(got):
			a.wire.close() // over MQTT the token is the connection's
			continue
		case got.status < 400 || got.status < 429 && !isService(got.body) && !a.has(any404):
			return document{}, answer{}, end(EndUnreachable, "status %d of somebody else", got.status)
		case got.status == 404 && kind == "poll":
			return document{}, answer{}, end(EndRefused, unknownOperation)
		case got.status < 429 && !a.has(asksRefusalsAgain):
			return document{}, answer{}, end(EndRefused, "refused: %d %s (the key, if it is 401)", got.status, a.shown(message(got.body)))
		}
		if kind == "poll" && a.has(registersAnew) {
			kind = "register"
		}
		if err := a.postpone(ctx, kind, got); err != nil {
			return document{}, answer{}, err
		}
		if kind == "poll" { // each try counts against the budget
			if err := a.pollTurn(ctx, new([]time.Time)); err != nil {
				return document{}, answer{}, err
			}
		}
	}
}

// mend is rule 5. It tells whether to ask again.
func (a *attempt) mend(got answer) bool {
	service := got.date
	if service.IsZero() {
		var e struct{ TimestampUTC string }
		_ = json.Unmarshal(got.body, &e)
		service, _ = time.Parse(time.RFC3339Nano, e.TimestampUTC)
	}
	skew := service.Sub(a.now())
	off := !service.IsZero() && skew.Abs() > 5*time.Minute || a.has(rightClock)
	if off && (!a.mended || a.has(clockForEver)) && !a.has(noClock) {
		a.mended = true
		a.mu.Lock()
		a.offset += skew
		a.mu.Unlock()
		if !a.has(silentClock) {
			a.env.Logger.Warn("the clock is wrong", "off_by", skew)
		}
		return true
	}
	if a.keys+1 < len(a.device.Keys) && !a.has(oneKey) || a.has(keysForEver) {
		a.keys++
		a.device.Keys = append(slices.Clone(a.device.Keys[1:]), a.device.Keys[0])
		return true
	}
	return false
}

// postpone is rule 2's wait.
func (a *attempt) postpone(ctx context.Context, kind string, got answer) error {
	a.failures++
	ending := EndUnreachable
	if got.status == 429 {
		ending = EndThrottled
	}
	hint, _ := a.hint(got)
	grown := time.Second + time.Duration(a.failures-1)*9*time.Second
	spread := time.Duration(float64(max(a.env.Fleet, 1)) / a.env.RegistersPerMinute * float64(time.Minute))
	if a.has(noSpread) {
		spread = 0
	}
	wait := grown + rand.N(max(spread, grown/10)+1)
	switch {
	case got.status == 429 && kind == "register" && a.has(failsRegister), got.status == 429 && kind == "poll" && a.has(failsPoll),
		got.status >= 500 && a.has(fails5xx):
		return end(ending, "status %d", got.status)
	case hint > 5*time.Minute && a.has(shortensLongHints):
		wait = time.Second
	case hint > 0 && a.has(noJitter):
		wait = hint
	case hint > 0:
		wait = hint + rand.N(hint/10+1)
	case a.has(noGrowth):
		wait = 2 * time.Second
	}
	next := time.Now().Add(wait)
	if got.status == 429 && (kind == "register" && !a.has(noHoldBack) || kind == "poll" && a.has(pollsHoldBack)) {
		a.mu.Lock()
		a.held = next
		a.save()
		a.mu.Unlock()
	}
	if hint > 5*time.Minute && !a.has(shortensLongHints) {
		return &ended{Outcome: Outcome{Ending: ending, NextAttempt: time.Now().Add(hint)}, why: "a long hint"}
	}
	if a.failures >= 10 && !a.has(retriesForEver) {
		return &ended{Outcome: Outcome{Ending: ending, NextAttempt: next}, why: "ten failures"}
	}
	if a.has(retriesForEver) {
		a.deadline = time.Time{}
	}
	return a.sleepUntil(ctx, next, ending, next)
}

func (a *attempt) body() []byte {
	document := map[string]any{"registrationId": a.device.RegistrationID}
	if a.device.Payload != nil {
		document["payload"] = a.device.Payload
	}
	text, _ := json.Marshal(document)
	return text
}

// document is an answer's body.
type document struct {
	OperationID string `json:"operationId"`
	Status      string `json:"status"`
	State       struct {
		RegistrationID string          `json:"registrationId"`
		AssignedHub    string          `json:"assignedHub"`
		DeviceID       string          `json:"deviceId"`
		ErrorMessage   string          `json:"errorMessage"`
		Payload        json.RawMessage `json:"payload"`
	} `json:"registrationState"`
}

var (
	validHub       = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9-]*(\.[A-Za-z0-9-]+)*$`)
	validDevice    = regexp.MustCompile(`^[!$%'-*,.0-9:;=?@A-Z\[\]^_a-z~()-]{1,128}$`)
	validOperation = regexp.MustCompile(`^[A-Za-z0-9._-]{0,256}$`)
)

// read is rule 9.
func (a *attempt) read(body []byte) (document, error) {
	var said document
	refuse := func(why string) (document, error) { return said, end(EndUnreachable, "the answer %s", why) }
	if len(body) > 64<<10 && !a.has(anyLength) {
		return refuse("is too long")
	}
	if err := json.Unmarshal(body, &said); err != nil && !a.has(anyDocument) {
		return refuse("is not the service's")
	}
	if a.has(anyDocument) {
		said.Status = cmp.Or(said.Status, "assigned")
		return said, nil
	}
	switch {
	case !slices.Contains([]string{"unassigned", "assigning", "assigned", "failed", "disabled"}, said.Status):
		return refuse("has no status")
	case !validOperation.MatchString(said.OperationID) && !a.has(anyOperation):
		return refuse("names no operation ID")
	case said.State.RegistrationID != "" && said.State.RegistrationID != a.device.RegistrationID && !a.has(anybodys):
		return refuse("is about somebody else")
	case said.Status != "assigned":
		return said, nil
	case (!validHub.MatchString(said.State.AssignedHub) || len(said.State.AssignedHub) > 253) && !a.has(anyHub):
		return refuse("names no hub")
	case !validDevice.MatchString(said.State.DeviceID) && !a.has(anyDevice):
		return refuse("names no device")
	}
	return said, nil
}

// isService tells an error of the service from others'.
func isService(body []byte) bool {
	var e struct{ ErrorCode int }
	return json.Unmarshal(body, &e) == nil && e.ErrorCode != 0
}

func message(body []byte) string {
	var e struct{ Message string }
	_ = json.Unmarshal(body, &e)
	return e.Message
}

var unprintable = regexp.MustCompile(`[^\x20-\x7E]+`)

func (a *attempt) shown(text string) string {
	if a.has(showsRaw) {
		return text
	}
	text = unprintable.ReplaceAllString(text, " ")
	return text[:min(len(text), 500)]
}

// fetch does what nobody should.
func (a *attempt) fetch(ctx context.Context, payload []byte) {
	var named struct{ URL string }
	_ = json.Unmarshal(payload, &named)
	target, err := url.Parse(named.URL)
	if err != nil || target.Host == "" {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	conn, err := a.env.DialContext(ctx, "tcp", target.Host+":443")
	if err == nil {
		_ = conn.Close()
	}
}

// token is rule 10.
func (p *plain) token(d *Device) string {
	lifetime := time.Hour
	if p.has(tokenForADay) {
		lifetime = 24 * time.Hour
	}
	resource := escaped(p.env.IDScope + "/registrations/" + d.RegistrationID)
	if p.has(lowerEscapes) {
		resource = lowerHex(resource)
	}
	if p.has(unescaped) {
		resource = p.env.IDScope + "/registrations/" + d.RegistrationID
	}
	expiry := strconv.FormatInt(p.now().Add(lifetime).Unix(), 10)
	secret, _ := base64.StdEncoding.DecodeString(d.Keys[0])
	mac := hmac.New(sha256.New, secret)
	_, _ = mac.Write([]byte(resource + "\n" + expiry))
	signature := escaped(base64.StdEncoding.EncodeToString(mac.Sum(nil)))
	switch {
	case p.has(otherOrder):
		return "SharedAccessSignature sr=" + resource + "&sig=" + signature + "&skn=registration&se=" + expiry
	case p.has(noPolicyName):
		return "SharedAccessSignature sr=" + resource + "&sig=" + signature + "&se=" + expiry
	}
	return "SharedAccessSignature sr=" + resource + "&sig=" + signature + "&se=" + expiry + "&skn=registration"
}

func lowerHex(text string) string {
	return regexp.MustCompile(`%..`).ReplaceAllStringFunc(text, strings.ToLower)
}

func withoutURL(err error) error {
	var wrapped *url.Error
	if errors.As(err, &wrapped) {
		return wrapped.Err
	}
	return err
}
