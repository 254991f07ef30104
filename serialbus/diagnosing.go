// SPDX-License-Identifier: Apache-2.0

package serialbus

import (
	"context"
	"errors"
	"slices"
	"time"
)

const (
	// judgeEvery is how often a line that is being run is judged.
	judgeEvery = time.Minute
	// masterRest is for how long no other master must have talked until this one asks again.
	masterRest = 30 * time.Second
)

// diagnoser is what is known to be wrong with a line. It belongs to the goroutine that owns the port.
type diagnoser struct {
	told   []Diagnosis
	judged time.Time // when the line was judged last; zero = not yet

	counted LineErrors // by the port's driver, when it was judged last or opened
}

// heardLook takes in what came of a look, as far as the driver does not tell the traffic itself.
func (b *Bus) heardLook(d driver, p *place, err error) {
	t := &b.habits.traffic
	unsteady := errors.Is(err, errUnsteady)
	switch _, many := d.(scanner); {
	case many && unsteady:
		t.of(p.unit).unsteady++
	case !many && unsteady:
		t.asked(p.unit, FunctionReply{Answer: "noise"}, damage{})
	case !many:
		t.asked(p.unit, outcomeOf(err), damage{})
	}
}

// diagnoseInTime judges the line when it is time: at the end of the first round, then from time to time, as long as
// there is anything new to judge.
func (b *Bus) diagnoseInTime() {
	const enough = 3
	g := &b.diagnoser
	if !b.scan.done || !g.judged.IsZero() && (time.Since(g.judged) < judgeEvery || b.habits.traffic.requests < enough) {
		return
	}
	b.tellDiagnoses(b.judgement())
	b.forgetTraffic()
}

// forgetTraffic begins to listen anew.
func (b *Bus) forgetTraffic() {
	b.countErrors()
	b.diagnoser.counted = b.diagnoser.counted.plus(b.habits.traffic.errors)
	b.habits.traffic = traffic{}
}

// judgement is what is wrong with the line by what was heard since it was last judged.
func (b *Bus) judgement() []Diagnosis {
	b.countErrors()
	if b.search.sure {
		return judge(&b.habits.traffic, b.cfg.Driver, b.speed.String())
	}
	all := judge(&b.habits.traffic, b.cfg.Driver, "the usual speeds")
	for i := range all {
		if all[i].Kind == WrongSpeed {
			all[i].Next = "Set the speed and parity of the appliance's manual: it is none of the usual ones."
		}
	}
	return all
}

// countErrors takes in what the port's driver has counted since the line was last judged. Of a driver that does not
// count, and of a port that is closed or gone, nothing more is learned.
func (b *Bus) countErrors() {
	if b.port == nil {
		return
	}
	if now, err := b.port.Errors(); err == nil {
		b.habits.traffic.errors = now.since(b.diagnoser.counted)
	}
}

// tellDiagnoses tells what is wrong, if that is something else than what was told.
func (b *Bus) tellDiagnoses(now []Diagnosis) {
	g := &b.diagnoser
	g.judged = time.Now()
	same := slices.EqualFunc(g.told, now, func(x, y Diagnosis) bool { return x.Kind == y.Kind && slices.Equal(x.Units, y.Units) })
	g.told = now
	if same {
		return
	}
	for _, d := range now {
		b.log.Debug("diagnosed", "kind", d.Kind, "heard", d.Heard)
	}
	b.events(Event{Kind: Diagnosed, Diagnoses: slices.Clone(now)})
}

// giveWay keeps silent as long as another master talks on the line: two of them spoil each other's replies, and only
// the other one may be controlling something. It listens until nobody else has sent a request for [masterRest],
// refusing what it is asked meanwhile. An error ends the port.
func (b *Bus) giveWay(ctx context.Context, p port) error {
	t := &b.habits.traffic
	if !t.anotherMaster() {
		return nil
	}
	b.log.Warn("another master talks on the line; keeping silent")
	b.tellDiagnoses(b.judgement())
	why := &b.diagnoser.told[0]
	var (
		r    receiver
		buf  [maxFrame]byte
		last = time.Now() // when the other one talked
	)
	for time.Since(last) < masterRest {
		if err := ctx.Err(); err != nil {
			return err
		}
		select {
		case request := <-b.requests:
			request.answer(why)
		default:
		}
		n, err := p.Read(buf[:], readSlice)
		switch {
		case err == nil:
			r.take(buf[:n], time.Now())
			continue
		case !errors.Is(err, errTimeout):
			return err
		}
		if err := p.Check(); err != nil {
			return err
		}
		r.abandon()
		before := t.polls
		for _, piece := range r.refuse {
			t.overheard(piece, nil, func(byte) bool { return false })
		}
		r = receiver{}
		if t.polls > before {
			last = time.Now()
		}
	}
	b.log.Info("the other master is silent; asking again")
	b.forgetTraffic()
	b.tellDiagnoses(nil)
	return nil
}
