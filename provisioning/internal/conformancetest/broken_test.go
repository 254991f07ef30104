// SPDX-License-Identifier: Apache-2.0

package conformancetest

import (
	"fmt"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// defect is what is wrong with a [plain] client, in words.
type defect string

// The defects. Most are those of a peer; the cases say whose.
const (
	fixedFirstWait    defect = "the first poll after 2 s whatever the hint"
	fixedLaterWaits   defect = "later polls every 5 s whatever the hint"
	dateIsOneSecond   defect = "a date counts as 1 s"
	cutsLongHints     defect = "a hint above 300 s becomes 1 s"
	countsFromSending defect = "the hint counts from sending"
	twoSeconds        defect = "2 s without a hint"
	noCap             defect = "no cap on polls"
	capPerAttempt     defect = "the cap is forgotten with the attempt"

	failsRegister     defect = "429 to a register fails at once"
	failsPoll         defect = "429 to a poll fails at once"
	fails5xx          defect = "5xx fails at once"
	ownClock          defect = "dates are measured by the own clock"
	noGrowth          defect = "no growth without a hint"
	shortensLongHints defect = "a hint above 300 s is asked again after 1 s"
	retriesForEver    defect = "retries for ever"
	neverResets       defect = "a good answer does not reset the count"
	noJitter          defect = "no jitter on a hint"
	noSpread          defect = "no spread over the fleet"
	noHoldBack        defect = "429 holds nobody back"
	pollsHoldBack     defect = "429 to a poll holds back registers"
	asksRefusalsAgain defect = "a refusal is asked again"

	registersAnew   defect = "a bad answer to a poll begins a new registration"
	failsOnBreaks   defect = "a broken connection fails a poll"
	neverResumes    defect = "an operation is not resumed"
	neverRestarts   defect = "a 404 to a poll is the end"
	restartsForEver defect = "a 404 to a poll begins again for ever"
	any404          defect = "any 404 is the service's"
	followsPolls    defect = "the operation ID of a poll's answer is taken over"

	noBudget defect = "no budgets"
	forgets  defect = "nothing is remembered"

	noClock       defect = "the service's clock is not looked at"
	silentClock   defect = "the clock is set silently"
	rightClock    defect = "a clock that is right is set too"
	clockForEver  defect = "the clock is set again and again"
	anybodysClock defect = "anybody's clock is believed"
	oneKey        defect = "one key only"
	keysForEver   defect = "keys are tried round and round"

	impatient  defect = "two minutes are the limit"
	noLimit    defect = "no limit"
	waitCounts defect = "the wait for a turn counts"

	anyHub           defect = "any text is a hub"
	anyDevice        defect = "any text is a device ID"
	anyOperation     defect = "any text is an operation ID"
	anybodys         defect = "an answer about anybody will do"
	anyLength        defect = "an answer of any length is read"
	anyDocument      defect = "any document will do"
	showsRaw         defect = "the service's words are shown as they came"
	fetches          defect = "a URL in the payload is fetched"
	followsRedirects defect = "redirects are followed"

	lowerEscapes defect = "lower-case escapes"
	unescaped    defect = "the resource is not escaped"
	otherOrder   defect = "skn before se"
	noPolicyName defect = "no skn"
	tokenForADay defect = "tokens live for a day"
	oneToken     defect = "one token for a whole registration"
	logsTokens   defect = "tokens are logged"

	anyID       defect = "registration IDs are not checked"
	lowerCaseID defect = "registration IDs are lower-cased"

	poolPerDevice     defect = "a connection for each device"
	noPoolLimit       defect = "no limit on connections"
	leavesConnections defect = "connections are left open"
	retriesAnswers    defect = "answers are retried below the rules"
	repeatsPut        defect = "a register is sent again over a new connection"
	noHiccups         defect = "a dial that fails is the end"
	onePoolForAll     defect = "one pool for all certificates"
	emptiesPool       defect = "one failure empties the pool"
)

// catches says which case must catch which defect.
var catches = []struct {
	rule int
	defect
	by   string
	only Transport // "" is every one that the case concerns
}{
	{1, fixedFirstWait, "the hint is obeyed on the first answer", ""},
	{1, fixedLaterWaits, "the hint is obeyed on every later answer", ""},
	{1, dateIsOneSecond, "a hint that is an HTTP date is obeyed", ""},
	{1, cutsLongHints, "a hint above 300 s is not cut short", ""},
	{1, countsFromSending, "the hint counts from the answer", ""},
	{1, twoSeconds, "without a usable hint the waits are half a second, one, then two and a half", ""},
	{1, noCap, "no device is polled more than five times in ten seconds, whatever the hint", ""},
	{1, capPerAttempt, "the cap on polls is the device's and outlives an attempt", ""},

	{2, failsRegister, "429 to a register is asked again after the hint", ""},
	{2, failsPoll, "429 to a poll is asked again after the hint", ""},
	{2, fails5xx, "500 and 503 are asked again after the hint", ""},
	{2, dateIsOneSecond, "a hint that is an HTTP date is obeyed", ""},
	{2, ownClock, "a date is measured by the service's clock", ""},
	{2, noGrowth, "without a hint the waits grow, from 1 s by 9 s", ""},
	{2, shortensLongHints, "a hint above five minutes ends the attempt and names the time", ""},
	{2, retriesForEver, "the tenth failure in a row ends the attempt", ""},
	{2, neverResets, "a good answer resets the count of failures", ""},
	{2, noJitter, "devices with one hint do not come back in step, and never too early", ""},
	{2, noSpread, "without a hint devices spread over the time that the whole fleet needs", ""},
	{2, noHoldBack, "429 to a register holds back the other devices", ""},
	{2, noHoldBack, "a long hint to one device ends the attempts of the others too", ""},
	{2, pollsHoldBack, "429 to a poll does not hold back registers", ""},
	{2, asksRefusalsAgain, "a refusal below 429 is not asked again", ""},

	{3, registersAnew, "a poll that is answered badly keeps its operation ID", ""},
	{3, fails5xx, "a poll that is answered badly keeps its operation ID", ""},
	{3, failsOnBreaks, "a poll over a broken connection goes on with the same operation", ""},
	{3, neverResumes, "a resumed operation is polled and not registered again, over a broken connection too", ""},
	{3, neverRestarts, "a 404 to a poll, and only that, begins a new registration", ""},
	{3, restartsForEver, "a second 404 is the end", ""},
	{3, any404, "a 404 of somebody else begins nothing", ""},
	{3, followsPolls, "the operation ID of a register stays, whatever a poll's answer names", ""},

	{4, noBudget, "registers and polls are spread evenly over their budgets", ""},

	{4, forgets, "the budget is remembered across restarts", ""},
	{4, forgets, "the pause after a 429 is remembered across restarts", ""},

	{5, noClock, "a clock that is off is set by the service's, and that is said once", ""},
	{5, silentClock, "a clock that is off is set by the service's, and that is said once", ""},
	{5, rightClock, "a clock that is right is left alone", ""},
	{5, clockForEver, "a clock that is said to be off is set once, and not again and again", ""},
	{5, anybodysClock, "the clock of somebody else is not believed", ""},
	{5, oneKey, "the secondary key is tried when the primary is refused", ""},
	{5, oneKey, "a key that rolls over during an operation loses nothing", ""},
	{5, keysForEver, "each key is tried once, and then it is refused", ""},

	{6, impatient, "seven minutes of assigning are normal", ""},
	{6, noLimit, "an attempt ends after ten minutes", ""},
	{6, waitCounts, "the wait for a turn in the budget does not count", ""},

	{9, anyHub, "a hub that is no host name is not handed out", ""},
	{9, anyDevice, "a device ID that would break a topic or a resource is not handed out", ""},
	{9, anyOperation, "an operation ID that would leave its place in a URL or a topic is refused", ""},
	{9, anybodys, "an answer about another registration ID is refused", ""},
	{9, anyLength, "an answer above 64 KiB is refused", ""},
	{9, anyDocument, "what is not the service's document is no answer", ""},
	{9, showsRaw, "the service's words are printable and short when they are shown", ""},
	{9, fetches, "no URL out of an answer is fetched", ""},
	{9, followsRedirects, "a redirect is not followed", ""},

	{10, lowerEscapes, "a token is sr sig se skn with upper-case escapes for at most an hour", ""},
	{10, unescaped, "a token is sr sig se skn with upper-case escapes for at most an hour", ""},
	{10, otherOrder, "a token is sr sig se skn with upper-case escapes for at most an hour", ""},
	{10, noPolicyName, "a token is sr sig se skn with upper-case escapes for at most an hour", ""},
	{10, tokenForADay, "a token is sr sig se skn with upper-case escapes for at most an hour", ""},
	{10, oneToken, "each HTTPS request has a fresh token", ""},
	{10, oneToken, "each MQTT connection has a fresh token", ""},
	{10, logsTokens, "no key, token or payload reaches a log or an error", ""},

	{11, anyID, "an ID that the documented rule forbids is refused before anything is sent", ""},
	{11, lowerCaseID, "an ID that the documented rule allows arrives as it is spelled", ""},

	{12, poolPerDevice, "devices share one pool of connections", ""},
	{12, noPoolLimit, "a pool has an upper limit", ""},
	{12, leavesConnections, "each MQTT connection is one device's and is closed at the end", ""},
	{12, retriesAnswers, "an answer is never asked for again below the rules", ""},
	{12, repeatsPut, "a register of which something was written is never repeated", ""},
	{12, noHiccups, "a connection that cannot be made is tried again soon, a few times", ""},
	{12, onePoolForAll, "a certificate has connections of its own, which are closed after the attempt", HTTPS},
	{12, leavesConnections, "a certificate has connections of its own, which are closed after the attempt", MQTT},
	{12, emptiesPool, "one device's failure leaves the others' connections alone", ""},
}

// plainTransports are those that the plain client speaks.
var plainTransports = []Transport{HTTPS, MQTT}

// TestPlainClientConforms shows that the plain client without a defect keeps every rule, so that being caught means
// something.
func TestPlainClientConforms(t *testing.T) {
	for _, transport := range plainTransports {
		t.Run(string(transport), func(t *testing.T) {
			for _, c := range Cases() {
				if !c.Concerns(transport) {
					continue
				}
				t.Run(c.String(), func(t *testing.T) {
					for _, finding := range c.Run(t, transport, withDefect("")) {
						t.Error(finding)
					}
				})
			}
		})
	}
}

// TestConformanceCatches runs the cases on clients that must not pass.
func TestConformanceCatches(t *testing.T) {
	cases := make(map[string]Case)
	for _, c := range Cases() {
		cases[c.String()] = c
	}
	caught := make(map[string]bool)
	for _, row := range catches {
		c, known := cases[Case{Rule: row.rule, Name: row.by}.String()]
		if !known {
			t.Errorf("no case of rule %d has the name %q", row.rule, row.by)
			continue
		}
		caught[c.String()] = true
		for _, transport := range plainTransports {
			if !c.Concerns(transport) || row.only != "" && row.only != transport {
				continue
			}
			t.Run(fmt.Sprintf("rule %d %s/%s", row.rule, row.defect, transport), func(t *testing.T) {
				findings := c.Run(t, transport, withDefect(row.defect))
				if len(findings) == 0 {
					t.Errorf("the case %q saw nothing", c)
				}
				for _, finding := range findings[:min(len(findings), 3)] {
					t.Log(finding)
				}
			})
		}
	}
	for name := range cases {
		if !caught[name] {
			t.Errorf("no broken client shows that the case %q can fail", name)
		}
	}
}
