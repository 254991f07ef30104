// SPDX-License-Identifier: Apache-2.0

package serialbustest

import (
	"math/rand/v2"
	"time"
)

// NewNoiseLine is a line with random bytes on it and nobody who answers: a wrong speed, a loose shield.
func NewNoiseLine(opts ...Option) (*Line, error) {
	l, err := start(nobody{}, opts)
	if err != nil {
		return nil, err
	}
	l.workers.Go(l.chatter)
	return l, nil
}

// chatter sends bursts of random bytes until the line is unplugged. The sequence is the same in every run.
func (l *Line) chatter() {
	random := rand.New(rand.NewPCG(1, 2))
	for {
		burst := make([]byte, 1+random.IntN(40))
		for i := range burst {
			burst[i] = byte(random.Uint32())
		}
		if l.write(burst) != nil {
			return
		}
		if l.sleep(time.Duration(5+random.IntN(25))*time.Millisecond, 0) != nil {
			return
		}
	}
}

// nobody is a device that hears nothing.
type nobody struct{}

// The methods of device, none of which does anything.
func (nobody) receive([]byte) []exchange { return nil }
func (nobody) pending() bool             { return false }
func (nobody) silence()                  {}
func (nobody) stray(reply []byte) []byte { return reply }
func (nobody) appliance(int) appliance   { return nil }
