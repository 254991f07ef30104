// SPDX-License-Identifier: Apache-2.0

package serialbustest

import "time"

// NewNoiseLine is a line with random bytes on it and nobody who answers: a wrong speed, a loose shield.
func NewNoiseLine(opts ...Option) (*Line, error) {
	return start(nobody{}, true, append([]Option{WithStranger(Stranger{Kind: Noise})}, opts...))
}

// nobody is a device that hears nothing.
type nobody struct{}

// The methods of device, none of which does anything.
func (nobody) hear([]byte, time.Time, decision) []exchange { return nil }
func (nobody) silence()                                    {}
func (nobody) stray(reply []byte) []byte                   { return reply }
func (nobody) appliance(int) appliance                     { return nil }
func (nobody) units() []int                                { return nil }
