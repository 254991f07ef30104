// SPDX-License-Identifier: Apache-2.0

package serialbus

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// script answers requests by their hex text, each with the next of its replies, the last one again and again.
// A reply is unit, function and data in hex; "" is silence.
type script map[string][]string

func (s script) wire(t *testing.T) *wire {
	return &wire{answer: func(request []byte) []burst {
		key := fmt.Sprintf("% X", request[:len(request)-2])
		replies, known := s[key]
		if !known && slices.Contains([]string{"01 03 9C 40 00 02", "01 03 C3 50 00 02", "01 03 00 00 00 02"}, key) {
			replies, known = []string{"01 83 02"}, true // few have SunSpec's common model
		}
		if !known {
			t.Errorf("unexpected request %s", key)
			return nil
		}
		if len(replies) > 1 {
			s[key] = replies[1:]
		}
		if replies[0] == "" {
			return nil
		}
		return soon(frameOf(t, replies[0]))
	}}
}

func testDriver(t *testing.T, w *wire, profile string) *modbusDriver {
	p, err := loadProfile(profile)
	if err != nil {
		t.Fatal(err)
	}
	return &modbusDriver{master: newTestRTU(w), profile: p}
}

// TestPresence: how often and how long a unit is asked in each manner (serial 5.3, 5.4).
func TestPresence(t *testing.T) {
	good, bad := frameOf(t, "01 83 02"), []byte("noise")
	glance := func(ctx context.Context, d *modbusDriver) error { return d.glance(ctx, 1) }
	present := func(ctx context.Context, d *modbusDriver) error { return d.present(ctx, 1) }
	stare := func(ctx context.Context, d *modbusDriver) error { return d.stare(ctx, 1) }
	after := func(d time.Duration) []burst { return []burst{{d, good}} }
	for _, tc := range []struct {
		name   string
		how    func(context.Context, *modbusDriver) error
		script [][]burst
		want   error
		asked  int
	}{
		{"a refusal is an answer", glance, [][]burst{soon(good)}, nil, 1},
		{"noise twice", glance, [][]burst{soon(bad), soon(bad), soon(good)}, nil, 3},
		{"noise three times", glance, [][]burst{soon(bad), soon(bad), soon(bad), soon(good)}, ErrNoise, 3},
		{"a glance does not repeat silence: most units are silent", glance, [][]burst{nil, soon(good)}, ErrSilent, 1},
		{"a known unit is asked again", present, [][]burst{nil, soon(good)}, nil, 2},
		{"twice in all", present, [][]burst{nil, nil, soon(good)}, ErrSilent, 2},
		{"a stare waits for 600 ms", stare, [][]burst{after(590 * time.Millisecond)}, nil, 1},
		{"not longer", stare, [][]burst{after(620 * time.Millisecond)}, ErrSilent, 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := &wire{}
				w.answer = func([]byte) []burst { return tc.script[len(w.written)-1] }
				err := tc.how(t.Context(), testDriver(t, w, ""))
				if !errors.Is(err, tc.want) || w.writes() != tc.asked {
					t.Errorf("got %v after %d requests, want %v after %d", err, w.writes(), tc.want, tc.asked)
				}
			})
		})
	}
}

// TestDeafUnit: a unit that is deaf for half a second after a request to another one that nobody answered is found by a
// slow look and not by a fast one, and is not lost for it when it is known (serial 4.4).
func TestDeafUnit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		deafUntil := time.Time{}
		w := &wire{answer: func(request []byte) []burst {
			if request[0] != 5 {
				deafUntil = time.Now().Add(550 * time.Millisecond)
				return nil
			}
			if time.Now().Before(deafUntil) {
				deafUntil = time.Now().Add(550 * time.Millisecond)
				return nil
			}
			return soon(frameOf(t, "05 03 02 00 00"))
		}}
		d := testDriver(t, w, "")
		for _, step := range []struct {
			name string
			ask  func(context.Context, byte) error
			want error
		}{
			{"a fast look", d.glance, ErrSilent},
			{"a slow look", d.stare, nil},
			{"a known unit", d.present, nil},
		} {
			if err := d.glance(t.Context(), 4); !errors.Is(err, ErrSilent) {
				t.Fatal(err)
			}
			if err := step.ask(t.Context(), 5); !errors.Is(err, step.want) {
				t.Errorf("%s: got %v, want %v", step.name, err, step.want)
			}
		}
	})
}

func TestIdentifyModbus(t *testing.T) {
	const basic = "01 2B 0E 01 00"
	const pump = "01 2B 0E 01 83 00 00 03 00 07 43 6F 6E 74 6F 73 6F 01 08 48 50 53 44 2D 30 38 38 02 08 31 32 2E 30 2E 32 2E 35"
	contoso := Identity{Vendor: "Contoso", Model: "HPSD-088", Firmware: "12.0.2.5", Source: SourceDeviceIdentification}
	with := func(change func(*Identity)) Identity { id := contoso; change(&id); return id }
	for _, tc := range []struct {
		name    string
		profile string
		script  script
		want    Identity
		wantErr error
	}{
		{
			"all objects one by one", "contoso-hpsd-088",
			script{
				basic:            {pump},
				"01 2B 0E 04 80": {"01 2B 0E 04 83 00 00 01 80 03 61 2D 31"},
				"01 2B 0E 04 81": {"01 2B 0E 04 83 00 00 01 81 03 31 36 37"},
				"01 2B 0E 04 82": {"01 2B 0E 04 83 00 00 01 82 03 31 2E 30"},
			},
			with(func(id *Identity) { id.RegistrationID, id.Serial, id.Provisioning = "a-1", "167", "1.0" }), nil,
		},
		{
			"no extended objects", "contoso-hpsd-088",
			script{basic: {pump}, "01 2B 0E 04 80": {"01 AB 02"}, "01 2B 0E 04 81": {"01 AB 02"}, "01 2B 0E 04 82": {"01 AB 02"}},
			contoso, nil,
		},
		{
			"without a profile only object 0x80", "",
			script{basic: {pump}, "01 2B 0E 04 80": {"01 2B 0E 04 83 00 00 01 80 03 61 2D 31"}},
			with(func(id *Identity) { id.RegistrationID = "a-1" }), nil,
		},
		{
			"basic category only", "contoso-hpsd-088",
			script{basic: {"01 2B 0E 01 01 00 00 03 00 07 43 6F 6E 74 6F 73 6F 01 08 48 50 53 44 2D 30 38 38 02 08 31 32 2E 30 2E 32 2E 35"}},
			contoso, nil,
		},
		{
			"extended as a stream only, in two parts", "contoso-hpsd-088",
			script{
				basic:            {"01 2B 0E 01 03 00 00 03 00 07 43 6F 6E 74 6F 73 6F 01 08 48 50 53 44 2D 30 38 38 02 08 31 32 2E 30 2E 32 2E 35"},
				"01 2B 0E 03 80": {"01 2B 0E 03 03 FF 82 02 80 03 61 2D 31 81 03 31 36 37"},
				"01 2B 0E 03 82": {"01 2B 0E 03 03 00 00 01 82 03 31 2E 30"},
			},
			with(func(id *Identity) { id.RegistrationID, id.Serial, id.Provisioning = "a-1", "167", "1.0" }), nil,
		},
		{
			"basic in two parts", "",
			script{
				basic:            {"01 2B 0E 01 01 FF 02 02 00 07 43 6F 6E 74 6F 73 6F 01 08 48 50 53 44 2D 30 38 38"},
				"01 2B 0E 01 02": {"01 2B 0E 01 01 00 00 01 02 08 31 32 2E 30 2E 32 2E 35"},
			},
			contoso, nil,
		},
		{
			"refuses 0x2B, has a server ID", "",
			script{basic: {"01 AB 01"}, "01 11": {"01 11 0A B4 FF 4C 4D 42 33 2E 31 2E 36"}},
			Identity{Model: "LMB3.1.6", Source: SourceServerID},
			nil,
		},
		{
			"silent at 0x2B, has a server ID", "",
			script{basic: {""}, "01 11": {"01 11 0A B4 FF 4C 4D 42 33 2E 31 2E 36"}},
			Identity{Model: "LMB3.1.6", Source: SourceServerID},
			nil,
		},
		{
			"only there", "",
			script{basic: {"01 AB 01"}, "01 11": {"01 91 01"}, "01 03 00 00 00 01": {"01 83 02"}},
			Identity{},
			nil,
		},
		{
			"busy at 0x2B, then not", "",
			script{basic: {"01 AB 06", "01 AB 05", pump}, "01 2B 0E 04 80": {"01 AB 06", "01 2B 0E 04 83 00 00 01 80 03 61 2D 31"}},
			with(func(id *Identity) { id.RegistrationID = "a-1" }), nil,
		},
		{
			// Another identity than the day before would be another appliance.
			"busy at 0x2B for long: nothing is made up instead", "",
			script{basic: {"01 AB 06"}, "01 11": {"01 11 0A B4 FF 4C 4D 42 33 2E 31 2E 36"}},
			Identity{},
			&exceptionError{1, fcEncapsulated, exceptionBusy},
		},
		{
			"gone meanwhile", "",
			script{basic: {""}, "01 11": {""}, "01 03 00 00 00 01": {""}},
			Identity{},
			ErrSilent,
		},
		{
			"escape sequences in its name", "",
			script{basic: {"01 2B 0E 01 01 00 00 01 00 02 1B 63"}},
			Identity{Vendor: "\uFFFDc", Source: SourceDeviceIdentification},
			nil,
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				got, err := testDriver(t, tc.script.wire(t), tc.profile).identify(t.Context(), 1)
				if !sameError(err, tc.wantErr) {
					t.Fatalf("got error %v, want %v", err, tc.wantErr)
				}
				if diff := cmp.Diff(tc.want, got); diff != "" {
					t.Error(diff)
				}
			})
		})
	}
}

// sameError compares a refusal by its numbers and every other error by errors.Is.
func sameError(got, want error) bool {
	var refused, wanted *exceptionError
	if errors.As(want, &wanted) {
		return errors.As(got, &refused) && *refused == *wanted
	}
	return errors.Is(got, want)
}

// TestContinuationHasAnEnd: a unit that always has one more object is asked sixteen times, not for ever.
func TestContinuationHasAnEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &wire{}
		w.answer = func(request []byte) []burst {
			next := request[4] + 1
			return soon(sealed([]byte{1, 0x2B, 0x0E, 3, 3, 0xFF, next, 1, request[4], 1, 'x'}))
		}
		_, objects, err := newTestRTU(w).readObjects(t.Context(), 1, codeExtended, 0x80, 0xFF)
		if err != nil || w.writes() != maxContinuations || len(objects) != maxContinuations {
			t.Errorf("got %d objects after %d requests, %v", len(objects), w.writes(), err)
		}
	})
}

// TestContinuationIsGuarded: some servers ignore the asked range and start again at 0 (serial 4.2).
func TestContinuationIsGuarded(t *testing.T) {
	for _, tc := range []struct{ name, reply string }{
		{"next stands still", "01 2B 0E 01 01 FF 00 01 00 01 56"},
		{"next leaves the asked range", "01 2B 0E 01 01 FF 80 01 00 01 56"},
		{"an object nobody asked for", "01 2B 0E 01 01 00 00 02 00 01 56 80 01 58"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := script{"01 2B 0E 01 00": {tc.reply}}.wire(t)
				_, objects, err := newTestRTU(w).readObjects(t.Context(), 1, codeBasic, objectVendor, objectRevision)
				if err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(map[byte]string{0: "V"}, objects); diff != "" || w.writes() != 1 {
					t.Errorf("after %d requests: %s", w.writes(), diff)
				}
			})
		})
	}
}

func TestApplyModbus(t *testing.T) {
	const (
		readState = "01 03 00 64 00 01"
		readTemp  = "01 03 00 65 00 01"
		writeOn   = "01 10 00 64 00 01 02 00 01"
		write65   = "01 10 00 65 00 01 02 02 8A"
		off, on   = "01 03 02 00 00", "01 03 02 00 01"
		is60      = "01 03 02 02 58"
		is65      = "01 03 02 02 8A"
		took65    = "01 10 00 65 00 01"
	)
	for _, tc := range []struct {
		name     string
		desired  string
		script   script
		reported map[string]string
		wrote    bool
		writes   int
		rejected string // RejectedError
		wantErr  error  // any other
	}{
		{
			"it is so already", `{"state":"on","temperatureSetting":"65"}`,
			script{readState: {on}, readTemp: {is65}},
			map[string]string{"state": `"on"`, "temperatureSetting": `"65"`},
			false, 0, "", nil,
		},
		{
			"both differ", `{"state":"on","temperatureSetting":"65"}`,
			script{readState: {off, on}, writeOn: {"01 10 00 64 00 01"}, readTemp: {is60, is65}, write65: {took65}},
			map[string]string{"state": `"on"`, "temperatureSetting": `"65"`},
			true, 2, "", nil,
		},
		{
			"the answer to a write is lost, the write was not", `{"temperatureSetting":65}`,
			script{readTemp: {is60, is65}, write65: {""}},
			map[string]string{"temperatureSetting": `65`},
			true, 1, "", nil,
		},
		{
			"a write is lost", `{"temperatureSetting":65}`,
			script{readTemp: {is60, is60, is65}, write65: {"", took65}},
			map[string]string{"temperatureSetting": `65`},
			true, 2, "", nil,
		},
		{
			"every write is lost: three, not more", `{"temperatureSetting":65}`,
			script{readTemp: {is60}, write65: {""}},
			map[string]string{"temperatureSetting": `60`},
			true, 3, "", ErrSilent,
		},
		{
			"busy, then free", `{"temperatureSetting":65}`,
			script{readTemp: {is60, is60, is65}, write65: {"01 90 06", took65}},
			map[string]string{"temperatureSetting": `65`},
			true, 2, "", nil,
		},
		{
			"it does not take the value", `{"temperatureSetting":65}`,
			script{readTemp: {is60}, write65: {"01 90 03"}},
			map[string]string{"temperatureSetting": `60`},
			true, 1, "temperatureSetting", nil,
		},
		{
			"it takes the write and holds another value: never a second write", `{"temperatureSetting":65}`,
			script{readTemp: {is60}, write65: {took65}},
			map[string]string{"temperatureSetting": `60`},
			true, 1, "temperatureSetting", nil,
		},
		{
			"no such register", `{"temperatureSetting":65}`,
			script{readTemp: {"01 83 02"}},
			map[string]string{},
			false, 0, "temperatureSetting", nil,
		},
		{
			"it fails: worth another try", `{"temperatureSetting":65}`,
			script{readTemp: {is60}, write65: {"01 90 04"}},
			map[string]string{"temperatureSetting": `60`},
			true, 1, "", errAny,
		},
		{
			"out of bounds: the others are set", `{"state":"on","temperatureSetting":"120"}`,
			script{readState: {off, on}, writeOn: {"01 10 00 64 00 01"}},
			map[string]string{"state": `"on"`},
			true, 1, "temperatureSetting", nil,
		},
		{
			"silent", `{"state":"on"}`,
			script{readState: {""}},
			map[string]string{},
			false, 0, "", ErrSilent,
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := tc.script.wire(t)
				got, err := testDriver(t, w, "contoso-hpsd-088").apply(t.Context(), 1, Settings{Desired: desiredOf(t, tc.desired)})
				checkApplied(t, got, err, tc.reported, tc.wrote, tc.rejected, tc.wantErr)
				writes := 0
				for _, frame := range w.written {
					if frame[1] == fcWriteRegisters {
						writes++
					}
				}
				if writes != tc.writes {
					t.Errorf("%d writes, want %d", writes, tc.writes)
				}
			})
		})
	}
}

// errAny stands for an error that is neither a rejection nor one that has a name.
var errAny = errors.New("any error")

func checkApplied(t *testing.T, got Applied, err error, reported map[string]string, wrote bool, rejected string, want error) {
	t.Helper()
	var refusal *RejectedError
	switch isRefusal := errors.As(err, &refusal); {
	case rejected != "" && (!isRefusal || refusal.Property != rejected):
		t.Errorf("got error %v, want %q rejected", err, rejected)
	case rejected == "" && isRefusal:
		t.Errorf("got the rejection %v", err)
	case rejected == "" && want != errAny && !errors.Is(err, want), want == errAny && err == nil:
		t.Errorf("got error %v, want %v", err, want)
	}
	shown := map[string]string{}
	for name, value := range got.Reported {
		shown[name] = string(value)
	}
	if diff := cmp.Diff(reported, shown); diff != "" {
		t.Error("reported:", diff)
	}
	if got.Wrote != wrote {
		t.Errorf("got Wrote %v, want %v", got.Wrote, wrote)
	}
}

func desiredOf(t *testing.T, text string) map[string]json.RawMessage {
	t.Helper()
	var desired map[string]json.RawMessage
	if err := json.Unmarshal([]byte(text), &desired); err != nil {
		t.Fatal(err)
	}
	return desired
}

func TestApplyModbusStopsWithTheContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		w := script{"01 03 00 64 00 01": {""}}.wire(t)
		_, err := testDriver(t, w, "contoso-hpsd-088").apply(ctx, 1, Settings{Desired: desiredOf(t, `{"state":"on"}`)})
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
	})
}
