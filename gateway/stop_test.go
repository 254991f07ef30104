// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"os"
	"regexp"
	"testing"
	"time"

	"github.com/contoso/gatewayd/allocation"
)

// TestStopTimes: each wait of a stop has room for the one inside it, from an answer
// of the webhook that takes its whole time to systemd, which ends with a kill.
func TestStopTimes(t *testing.T) {
	t.Parallel()
	unit, err := os.ReadFile("../gatewayd.service")
	if err != nil {
		t.Fatal(err)
	}
	found := regexp.MustCompile(`(?m)^TimeoutStopSec=(\S+)$`).FindSubmatch(unit)
	if found == nil {
		t.Fatal("the unit has no TimeoutStopSec")
	}
	killed, err := time.ParseDuration(string(found[1]))
	if err != nil {
		t.Fatal(err)
	}
	waits := []struct {
		name string
		time time.Duration
	}{
		{"the longest answer", allocation.AnswerTime},
		{"drainTime", drainTime},
		{"stopTime", stopTime},
		{"the unit's TimeoutStopSec", killed},
	}
	for i := 1; i < len(waits); i++ {
		if inner, outer := waits[i-1], waits[i]; inner.time >= outer.time {
			t.Errorf("%s is %v, which is not below %v, %s", inner.name, inner.time, outer.time, outer.name)
		}
	}
}
