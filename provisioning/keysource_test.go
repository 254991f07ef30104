// SPDX-License-Identifier: Apache-2.0

package provisioning

import (
	"errors"
	"fmt"
	"strings"
	"testing"
)

func TestKeySources(t *testing.T) {
	primary, err := ParseGroupKey("oiK77Oy7rBw8YB6IS6ukRChAw+Yq6GC61RMrPLSTiOOtdI+XDu0LmLuNm11p+qv2I+adqGUdZHm46zXAQdZoOA==")
	if err != nil {
		t.Fatal(err)
	}
	secondary, err := ParseGroupKey("8isrFI1sGsIlvvFSSFRiMfCNzv21fjbE/+ah/lSh3lF8e2YG1Te7w1KpZhJFFXJrqYKi9yegxkqIChbqOS9Egw==")
	if err != nil {
		t.Fatal(err)
	}
	const mine = "JC8F96eayuQwwz+PkE7IzjH2lIAjCUnAa61tDigBnSs=" // of testID, published
	tests := []struct {
		name   string
		source KeySource
		id     string
		want   string // the keys, or part of the error
		is     error
	}{
		{"group", GroupKeys{primary}, testID, mine, nil},
		{"group, both keys", GroupKeys{primary, secondary}, testID, mine + " " + secondary.Derive(testID).Reveal(), nil},
		{"no group", GroupKeys{}, testID, "no group key given", ErrKey},
		{"empty group key", GroupKeys{{}}, testID, "a group key is empty", ErrKey},
		{"derived", DerivedKeys{testID: {testKey()}}, testID, mine, nil},
		{"derived, another device", DerivedKeys{testID: {testKey()}}, "toaster-2", `no device key for "toaster-2" among the 1 that were granted`, ErrNoKey},
		{"derived, another spelling", DerivedKeys{testID: {testKey()}}, strings.ToUpper(testID), "gatewayctl keys request", ErrNoKey},
		{"derived, none", DerivedKeys(nil), "bad\x1b[31m", `"bad [31m"`, ErrNoKey},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			keys, err := test.source.DeviceKeys(test.id)
			if err != nil {
				if !errors.Is(err, test.is) || test.is == nil || !strings.Contains(err.Error(), test.want) {
					t.Errorf("got %v, want %v and %q", err, test.is, test.want)
				}
				return
			}
			var got []string
			for _, key := range keys {
				got = append(got, key.Reveal())
			}
			if text := strings.Join(got, " "); text != test.want {
				t.Errorf("got %s, want %s", text, test.want)
			}
		})
	}
	if text := fmt.Sprintf("%v %+v %#v", DerivedKeys{testID: {testKey()}}, GroupKeys{primary}, DerivedKeys{testID: {testKey()}}); strings.Contains(text, mine) || strings.Count(text, redacted) != 3 {
		t.Errorf("prints %s", text)
	}
}
