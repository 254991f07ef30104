// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"math"
	"math/rand/v2"
	"time"

	"github.com/contoso/gatewayd/provisioning/hub"
	"github.com/contoso/gatewayd/serialbus"
)

// How a hub's trouble is met (dps-protocol 11.3 and 19.4, design rule 7).
const (
	hubFirstWait    = 5 * time.Second
	hubMostWait     = 5 * time.Minute
	hubAwayLimit    = 30 * time.Minute // then DPS is asked again
	hubAskInterval  = time.Hour        // at most so often because of refusals
	sessionProven   = 30 * time.Second // a session that lasted so long was no failure
	settingsRetry   = 10 * time.Second
	settingsMost    = 5 * time.Minute
	twinRequestTime = 30 * time.Second
)

// hubTrouble remembers how the hub has behaved since it last accepted the device.
type hubTrouble struct {
	failures int
	refusals int
	away     time.Time // since when; zero = not away
	asked    time.Time // when DPS was last asked because of a refusal
	retry    time.Time // not before this
}

// serve opens a session with the assigned hub and keeps the appliance as its
// twin wants it until the session ends, the appliance stops answering at one
// place, or DPS is to be asked again.
func (a *appliance) serve(ctx context.Context) {
	if wait := min(time.Until(a.hub.retry), a.untilAsked()); wait > 0 {
		a.rest(ctx, wait)
		return
	}
	assigned := a.inForce()
	keys, err := a.world.keys.DeviceKeys(a.id)
	if err != nil {
		a.keyless(ctx, err)
		return
	}
	key := a.keyFor(len(keys))
	session, err := a.world.openHub(ctx, assigned, keys[key])
	if err != nil {
		if ctx.Err() == nil {
			a.hubFailed(ctx, err, len(keys))
		}
		return
	}
	defer session.Close()
	a.opened(key)
	opened := time.Now()
	a.update(ctx, func(*record) { a.facts.hubConnected = true })
	a.log.Info("hub session open", "hub", assigned.AssignedHub, "device_id", assigned.DeviceID)
	defer a.update(ctx, func(*record) { a.facts.hubConnected = false })

	err = a.follow(ctx, session)
	if ctx.Err() != nil || err == nil {
		return
	}
	if time.Since(opened) >= sessionProven {
		a.hub = hubTrouble{asked: a.hub.asked}
		a.log.Info("hub session ended, opening the next", "hub", assigned.AssignedHub, "err", err)
		return
	}
	a.hubFailed(ctx, err, len(keys))
}

// keyFor is the index of the key, of so many, that is shown to the hub: the one
// that was accepted last, here or else from a neighbour, and after a second
// refusal the next.
func (a *appliance) keyFor(keys int) int {
	first := a.key
	if first < 0 {
		first = int(a.world.accepted.Load())
	}
	return (first + max(a.hub.refusals-1, 0)) % keys
}

// opened notes which key was accepted.
func (a *appliance) opened(key int) {
	a.key = key
	a.world.accepted.Store(int32(key))
}

// inForce is the assignment.
func (a *appliance) inForce() *assignment {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.rec.Assignment
}

// untilAsked is how long it is until DPS is to be asked for the next
// assignment; very long when it is not.
func (a *appliance) untilAsked() time.Duration {
	if _, wait, wanted := a.plan(time.Now()); wanted {
		return wait
	}
	return math.MaxInt64
}

// follow reads the twin and brings the appliance to it, again at every change.
// It returns nil when the run loop is to look at everything anew, and the
// session's error when that has ended.
func (a *appliance) follow(ctx context.Context, session hubSession) error {
	ask := time.NewTimer(a.untilAsked())
	defer ask.Stop()
	for failures := 0; ; {
		a.settle() // what has happened until now, this round sees
		if a.conflicting() || a.asksAgain() {
			return nil
		}
		failed, err := a.round(ctx, session)
		if err != nil {
			return err
		}
		var again <-chan time.Time
		if failed {
			failures++
			again = time.After(max(backoff(settingsRetry, settingsMost, failures), time.Until(a.writeAgain)))
		} else {
			failures = 0
		}
		for still := true; still; {
			still = false
			select {
			case <-ctx.Done():
				return nil
			case <-session.Done():
				return session.Err()
			case <-session.Desired(): // the whole twin is read again, so no gap in $version matters
			case <-again:
			case <-ask.C:
				if a.asksAgain() {
					return nil
				}
				ask.Reset(a.untilAsked()) // another appliance has asked for all, in vain
				still = true
			case <-a.wake:
			}
		}
	}
}

// settle takes a waiting signal away.
func (a *appliance) settle() {
	select {
	case <-a.wake:
	default:
	}
}

func (a *appliance) conflicting() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.spots) > 1
}

// asksAgain tells whether DPS is to be asked now, and by this appliance, although
// a session is open.
func (a *appliance) asksAgain() bool {
	now := time.Now()
	_, wait, wanted := a.plan(now)
	return wanted && wait <= 0 && a.world.reach.claim(a, now)
}

// round reads the twin once and brings the appliance to it. failed asks for
// another round after a while; err means that the session is of no more use.
func (a *appliance) round(ctx context.Context, session hubSession) (failed bool, err error) {
	reading, cancel := context.WithTimeout(ctx, twinRequestTime)
	defer cancel()
	twin, err := session.Twin(reading)
	if err != nil {
		var refused *hub.TwinError
		if errors.As(err, &refused) { // 429 and the like: the session stands
			a.log.Warn("twin not read", "err", err)
			return true, nil
		}
		return false, err
	}
	a.hub = hubTrouble{asked: a.hub.asked}
	if a.decided(twin) {
		return false, nil
	}
	a.log.Info("twin read", "desired_version", twin.Desired.Version, "properties", len(twin.Desired.Values))
	a.update(ctx, func(r *record) {
		r.State, r.Error = StateConnected, nil
		a.facts.desired, a.facts.version = twin.Desired.Values, 0
	})
	return a.configure(ctx, session, twin), nil
}

// decided tells whether this very version has been proven on the appliance, or
// refused by it for good.
func (a *appliance) decided(twin hub.Twin) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.facts.version == twin.Desired.Version
}

// configure writes the desired properties to the appliance, reads them back and
// reports them. It returns true when it is worth trying again.
func (a *appliance) configure(ctx context.Context, session hubSession, twin hub.Twin) (failed bool) {
	where, answers := a.where()
	if !answers {
		return false // woken when it answers
	}
	assigned := a.inForce()
	heard := a.heard()
	a.writeAgain = time.Time{}
	applied, err := where.line.bus.Apply(ctx, where.unit, serialbus.Settings{
		AssignedHub: assigned.AssignedHub, DeviceID: assigned.DeviceID,
		Desired: twin.Desired.Values, Payload: assigned.Payload,
		RegistrationID: a.id, Revision: twin.Desired.Version,
	})
	if ctx.Err() != nil {
		return false
	}
	var rejected *serialbus.RejectedError
	var limit *serialbus.LimitError
	isRejected, isLimit := errors.As(err, &rejected), errors.As(err, &limit)
	if err != nil && !isRejected && !isLimit {
		a.setTrouble(ctx, 0, &Trouble{
			Kind: "line", Verdict: "the settings could not be written: " + err.Error(), Owner: "technician",
			Next: "check the appliance's power and its line; the gateway goes on trying",
		})
		return true
	}
	a.log.Info("settings read back", "wrote", applied.Wrote, "properties", len(applied.Reported), "unmapped", applied.Unmapped)
	if err := a.report(ctx, session, differing(applied.Reported, twin.Reported.Values)); err != nil {
		a.log.Warn("reported properties not sent", "err", err)
		return true
	}
	switch {
	case isLimit: // the others are in place; this one waits for tomorrow
		a.writeAgain = limit.Next
		a.setTrouble(ctx, 0, &Trouble{
			Kind: "write-limit", Verdict: err.Error(), Owner: "policy owner",
			Next: "nothing at once: it is tried again tomorrow; find out what changes the desired property " + limit.Property + " so often",
		})
	case isRejected: // the others are in place; this one waits for another twin
		a.setTrouble(ctx, twin.Desired.Version, &Trouble{
			Kind: "setting-rejected", Verdict: err.Error(), Owner: "policy owner",
			Next: "correct the desired property " + rejected.Property + " in the device's twin or in the policy that sets it",
		})
	}
	proven := false
	a.update(ctx, func(r *record) {
		a.facts.reported, a.facts.unmapped = applied.Reported, applied.Unmapped
		if proven = a.facts.heard == heard; !proven {
			a.facts.version = 0 // it was away meanwhile and may have lost its settings
			return
		}
		if isLimit {
			return
		}
		a.facts.version = twin.Desired.Version
		if !isRejected {
			r.State, r.Error = StateConfigured, nil
		}
	})
	return !proven || isLimit
}

// heard counts how often the appliance has come to answer.
func (a *appliance) heard() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.facts.heard
}

// report sends the part of the reported properties that the twin does not hold.
func (a *appliance) report(ctx context.Context, session hubSession, patch map[string]json.RawMessage) error {
	if len(patch) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, twinRequestTime)
	defer cancel()
	version, err := session.Report(ctx, patch)
	if err != nil {
		return err
	}
	a.log.Info("properties reported", "reported_version", version, "properties", len(patch))
	return nil
}

// setTrouble keeps the state and says what keeps the appliance in it. version
// is that of the desired properties if they are refused for good, else 0.
func (a *appliance) setTrouble(ctx context.Context, version int64, t *Trouble) {
	a.update(ctx, func(r *record) {
		r.Error = t
		a.facts.version = version
	})
	if a.conflicting() {
		return // which was told, and is what counts now
	}
	a.log.Warn("appliance stays "+string(StateConnected), "verdict", t.Verdict, "owner", t.Owner, "next", t.Next)
}

// differing is the part of mine that the twin does not hold yet.
func differing(mine, theirs map[string]json.RawMessage) map[string]json.RawMessage {
	patch := maps.Clone(mine)
	maps.DeleteFunc(patch, func(name string, value json.RawMessage) bool {
		old, there := theirs[name]
		return there && sameJSON(value, old)
	})
	return patch
}

// hubFailed takes in that no session could be held, decides whether DPS is to
// be asked again (design rule 7), or else when the hub is tried again. A refusal is met with a fresh token
// first, and then with each other key.
func (a *appliance) hubFailed(ctx context.Context, err error, keys int) {
	now := time.Now()
	a.hub.failures++
	var refused *hub.RefusedError
	var busy *hub.BusyError
	switch {
	case errors.As(err, &refused): // it is there
		a.hub.refusals++
		a.hub.away = time.Time{}
	case errors.As(err, &busy): // there too; only backed off from
		a.hub.away = time.Time{}
	case a.hub.away.IsZero():
		a.hub.away = now
	}
	reason := ""
	switch {
	case a.hub.refusals > keys && (a.hub.asked.IsZero() || now.Sub(a.hub.asked) >= hubAskInterval):
		reason = "the hub refused the device, with a fresh token too"
	case !a.hub.away.IsZero() && now.Sub(a.hub.away) >= hubAwayLimit:
		reason = "the hub stayed away for half an hour"
	}
	if reason != "" {
		a.hub = hubTrouble{asked: now}
		a.log.Warn("asking DPS again", "reason", reason, "err", err)
		a.update(ctx, func(r *record) {
			if r.Registration == nil {
				r.Registration = &registration{Reason: reason, Since: now}
			}
			r.Error = hubWords(err)
		})
		return
	}
	wait := backoff(hubFirstWait, hubMostWait, a.hub.failures)
	if a.hub.refusals >= 1 && a.hub.refusals <= keys {
		wait = 0 // one fresh token, and each other key, at once
	}
	a.update(ctx, func(r *record) {
		// What was proven on the appliance stays so, but it is looked at again
		// with the next twin.
		r.Error, a.facts.version = hubWords(err), 0
		if r.State != StateConfigured {
			r.State = StateAssigned
		}
	})
	a.log.Warn("no hub session", "err", err, "attempt", a.hub.failures, "retry_in", wait.Round(time.Millisecond))
	a.hub.retry = now.Add(wait)
}

func hubWords(err error) *Trouble {
	var refused *hub.RefusedError
	if errors.As(err, &refused) {
		return &Trouble{
			Kind: "hub-refused", Verdict: "the assigned hub does not accept the device: " + err.Error(), Owner: "cloud operator",
			Next: "nothing at once: DPS is asked again; if it goes on, look whether the device was deleted or disabled at the hub",
		}
	}
	return &Trouble{
		Kind: "hub-unreachable", Verdict: "no session with the assigned hub: " + err.Error(), Owner: "site network",
		Next: "nothing if the network is down; else let port 8883 out to the hub",
	}
}

// backoff doubles from first to most, with half of it random; never below first.
func backoff(first, most time.Duration, failures int) time.Duration {
	wait := first
	for range min(failures, 20) - 1 {
		wait = min(2*wait, most)
	}
	return wait + rand.N(wait/2+1)
}
