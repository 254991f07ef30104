// SPDX-License-Identifier: Apache-2.0

package serialbus

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// The tests in this file hold the decoder against an encoder that only the tests have, and against pymodbus.

// encodeRegisters is the reply to a 0x03.
func encodeRegisters(unit byte, values []uint16) []byte {
	frame := []byte{unit, fcReadRegisters, byte(2 * len(values))}
	for _, v := range values {
		frame = binary.BigEndian.AppendUint16(frame, v)
	}
	return sealed(frame)
}

// encodeDeviceID is a Read Device Identification reply; nil if it does not fit into a frame.
func encodeDeviceID(unit, code byte, r deviceIDReply) []byte {
	more := byte(0)
	if r.more {
		more = 0xFF
	}
	frame := []byte{unit, fcEncapsulated, meiDeviceID, code, r.conformity, more, r.next, byte(len(r.objects))}
	for _, o := range r.objects {
		frame = append(append(frame, o.id, byte(len(o.value))), o.value...)
	}
	if len(frame)+2 > maxFrame {
		return nil
	}
	return sealed(frame)
}

// randomDeviceID makes a reply with some objects, from none up to more than fit.
func randomDeviceID(random *rand.Rand) deviceIDReply {
	r := deviceIDReply{
		conformity: []byte{1, 2, 3, 0x81, 0x82, 0x83}[random.IntN(6)], more: random.IntN(2) == 0, next: byte(random.Uint32()),
		objects: []object{},
	}
	for range random.IntN(9) {
		value := make([]byte, random.IntN(random.IntN(120)+1))
		for i := range value {
			value[i] = byte(random.Uint32())
		}
		r.objects = append(r.objects, object{byte(len(r.objects) + random.IntN(240)), string(value)})
	}
	return r
}

// TestDecodeUndoesEncode: what was put into a frame comes out of the receiver and of the decoder, however the line cuts
// the bytes.
func TestDecodeUndoesEncode(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 1))
	for range 5000 {
		unit, code := byte(1+random.IntN(maxUnit)), byte(1+random.IntN(4))
		want := randomDeviceID(random)
		frame := encodeDeviceID(unit, code, want)
		if frame == nil {
			continue
		}
		request := deviceIDRequest(unit, code, byte(random.Uint32()))
		got, err := parseDeviceID(received(t, random, request, frame))
		if err != nil {
			t.Fatalf("% X: %v", frame, err)
		}
		if diff := cmp.Diff(want, got, cmp.AllowUnexported(deviceIDReply{}, object{})); diff != "" {
			t.Fatalf("% X: %s", frame, diff)
		}
	}
	for range 2000 {
		unit, values := byte(1+random.IntN(maxUnit)), make([]uint16, 1+random.IntN(maxRead))
		for i := range values {
			values[i] = uint16(random.Uint32())
		}
		frame := encodeRegisters(unit, values)
		got := received(t, random, readRequest(unit, uint16(random.Uint32()), uint16(len(values))), frame)
		for i, want := range values {
			if v := binary.BigEndian.Uint16(got[3+2*i:]); v != want {
				t.Fatalf("register %d of % X: %d, want %d", i, frame, v, want)
			}
		}
	}
}

// received passes a frame through a receiver in random pieces.
func received(t *testing.T, random *rand.Rand, request, frame []byte) []byte {
	t.Helper()
	r := receiver{request: request}
	for rest := frame; len(rest) > 0; {
		n := 1 + random.IntN(len(rest))
		reply, whole := r.take(rest[:n], time.Time{})
		if rest = rest[n:]; whole {
			if !bytes.Equal(reply, frame) || len(rest) > 0 {
				t.Fatalf("got % X of % X", reply, frame)
			}
			return reply
		}
	}
	t.Fatalf("% X does not answer % X", frame, request)
	return nil
}

// FuzzDeviceID: what the decoder takes is what the encoder would have written.
func FuzzDeviceID(f *testing.F) {
	frameSeeds(f, func(_, data []byte) { f.Add(data) })
	f.Fuzz(func(t *testing.T, frame []byte) {
		if len(frame) < 4 || len(frame) > maxFrame {
			return
		}
		frame = sealed(bytes.Clone(frame[:len(frame)-2])) // else the fuzzer seldom gets past the checksum
		if replyLength(frame) != len(frame) || frame[1] != fcEncapsulated {
			return
		}
		got, err := parseDeviceID(frame)
		if err != nil {
			t.Fatal(err)
		}
		again, err := parseDeviceID(encodeDeviceID(frame[0], frame[3], got))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(got, again, cmp.AllowUnexported(deviceIDReply{}, object{})); diff != "" {
			t.Error(diff)
		}
	})
}

// TestDecodingAllocatesLittle: no reply, however odd, costs more than 4 KiB.
func TestDecodingAllocatesLittle(t *testing.T) {
	objects := make([]object, (maxFrame-10)/2) // the most that fit: without a value each
	full := encodeDeviceID(1, codeExtended, deviceIDReply{conformity: 3, objects: objects})
	large := encodeDeviceID(1, codeOne, deviceIDReply{conformity: 0x83, objects: []object{{0x80, strings.Repeat("x", 244)}}})
	if len(full) != maxFrame || len(large) != maxFrame {
		t.Fatalf("%d and %d bytes", len(full), len(large))
	}
	for _, tc := range []struct {
		name    string
		request []byte
		frame   []byte
	}{
		{"123 objects", deviceIDRequest(1, codeExtended, 0x80), full},
		{"an object of 244 bytes", deviceIDRequest(1, codeOne, 0x80), large},
		{"a server ID of 251 bytes", serverIDRequest(1), sealed(append([]byte{1, fcServerID, 251}, make([]byte, 251)...))},
		{"125 registers", readRequest(1, 0, maxRead), encodeRegisters(1, make([]uint16, maxRead))},
		{"noise", readRequest(1, 0, 1), bytes.Repeat([]byte{1, 3, 250}, 80)},
	} {
		t.Run(tc.name, func(t *testing.T) {
			const times = 100
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			for range times {
				r := receiver{request: tc.request}
				for i := range tc.frame {
					if reply, whole := r.take(tc.frame[i:i+1], time.Time{}); whole && reply[1] == fcEncapsulated {
						if _, err := parseDeviceID(reply); err != nil {
							t.Fatal(err)
						}
					}
				}
			}
			runtime.ReadMemStats(&after)
			if each := (after.TotalAlloc - before.TotalAlloc) / times; each > 4096 {
				t.Errorf("%d bytes", each)
			}
		})
	}
}

// TestNothingBehindAFrameMatters: the length of a frame is told by its own bytes, 256 at the most.
func TestNothingBehindAFrameMatters(t *testing.T) {
	random := rand.New(rand.NewPCG(2, 2))
	for range 20000 {
		head := make([]byte, 600)
		for i := range head {
			head[i] = byte(random.Uint32())
		}
		head[1] = []byte{fcReadRegisters, fcWriteRegisters, fcServerID, fcEncapsulated, fcEncapsulated, 0xAB}[random.IntN(6)]
		if head[1] == fcEncapsulated {
			head[2] = meiDeviceID
		}
		n := replyLength(head)
		if n == 0 || n > maxFrame || replyLength(head[:maxFrame]) != n || n > 0 && replyLength(head[:n]) != n {
			t.Fatalf("% X: %d", head[:16], n)
		}
	}
}

// TestPeerPymodbusDecodesAlike: what our decoder makes of a reply is what pymodbus makes of it. Where ours refuses the
// lengths in a frame whose checksum is right, pymodbus may make something up.
func TestPeerPymodbusDecodesAlike(t *testing.T) {
	if os.Getenv("PEERS") != "1" {
		t.Skip("needs python3-pymodbus: set PEERS=1 to run it")
	}
	frames := differentialFrames(t)
	var input strings.Builder
	for _, frame := range frames {
		fmt.Fprintln(&input, hex.EncodeToString(frame))
	}
	cmd := exec.CommandContext(t.Context(), "/usr/bin/python3", filepath.Join("testdata", "peers", "pymodbus_decode.py"))
	cmd.Stdin, cmd.Stderr = strings.NewReader(input.String()), os.Stderr
	output, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(output)), "\n")
	if len(lines) != len(frames) {
		t.Fatalf("%d answers to %d frames", len(lines), len(frames))
	}
	counts := make(map[string]int)
	for i, frame := range frames {
		var theirs map[string]any
		if err := json.Unmarshal([]byte(lines[i]), &theirs); err != nil {
			t.Fatal(err)
		}
		ours, kind := decodeAsJSON(t, frame)
		counts[kind]++
		if kind == "refused" {
			continue
		}
		if diff := cmp.Diff(theirs, ours); diff != "" {
			t.Errorf("% X: %s", frame, diff)
		}
	}
	t.Logf("%d frames: %v", len(frames), counts)
	for _, kind := range []string{"checksum", "exception", "registers", "write", "server", "objects", "refused"} {
		if counts[kind] < 50 {
			t.Errorf("only %d of kind %s", counts[kind], kind)
		}
	}
}

// differentialFrames are all seeds of the fuzz targets, and random frames whole, damaged, and damaged with a right checksum.
func differentialFrames(t *testing.T) [][]byte {
	var all [][]byte
	goldenSeeds(t, func(_, data []byte) {
		if len(data) > 0 {
			all = append(all, data)
		}
	})
	random := rand.New(rand.NewPCG(3, 3))
	for range 1500 {
		unit := byte(1 + random.IntN(maxUnit))
		var frame []byte
		switch random.IntN(5) {
		case 0:
			values := make([]uint16, 1+random.IntN(maxRead))
			for i := range values {
				values[i] = uint16(random.Uint32())
			}
			frame = encodeRegisters(unit, values)
		case 1:
			frame = sealed([]byte{unit, fcWriteRegisters, byte(random.Uint32()), byte(random.Uint32()), 0, byte(random.IntN(124))})
		case 2:
			frame = sealed([]byte{unit, []byte{0x83, 0x90, 0x91, 0xAB}[random.IntN(4)], byte(1 + random.IntN(11))})
		case 3:
			text := make([]byte, 1+random.IntN(60))
			for i := range text {
				text[i] = byte(random.Uint32())
			}
			frame = sealed(append([]byte{unit, fcServerID, byte(len(text))}, text...))
		case 4:
			frame = encodeDeviceID(unit, byte(1+random.IntN(4)), randomDeviceID(random))
		}
		if frame == nil {
			continue
		}
		bad := bytes.Clone(frame)
		bad[random.IntN(len(bad))] ^= 1 << random.IntN(8)
		mended := sealed(bytes.Clone(bad[:len(bad)-2]))
		all = append(all, frame, bad, mended)
	}
	return all
}

// decodeAsJSON is what our decoder makes of a frame, in the form of pymodbus_decode.py.
func decodeAsJSON(t *testing.T, frame []byte) (decoded map[string]any, kind string) {
	t.Helper()
	if len(frame) < 4 || !intact(frame) {
		return map[string]any{"crc": false}, "checksum"
	}
	if replyLength(frame) != len(frame) {
		return nil, "refused"
	}
	body := frame[2 : len(frame)-2]
	switch {
	case frame[1]&exceptionBit != 0:
		return map[string]any{"exception": float64(body[0])}, "exception"
	case frame[1] == fcReadRegisters:
		if body[0]%2 != 0 {
			return nil, "refused" // by answers, since nobody can ask for half a register
		}
		registers := []any{}
		for rest := body[1:]; len(rest) > 0; rest = rest[2:] {
			registers = append(registers, float64(binary.BigEndian.Uint16(rest)))
		}
		return map[string]any{"registers": registers}, "registers"
	case frame[1] == fcWriteRegisters:
		address, count := binary.BigEndian.Uint16(body), binary.BigEndian.Uint16(body[2:])
		return map[string]any{"address": float64(address), "count": float64(count)}, "write"
	case frame[1] == fcServerID:
		return map[string]any{"server": hex.EncodeToString(body[1:])}, "server"
	}
	reply, err := parseDeviceID(frame)
	if err != nil {
		t.Fatal(err)
	}
	objects := map[string]any{}
	for _, o := range reply.objects {
		id, value := fmt.Sprint(o.id), hex.EncodeToString([]byte(o.value))
		switch before := objects[id].(type) {
		case nil:
			objects[id] = value
		case string:
			objects[id] = []any{before, value}
		case []any:
			objects[id] = append(before, value)
		}
	}
	return map[string]any{
		"conformity": float64(reply.conformity), "more": reply.more, "next": float64(reply.next), "objects": objects,
	}, "objects"
}
