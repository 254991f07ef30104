// SPDX-License-Identifier: Apache-2.0

package provisioning

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"
)

func TestDeriveVectors(t *testing.T) {
	var file struct {
		KeyDerivation struct {
			Vectors []struct {
				ID             string `json:"id"`
				GroupKey       string `json:"group_key_b64"`
				RegistrationID string `json:"registration_id"`
				DerivedKey     string `json:"derived_key_b64"`
			} `json:"vectors"`
			NotReproducible []struct {
				GroupKey       string `json:"group_key_b64"`
				RegistrationID string `json:"registration_id"`
				Recomputed     string `json:"recomputed"`
			} `json:"not_reproducible"`
			Invalid []struct {
				GroupKey string `json:"group_key"`
				Expect   string `json:"expect"`
			} `json:"invalid_group_keys"`
		} `json:"key_derivation"`
	}
	vectors(t, &file)

	check := func(name, groupKey, registrationID, want string) {
		key, err := ParseGroupKey(groupKey + "\n")
		if err != nil {
			t.Errorf("%s: %v", name, err)
			return
		}
		if got := key.Derive(registrationID).Reveal(); got != want {
			t.Errorf("%s: got %s, want %s", name, got, want)
		}
	}
	for _, v := range file.KeyDerivation.Vectors {
		check(v.ID, v.GroupKey, v.RegistrationID, v.DerivedKey)
	}
	for _, v := range file.KeyDerivation.NotReproducible {
		check(v.RegistrationID, v.GroupKey, v.RegistrationID, v.Recomputed)
	}
	if len(file.KeyDerivation.Vectors) != 10 || len(file.KeyDerivation.Invalid) != 3 {
		t.Fatalf("the file has %d vectors and %d invalid keys, not 10 and 3", len(file.KeyDerivation.Vectors), len(file.KeyDerivation.Invalid))
	}
	for _, v := range file.KeyDerivation.Invalid {
		_, err := ParseGroupKey(v.GroupKey)
		// "Key derivation itself need not reject" the one that is too long to be stored.
		if refuse := !strings.Contains(v.Expect, "need not reject"); (err != nil) != refuse {
			t.Errorf("%s: got %v", v.Expect, err)
		}
		if _, err := ParseDeviceKey(v.GroupKey); err == nil {
			t.Errorf("%s: accepted as a device key", v.Expect)
		}
	}
}

func TestParseKey(t *testing.T) {
	good := base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{7}, 32))
	tests := []struct {
		name string
		text string
		want string // part of the error, "" = accepted
	}{
		{"plain", good, ""},
		{"white space around it", " \t" + good + "\r\n", ""},
		{"empty", " \n", "it is empty"},
		{"byte order mark", "\ufeff" + good + "\r\n", ""},
		{"line break inside", good[:20] + "\n" + good[20:], "it spans several lines"},
		{"two keys", good + "\n" + good, "it spans several lines"},
		{"space inside", good[:20] + " " + good[20:], "it is not standard base64"},
		{"no padding", strings.TrimRight(good, "="), "it is not standard base64"},
		{"URL alphabet", base64.URLEncoding.EncodeToString(bytes.Repeat([]byte{0xff}, 33)), "it is not standard base64"},
		{"stray bits", good[:len(good)-2] + "d=", "it is not standard base64"},
		{"15 bytes", base64.StdEncoding.EncodeToString(make([]byte, 15)), "it has 15 bytes"},
		{"2,000 bytes", base64.StdEncoding.EncodeToString(make([]byte, 2000)), "it has 2000 bytes"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			_, groupErr := ParseGroupKey(test.text)
			_, deviceErr := ParseDeviceKey(test.text)
			for _, err := range []error{groupErr, deviceErr} {
				if test.want == "" && err != nil {
					t.Errorf("got %v, want it accepted", err)
				}
				if test.want != "" && (!errors.Is(err, ErrKey) || !strings.Contains(err.Error(), test.want)) {
					t.Errorf("got %v, want ErrKey and %q", err, test.want)
				}
				if text := strings.TrimSpace(test.text); err != nil && len(text) > 8 && strings.Contains(err.Error(), text[:8]) {
					t.Errorf("the error quotes the key: %v", err)
				}
			}
		})
	}
}

// TestSecretsAreRedacted prints secrets in every way that a log, an error or an answer could.
func TestSecretsAreRedacted(t *testing.T) {
	group, err := ParseGroupKey("oiK77Oy7rBw8YB6IS6ukRChAw+Yq6GC61RMrPLSTiOOtdI+XDu0LmLuNm11p+qv2I+adqGUdZHm46zXAQdZoOA==")
	if err != nil {
		t.Fatal(err)
	}
	device := group.Derive(testID)
	token := device.SASToken(RegistrationResource(testScope, testID), registrationPolicy, time.Unix(1893456000, 0))

	type hidden struct {
		group  GroupKey
		device *DeviceKey
		token  SASToken
	}
	values := map[string]any{
		"group key": group, "device key": device, "token": token,
		"pointer": &group, "slice": []DeviceKey{device}, "map": map[string]SASToken{"a": token},
		"request": Request{RegistrationID: testID, Keys: []DeviceKey{device}},
		"session": httpsSession{credential: newCredential(Config{IDScope: testScope, Clock: NewClock(time.Time{}, nil)}, Request{RegistrationID: testID, Keys: []DeviceKey{device}})},
		"struct":  hidden{group, &device, token}, "struct pointer": &hidden{group, &device, token},
	}
	secrets := []string{
		device.Reveal(), token.Reveal(), "SLYdpcXJW1ixDuKWZ6QGmpcMEYvwKE3sN0aTbX3JDWM",
		fmt.Sprintf("%x", device.secret()), fmt.Sprintf("%X", group.secret()), fmt.Sprint(group.secret()),
		fmt.Sprint(device.secret()), string(device.secret()),
		strings.Trim(fmt.Sprintf("%#v", device.secret()), "[]byte{}"),
	}
	leaks := func(how, text string) {
		for _, s := range secrets {
			if strings.Contains(text, s) {
				t.Errorf("%s shows a secret: %.60s", how, text)
			}
		}
	}
	for name, value := range values {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%t", "%c", "%U", "%b", "%o", "%e"} {
			leaks(verb+" of "+name, fmt.Sprintf(verb, value))
		}
		if text, err := json.Marshal(value); err == nil {
			leaks("JSON of "+name, string(text))
		}
		for _, form := range []string{"text", "json"} {
			var out bytes.Buffer
			var handler slog.Handler = slog.NewTextHandler(&out, nil)
			if form == "json" {
				handler = slog.NewJSONHandler(&out, nil)
			}
			slog.New(handler).Info("a", "b", value)
			leaks(form+" log of "+name, out.String())
		}
		leaks("error of "+name, fmt.Errorf("oops %v", value).Error())
	}
	for _, value := range []any{group, device, token} {
		if got := fmt.Sprintf("%v %+v %#v %s", value, value, value, value); got != "[redacted] [redacted] [redacted] [redacted]" {
			t.Errorf("%T prints %s", value, got)
		}
		if got, err := json.Marshal(value); err != nil || string(got) != `"[redacted]"` {
			t.Errorf("%T as JSON is %s, %v", value, got, err)
		}
	}
}

func TestFingerprint(t *testing.T) {
	key := func(b byte) GroupKey {
		k, err := ParseGroupKey(base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{b}, 32)))
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	if a, b := key(1).Fingerprint(), key(1).Fingerprint(); a != b || len(a) != 8 {
		t.Errorf("one key has fingerprints %q and %q, want one of 8 digits", a, b)
	}
	if key(1).Fingerprint() == key(2).Fingerprint() {
		t.Error("two keys have one fingerprint")
	}
	if got := (GroupKey{}).Fingerprint(); got != "none" {
		t.Errorf("no key has fingerprint %q, want none", got)
	}
	if got := (DeviceKey{}).Reveal() + (SASToken{}).Reveal(); got != "" {
		t.Errorf("zero values reveal %q", got)
	}
}

func FuzzParseGroupKey(f *testing.F) {
	f.Add("oiK77Oy7rBw8YB6IS6ukRChAw+Yq6GC61RMrPLSTiOOtdI+XDu0LmLuNm11p+qv2I+adqGUdZHm46zXAQdZoOA==\n")
	f.Add("not base64!")
	f.Add("AAAAAAAAAAAAAAAAAAAA")
	f.Fuzz(func(t *testing.T, text string) {
		key, err := ParseGroupKey(text)
		if err != nil {
			if !errors.Is(err, ErrKey) {
				t.Errorf("an error of another kind: %v", err)
			}
			return
		}
		if n := len(key.secret()); n < minKeyBytes || n > maxGroupKeyBytes {
			t.Errorf("a key of %d bytes was accepted", n)
		}
		if again := base64.StdEncoding.EncodeToString(key.secret()); again != strings.TrimSpace(text) {
			t.Errorf("%q was read as %q", text, again)
		}
	})
}
