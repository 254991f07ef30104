// SPDX-License-Identifier: Apache-2.0

package serialbus

import (
	"encoding/binary"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// holding is the holding registers of unit 1, which knows no other function unless it is given here.
type holding struct {
	registers map[uint16]uint16
	others    map[byte]string // function → reply: function and data in hex
	mute      bool            // it keeps silent at registers that it lacks
}

// text puts a text into the registers from first on, two characters each, padded with NUL.
func (h holding) text(first uint16, count int, text string) {
	block := make([]byte, 2*count)
	copy(block, text)
	for i := range count {
		h.registers[first+uint16(i)] = binary.BigEndian.Uint16(block[2*i:])
	}
}

// sunSpec puts a common model at base.
func (h holding) sunSpec(base, length uint16, texts ...string) holding {
	h.text(base, 2, sunSpecMarker)
	h.registers[base+2], h.registers[base+3] = sunSpecCommon, length
	for i, at := range []uint16{0, 16, 32, 40, 48} {
		count := []int{16, 16, 8, 8, 16}[i]
		h.text(base+sunSpecHeader+at, count, texts[i])
	}
	return h
}

func (h holding) wire(t *testing.T) *wire {
	return &wire{answer: func(request []byte) []burst {
		if request[1] != fcReadRegisters {
			if reply := h.others[request[1]]; reply != "" {
				return soon(frameOf(t, "01 "+reply))
			}
			return soon(sealed([]byte{1, request[1] | exceptionBit, exceptionFunction}))
		}
		first, count := binary.BigEndian.Uint16(request[2:]), binary.BigEndian.Uint16(request[4:])
		reply := []byte{1, fcReadRegisters, byte(2 * count)}
		for i := range count {
			value, has := h.registers[first+i]
			if !has && h.mute {
				return nil
			}
			if !has {
				return soon(sealed([]byte{1, fcReadRegisters | exceptionBit, exceptionAddress}))
			}
			reply = binary.BigEndian.AppendUint16(reply, value)
		}
		return soon(sealed(reply))
	}}
}

func newHolding() holding {
	return holding{registers: map[uint16]uint16{0: 7}, others: map[byte]string{}}
}

// TestSunSpec holds the third rung: where the common model may be, and what is none.
func TestSunSpec(t *testing.T) {
	texts := []string{"Contoso", "HPSD-088", "opt", "12.0.2.5", "167"}
	want := Identity{Vendor: "Contoso", Model: "HPSD-088", Firmware: "12.0.2.5", Serial: "167", Source: SourceSunSpec}
	serverID := "11 0A B4 FF 4C 4D 42 33 2E 31 2E 36"
	server := Identity{Model: "LMB3.1.6", Source: SourceServerID}
	for _, tc := range []struct {
		name string
		unit func() holding
		want Identity
	}{
		{"at 40000", func() holding { return newHolding().sunSpec(40000, 65, texts...) }, want},
		{"at 40000, padded", func() holding { return newHolding().sunSpec(40000, 66, texts...) }, want},
		{"at 50000", func() holding { return newHolding().sunSpec(50000, 66, texts...) }, want},
		{"at 0", func() holding { return newHolding().sunSpec(0, 66, texts...) }, want},
		{"padded with spaces", func() holding {
			return newHolding().sunSpec(40000, 66, "Contoso         ", "HPSD-088  ", "", "12.0.2.5", "167 ")
		}, want},
		{"something behind the NUL", func() holding {
			return newHolding().sunSpec(40000, 66, "Contoso\x00rest", "HPSD-088", "", "12.0.2.5", "167")
		}, want},
		{"without a serial number", func() holding {
			return newHolding().sunSpec(40000, 66, "Contoso", "HPSD-088", "", "12.0.2.5", "")
		}, Identity{Vendor: "Contoso", Model: "HPSD-088", Firmware: "12.0.2.5", Source: SourceSunSpec}},
		{"another length", func() holding { return newHolding().sunSpec(40000, 64, texts...) }, Identity{}},
		{"blank", func() holding { return newHolding().sunSpec(40000, 66, "", "", "", "", "") }, Identity{}},
		{"it wins over a server ID, whose layout is anybody's", func() holding {
			h := newHolding().sunSpec(40000, 66, texts...)
			h.others[fcServerID] = serverID
			return h
		}, want},
		{"a server ID alone", func() holding { h := newHolding(); h.others[fcServerID] = serverID; return h }, server},
		{"a server ID, and silence at registers that it lacks", func() holding {
			h := newHolding()
			h.others[fcServerID], h.mute = serverID, true
			return h
		}, server},
		{"silence at registers that it lacks", func() holding { h := newHolding(); h.mute = true; return h }, Identity{}},
		{"device identification wins over it", func() holding {
			h := newHolding().sunSpec(40000, 66, texts...)
			h.others[fcEncapsulated] = "2B 0E 01 01 00 00 01 00 01 41"
			return h
		}, Identity{Vendor: "A", Source: SourceDeviceIdentification}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				got, err := testDriver(t, tc.unit().wire(t), "").identify(t.Context(), 1)
				if err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(tc.want, got); diff != "" {
					t.Error(diff)
				}
			})
		})
	}
	// The golden request of serial 4.2.
	if got, want := fmt.Sprintf("% X", readRequest(1, sunSpecBases[0], 2)), "01 03 9C 40 00 02 EB 8F"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// TestIdentityRegisters holds the last rung: registers that a profile names.
func TestIdentityRegisters(t *testing.T) {
	const head = "name='x'\ndriver='modbus-rtu'\n[serial]\nbaud=9600\nparity='none'\nstop_bits=1\n"
	const deviceID = "2B 0E 01 01 00 00 02 00 01 41 01 01 42" // vendor A, model B
	register := func(keys string) string { return "[[identity.register]]\n" + keys + "\n" }
	for _, tc := range []struct {
		name, profile string
		unit          func(holding)
		want          Identity
	}{
		{"text", register("tells='serial'\ntype='text'\nregister=100\ncount=3"), func(h holding) { h.text(100, 3, "167") }, Identity{Serial: "167", Source: "registers"}},
		{"text, low byte first", register("tells='serial'\ntype='text'\nregister=100\ncount=2\nswapped=true"), func(h holding) { h.text(100, 2, "61\x007") }, Identity{Serial: "167", Source: "registers"}},
		{"number", register("tells='serial'\ntype='number'\nregister=100\ncount=2"), func(h holding) { h.text(100, 2, "\x00\x01\x00\x02") }, Identity{Serial: "65538", Source: "registers"}},
		{"number, low register first", register("tells='serial'\ntype='number'\nregister=100\ncount=2\nswapped=true"), func(h holding) { h.text(100, 2, "\x00\x02\x00\x01") }, Identity{Serial: "65538", Source: "registers"}},
		{"one register", register("tells='firmware'\ntype='number'\nregister=100"), func(h holding) { h.registers[100] = 5539 }, Identity{Firmware: "5539", Source: "registers"}},
		{"the widest number", register("tells='serial'\ntype='number'\nregister=100\ncount=4"), func(h holding) { h.text(100, 4, "\xff\xff\xff\xff\xff\xff\xff\xfe") }, Identity{Serial: "18446744073709551614", Source: "registers"}},
		{"a number nobody gave", register("tells='serial'\ntype='number'\nregister=100\ncount=2"), func(h holding) { h.text(100, 2, "\xff\xff\xff\xff") }, Identity{}},
		{"no number", register("tells='serial'\ntype='number'\nregister=100\ncount=2"), func(h holding) { h.text(100, 2, "") }, Identity{}},
		{"a text nobody gave", register("tells='serial'\ntype='text'\nregister=100\ncount=2"), func(h holding) { h.text(100, 2, "\xff\xff\xff\xff") }, Identity{}},
		{"a register that it lacks", register("tells='serial'\ntype='text'\nregister=100"), func(holding) {}, Identity{}},
		{"a registration ID", register("tells='registration_id'\ntype='text'\nregister=100\ncount=2"), func(h holding) { h.text(100, 2, "hp-1") }, Identity{RegistrationID: "hp-1", Source: "registers"}},
		{"what cannot be a registration ID", register("tells='registration_id'\ntype='text'\nregister=100\ncount=2"), func(h holding) { h.text(100, 2, "hp 1") }, Identity{}},
		{
			"beside device identification", register("tells='serial'\ntype='number'\nregister=100") + register("tells='vendor'\ntype='text'\nregister=101"),
			func(h holding) { h.others[fcEncapsulated] = deviceID; h.registers[100] = 167; h.text(101, 1, "Z") },
			Identity{Vendor: "A", Model: "B", Serial: "167", Source: "device-identification+registers"},
		},
		{
			"nothing that device identification did not tell", register("tells='vendor'\ntype='text'\nregister=101"),
			func(h holding) { h.others[fcEncapsulated] = deviceID; h.text(101, 1, "Z") },
			Identity{Vendor: "A", Model: "B", Source: "device-identification"},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p, err := ParseProfile([]byte(head + tc.profile))
			if err != nil {
				t.Fatal(err)
			}
			synctest.Test(t, func(t *testing.T) {
				h := newHolding()
				tc.unit(h)
				got, err := (&modbusDriver{master: newTestRTU(h.wire(t)), profile: p}).identify(t.Context(), 1)
				if err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(tc.want, got); diff != "" {
					t.Error(diff)
				}
			})
		})
	}
	for _, tc := range []struct{ name, text, want string }{
		{"field", head + register("tells='colour'\ntype='text'\nregister=1"), `tells "colour": allowed are vendor`},
		{"no register", head + register("tells='serial'\ntype='text'"), "register: missing"},
		{"type", head + register("tells='serial'\ntype='enum'\nregister=1"), `type "enum": allowed are text and number`},
		{"beyond the last", head + register("tells='serial'\ntype='text'\nregister=65535\ncount=2"), "the last register would be 65536"},
		{"long text", head + register("tells='serial'\ntype='text'\nregister=1\ncount=123"), "count 123: a text has up to 122"},
		{"wide number", head + register("tells='serial'\ntype='number'\nregister=1\ncount=5"), "a number has up to 4"},
		{"twice", head + strings.Repeat(register("tells='serial'\ntype='text'\nregister=1"), 2), "serial is told twice"},
		{"on a line", strings.Replace(head, "'modbus-rtu'", "'line'\nprotocol='alp'", 1) + register("tells='serial'\ntype='text'\nregister=1"), "only the driver modbus-rtu"},
	} {
		if _, err := ParseProfile([]byte(tc.text)); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: got %v, want %q in it", tc.name, err, tc.want)
		}
	}
}

// TestSure: how far an identity can be relied on.
func TestSure(t *testing.T) {
	for _, tc := range []struct {
		id   Identity
		want Confidence
	}{
		{Identity{RegistrationID: "a", Source: SourceALP}, SureOfOne},
		{Identity{Serial: "1", Source: SourceSunSpec}, SureOfOne},
		{Identity{Serial: "1", Source: SourceText}, SureUnchecked},
		{Identity{Model: "m", Source: SourceText}, SureOfProduct},
		{Identity{Vendor: "v", Model: "m", Source: SourceDeviceIdentification}, SureOfProduct},
		{Identity{Model: "m", Source: SourceServerID}, SureOfProduct},
		{Identity{}, SureOfPresence},
	} {
		if got := tc.id.Sure(); got != tc.want {
			t.Errorf("%+v: got %q, want %q", tc.id, got, tc.want)
		}
	}
}

// TestSwap: Found tells who was there before, also when it was switched off in between; other firmware is no swap.
func TestSwap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := run(t, toaster("499", "1.0"), nil)
		told := func(when string, who speaker, wait time.Duration, want string) {
			t.Helper()
			b.replace(who)
			b.after(wait)
			b.mu.Lock()
			defer b.mu.Unlock()
			if got := fmt.Sprintf("%s -> %s swapped %v", b.found.Was.Serial+" "+b.found.Was.Firmware, b.found.Identity.Serial+" "+b.found.Identity.Firmware, b.found.Swapped()); got != want {
				t.Errorf("%s: %s, want %s", when, got, want)
			}
		}
		reread := rereadAfter*DefaultRescan + DefaultRecheck
		told("at first", toaster("499", "1.0"), 2*time.Second, "  -> 499 1.0 swapped false")
		told("other firmware", toaster("499", "2.0"), reread, "499 1.0 -> 499 2.0 swapped false")
		told("another one", toaster("500", "2.0"), reread, "499 2.0 -> 500 2.0 swapped true")
		b.replace(silent)
		b.after(2 * time.Minute)
		told("the same after a pause", toaster("500", "2.0"), DefaultRescan+2*time.Second, "  -> 500 2.0 swapped false")
		b.replace(silent)
		b.after(2 * time.Minute)
		told("another one after a pause", toaster("501", "2.0"), DefaultRescan+2*time.Second, "500 2.0 -> 501 2.0 swapped true")
	})
}
