// SPDX-License-Identifier: Apache-2.0

package provisioning

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"syscall"
)

// Codes of the service that mean something of their own (dps-protocol 4).
const (
	codeAllocationFailed       = 400207
	codeAllocationNoHub        = 400208
	codeAllocationUnauthorized = 400209
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
}

// Verdict diagnoses an error of [Client.Register], or any error of the network and TLS below it. It has an answer
// for every error; what it does not know is of the kind "unknown". The zero Diagnosis stands for nil.
func Verdict(err error) Diagnosis {
	if err == nil {
		return Diagnosis{}
	}
	kind, code := classify(err)
	diagnosis := verdicts[kind]
	diagnosis.Kind, diagnosis.Code = kind, code
	var failed *FailedError
	if kind == kindUnusable && errors.As(err, &failed) && failed.Message != "" {
		diagnosis.Verdict += " It says: " + failed.Message // bounded and printable
	}
	return diagnosis
}

// kindUnusable is a 400207 that names no status of the webhook: the service never got an answer, or cannot use the
// one it got, and only its own words tell which.
const kindUnusable = "custom-allocation-unusable"

// classify asks for the more telling type first: a *ThrottledError and an *UnreachableError may have a
// *ServiceError as their cause.
func classify(err error) (kind string, code int) {
	var failed *FailedError
	var throttled *ThrottledError
	var answered *ServiceError
	switch {
	case errors.As(err, &failed):
		return classifyFailed(failed), failed.Code
	case errors.As(err, &throttled):
		if errors.As(err, &answered) {
			code = answered.Code
		}
		return "throttled", code
	case errors.As(err, &answered):
		return classifyAnswer(answered), answered.Code
	case errors.Is(err, ErrNotService):
		return "not-dps", 0
	case errors.Is(err, ErrAttemptLimit):
		return "no-outcome", 0
	case errors.Is(err, ErrRegistrationID):
		return "bad-registration-id", 0
	case errors.Is(err, ErrKey):
		return "bad-key", 0
	case errors.Is(err, ErrRequest):
		return "bad-request", 0
	case errors.Is(err, ErrClosed), errors.Is(err, context.Canceled):
		return "interrupted", 0
	default:
		return classifyNetwork(err), 0
	}
}

func classifyFailed(failed *FailedError) string {
	switch {
	case failed.Status == StatusDisabled:
		return "disabled"
	case failed.Code == codeAllocationFailed:
		switch status, named := failed.WebhookStatus(); {
		case !named:
			return kindUnusable
		case status >= statusLater:
			return "custom-allocation-broken"
		default:
			return "custom-allocation-failed"
		}
	case failed.Code == codeAllocationNoHub:
		return "custom-allocation-no-hub"
	case failed.Code == codeAllocationUnauthorized:
		return "custom-allocation-unauthorized"
	default:
		return "registration-failed"
	}
}

func classifyAnswer(answered *ServiceError) string {
	switch status := answered.HTTPStatus; {
	case answered.Code == codeRunning:
		return "registration-running"
	case status == http.StatusBadRequest:
		return "request-refused"
	case status == http.StatusUnauthorized:
		return "unauthorized"
	case status == http.StatusNotFound:
		return "not-enrolled"
	case status == http.StatusTooManyRequests:
		return "throttled"
	case status >= http.StatusInternalServerError:
		return "service-trouble"
	default:
		return "refused"
	}
}

func classifyNetwork(err error) string {
	var (
		authority x509.UnknownAuthorityError
		roots     x509.SystemRootsError
		name      x509.HostnameError
		invalid   x509.CertificateInvalidError
		record    tls.RecordHeaderError
		lookup    *net.DNSError
		operation *net.OpError
		network   net.Error
	)
	switch {
	case errors.As(err, &authority), errors.As(err, &roots):
		return "tls-untrusted"
	case errors.As(err, &name):
		return "tls-name"
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired: // or not valid yet
		return "tls-clock"
	case errors.As(err, &invalid):
		return "tls-untrusted"
	case errors.As(err, &record):
		return "not-dps"
	case errors.As(err, &operation) && operation.Op == "remote error": // a TLS alert
		return "tls-refused"
	case errors.As(err, &lookup):
		return "dns"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "connection-refused"
	case errors.Is(err, syscall.ENETUNREACH), errors.Is(err, syscall.EHOSTUNREACH):
		return "no-route"
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &network) && network.Timeout():
		return "timeout"
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, net.ErrClosed),
		errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE), isLost(err):
		return "connection-lost"
	default:
		return "unknown"
	}
}

// verdicts is the one table of what each kind means. It is never changed.
var verdicts = map[string]Diagnosis{
	"custom-allocation-failed": {
		Verdict: "The allocation policy refused this appliance.",
		Owner:   OwnerPolicy,
		Next:    "Check that the registration ID is one the policy knows, and the webhook's log for its reason; then retry.",
	},
	kindUnusable: {
		Verdict: "The service could not use the allocation webhook's answer, or got none.",
		Owner:   OwnerPolicy,
		Next:    "Check the webhook's URL in the enrollment, that the service reaches it, and that its answer names a linked hub; then retry.",
	},
	"custom-allocation-broken": {
		Verdict: "The allocation webhook kept failing until the service gave up.",
		Owner:   OwnerPolicy,
		Next:    "Get the webhook running again; then retry.",
	},
	"custom-allocation-no-hub": {
		Verdict: "The allocation policy answered without naming a hub.",
		Owner:   OwnerPolicy,
		Next:    "Make the policy name one of the enrollment's linked hubs for this appliance; then retry.",
	},
	"custom-allocation-unauthorized": {
		Verdict: "The allocation webhook did not accept the key that the service showed.",
		Owner:   OwnerCloudOperator,
		Next:    "Put the webhook's current function key into the enrollment's webhook URL; then retry.",
	},
	"registration-failed": {
		Verdict: "The provisioning service could not complete the registration.",
		Owner:   OwnerCloudOperator,
		Next:    "Look up the code and the message, check that the service may use the linked hubs; then retry.",
	},
	"disabled": {
		Verdict: "The enrollment of this appliance is disabled.",
		Owner:   OwnerCloudOperator,
		Next:    "If the appliance belongs here, enable its enrollment; the gateway asks again once a day.",
	},
	"unauthorized": {
		Verdict: "The provisioning service did not accept the appliance's key.",
		Owner:   OwnerCloudOperator,
		Next:    "Compare the fingerprint of the group key, the ID scope and the gateway's clock with the service's; then retry.",
	},
	"not-enrolled": {
		Verdict: "The provisioning service knows no enrollment for this appliance.",
		Owner:   OwnerCloudOperator,
		Next:    "Check the ID scope, and create an enrollment that covers the registration ID; then retry.",
	},
	"registration-running": {
		Verdict: "Another registration of this appliance is still running.",
		Owner:   OwnerTechnician,
		Next:    "Wait ten minutes and retry; if it stays, look for a second gateway that uses the same registration ID.",
	},
	"request-refused": {
		Verdict: "The provisioning service did not take the request.",
		Owner:   OwnerCloudOperator,
		Next:    "Read the service's message: it names the member that is wrong, often the registration ID or the payload.",
	},
	"refused": {
		Verdict: "The provisioning service refused the registration.",
		Owner:   OwnerCloudOperator,
		Next:    "Look up the code and the message, and give Microsoft the tracking ID if they do not explain it.",
	},
	"throttled": {
		Verdict: "The provisioning service asks to slow down.",
		Owner:   OwnerCloudOperator,
		Next:    "Nothing to do: the gateway tries again by itself. If it lasts, lower registers_per_minute or spread the fleet.",
	},
	"service-trouble": {
		Verdict: "The provisioning service has trouble of its own.",
		Owner:   OwnerCloudOperator,
		Next:    "Nothing to do here: the gateway tries again by itself. The provider's status page may know more.",
	},
	"no-outcome": {
		Verdict: "The provisioning service worked on the registration and did not finish.",
		Owner:   OwnerPolicy,
		Next:    "Check that the allocation webhook answers; the gateway asks for the outcome again by itself.",
	},
	"dns": {
		Verdict: "The name of the provisioning service could not be resolved.",
		Owner:   OwnerSiteNetwork,
		Next:    "Check the network cable, the name server and the spelling of the endpoint.",
	},
	"connection-refused": {
		Verdict: "The connection to the provisioning service was refused.",
		Owner:   OwnerSiteNetwork,
		Next:    "Let the gateway out to the service on port 443 (HTTPS) or 8883 (MQTT), and check the endpoint.",
	},
	"no-route": {
		Verdict: "There is no route to the provisioning service.",
		Owner:   OwnerSiteNetwork,
		Next:    "Check the network cable, the gateway's address and its default route.",
	},
	"connection-lost": {
		Verdict: "The connection to the provisioning service broke off.",
		Owner:   OwnerSiteNetwork,
		Next:    "The gateway tries again by itself. If it lasts, look for a firewall that closes connections.",
	},
	"timeout": {
		Verdict: "The provisioning service did not answer in time.",
		Owner:   OwnerSiteNetwork,
		Next:    "Check that the firewall lets the gateway out on port 443 (HTTPS) or 8883 (MQTT); a silent one looks like this.",
	},
	"tls-untrusted": {
		Verdict: "The certificate of whoever answered is not signed by a trusted root.",
		Owner:   OwnerSiteNetwork,
		Next:    "If the site inspects TLS, add its root as ca_file or exempt the service; a local service needs its CA there too.",
	},
	"tls-name": {
		Verdict: "The certificate of whoever answered is for another name.",
		Owner:   OwnerSiteNetwork,
		Next:    "Check the endpoint's spelling, and whether a login page or proxy answers in the service's place.",
	},
	"tls-clock": {
		Verdict: "The certificate is not valid at the gateway's present time.",
		Owner:   OwnerTechnician,
		Next:    "Check the gateway's date and time first; if they are right, the certificate has run out.",
	},
	"tls-refused": {
		Verdict: "The TLS handshake was refused by the other side.",
		Owner:   OwnerSiteNetwork,
		Next:    "Check that nothing between the gateway and the service limits TLS to versions below 1.2.",
	},
	"not-dps": {
		Verdict: "Something answered that is not the provisioning service.",
		Owner:   OwnerSiteNetwork,
		Next:    "Look for a login page or a proxy in between, and check the endpoint and its port.",
	},
	"bad-registration-id": {
		Verdict: "The appliance's name cannot be registered.",
		Owner:   OwnerTechnician,
		Next:    "Correct the name on the appliance or the line's registration_id template; the message says what is wrong.",
	},
	"bad-key": {
		Verdict: "The gateway's key cannot be used.",
		Owner:   OwnerTechnician,
		Next:    "Check that the credential holds the key as the portal shows it: base64, on one line.",
	},
	"bad-request": {
		Verdict: "The registration request cannot be sent as it is.",
		Owner:   OwnerTechnician,
		Next:    "Correct the payload template in the configuration; the message says what is wrong.",
	},
	"interrupted": {
		Verdict: "The registration was interrupted on the gateway.",
		Owner:   OwnerTechnician,
		Next:    "Nothing to do: it goes on when the gateway is running again.",
	},
	"unknown": {
		Verdict: "The registration failed for a reason the gateway does not know.",
		Owner:   OwnerTechnician,
		Next:    "Retry; if it stays, send the report with the error's text to whoever looks after the gateway.",
	},
}
