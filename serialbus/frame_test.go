// SPDX-License-Identifier: Apache-2.0

package serialbus

import (
	"bytes"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestCRC16(t *testing.T) {
	if got := crc16([]byte("123456789")); got != 0x4B37 {
		t.Errorf("got %04X, want 4B37", got)
	}
	if got := fmt.Sprintf("% X", sealed([]byte{0x05, 0x11})); got != "05 11 C2 EC" {
		t.Errorf("got %s, want 05 11 C2 EC", got)
	}
}

// goldenFrames were produced by implementations that nobody here wrote (serial 4.3).
var goldenFrames = []struct{ name, request, reply string }{
	{"read four registers", "01 03 00 0A 00 04 64 0B", "01 03 08 00 6E 00 6F 00 70 00 71 0F E7"},
	{"write three registers", "01 10 00 14 00 03 06 00 07 00 08 00 09 52 C4", "01 10 00 14 00 03 C0 0C"},
	{"exception 2", "01 03 20 00 00 01 8F CA", "01 83 02 C0 F1"},
	{"server ID of libmodbus", "05 11 C2 EC", "05 11 0A B4 FF 4C 4D 42 33 2E 31 2E 36 46 2A"},
	{
		"server ID of pymodbus", "01 11 C0 2C",
		"01 11 1A 43 6F 6E 74 6F 73 6F 2D 48 50 53 44 2D 30 38 38 2D 31 32 2E 30 2E 32 2E 35 FF BE 6F",
	},
	{
		"basic identification", "01 2B 0E 01 00 70 77",
		"01 2B 0E 01 83 00 00 03 00 07 43 6F 6E 74 6F 73 6F 01 08 48 50 53 44 2D 30 38 38 02 08 31 32 2E 30 2E 32 2E 35 21 68",
	},
	{
		"object 0x80", "01 2B 0E 04 80 72 87",
		"01 2B 0E 04 83 00 00 01 80 20 6D 61 69 6E 62 75 69 6C 64 69 6E 67 31 36 37 2D 63 6F 6E 74 6F 73 6F 2D 68 70 73 64 2D 30 38 38 6B DE",
	},
}

func TestRequestsAreGolden(t *testing.T) {
	for _, tc := range []struct {
		name string
		got  []byte
		want string
	}{
		{"read", readRequest(1, 10, 4), goldenFrames[0].request},
		{"server ID", serverIDRequest(5), goldenFrames[3].request},
		{"basic identification", deviceIDRequest(1, codeBasic, 0), goldenFrames[5].request},
		{"object 0x80", deviceIDRequest(1, codeOne, 0x80), goldenFrames[6].request},
		{"SunSpec marker", readRequest(1, 40000, 2), "01 03 9C 40 00 02 EB 8F"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := fmt.Sprintf("% X", tc.got); got != tc.want {
				t.Errorf("got %s, want %s", got, tc.want)
			}
		})
	}
	// The golden write has three registers, ours has one: the same layout.
	if got, want := writeRequest(1, 20, []uint16{7, 8, 9}), bytesOf(t, "01 10 00 14 00 03 06 00 07 00 08 00 09 52 C4"); !bytes.Equal(got, want) {
		t.Errorf("writing a range: got % X, want % X", got, want)
	}
	if got, want := writeRequest(1, 20, []uint16{7}), sealed(bytesOf(t, "01 10 00 14 00 01 02 00 07")); !bytes.Equal(got, want) {
		t.Errorf("write: got % X, want % X", got, want)
	}
}

func TestReplyLengthOfGoldenFrames(t *testing.T) {
	for _, tc := range goldenFrames {
		t.Run(tc.name, func(t *testing.T) {
			reply := bytesOf(t, tc.reply)
			for n := range reply {
				if got := replyLength(reply[:n]); got != 0 && got != len(reply) {
					t.Errorf("after %d bytes: got %d, want 0 or %d", n, got, len(reply))
				}
			}
			if got := replyLength(reply); got != len(reply) {
				t.Errorf("whole: got %d, want %d", got, len(reply))
			}
			if !answers(bytesOf(t, tc.request), reply) {
				t.Error("it does not answer its request")
			}
		})
	}
}

func TestReplyLengthBounds(t *testing.T) {
	for _, tc := range []struct {
		name, head string
		want       int
	}{
		{"unknown function", "01 07 00", -1},
		{"exception", "01 AB 01", 5},
		{"exception of no function", "01 80 01", -1},
		{"count 251 is the most", "01 03 FB", 256},
		{"count 252 does not fit", "01 03 FC", -1},
		{"count 255 does not fit", "01 11 FF", -1},
		{"other MEI type", "01 2B 0D", -1},
		{"no objects", "01 2B 0E 01 83 00 00 00", 10},
		{"an object of 244 bytes is the most", "01 2B 0E 04 83 00 00 01 80 F4", 256},
		{"an object of 245 bytes does not fit", "01 2B 0E 04 83 00 00 01 80 F5", -1},
		{"an object of 255 bytes does not fit", "01 2B 0E 04 83 00 00 01 80 FF", -1},
		{"the second object's length is not known yet", "01 2B 0E 01 83 00 00 02 00 01 41 01", 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := replyLength(bytesOf(t, tc.head)); got != tc.want {
				t.Errorf("got %d, want %d", got, tc.want)
			}
		})
	}
}

func TestReceiver(t *testing.T) {
	request := bytesOf(t, goldenFrames[0].request)
	reply := bytesOf(t, goldenFrames[0].reply)
	join := func(parts ...[]byte) []byte { return bytes.Join(parts, nil) }
	flipped := bytes.Clone(reply)
	flipped[5] ^= 0x04
	for _, tc := range []struct {
		name    string
		in      []byte
		found   bool
		foreign int
	}{
		{"the reply", reply, true, 0},
		{"an exception", frameOf(t, "01 83 06"), true, 0},
		{"three bytes of junk before", join([]byte{0, 0xFF, 0}, reply), true, 0},
		{"four bytes of junk before", join([]byte{0, 0xFF, 0, 0}, reply), false, 0},
		{"a late frame of another unit before", join(frameOf(t, "02 03 02 00 01"), reply), true, 1},
		{"a late frame of another function before", join(frameOf(t, "01 11 03 41 42 43"), reply), true, 1},
		{"a reply with another count before", join(frameOf(t, "01 03 02 00 01"), reply), true, 1},
		{"only a frame of another unit", frameOf(t, "02 03 08 00 01 00 02 00 03 00 04"), false, 1},
		{"our echo before", join(request, reply), true, 0},
		{"only our echo", request, false, 0},
		{"one flipped bit", flipped, false, 0},
		{"the reply cut", reply[:len(reply)-1], false, 0},
		{"nothing", nil, false, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			whole := receiver{request: request}
			frame, found := whole.take(tc.in, time.Time{})
			if found != tc.found || len(whole.foreign) != tc.foreign {
				t.Errorf("at once: found %v, foreign %d; want %v, %d", found, whole.foreign, tc.found, tc.foreign)
			}
			if found && !intact(frame) {
				t.Errorf("at once: % X has a wrong checksum", frame)
			}
			// The same byte by byte: how the adapter cuts the stream must not matter.
			piecewise := receiver{request: request}
			found = false
			for i := range tc.in {
				if _, found = piecewise.take(tc.in[i:i+1], time.Time{}); found {
					break
				}
			}
			if found != tc.found || len(piecewise.foreign) != tc.foreign {
				t.Errorf("byte by byte: found %v, foreign %d; want %v, %d", found, piecewise.foreign, tc.found, tc.foreign)
			}
		})
	}
}

func TestAnswers(t *testing.T) {
	for _, tc := range []struct {
		name    string
		request []byte
		reply   string
		want    bool
	}{
		{"read", readRequest(1, 0, 1), "01 03 02 00 01", true},
		{"read, another count", readRequest(1, 0, 2), "01 03 02 00 01", false},
		{"write", writeRequest(1, 100, []uint16{1}), "01 10 00 64 00 01", true},
		{"write, another register", writeRequest(1, 100, []uint16{1}), "01 10 00 65 00 01", false},
		{"identification", deviceIDRequest(1, codeOne, 0x80), "01 2B 0E 04 83 00 00 00", true},
		{"identification, another code", deviceIDRequest(1, codeOne, 0x80), "01 2B 0E 01 83 00 00 00", false},
		{"refusal", deviceIDRequest(1, codeOne, 0x80), "01 AB 02", true},
		{"refusal of something else", deviceIDRequest(1, codeOne, 0x80), "01 83 02", false},
		{"another unit", serverIDRequest(1), "02 11 01 FF", false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := answers(tc.request, frameOf(t, tc.reply)); got != tc.want {
				t.Errorf("got %v, want %v", got, tc.want)
			}
		})
	}
}

// frameSeeds gives a fuzz target the corpus of serial 9.
func frameSeeds(f *testing.F, add func(request, data []byte)) { goldenSeeds(f, add) }

// goldenSeeds gives every golden reply, all of its beginnings, each of its bits flipped, glued to itself and to its
// request, and frames at the bounds.
func goldenSeeds(t testing.TB, add func(request, data []byte)) {
	for _, g := range goldenFrames {
		request, reply := bytesOf(t, g.request), bytesOf(t, g.reply)
		for n := range reply {
			add(request, reply[:n])
			for bit := range 8 {
				flipped := bytes.Clone(reply)
				flipped[n] ^= 1 << bit
				add(request, flipped)
			}
		}
		add(request, reply)
		add(request, append(bytes.Clone(reply), reply...))
		add(request, append(bytes.Clone(request), reply...))
	}
	add(serverIDRequest(1), sealed(append([]byte{1, 0x11, 251}, make([]byte, 251)...)))                                 // 256 bytes
	add(serverIDRequest(1), append([]byte{1, 0x11, 255}, make([]byte, 300)...))                                         // count = 255
	add(deviceIDRequest(1, 1, 0), bytesOf(t, "01 2B 0E 01 83 FF 00 FF 00 FF"))                                          // 255 objects, len = 255
	add(deviceIDRequest(1, 1, 0), sealed(bytesOf(t, "01 2B 0E 01 83 FF 00 01 00 01 41")))                               // next = same
	add(deviceIDRequest(1, 4, 0x80), sealed(append(bytesOf(t, "01 2B 0E 04 83 00 00 01 80 F4"), make([]byte, 244)...))) // 256 bytes
}

func FuzzReplyLength(f *testing.F) {
	frameSeeds(f, func(_, data []byte) { f.Add(data) })
	f.Fuzz(func(t *testing.T, head []byte) {
		n := replyLength(head)
		if n > maxFrame || n < -1 {
			t.Fatalf("a reply of %d bytes", n)
		}
		if n > 0 && len(head) >= n && replyLength(head[:n]) != n {
			t.Errorf("%d with what follows, %d without", n, replyLength(head[:n]))
		}
	})
}

// FuzzReceiver: no bytes and no cuts make it accept a wrong checksum, grow, or depend on how the bytes are cut.
func FuzzReceiver(f *testing.F) {
	frameSeeds(f, func(request, data []byte) { f.Add(request, data, uint8(3)) })
	f.Fuzz(func(t *testing.T, request, data []byte, step uint8) {
		if len(request) < 8 || len(request) > maxFrame {
			return
		}
		r := receiver{request: request, echo: step%2 == 1}
		for len(data) > 0 {
			n := min(len(data), int(step)+1)
			frame, found := r.take(data[:n], time.Time{})
			data = data[n:]
			if found {
				if !intact(frame) || !answers(request, frame) {
					t.Fatalf("accepted % X for % X", frame, request)
				}
				return
			}
			if len(r.buf) > maxFrame+maxJunk {
				t.Fatalf("holds %d bytes", len(r.buf))
			}
		}
	})
}

func TestParseDeviceID(t *testing.T) {
	got, err := parseDeviceID(bytesOf(t, goldenFrames[5].reply))
	if err != nil {
		t.Fatal(err)
	}
	want := deviceIDReply{conformity: 0x83, objects: []object{{0, "Contoso"}, {1, "HPSD-088"}, {2, "12.0.2.5"}}}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(deviceIDReply{}, object{})); diff != "" {
		t.Error(diff)
	}
}

func FuzzParseDeviceID(f *testing.F) {
	frameSeeds(f, func(_, data []byte) { f.Add(data) })
	f.Fuzz(func(t *testing.T, frame []byte) {
		if n := replyLength(frame); n != len(frame) || len(frame) < 2 || frame[1] != fcEncapsulated {
			return
		}
		reply, err := parseDeviceID(frame)
		if err != nil {
			return
		}
		if len(reply.objects) > int(frame[7]) {
			t.Errorf("%d objects where %d are announced", len(reply.objects), frame[7])
		}
	})
}

func TestLongestText(t *testing.T) {
	for _, tc := range []struct{ name, data, want string }{
		{"libmodbus: ID, run, text", "\xB4\xFFLMB3.1.6", "LMB3.1.6"},
		{"pymodbus: text, run", "Contoso-HPSD-088-12.0.2.5\xFF", "Contoso-HPSD-088-12.0.2.5"},
		{"two texts", "AB\x00Model-X", "Model-X"},
		{"too short", "\x01AB\xFF", ""},
		{"nothing", "", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := longestText([]byte(tc.data)); got != tc.want {
				t.Errorf("got %q, want %q", got, tc.want)
			}
		})
	}
}

func TestIdentityIsCleaned(t *testing.T) {
	for _, tc := range []struct {
		name     string
		in, want Identity
	}{
		{"padding", Identity{Vendor: "Contoso\x00\x00", Model: " HP "}, Identity{Vendor: "Contoso", Model: "HP"}},
		{"escape sequence", Identity{Model: "\x1b[31mX"}, Identity{Model: "\uFFFD[31mX"}},
		{"not UTF-8", Identity{Serial: "a\xffb"}, Identity{Serial: "a\uFFFDb"}},
		{"registration ID", Identity{RegistrationID: "Room1-contoso-hpsd-088"}, Identity{RegistrationID: "Room1-contoso-hpsd-088"}},
		{"no registration ID", Identity{RegistrationID: "object 0x80 of another maker"}, Identity{}},
		{"dash at the end", Identity{RegistrationID: "room-"}, Identity{}},
		{"too long", Identity{Serial: string(bytes.Repeat([]byte("x"), 300))}, Identity{Serial: string(bytes.Repeat([]byte("x"), 245))}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if diff := cmp.Diff(tc.want, tc.in.cleaned()); diff != "" {
				t.Error(diff)
			}
		})
	}
}
