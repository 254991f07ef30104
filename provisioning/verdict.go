// SPDX-License-Identifier: Apache-2.0

package provisioning

import (
	"errors"
	"slices"
)

// Who can do something about a failure: the values of Diagnosis.Owner.
const (
	OwnerTechnician    = "technician"
	OwnerSiteNetwork   = "site network"
	OwnerPolicy        = "policy owner"
	OwnerCloudOperator = "cloud operator"
)

// Diagnosis says what an error means, in plain words.
type Diagnosis struct {
	Kind    string // stable, for programs: "custom-allocation-failed", "dns", …
	Code    int    // the service's six digits; 0 where there are none
	Verdict string // what happened, one sentence
	Owner   string // who can do something about it, one of the Owner constants
	Next    string // what to do next, one sentence or two

	// SDKResult is what Azure's C SDK says in this case, such as "PROV_DEVICE_RESULT_DEV_AUTH_ERROR", because that is
	// what people search for. Two names with a comma between them are those over MQTT and over HTTPS. It is empty
	// where the C SDK has no word for it, or never ends.
	SDKResult string
}

// Verdict diagnoses an error of [New], of [Client.Register], or any error of the network and TLS below them. It has
// an answer for every error; what it does not know is of the kind "unknown". The zero Diagnosis stands for nil.
func Verdict(err error) Diagnosis {
	if err == nil {
		return Diagnosis{}
	}
	row := failures[slices.IndexFunc(failures, func(f failure) bool { return f.is(err) })] // the last takes all
	diagnosis := row.diagnosis()
	if failed, ok := errors.AsType[*FailedError](err); ok {
		diagnosis.Code = failed.Code
		if row.quotes && failed.Message != "" {
			diagnosis.Verdict += " It says: " + failed.Message // bounded and printable
		}
	} else if answered, ok := errors.AsType[*ServiceError](err); ok {
		diagnosis.Code = answered.Code
	}
	return diagnosis
}

// Failure is one kind of failure, for lists and help texts.
type Failure struct {
	Diagnosis       // without a Code
	Codes     []int // the service's codes that mean this, if any in particular
}

// Failures lists every kind that [Verdict] knows: what the service decided, what it refused, what happened on the
// way to it, mistakes on this machine.
func Failures() []Failure {
	var all []Failure
	for _, row := range failures {
		all = append(all, Failure{Diagnosis: row.diagnosis(), Codes: slices.Clone(row.codes)})
	}
	return all
}

// diagnosis is what the row says without an error at hand.
func (f failure) diagnosis() Diagnosis {
	return Diagnosis{Kind: f.kind, Verdict: f.verdict, Owner: f.owner, Next: f.next, SDKResult: f.sdk}
}
