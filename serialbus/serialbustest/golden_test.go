// SPDX-License-Identifier: Apache-2.0

package serialbustest

import (
	"encoding/hex"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// spare lets every request be.
func spare(int, string) fate { return fate{} }

func TestChecksum(t *testing.T) {
	if got := checksum([]byte("123456789")); got != 0x4B37 {
		t.Errorf("got %04X, want 4B37", got)
	}
}

// TestGoldenFrames: the simulator against frames of libmodbus and pymodbus (serial 4.3), not against our own master.
func TestGoldenFrames(t *testing.T) {
	unit := HeatPump{
		Unit: 1, Vendor: "Contoso", Model: "HPSD-088", Firmware: "12.0.2.5", RegistrationID: "mainbuilding167-contoso-hpsd-088",
	}.asUnit()
	for i := range uint16(4) {
		unit.Registers[10+i] = 110 + i
	}
	line := &modbusLine{machines: []*machine{newMachine(unit)}}
	for _, tc := range []struct{ name, request, want string }{
		{"read four registers", "01 03 00 0A 00 04 64 0B", "01 03 08 00 6E 00 6F 00 70 00 71 0F E7"},
		{"no such register", "01 03 20 00 00 01 8F CA", "01 83 02 C0 F1"},
		{
			"server ID", "01 11 C0 2C",
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
		{"another unit", "05 11 C2 EC", ""},
		{"wrong checksum", "01 11 C0 2D", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			request := fromHex(t, tc.request)
			got := ""
			for _, e := range line.hear(request, time.Time{}, spare) {
				got = fmt.Sprintf("% X", e.reply)
			}
			if got != tc.want {
				t.Errorf("got %s, want %s", got, tc.want)
			}
			line.silence()
		})
	}
}

// TestModbusAnswers covers what no golden frame shows; the checksums are left out here.
func TestModbusAnswers(t *testing.T) {
	newPump := func() *machine {
		return newMachine(HeatPump{
			Unit: 1, Vendor: "V", Model: "M", Firmware: "F",
			RegistrationID: strings.Repeat("r", 120), Serial: strings.Repeat("s", 120), Provisioning: "p",
		}.asUnit())
	}
	for _, tc := range []struct{ name, request, want string }{
		{"write", "01 10 00 65 00 01 02 02 8A 00 00", "01 10 00 65 00 01"},
		{"write both", "01 10 00 64 00 02 04 00 01 02 8A 00 00", "01 10 00 64 00 02"},
		{"out of range", "01 10 00 65 00 01 02 03 85 00 00", "01 90 03"},
		{"read-only", "01 10 00 0A 00 01 02 00 01 00 00", "01 90 02"},
		{"count and bytes differ", "01 10 00 64 00 02 02 00 01 00 00", "01 90 03"},
		{"read 126", "01 03 00 00 00 7E 00 00", "01 83 03"},
		{"read past the end", "01 03 00 C7 00 02 00 00", "01 83 02"},
		{"unknown function", "01 06 00 64 00 01 00 00", "01 86 01"},
		{"bad code", "01 2B 0E 09 00 00 00", "01 AB 03"},
		{"other MEI type", "01 2B 0D 01 00 00 00", "01 AB 04"},
		{"no such object", "01 2B 0E 04 90 00 00", "01 AB 02"},
		{"the stream goes on", "01 2B 0E 03 81 00 00", "01 2B 0E 03 83 00 00 02 81 78 " + strings.TrimSpace(strings.Repeat("73 ", 120)) + " 82 01 70"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := fmt.Sprintf("% X", newPump().answer(fromHex(t, tc.request), time.Time{})); got != tc.want {
				t.Errorf("got %s, want %s", got, tc.want)
			}
		})
	}
	first := newPump().answer(fromHex(t, "01 2B 0E 03 80 00 00"), time.Time{})
	if first[5] != 0xFF || first[6] != 0x82 || first[7] != 2 {
		t.Errorf("the first part of the stream: % X, want more from 0x82 on after 2 objects", first[:8])
	}
}

// TestRefusedWriteChangesNothing: one bad register of several leaves all as they were.
func TestRefusedWriteChangesNothing(t *testing.T) {
	p := newMachine(HeatPump{Unit: 1}.asUnit())
	p.answer(fromHex(t, "01 10 00 64 00 02 04 00 01 FF FF 00 00"), time.Time{})
	if p.values[registerState] != 0 || p.written != 0 || p.wears[registerState] != 0 {
		t.Error("the first of the two registers was written")
	}
}

// TestRequestsInPieces: requests are cut by function and length, whatever the pieces, and after junk.
func TestRequestsInPieces(t *testing.T) {
	line := &modbusLine{machines: []*machine{newMachine(HeatPump{Unit: 1}.asUnit())}}
	stream := fromHex(t, "FF 01 11 C0 2C 01 03 00 0A 00 04 64 0B")
	var answered int
	for _, b := range stream {
		answered += len(line.hear([]byte{b}, time.Time{}, spare))
	}
	if answered != 2 || len(line.buf) > 0 {
		t.Errorf("%d answered, %d bytes pending", answered, len(line.buf))
	}
}

func TestToasterAnswers(t *testing.T) {
	settle := func(text string) string { return strings.TrimSuffix(string(withTrailer([]byte(text))), "\n") }
	const document = `{"rev":3,"hub":"h","deviceId":"d","desired":{"state":"ready"},"payload":{"a":1}}`
	crc := trailer([]byte(document))[1:]
	stage := settle(`{"jsonrpc":"2.0","id":1,"method":"stage","params":` + document + `}`)
	commit := settle(`{"jsonrpc":"2.0","id":2,"method":"commit","params":{"rev":3,"crc":"` + crc + `"}}`)
	staged := settle(`{"id":1,"jsonrpc":"2.0","result":{"crc":"` + crc + `","rev":3}}`)
	committed := settle(`{"id":2,"jsonrpc":"2.0","result":{"applied":true}}`)
	toast := &toaster{Toaster: Toaster{Vendor: "Contoso"}}
	for _, step := range []struct{ name, line, want string }{
		{
			"golden identify", `{"jsonrpc":"2.0","id":1,"method":"identify"}*2F104B70`, // serial 6
			settle(`{"id":1,"jsonrpc":"2.0","result":{"alp":1,"firmware":"","maxLine":1024,"model":"","provisioning":"","registrationId":"","serial":"","vendor":"Contoso"}}`),
		},
		{"wrong checksum", `{"jsonrpc":"2.0","id":1,"method":"identify"}*2F104B71`, ""},
		{"no request", settle(`[]`), ""},
		{"never set", settle(`{"jsonrpc":"2.0","id":3,"method":"status"}`), settle(`{"id":3,"jsonrpc":"2.0","result":{}}`)},
		{"commit of nothing", commit, settle(`{"id":2,"jsonrpc":"2.0","error":{"code":-32000,"message":"nothing of that revision and checksum is staged"}}`)},
		{"stage", stage, staged},
		{"stage again", stage, staged},
		{"commit", commit, committed},
		{"commit again", commit, committed},
		{"stage once more", stage, staged},
		{
			"other content under the same revision", settle(`{"jsonrpc":"2.0","id":1,"method":"stage","params":{"rev":3,"desired":{}}}`),
			settle(`{"id":1,"jsonrpc":"2.0","error":{"code":-32000,"message":"revision 3 is known already"}}`),
		},
		{
			"older revision", settle(`{"jsonrpc":"2.0","id":1,"method":"stage","params":{"rev":2,"desired":{}}}`),
			settle(`{"id":1,"jsonrpc":"2.0","error":{"code":-32000,"message":"revision 3 is known already"}}`),
		},
		{
			"bad value", settle(`{"jsonrpc":"2.0","id":1,"method":"stage","params":{"rev":4,"desired":{"state":"on"}}}`),
			settle(`{"id":1,"jsonrpc":"2.0","error":{"code":-32602,"data":{"property":"state"},"message":"state cannot be \"on\""}}`),
		},
		{
			"status", settle(`{"jsonrpc":"2.0","id":3,"method":"status"}`),
			settle(`{"id":3,"jsonrpc":"2.0","result":{"applied":{"rev":3,"crc":"` + crc +
				`","hub":"h","deviceId":"d","desired":{"state":"ready"},"payload":{"a":1}},"staged":{"crc":"` + crc + `","rev":3}}}`),
		},
		{"unknown method", settle(`{"jsonrpc":"2.0","id":4,"method":"toast"}`), settle(`{"id":4,"jsonrpc":"2.0","error":{"code":-32601,"message":"Method not found"}}`)},
	} {
		got := ""
		for _, e := range toast.hear([]byte("\n"+step.line+"\r\n"), time.Time{}, spare) {
			got = strings.TrimSuffix(string(e.reply), "\n")
		}
		// The members of an object have no order; the trailer covers the order at hand, so compare without it.
		if diff := cmp.Diff(members(t, step.want), members(t, got)); diff != "" {
			t.Errorf("%s: %s", step.name, diff)
		}
	}
	if toast.committed != 1 {
		t.Errorf("%d commits, want 1", toast.committed)
	}
	want := map[string]string{"state": "ready", "darknessSetting": "light", "assignedHub": "h", "deviceId": "d", "payload": `{"a":1}`}
	if diff := cmp.Diff(want, toast.settings()); diff != "" {
		t.Error(diff)
	}
}

func fromHex(t *testing.T, text string) []byte {
	t.Helper()
	data, err := hex.DecodeString(strings.ReplaceAll(text, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return data
}
