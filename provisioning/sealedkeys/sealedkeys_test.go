// SPDX-License-Identifier: Apache-2.0

package sealedkeys

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"testing"
	"time"

	"filippo.io/age"
	"filippo.io/age/armor"

	"github.com/contoso/gatewayd/provisioning"
)

// The published vectors: bytes 0x00 to 0x3f, and 0xff down to 0xc0.
const (
	primaryKey   = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8gISIjJCUmJygpKissLS4vMDEyMzQ1Njc4OTo7PD0+Pw=="
	secondaryKey = "//79/Pv6+fj39vX08/Lx8O/u7ezr6uno5+bl5OPi4eDf3t3c29rZ2NfW1dTT0tHQz87NzMvKycjHxsXEw8LBwA=="
	toaster      = "breakroom499-contoso-tstrsd-007"
	heatPump     = "mainbuilding167-contoso-hpsd-088"
)

var noon = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

func identity(t testing.TB) Identity {
	t.Helper()
	i, err := NewIdentity()
	if err != nil {
		t.Fatal(err)
	}
	return i
}

func group(t testing.TB, texts ...string) (keys provisioning.GroupKeys) {
	t.Helper()
	for _, text := range texts {
		key, err := provisioning.ParseGroupKey(text)
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, key)
	}
	return keys
}

// grant goes from registration IDs to a grant.
func grant(t testing.TB, keys provisioning.GroupKeys, ids ...string) Grant {
	t.Helper()
	r, err := NewRequest("mainbuilding", identity(t).Recipient(), ids, noon)
	if err != nil {
		t.Fatal(err)
	}
	g, err := Derive(r, keys, "0ne00002193", noon)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// seal encrypts any text, as somebody else's program might.
func seal(t testing.TB, plain string, to Identity, armored bool) []byte {
	t.Helper()
	var out bytes.Buffer
	var into io.Writer = &out
	var text io.Closer = io.NopCloser(nil)
	if armored {
		armored := armor.NewWriter(&out)
		into, text = armored, armored
	}
	encrypted, err := age.Encrypt(into, to.secret().Recipient())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := encrypted.Write([]byte(plain)); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(encrypted.Close(), text.Close()); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// TestFromRequestToKeys goes the whole way with every published vector.
func TestFromRequestToKeys(t *testing.T) {
	text, err := os.ReadFile("../testdata/dps-vectors.json")
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		KeyDerivation struct {
			Vectors []struct {
				GroupKey       string `json:"group_key_b64"`
				RegistrationID string `json:"registration_id"`
				DerivedKey     string `json:"derived_key_b64"`
			} `json:"vectors"`
		} `json:"key_derivation"`
	}
	if err := json.Unmarshal(text, &file); err != nil || len(file.KeyDerivation.Vectors) < 5 {
		t.Fatalf("%d vectors, %v", len(file.KeyDerivation.Vectors), err)
	}
	gateway := identity(t)
	for _, v := range file.KeyDerivation.Vectors {
		asked, err := NewRequest("mainbuilding", gateway.Recipient(), []string{v.RegistrationID}, noon)
		if err != nil {
			t.Errorf("%s: %v", v.RegistrationID, err)
			continue
		}
		mailed, err := asked.Encode()
		if err != nil {
			t.Fatal(err)
		}
		read, err := ParseRequest(mailed)
		if err != nil {
			t.Fatal(err)
		}
		made, err := Derive(read, group(t, v.GroupKey, secondaryKey), "", noon)
		if err != nil {
			t.Fatal(err)
		}
		sealed, err := made.Seal(read.Recipient)
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(sealed, []byte(v.DerivedKey)) || !bytes.HasPrefix(sealed, []byte(armor.Header)) {
			t.Error("the grant is not sealed and armored")
		}
		got, err := Open(sealed, gateway)
		if err != nil {
			t.Fatal(err)
		}
		keys, err := got.Keys().DeviceKeys(v.RegistrationID)
		if err != nil || len(keys) != 2 || keys[0].Reveal() != v.DerivedKey || keys[1].Reveal() != group(t, secondaryKey)[0].Derive(v.RegistrationID).Reveal() {
			t.Errorf("%s: other keys than published, %v", v.RegistrationID, err)
		}
		if device := got.Devices[0]; got.Site != "mainbuilding" || !got.Created.Equal(noon) ||
			strings.Join(device.GroupKeys, " ") != group(t, v.GroupKey)[0].Fingerprint()+" "+group(t, secondaryKey)[0].Fingerprint() {
			t.Errorf("got %+v", got)
		}
	}
}

func TestOpenRefuses(t *testing.T) {
	gateway := identity(t)
	sealed, err := grant(t, group(t, primaryKey), toaster).Seal(gateway.Recipient())
	if err != nil {
		t.Fatal(err)
	}
	device := func(members string) string {
		return `{"version":1,"site":"s","created":"2026-11-22T12:00:00Z","devices":[{"registrationId":"a-1",` + members + `}]}`
	}
	key := `"primaryKey":"` + primaryKey + `","groupKeys":["00112233"]`
	if _, err := Open(seal(t, device(key), gateway, true), gateway); err != nil {
		t.Fatalf("the good one: %v", err)
	}
	if _, err := Open(seal(t, device(key), gateway, false), gateway); err != nil {
		t.Fatalf("the good one, binary: %v", err)
	}
	damaged := bytes.Clone(sealed)
	damaged[len(damaged)/2] ^= 1
	tests := []struct {
		name   string
		sealed []byte
		want   string
	}{
		{"another gateway's", func() []byte { s, _ := grant(t, group(t, primaryKey), toaster).Seal(identity(t).Recipient()); return s }(), ErrOtherGateway.Error()},
		{"empty", nil, "not an age file"},
		{"a key in clear", []byte(primaryKey), "not an age file"},
		{"damaged", damaged, ""},
		{"cut off", sealed[:len(sealed)-60], ""},
		{"too large", make([]byte, MaxSealed+1), "larger than 4 MiB"},
		{"too much inside", seal(t, strings.Repeat(" ", maxOpened+1), gateway, true), "more than 2 MiB are sealed"},
		{"no JSON", seal(t, "hello", gateway, true), "not a JSON object with a version"},
		{"newer", seal(t, `{"version":2}`, gateway, true), "update this one"},
		{"no version", seal(t, `{}`, gateway, true), "no version number that is known"},
		{"unknown member", seal(t, device(key+`,"x":1`), gateway, true), "a member that is not known"},
		{"member of another type", seal(t, device(`"primaryKey":7`), gateway, true), `"devices.primaryKey" is of another type`},
		{"two values", seal(t, device(key)+"{}", gateway, true), ""},
		{"no key", seal(t, device(`"groupKeys":[]`), gateway, true), "device 1: device key: not a usable key: it is empty"},
		{"bad secondary", seal(t, device(key+`,"secondaryKey":"AAAA"`), gateway, true), "it has 3 bytes"},
		{"a key too many", seal(t, device(key+`,"secondaryKey":"`+secondaryKey+`"`), gateway, true), "2 keys of 1 group keys"},
		{"group key in clear", seal(t, device(`"primaryKey":"`+primaryKey+`","groupKeys":["`+primaryKey+`"]`), gateway, true), "something other than its fingerprint"},
		{"no device", seal(t, `{"version":1,"site":"s","created":"2026-11-22T12:00:00Z","devices":[]}`, gateway, true), "names 0 registration IDs"},
		{"no site", seal(t, strings.Replace(device(key), `"s"`, `""`, 1), gateway, true), "the site's name"},
		{"no time", seal(t, strings.Replace(device(key), `"created":"2026-11-22T12:00:00Z",`, "", 1), gateway, true), "when it was made"},
		{"odd ID scope", seal(t, strings.Replace(device(key), `"site"`, `"idScope":"\u001b[31m","site"`, 1), gateway, true), "ID scope is malformed"},
		{"the same device twice", seal(t, `{"version":1,"site":"s","created":"2026-11-22T12:00:00Z","devices":[{"registrationId":"a-1",`+key+`},{"registrationId":"A-1",`+key+`}]}`, gateway, true), `"a-1" and "A-1" are the same`},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			_, err := Open(test.sealed, gateway)
			if !errors.Is(err, ErrGrant) || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want ErrGrant and %q", err, test.want)
			}
			if errors.Is(err, ErrOtherGateway) != (test.name == "another gateway's") {
				t.Errorf("got %v", err)
			}
			if err != nil && strings.Contains(err.Error(), primaryKey[:16]) {
				t.Errorf("the error shows a key: %v", err)
			}
		})
	}
	if _, err := Open(sealed, Identity{}); !errors.Is(err, ErrIdentity) {
		t.Errorf("without an identity: %v", err)
	}
}

func TestRequestRefuses(t *testing.T) {
	recipient := identity(t).Recipient()
	many := make([]string, MaxDevices+1)
	for i := range many {
		many[i] = fmt.Sprintf("unit%d", i)
	}
	if _, err := NewRequest("s", recipient, many[1:], noon); err != nil {
		t.Errorf("as many as may be: %v", err)
	}
	slip := "q" // in place of another letter
	if recipient[20] == 'q' {
		slip = "p"
	}
	tests := []struct {
		name, site, recipient string
		ids                   []string
		want                  string
	}{
		{"no site", "", recipient, []string{"a-1"}, "the site's name must be"},
		{"site with a control character", "a\x1b[31m", recipient, []string{"a-1"}, "the site's name must be"},
		{"long site", strings.Repeat("a", 65), recipient, []string{"a-1"}, "the site's name must be 1 to 64"},
		{"no device", "s", recipient, nil, "names 0 registration IDs"},
		{"too many devices", "s", recipient, many, "names 4097 registration IDs, not 1 to 4096"},
		{"twice", "s", recipient, []string{"a-1", "b", "a-1"}, `"a-1" and "a-1" are the same`},
		{"twice but for the case", "s", recipient, []string{"dev-1", "Dev-1"}, `"dev-1" and "Dev-1" are the same registration ID`},
		{"bad ID", "s", recipient, []string{"a-1", "b\n"}, "registration ID 2: not a valid registration ID"},
		{"no recipient", "s", "", []string{"a-1"}, "not a gateway's recipient"},
		{"the private half", "s", identity(t).secret().String(), []string{"a-1"}, "not a gateway's recipient"},
		{"upper case", "s", strings.ToUpper(recipient), []string{"a-1"}, "lower-case letters"},
		{"a slip", "s", recipient[:20] + slip + recipient[21:], []string{"a-1"}, "not a gateway's recipient"},
		{"another kind", "s", "ssh-ed25519 AAAA", []string{"a-1"}, "not a gateway's recipient"},
		{"long recipient", "s", "age1" + strings.Repeat("q", 200), []string{"a-1"}, "it has 204 characters"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			r, err := NewRequest(test.site, test.recipient, test.ids, noon)
			if !errors.Is(err, ErrRequest) || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want ErrRequest and %q", err, test.want)
			}
			if strings.ContainsAny(fmt.Sprint(err), "\x1b\n") {
				t.Errorf("the error has control characters: %q", err)
			}
			mailed, encodeErr := r.Encode()
			if encodeErr != nil {
				t.Fatal(encodeErr)
			}
			if _, again := ParseRequest(mailed); again == nil || again.Error() != err.Error() {
				t.Errorf("read from its file: %v, want %v", again, err)
			}
		})
	}
	good := `{"version":1,"site":"s","recipient":"` + recipient + `","registrationIds":["a-1"],"created":"2026-11-22T12:00:00Z"}`
	if _, err := ParseRequest([]byte(good)); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"a million": `{"version":1,"registrationIds":[` + strings.Repeat(`"a",`, 1e6) + `"a"]}`,
		"deep":      `{"version":1,"site":` + strings.Repeat("[", 20000),
		"newer":     strings.Replace(good, `:1`, `:2`, 1), "trailing": good + "x", "unknown": strings.Replace(good, `{`, `{"x":1,`, 1),
		"no time": strings.Replace(good, `,"created":"2026-11-22T12:00:00Z"`, "", 1), "array": "[" + good + "]", "empty": "",
	} {
		if _, err := ParseRequest([]byte(text)); !errors.Is(err, ErrRequest) {
			t.Errorf("%s: got %v, want ErrRequest", name, err)
		}
	}
}

// TestMergeLosesNoDevice: a rollover or a later request changes what it names and nothing else.
func TestMergeLosesNoDevice(t *testing.T) {
	installed := grant(t, group(t, primaryKey), toaster, heatPump)
	newer := grant(t, group(t, secondaryKey), heatPump, "lobby1-contoso-tstrsd-007")
	merged, err := installed.Merge(newer)
	if err != nil {
		t.Fatal(err)
	}
	keys := merged.Keys()
	for id, from := range map[string]string{toaster: primaryKey, heatPump: secondaryKey, "lobby1-contoso-tstrsd-007": secondaryKey} {
		got, err := keys.DeviceKeys(id)
		if want := group(t, from)[0].Derive(id); err != nil || got[0].Reveal() != want.Reveal() {
			t.Errorf("%s: %v, or the key of another group key", id, err)
		}
	}
	if len(merged.Devices) != 3 || len(installed.Devices) != 2 || len(newer.Devices) != 2 {
		t.Errorf("%d merged from %d and %d", len(merged.Devices), len(installed.Devices), len(newer.Devices))
	}
	respelt := grant(t, group(t, primaryKey), strings.ToUpper(toaster))
	if merged, err = installed.Merge(respelt); err != nil || len(merged.Devices) != 2 {
		t.Errorf("another spelling: %d devices, %v", len(merged.Devices), err)
	}
	newer.IDScope = "0neOTHER"
	if _, err := installed.Merge(newer); !errors.Is(err, ErrGrant) || !strings.Contains(err.Error(), "0neOTHER") {
		t.Errorf("another service: %v", err)
	}
	newer.IDScope = ""
	if merged, err = installed.Merge(newer); err != nil || merged.IDScope != installed.IDScope {
		t.Errorf("no ID scope: %q, %v", merged.IDScope, err)
	}
}

// TestLargestGrant seals as many devices with names as long as may be.
func TestLargestGrant(t *testing.T) {
	gateway := identity(t)
	ids := make([]string, MaxDevices)
	for i := range ids {
		ids[i] = fmt.Sprintf("%0128d", i)
	}
	r, err := NewRequest("mainbuilding", gateway.Recipient(), ids, noon)
	if err != nil {
		t.Fatal(err)
	}
	if mailed, err := r.Encode(); err != nil || len(mailed) > MaxRequest {
		t.Errorf("a request of %d bytes, %v", len(mailed), err)
	}
	g, err := Derive(r, group(t, primaryKey, secondaryKey), "0ne00002193", noon)
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := g.Seal(gateway.Recipient())
	if err != nil || len(sealed) > MaxSealed {
		t.Fatalf("a grant of %d bytes, %v", len(sealed), err)
	}
	if got, err := Open(sealed, gateway); err != nil || len(got.Devices) != MaxDevices {
		t.Errorf("%d devices, %v", len(got.Devices), err)
	}
}

func TestIdentity(t *testing.T) {
	made := identity(t)
	read, err := ParseIdentity(made.Reveal())
	if err != nil || read.Recipient() != made.Recipient() || read.Reveal() != made.Reveal() {
		t.Errorf("read back: %s, %v; want %s", read.Recipient(), err, made.Recipient())
	}
	line := made.secret().String()
	slip := "Q"
	if line[40] == 'Q' {
		slip = "P"
	}
	for name, text := range map[string]string{
		"empty": "", "comments": "# a\n", "two": line + "\n" + line, "cut": line[:40], "a slip": line[:40] + slip + line[41:],
		"large": strings.Repeat("#\n", 4096), "recipient": made.Recipient(),
	} {
		_, err := ParseIdentity(text)
		if !errors.Is(err, ErrIdentity) {
			t.Errorf("%s: got %v, want ErrIdentity", name, err)
		}
		if err != nil && strings.Contains(err.Error(), line[16:30]) {
			t.Errorf("%s: the error shows the identity: %v", name, err)
		}
	}
	var log bytes.Buffer
	slog.New(slog.NewTextHandler(&log, nil)).Info("a", "identity", made)
	asJSON, err := json.Marshal(map[string]Identity{"a": made})
	if err != nil {
		t.Fatal(err)
	}
	shown := fmt.Sprintf("%v %+v %#v %s %q %x %d", made, made, &made, []Identity{made}, made, struct{ i Identity }{made}, made) + log.String() + string(asJSON)
	if strings.Contains(shown, "AGE-SECRET") || strings.Contains(shown, line[16:30]) || strings.Count(shown, redacted) < 8 {
		t.Errorf("shows %s", shown)
	}
	if zero := (Identity{}); zero.Recipient() != "" || zero.Reveal() != "" || !zero.IsZero() {
		t.Error("the zero value has content")
	}
	g := fmt.Sprintf("%+v", grant(t, group(t, primaryKey), toaster))
	if !strings.Contains(g, redacted) || strings.Contains(g, group(t, primaryKey)[0].Derive(toaster).Reveal()) {
		t.Errorf("a grant prints as %s", g)
	}
}

func FuzzParseRequest(f *testing.F) {
	f.Add([]byte(`{"version":1,"site":"mainbuilding","recipient":"` + identity(f).Recipient() + `","registrationIds":["a-1","b-2"],"created":"2026-11-22T12:00:00Z"}`))
	f.Add([]byte(`{"version":2}`))
	f.Add([]byte(`{"version":1,"registrationIds":["Dev-1","dev-1"]}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		r, err := ParseRequest(text)
		if err != nil {
			if !errors.Is(err, ErrRequest) {
				t.Errorf("an error of another kind: %v", err)
			}
			return
		}
		again, err := r.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := ParseRequest(again); err != nil {
			t.Errorf("written and read again: %v", err)
		}
	})
}

// FuzzParseGrant reads what may be inside a sealed file: anybody who knows the recipient can make one.
func FuzzParseGrant(f *testing.F) {
	plain, err := grant(f, group(f, primaryKey, secondaryKey), toaster, heatPump).encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(plain)
	f.Add([]byte(`{"version":1,"site":"s","created":"2026-11-22T12:00:00Z","devices":[{"registrationId":"a","primaryKey":"","groupKeys":[""]}]}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		g, err := parseGrant(text)
		if err != nil {
			if !errors.Is(err, ErrGrant) {
				t.Errorf("an error of another kind: %v", err)
			}
			return
		}
		again, err := g.encode()
		if err != nil {
			t.Fatal(err)
		}
		if read, err := parseGrant(again); err != nil || len(read.Keys()) != len(g.Devices) {
			t.Errorf("written and read again: %d of %d devices, %v", len(read.Keys()), len(g.Devices), err)
		}
	})
}
