// SPDX-License-Identifier: Apache-2.0

package serialbus

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// DiagnosisKind is what is wrong with a line as one word, for programs. The words stay.
type DiagnosisKind string

// What can be wrong with a line.
const (
	SilentLine     DiagnosisKind = "silent-line"
	WrongSpeed     DiagnosisKind = "wrong-speed"
	BadWiring      DiagnosisKind = "bad-wiring"
	NoisyLine      DiagnosisKind = "noisy-line"
	AddressClash   DiagnosisKind = "address-clash"
	AnotherMaster  DiagnosisKind = "another-master"
	LateReplies    DiagnosisKind = "late-replies"
	PartialUnit    DiagnosisKind = "partial-unit"
	PortMissing    DiagnosisKind = "port-missing"
	PortForbidden  DiagnosisKind = "port-forbidden"
	PortHeld       DiagnosisKind = "port-held"
	PortUnsuitable DiagnosisKind = "port-unsuitable"
	PortUnplugged  DiagnosisKind = "port-unplugged"
	PortStuck      DiagnosisKind = "port-stuck"
)

// Diagnosis says in words what is wrong with a line. As an error it is one sentence of all of them.
type Diagnosis struct {
	Kind    DiagnosisKind
	Units   []int  // the addresses that it is about, sorted; empty = the line
	Heard   string // what was heard, in numbers
	Verdict string // the likely cause
	Owner   string // who can do something about it: "technician" or "integrator"
	Next    string // what to do
	cause   error
}

// Error implements error.
func (d *Diagnosis) Error() string {
	return fmt.Sprintf("%s: %s; %s", d.Verdict, d.Heard, d.Next)
}

// Unwrap returns the error of this package that it is about, nil if none.
func (d *Diagnosis) Unwrap() error { return d.cause }

// Who can do something about a line.
const (
	ownerTechnician = "technician"
	ownerIntegrator = "integrator"
)

// advice is what is said of a kind, whatever the numbers.
type advice struct {
	kind                 DiagnosisKind
	cause                error
	verdict, owner, next string
}

// advices are in the order in which they are told. The table of docs/serial.md is made of them.
var advices = []advice{
	{
		AnotherMaster, ErrAnotherMaster, "Another master is talking on this line", ownerTechnician,
		"Find the other controller, or its service laptop, and take one of the two off the line: Modbus RTU bears one master. Until then this one keeps silent and looks again after 30 s of quiet.",
	},
	{
		SilentLine, ErrSilent, "Nobody on this line answers", ownerTechnician,
		"Check that the appliances are switched on, then the addresses, then the plug; swap the wires A and B once; then compare speed and parity with the manual, since most appliances keep silent at a wrong speed.",
	},
	{
		WrongSpeed, ErrNoise, "Most likely the speed or the parity is wrong", ownerTechnician,
		`Set the speed and parity of the appliance's manual, or let the gateway try the usual ones (baud = "auto").`,
	},
	{
		BadWiring, ErrNoise, "Most likely A and B are swapped, or bias or termination is missing: the line is not at rest while nobody talks", ownerTechnician,
		"Swap A and B at the adapter once; check for 120 Ω at both ends and for bias at one place; unplug the appliances one after the other: the garbage ends with the one that babbles.",
	},
	{
		NoisyLine, ErrNoise, "Most likely noise on the line: some replies arrive damaged", ownerTechnician,
		"Check the ground wire, the termination at both ends, loose screws, and that the cable keeps away from motors and mains; try a lower speed.",
	},
	{
		AddressClash, ErrNoise, "Most likely two appliances have the same address", ownerTechnician,
		"Switch one of them off and scan again: if the other one then answers well, give one of them another address.",
	},
	{
		LateReplies, nil, "Replies come after their time is over", ownerTechnician,
		"Look for a slow converter or a busy appliance on the way; set an FTDI adapter's latency timer to 1 ms.",
	},
	{
		PartialUnit, nil, "It answers, but not to the questions for its name", ownerIntegrator,
		"This is no fault of the line. Give the bus the profile of the product, or a registration_id template.",
	},
	{
		PortMissing, ErrNoPort, "There is no such port", ownerTechnician,
		"Plug the adapter in, or choose one of the ports that gatewayctl ports lists.",
	},
	{
		PortForbidden, ErrNoAccess, "This user may not open the port", ownerTechnician,
		"Add the user to the group dialout and log in again, or run the command with sudo.",
	},
	{
		PortHeld, ErrPortBusy, "Another program holds the port", ownerTechnician,
		"End that program, or stop gatewayd while you scan: systemctl stop gatewayd.",
	},
	{
		PortUnsuitable, ErrNotSerial, "This is not a serial port that can be set up like this", ownerTechnician,
		"Check the path and the speed; gatewayctl ports lists the serial ports.",
	},
	{
		PortUnplugged, ErrUnplugged, "The adapter went away", ownerTechnician,
		"Plug it in again; if it happens by itself, try another cable and another USB socket.",
	},
	{
		PortStuck, ErrWriteStuck, "The adapter takes no more bytes", ownerTechnician,
		"Plug it in again; switch hardware flow control off where the adapter has it.",
	},
}

// diagnosed returns the diagnosis of a kind with what was heard.
func diagnosed(kind DiagnosisKind, heard string, units ...byte) Diagnosis {
	i := slices.IndexFunc(advices, func(a advice) bool { return a.kind == kind })
	a := advices[i]
	d := Diagnosis{Kind: kind, Heard: heard, Verdict: a.verdict, Owner: a.owner, Next: a.next, cause: a.cause}
	for _, u := range units {
		d.Units = append(d.Units, int(u))
	}
	slices.Sort(d.Units)
	return d
}

// Diagnose returns what an error of a port means, in the same words as everything else that is wrong with a line; nil
// if it is no trouble of a port. If err is or wraps a *Diagnosis, it returns that.
func Diagnose(err error) *Diagnosis {
	if d, is := errors.AsType[*Diagnosis](err); is {
		return d
	}
	for _, a := range advices {
		if strings.HasPrefix(string(a.kind), "port-") && errors.Is(err, a.cause) {
			heard, _, _ := strings.Cut(err.Error(), "; ") // what follows is advice, too
			d := diagnosed(a.kind, heard)
			return &d
		}
	}
	return nil
}

// judge says what is wrong with a line that was heard like this: nothing, one thing or several. at is its speed.
func judge(t *traffic, driver Driver, at string) []Diagnosis {
	if t.anotherMaster() {
		// Whatever else was heard may be a collision with it.
		return []Diagnosis{diagnosed(AnotherMaster, fmt.Sprintf("%s that this gateway did not send, for %s, and %s to them",
			count(t.polls, "request"), unitsInWords(t.polled), count(t.strays, "reply")))}
	}
	const few = 3
	if t.requests == 0 && t.burst < few {
		return nil
	}
	if t.intact() == 0 && t.late == 0 {
		return []Diagnosis{judgeDumb(t, driver, at)}
	}
	var all []Diagnosis
	clashing := clashes(t)
	for _, unit := range clashing {
		all = append(all, diagnosed(AddressClash, clashInWords(t, unit), unit))
	}
	damaged := 0 // elsewhere
	for unit, h := range t.units {
		if !slices.Contains(clashing, unit) {
			damaged += h.damaged
		}
	}
	if damaged+t.burst >= few && 50*(damaged+t.burst) >= t.intact() {
		heard := fmt.Sprintf("%s, %d damaged", count(t.intact(), "good reply"), damaged)
		where := slices.DeleteFunc(t.damagedAt(), func(u byte) bool { return slices.Contains(clashing, u) })
		if len(where) > 0 {
			heard += " at " + unitsInWords(where)
		}
		all = append(all, diagnosed(NoisyLine, heard+unaskedInWords(t)+errorsInWords(t)))
	}
	slow := t.tooSlow()
	if len(slow) > 0 || t.late >= few && 50*t.late >= t.intact() {
		all = append(all, judgeLate(t, slow))
	}
	return all
}

// judgeLate is about replies after their time was over; slow are the units that need longer than they are given.
func judgeLate(t *traffic, slow []byte) Diagnosis {
	heard := fmt.Sprintf("%s in time, %d too late", count(t.intact(), "reply"), t.late)
	if len(slow) == 0 {
		return diagnosed(LateReplies, heard)
	}
	d := diagnosed(LateReplies, heard+"; too slow: "+unitsInWords(slow), slow...)
	d.Next += " An appliance that thinks for so long needs a profile with a longer reply_timeout."
	return d
}

// judgeDumb is about a line on which nobody gave an intact answer.
func judgeDumb(t *traffic, driver Driver, at string) Diagnosis {
	const few = 3
	asked := fmt.Sprintf("%s at %s", count(t.requests, "request"), at)
	heard := fmt.Sprintf("%s: no good reply, bytes without a valid checksum after %d of them%s%s%s",
		asked, t.damaged, damageInWords(t), unaskedInWords(t), errorsInWords(t))
	switch {
	case driver == DriverLine && t.damaged == 0:
		d := diagnosed(SilentLine, asked+", no reply")
		d.Next = "Check that the appliance is switched on, the cable (the transmitter of one side goes to the receiver of the other), then speed and parity."
		return d
	case driver == DriverLine:
		d := diagnosed(WrongSpeed, heard)
		d.Next = "Set the speed and parity of the appliance's manual, and check that the profile is the one of this appliance."
		return d
	case t.damaged == 0 && t.errors.Break >= few: // held low, as by swapped wires
		return diagnosed(BadWiring, asked+", no reply"+errorsInWords(t))
	case t.damaged == 0 && t.burst < few:
		heard := asked + ", no reply"
		if t.echoes > 0 {
			heard += "; the adapter hears itself, so it works and the trouble is behind it"
		}
		return diagnosed(SilentLine, heard)
	case t.burst >= few || t.unrest > 0 || !t.alike():
		return diagnosed(BadWiring, heard)
	default:
		d := diagnosed(WrongSpeed, heard)
		if t.errors.Parity >= few && t.errors.Frame == 0 {
			d.Next = "The port counted wrong parity bits and no wrong stop bits, so the speed is right and the parity is not: set that of the appliance's manual."
		}
		if units := t.damagedAt(); len(units) == 1 && len(t.units) > 1 {
			d.Next += fmt.Sprintf(" If they are right, look for two appliances with address %d.", units[0])
		}
		return d
	}
}

// clashes returns the units at whose addresses two appliances seem to be, sorted: damage there only, while others are
// clean or while some questions are always answered well; or readings of one identity that differ (serial 5.4).
func clashes(t *traffic) []byte {
	var all []byte
	for _, unit := range t.damagedAt() {
		h := t.units[unit]
		elsewhere, good := t.damaged-h.damaged, t.intact()-h.intact()
		if h.damaged < 2 || 2*h.damaged < h.intact() || t.burst >= 3 {
			continue
		}
		// Where others are damaged too, noise alone can take half of a unit's few replies.
		othersClean := good > 0 && (elsewhere == 0 || 10*elsewhere <= good && neverWell(h))
		if othersClean || splitByFunction(h) {
			all = append(all, unit)
		}
	}
	for unit, h := range t.units {
		if h.unsteady > 0 && h.late == 0 && !slices.Contains(all, unit) {
			all = append(all, unit)
		}
	}
	slices.Sort(all)
	return all
}

// neverWell reports whether one question was always answered with damage.
func neverWell(h *heed) bool {
	for _, f := range h.functions {
		if f.damaged >= 2 && f.intact() == 0 {
			return true
		}
	}
	return false
}

// splitByFunction reports whether one question is always answered well and another one never: two equal appliances
// say the same as long as they are not asked for what differs.
func splitByFunction(h *heed) bool {
	var good, bad bool
	for _, f := range h.functions {
		good = good || f.intact() >= 2 && f.damaged == 0
		bad = bad || f.damaged >= 2 && f.intact() == 0
	}
	return good && bad
}

func clashInWords(t *traffic, unit byte) string {
	h := t.units[unit]
	heard := fmt.Sprintf("address %d: %s, %d damaged", unit, count(h.intact(), "good reply"), h.damaged)
	if h.unsteady > 0 {
		heard += ", and two readings of its identity differ"
	}
	if good := t.intact() - h.intact(); good > 0 {
		heard += fmt.Sprintf("; the others: %d good, %d damaged", good, t.damaged-h.damaged)
	}
	return heard
}

// damageInWords tells how long the damaged replies were and when they came.
func damageInWords(t *traffic) string {
	if len(t.damage) == 0 {
		return ""
	}
	length := func(a, b damage) int { return a.length - b.length }
	delay := func(a, b damage) int { return int(a.delay - b.delay) }
	shortest, longest := slices.MinFunc(t.damage, length).length, slices.MaxFunc(t.damage, length).length
	soonest, latest := slices.MinFunc(t.damage, delay).delay, slices.MaxFunc(t.damage, delay).delay
	ms := func(d time.Duration) int { return int(max(d, 0).Round(time.Millisecond) / time.Millisecond) }
	return fmt.Sprintf(" (%s, %s ms after the request)", count2(shortest, longest, "byte"), between(ms(soonest), ms(latest)))
}

func unaskedInWords(t *traffic) string {
	text := ""
	if t.burst > 0 {
		text = fmt.Sprintf("; %s in %s while nobody was asked", count(t.unasked, "byte"), count(t.burst, "burst"))
	}
	if t.unrest > 0 {
		text += fmt.Sprintf("; %s it did not fall silent for half a second", count(t.unrest, "time"))
	}
	return text
}

// errorsInWords tells what the port's driver counted, if it counts and there was anything.
func errorsInWords(t *traffic) string {
	if t.errors == (LineErrors{}) {
		return ""
	}
	return "; characters that the port could not take: " + t.errors.String()
}

// count is a number with its noun.
func count(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %s", n, plural(noun))
}

// count2 is a range with its noun.
func count2(from, to int, noun string) string {
	if from == to {
		return count(from, noun)
	}
	return between(from, to) + " " + plural(noun)
}

func between(from, to int) string {
	if from == to {
		return fmt.Sprint(from)
	}
	return fmt.Sprintf("%d to %d", from, to)
}

func plural(noun string) string {
	if stem, is := strings.CutSuffix(noun, "y"); is {
		return stem + "ies"
	}
	return noun + "s"
}

// unitsInWords names a few units: "unit 3", "units 1, 2, 3 and 12 more".
func unitsInWords(units []byte) string {
	const most = 5
	sorted := slices.Sorted(slices.Values(units))
	if len(sorted) == 0 {
		return "no unit"
	}
	var names []string
	for _, u := range sorted[:min(len(sorted), most)] {
		names = append(names, fmt.Sprint(u))
	}
	text := "unit " + strings.Join(names, ", ")
	if len(sorted) > 1 {
		text = "units " + strings.Join(names, ", ")
	}
	if more := len(sorted) - most; more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return text
}

// partial returns what is to be said of the units of findings that answer and cannot name themselves: one diagnosis
// for all that behave alike.
func partial(findings []Finding) []Diagnosis {
	var order []string
	alike := make(map[string][]byte)
	for _, f := range findings {
		if f.Heard != HeardNameless && f.Heard != HeardRefusals {
			continue
		}
		var parts []string
		for _, reply := range f.Functions {
			parts = append(parts, reply.inWords())
		}
		text := strings.Join(parts, ", ")
		if alike[text] == nil {
			order = append(order, text)
		}
		alike[text] = append(alike[text], byte(f.Unit))
	}
	var all []Diagnosis
	for _, text := range order {
		all = append(all, diagnosed(PartialUnit, strings.TrimSpace(unitsInWords(alike[text])+": "+text), alike[text]...))
	}
	return all
}

// inWords tells what a unit made of a function.
func (r FunctionReply) inWords() string {
	switch r.Answer {
	case "data":
		return fmt.Sprintf("function 0x%02x answered", r.Function)
	case "refusal":
		return fmt.Sprintf("0x%02x refused (exception %d)", r.Function, r.Exception)
	default:
		return fmt.Sprintf("0x%02x %s", r.Function, r.Answer)
	}
}
