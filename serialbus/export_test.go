// SPDX-License-Identifier: Apache-2.0

package serialbus

import (
	"context"
	"errors"
	"log/slog"
	"time"
)

// Master is the Modbus master alone on a real port, for tests against other programs.
type Master struct {
	port   *countingPort
	driver *modbusDriver
}

// countingPort counts the frames that are written.
type countingPort struct {
	port
	frames int
}

func (p *countingPort) Write(frame []byte) error {
	p.frames++
	return p.port.Write(frame)
}

// OpenMaster opens a port at 19,200 baud. wait is how long a reply is waited for.
func OpenMaster(path string, wait time.Duration) (*Master, error) {
	tty, err := openTTY(path, speed{19200, ParityNone, 1}, opening{})
	if err != nil {
		return nil, err
	}
	p := &countingPort{port: tty}
	h := &habits{waits: newWaits(wait, shortestWait)}
	m := newRTU(p, speed{19200, ParityNone, 1}.timing(), h, slog.New(slog.DiscardHandler))
	return &Master{port: p, driver: &modbusDriver{master: m}}, nil
}

// Close closes the port.
func (m *Master) Close() { <-m.port.Close() }

// Requests returns how many requests were sent since the last call.
func (m *Master) Requests() int {
	n := m.port.frames
	m.port.frames = 0
	return n
}

// Glance asks a unit once for presence.
func (m *Master) Glance(ctx context.Context, unit byte) error { return m.driver.glance(ctx, unit) }

// Registers reads holding registers.
func (m *Master) Registers(ctx context.Context, unit byte, first, count uint16) ([]byte, error) {
	reply, err := m.driver.master.ask(ctx, readRequest(unit, first, count))
	if err != nil {
		return nil, err
	}
	return reply[3 : len(reply)-2], nil
}

// Objects reads identification objects of a category, from first to last.
func (m *Master) Objects(ctx context.Context, unit, code, first, last byte) (map[byte]string, error) {
	_, objects, err := m.driver.master.readObjects(ctx, unit, code, first, last)
	return objects, err
}

// ServerID asks once for the server ID.
func (m *Master) ServerID(ctx context.Context, unit byte) error {
	_, err := m.driver.master.ask(ctx, serverIDRequest(unit))
	return err
}

// Raw writes a frame as it is, whole or damaged, and returns what comes back within wait.
func (m *Master) Raw(frame []byte, wait time.Duration) ([]byte, error) {
	if err := m.port.Flush(); err != nil {
		return nil, err
	}
	if err := m.port.Write(frame); err != nil {
		return nil, err
	}
	var all []byte
	var buf [maxFrame]byte
	for end := time.Now().Add(wait); time.Now().Before(end); {
		n, err := m.port.Read(buf[:], time.Until(end))
		if errors.Is(err, errTimeout) {
			continue
		}
		if err != nil {
			return nil, err
		}
		all = append(all, buf[:n]...)
		if _, _, whole := cutFrame(all); whole {
			return all, nil
		}
	}
	return all, nil
}

// ReadRequest is the frame that asks a unit for its register 0.
func ReadRequest(unit byte) []byte { return readRequest(unit, 0, 1) }

// Nudge tells the bus that an adapter came or went.
func (b *Bus) Nudge() {
	select {
	case b.nudge <- struct{}{}:
	default:
	}
}
