// SPDX-License-Identifier: Apache-2.0

package main

import (
	"strings"
	"testing"
	"time"

	"github.com/contoso/gatewayd/serialbus"
)

// TestUnitsLeft goes on with a scan that was stopped.
func TestUnitsLeft(t *testing.T) {
	units := []byte{1, 2, 3, 4, 7, 8, 40}
	silent := serialbus.HeardSilence
	tests := []struct {
		name     string
		findings []serialbus.Finding
		fast     bool
		want     string
	}{
		{"nothing was looked at", nil, false, "1-4,7-8,40"},
		{"stopped in the fast step", []serialbus.Finding{{Unit: 1, Heard: silent}, {Unit: 2, Heard: serialbus.HeardIdentity}}, true, "3-4,7-8,40"},
		{"silence needs a slow look", []serialbus.Finding{
			{Unit: 1, Heard: silent, Slow: true},
			{Unit: 2, Heard: silent},
			{Unit: 3, Heard: serialbus.HeardIdentity},
			{Unit: 4, Heard: serialbus.HeardNoise},
			{Unit: 7, Heard: silent},
			{Unit: 8, Heard: silent, Slow: true},
			{Unit: 40, Heard: silent},
		}, false, "2,7,40"},
		{"all of them", []serialbus.Finding{{Unit: 1}, {Unit: 2}, {Unit: 3}, {Unit: 4}, {Unit: 7}, {Unit: 8}, {Unit: 40}}, true, ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if got := unitsLeft(units, test.findings, test.fast); got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}

// TestProgressFits: all of it on a terminal of 80 columns, and usually percent, unit, time and number on one of 40.
func TestProgressFits(t *testing.T) {
	longest := serialbus.Progress{Percent: 100, Step: serialbus.StepSpeed, Unit: 247, Left: 272 * time.Second, Found: 247, Speed: "115200 8E1"}
	if text := progressText(longest); len(text) > 79 {
		t.Errorf("%q has %d characters", text, len(text))
	}
	usual := serialbus.Progress{Percent: 31, Step: serialbus.StepSlow, Unit: 47, Left: 48 * time.Second, Found: 12, Speed: "19200 8E1"}
	if text := progressText(usual); !strings.Contains(text[:39], "unit 47, 48s left, 12") {
		t.Errorf("%q does not show what matters in 39 characters", text)
	}
}
