// SPDX-License-Identifier: Apache-2.0

package provisioning

import (
	"errors"
	"regexp"
	"strings"
	"testing"
)

func TestRule11RegistrationIDVectors(t *testing.T) {
	var file struct {
		Rules struct {
			Valid     []string              `json:"valid"`
			Invalid   []string              `json:"invalid"`
			Contested []struct{ ID string } `json:"contested"`
		} `json:"registration_id_rules"`
	}
	vectors(t, &file)
	if len(file.Rules.Valid) == 0 || len(file.Rules.Invalid) == 0 || len(file.Rules.Contested) != 2 {
		t.Fatal("vectors are missing")
	}
	for _, id := range file.Rules.Valid {
		if err := CheckRegistrationID(id); err != nil {
			t.Errorf("%q: %v, want it accepted", id, err)
		}
	}
	for _, id := range file.Rules.Invalid {
		if err := CheckRegistrationID(id); !errors.Is(err, ErrRegistrationID) {
			t.Errorf("%q: %v, want ErrRegistrationID", id, err)
		}
	}
	for _, v := range file.Rules.Contested { // the documented rule takes them, ours for emitting does not
		if err := CheckRegistrationID(v.ID); err != nil {
			t.Errorf("%q: %v, want it accepted", v.ID, err)
		}
		if err := CheckEmittedRegistrationID(v.ID); err == nil {
			t.Errorf("%q: gatewayd would emit it", v.ID)
		}
	}
}

func TestRule11EmittedRegistrationID(t *testing.T) {
	tests := []struct {
		id   string
		want string // part of the error, "" = accepted
	}{
		{"breakroom499-contoso-tstrsd-007", ""},
		{"a", ""},
		{strings.Repeat("r", 128), ""},
		{strings.Repeat("r", 129), "it has 129 characters, the service takes 128"},
		{"", "it is empty"},
		{"WioTerminal", `holds "W", gatewayd registers lower-case letters`},
		{"a.b", `holds "."`},
		{"a_b", `holds "_"`},
		{"-a", "begins or ends with a dash"},
		{"a-", "begins or ends with a dash"},
		{"kühlschrank", `holds "ü"`},
		{"a\nb", `holds "\n"`},
	}
	for _, test := range tests {
		t.Run(test.id, func(t *testing.T) {
			err := CheckEmittedRegistrationID(test.id)
			if test.want == "" && err != nil {
				t.Errorf("got %v, want it accepted", err)
			}
			if test.want != "" && (!errors.Is(err, ErrRegistrationID) || !strings.Contains(err.Error(), test.want)) {
				t.Errorf("got %v, want %q", err, test.want)
			}
		})
	}
}

func FuzzCheckRegistrationID(f *testing.F) {
	documented := regexp.MustCompile(`^[A-Za-z0-9\-._:]{0,127}[A-Za-z0-9\-]$`)
	emitted := regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,126}[a-z0-9])?$`)
	for _, id := range []string{"", "a", "Dev-01", "dev.", "-dev", "a/b", "é", "a\n"} {
		f.Add(id)
	}
	f.Fuzz(func(t *testing.T, id string) {
		if got, want := CheckRegistrationID(id) == nil, documented.MatchString(id); got != want {
			t.Errorf("%q: accepted %t, the documented expression says %t", id, got, want)
		}
		if got, want := CheckEmittedRegistrationID(id) == nil, emitted.MatchString(id); got != want {
			t.Errorf("%q: emitted %t, the expression says %t", id, got, want)
		}
	})
}
