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
	"slices"
	"strings"
	"syscall"
)

// failure is a row of the table: how to recognize a failure, and what to say about it.
type failure struct {
	kind    string
	codes   []int // of the service, for lists; what recognizes an error is is
	is      func(error) bool
	owner   string
	verdict string
	next    string
	sdk     string // see Diagnosis.SDKResult
	quotes  bool   // only the service's own words tell more: they follow the verdict
}

// What the C SDK says (dps-protocol 4, 12.4; real-clients-wire, "Waiting and retrying"). It hands out 429 and 5xx to
// nobody: it asks again for ever.
const (
	sdkAuth      = "PROV_DEVICE_RESULT_DEV_AUTH_ERROR"
	sdkNoHub     = "PROV_DEVICE_RESULT_HUB_NOT_SPECIFIED"
	sdkWebhook   = "PROV_DEVICE_RESULT_UNAUTHORIZED"
	sdkDisabled  = "PROV_DEVICE_RESULT_DISABLED"
	sdkTransport = "PROV_DEVICE_RESULT_TRANSPORT"
	sdkTimeout   = "PROV_DEVICE_RESULT_TIMEOUT"
	sdkKey       = "PROV_DEVICE_RESULT_KEY_ERROR"
	sdkRefused   = sdkAuth + ", " + sdkTransport // any refusal but 401: over MQTT, over HTTPS
)

// failures is the one table of what can go wrong. The first row that recognizes an error explains it, so the telling
// ones stand before the general ones. A new row also needs a case in verdict_test.go, which a test demands. The
// table is never changed.
var failures = []failure{
	// The service ended the registration.
	{
		kind: "disabled", sdk: sdkDisabled,
		is:      ended(func(f *FailedError) bool { return f.Status == StatusDisabled }),
		owner:   OwnerCloudOperator,
		verdict: "The enrollment of this device is disabled.",
		next:    "If the device belongs here, enable its enrollment. Then retry.",
	},
	{
		kind: "custom-allocation-broken", codes: []int{codeAllocationFailed}, sdk: sdkAuth,
		is: ended(func(f *FailedError) bool {
			status, named := f.WebhookStatus()
			return named && status >= statusLater
		}),
		owner:   OwnerPolicy,
		verdict: "The allocation webhook kept failing until the provisioning service gave up.",
		next:    "Look into the webhook's log and get it running again. Then retry.",
	},
	{
		kind: "custom-allocation-failed", codes: []int{codeAllocationFailed}, sdk: sdkAuth,
		is: ended(func(f *FailedError) bool {
			_, named := f.WebhookStatus()
			return named
		}),
		owner:   OwnerPolicy,
		verdict: "The allocation policy refused this device.",
		next:    "The webhook's log has the reason. If the device belongs here, make the policy accept its registration ID. Then retry.",
	},
	{
		// A 400207 that names no status: the service got no answer, or cannot use the one it got. The second text was
		// seen without a code.
		kind: "custom-allocation-unusable", codes: []int{codeAllocationFailed}, sdk: sdkAuth, quotes: true,
		is: ended(func(f *FailedError) bool {
			return f.Code == codeAllocationFailed || strings.Contains(f.Message, "error occurred while sending the request")
		}),
		owner:   OwnerPolicy,
		verdict: "The provisioning service got no usable answer from the allocation webhook.",
		next:    "Check the webhook URL in the enrollment, that the webhook runs, and that its answer names a linked hub. Then retry.",
	},
	{
		kind: "custom-allocation-no-hub", codes: []int{codeAllocationNoHub}, sdk: sdkNoHub,
		is:      ended(func(f *FailedError) bool { return f.Code == codeAllocationNoHub }),
		owner:   OwnerPolicy,
		verdict: "The allocation policy answered without naming a hub.",
		next:    "Make the policy name one of the enrollment's linked hubs for this device. Then retry.",
	},
	{
		kind: "custom-allocation-unauthorized", codes: []int{codeAllocationUnauthorized}, sdk: sdkWebhook,
		is:      ended(func(f *FailedError) bool { return f.Code == codeAllocationUnauthorized }),
		owner:   OwnerCloudOperator,
		verdict: "The allocation webhook did not accept the key that the provisioning service showed.",
		next:    "Put the webhook's current function key into the webhook URL of the enrollment. Then retry.",
	},
	{
		kind: "hub-unauthorized", sdk: sdkAuth,
		is:      ended(saysOneOf(0, "IotHubUnauthorizedAccess")),
		owner:   OwnerCloudOperator,
		verdict: "The IoT hub did not let the provisioning service in.",
		next:    "Update the hub's entry in the service's list of linked hubs: its access key is probably out of date. Then retry.",
	},
	{
		kind: "hub-taken-over", codes: []int{codeHubTakenOver}, sdk: sdkAuth,
		is:      ended(saysOneOf(codeHubTakenOver, "ConnectionForcefullyClosedOnNewConnection")),
		owner:   OwnerTechnician,
		verdict: "Another connection with this device's identity replaced this one at the IoT hub.",
		next:    "Find the second gateway or program that uses this device's key, and stop it. Then retry.",
	},
	{
		kind: "hub-connection-closed", codes: []int{codeHubClosed}, sdk: sdkAuth,
		is:      ended(saysOneOf(codeHubClosed, "DeviceConnectionClosedRemotely")),
		owner:   OwnerSiteNetwork,
		verdict: "The IoT hub lost its connection to this device.",
		next:    "Retry: a restart or a short fault of the network does this. If it happens often, let the firewall keep idle connections open.",
	},
	{
		kind: "hub-throttled", sdk: sdkAuth,
		is: ended(func(f *FailedError) bool {
			return f.Code/1000 == statusLater || strings.Contains(f.Message, "Throttling")
		}),
		owner:   OwnerCloudOperator,
		verdict: "The IoT hub was too busy to take the device.",
		next:    "Retry later. If it lasts, give the hub more units or register fewer devices at once.",
	},
	{
		kind: "registration-failed", sdk: sdkAuth,
		is:      ended(func(f *FailedError) bool { return f.Code/1000 != http.StatusUnauthorized }),
		owner:   OwnerCloudOperator,
		verdict: "The provisioning service could not complete the registration.",
		next:    "Read the service's message, and check that its linked hubs exist and have room. Then retry.",
		quotes:  true,
	},

	// The service refused the request, or put it off.
	{
		kind: "throttled", codes: []int{429001},
		is:      either(as[*ThrottledError], answered(http.StatusTooManyRequests)),
		owner:   OwnerCloudOperator,
		verdict: "The provisioning service asked to slow down.",
		next:    "Nothing is wrong with this device. Retry later. If it lasts, let the gateways register fewer devices per minute.",
	},
	{
		kind: "unauthorized-certificate", codes: []int{401002}, sdk: sdkAuth,
		is: either(shown(func(c *CredentialError) bool { return c.Certificate }), ended(func(f *FailedError) bool {
			return f.Code/1000 == http.StatusUnauthorized && strings.Contains(f.Message, "certificate")
		})),
		owner:   OwnerCloudOperator,
		verdict: "The provisioning service did not accept the device's certificate.",
		next:    "Check the ID scope, and that the enrollment has this certificate, or the one that signed it, and is enabled. Then retry.",
	},
	{
		kind: "unauthorized-after-clock", codes: []int{401000, 401002}, sdk: sdkAuth,
		is:      shown(func(c *CredentialError) bool { return c.Corrected }),
		owner:   OwnerCloudOperator,
		verdict: "The service did not accept the device's key, not even by its own time; the clock here is wrong.",
		next:    "Set the clock of this machine. Check the ID scope, and that the key here is the enrollment's current one. Then retry.",
	},
	{
		kind: "unauthorized-clock-off", codes: []int{401000, 401002}, sdk: sdkAuth,
		is:      shown(func(c *CredentialError) bool { return c.SkewKnown && c.Skew.Abs() > skewLimit }),
		owner:   OwnerTechnician,
		verdict: "The service did not accept the device's key, and its clock and the one here disagree.",
		next:    "Set the clock of this machine. Then retry.",
	},
	{
		kind: "unauthorized-clock-unknown", codes: []int{401000, 401002}, sdk: sdkAuth,
		is:      shown(func(c *CredentialError) bool { return !c.SkewKnown }),
		owner:   OwnerTechnician,
		verdict: "The service did not accept the device's key, and gave no time to compare clocks by.",
		next:    "Check the clock of this machine first, then the ID scope, and that the key here is the enrollment's current one. Then retry.",
	},
	{
		kind: "unauthorized-both-keys", codes: []int{401000, 401002}, sdk: sdkAuth,
		is:      shown(func(c *CredentialError) bool { return c.Tried > 1 }),
		owner:   OwnerCloudOperator,
		verdict: "The provisioning service accepted neither the device's primary key nor its secondary key.",
		next:    "Check the ID scope, and that the keys here are the enrollment's current ones; an individual enrollment has its own. Then retry.",
	},
	{
		kind: "unauthorized", codes: []int{401000, 401002}, sdk: sdkAuth,
		is:      either(answered(http.StatusUnauthorized), ended(func(*FailedError) bool { return true })),
		owner:   OwnerCloudOperator,
		verdict: "The provisioning service did not accept the device's key.",
		next:    "Check the ID scope, and that the key here is the enrollment's current one; an individual enrollment has its own. Then retry.",
	},
	{
		kind: "registration-running", codes: []int{codeRunning}, sdk: sdkRefused,
		is:      coded(codeRunning),
		owner:   OwnerTechnician,
		verdict: "Another registration of this device is still running.",
		next:    "Wait ten minutes and retry. If it stays, look for a second gateway that uses the same registration ID.",
	},
	{
		kind: "operation-unknown", codes: []int{codeNoOperation}, sdk: sdkRefused,
		is:      coded(codeNoOperation),
		owner:   OwnerTechnician,
		verdict: "The provisioning service does not remember this registration any more.",
		next:    "Retry: that begins a new registration.",
	},
	{
		kind: "group-unknown", codes: []int{codeNoGroup},
		is:      coded(codeNoGroup),
		owner:   OwnerCloudOperator,
		verdict: "The provisioning service has no enrollment group of that name.",
		next:    "Check the ID scope. If it is right, create the enrollment group again. Then retry.",
	},
	{
		kind: "not-enrolled", codes: []int{404201, 404202}, sdk: sdkRefused,
		is:      answered(http.StatusNotFound),
		owner:   OwnerCloudOperator,
		verdict: "The provisioning service has no enrollment for this device.",
		next:    "Check the ID scope. If it is right, create an enrollment that covers the registration ID. Then retry.",
	},
	{
		kind: "changed-meanwhile", sdk: sdkRefused,
		is:      answered(http.StatusPreconditionFailed),
		owner:   OwnerTechnician,
		verdict: "The registration was changed from somewhere else at the same time.",
		next:    "Retry. If it happens again, look for a second gateway that uses the same registration ID.",
	},
	{
		kind: "request-refused", codes: []int{400004}, sdk: sdkRefused,
		is:      answered(http.StatusBadRequest),
		owner:   OwnerCloudOperator,
		verdict: "The provisioning service did not take the request.",
		next:    "Read the service's message: it names what is wrong, often the registration ID, the payload or a setting of the enrollment.",
	},
	{
		kind: "service-trouble", codes: []int{500001},
		is: func(err error) bool {
			answer, ok := errors.AsType[*ServiceError](err)
			return ok && answer.HTTPStatus >= http.StatusInternalServerError
		},
		owner:   OwnerCloudOperator,
		verdict: "The provisioning service has trouble of its own.",
		next:    "Nothing is wrong with this device. Retry later. If it lasts, look at the cloud provider's status page.",
	},
	{
		kind: "refused", sdk: sdkRefused,
		is:      as[*ServiceError],
		owner:   OwnerCloudOperator,
		verdict: "The provisioning service refused the registration.",
		next:    "Look up the code and the message. If they do not explain it, ask Microsoft and give them the tracking ID.",
	},
	{
		kind: "no-outcome", sdk: sdkTimeout,
		is:      wraps(ErrAttemptLimit),
		owner:   OwnerPolicy,
		verdict: "The provisioning service worked on the registration but did not finish in time.",
		next:    "If the enrollment has an allocation webhook, check that it answers. Then retry: the registration goes on where it was.",
	},

	// What happened on the way to the service.
	{
		kind: "proxy-credentials", sdk: sdkTransport,
		is: proxy(func(p *ProxyError) bool {
			return p.Status == http.StatusProxyAuthRequired || p.Status == http.StatusUnauthorized
		}),
		owner:   OwnerSiteNetwork,
		verdict: "The proxy wants a user name and a password, or does not accept those that it got.",
		next:    "Put the right ones into the proxy's setting here (HTTPS_PROXY): http://user:password@host:port. Then retry.",
	},
	{
		kind: "proxy-no-way", sdk: sdkTransport,
		is:      proxy(func(p *ProxyError) bool { return p.Status >= http.StatusInternalServerError }),
		owner:   OwnerSiteNetwork,
		verdict: "The proxy could not reach the provisioning service.",
		next:    "Check the endpoint. If it is right, let the proxy out to port 443 (HTTPS, WebSocket) or 8883 (MQTT).",
	},
	{
		kind: "proxy-refused", sdk: sdkTransport,
		is:      proxy(func(p *ProxyError) bool { return p.Status != 0 }),
		owner:   OwnerSiteNetwork,
		verdict: "The proxy does not let this machine through to the provisioning service.",
		next:    "Have the proxy allow CONNECT to the endpoint, on port 443 (HTTPS, WebSocket) or 8883 (MQTT).",
	},
	{
		kind: "proxy-untrusted", sdk: sdkTransport,
		is:      both(as[*ProxyError], as[*tls.CertificateVerificationError]),
		owner:   OwnerSiteNetwork,
		verdict: "The certificate of the proxy is not trusted here.",
		next:    "Give the root that signed it as ca_file (--ca-file), and check the proxy's name and the clock of this machine.",
	},
	{
		kind: "proxy-unreachable", sdk: sdkTransport,
		is:      as[*ProxyError],
		owner:   OwnerSiteNetwork,
		verdict: "The proxy could not be reached, or what answered there is no proxy.",
		next:    "Check the proxy's setting here (HTTPS_PROXY, http://host:port), and that the proxy is running.",
	},
	{
		kind: "tls-clock", sdk: sdkTransport,
		is: certificate(func(c x509.CertificateInvalidError) bool {
			return c.Reason == x509.Expired && strings.Contains(c.Detail, " is before ")
		}),
		owner:   OwnerTechnician,
		verdict: "The clock of this machine is behind: the service's certificate is not valid yet.",
		next:    "Set the date and time of this machine, and have it take them from a time server. Then retry.",
	},
	{
		kind: "tls-expired", sdk: sdkTransport,
		is:      certificate(func(c x509.CertificateInvalidError) bool { return c.Reason == x509.Expired }),
		owner:   OwnerTechnician,
		verdict: "The certificate of whoever answered has run out, or the clock of this machine is ahead.",
		next:    "Check the date and time of this machine. If they are right, whoever runs that server or proxy must renew its certificate.",
	},
	{
		kind: "tls-untrusted", sdk: sdkTransport,
		is: either(as[x509.UnknownAuthorityError], as[x509.SystemRootsError],
			certificate(func(x509.CertificateInvalidError) bool { return true })),
		owner:   OwnerSiteNetwork,
		verdict: "The certificate of whoever answered is not signed by a trusted root.",
		next:    "If the site inspects TLS, exempt the service or give its root as ca_file (--ca-file). A local service needs its CA there too.",
	},
	{
		kind: "tls-name", sdk: sdkTransport,
		is:      as[x509.HostnameError],
		owner:   OwnerSiteNetwork,
		verdict: "The certificate of whoever answered is for another name.",
		next:    "Check the spelling of the endpoint, and whether a login page or a proxy answers in the service's place.",
	},
	{
		kind: "tls-refused-certificate", sdk: sdkTransport,
		is:      alert("certificate"),
		owner:   OwnerCloudOperator,
		verdict: "The other side ended the TLS connection because of the device's certificate.",
		next:    "Check that the device's certificate has not run out and comes with its whole chain. Then retry.",
	},
	{
		kind: "tls-refused", sdk: sdkTransport,
		is:      alert(""),
		owner:   OwnerSiteNetwork,
		verdict: "The other side refused the TLS connection.",
		next:    "Check that no firewall or proxy in between insists on TLS versions older than 1.2.",
	},
	{
		kind: "not-dps", sdk: sdkTransport,
		is:      either(wraps(ErrNotService), as[tls.RecordHeaderError]),
		owner:   OwnerSiteNetwork,
		verdict: "Something answered that is not the provisioning service.",
		next:    "Look for a login page or a proxy in between, and check the endpoint and its port.",
	},
	{
		kind: "dns-silent", sdk: sdkTransport,
		is: func(err error) bool {
			lookup, ok := errors.AsType[*net.DNSError](err)
			return ok && !lookup.IsNotFound
		},
		owner:   OwnerSiteNetwork,
		verdict: "The name server gave no answer about the provisioning service.",
		next:    "Check that this machine is on the network, that it asks the right name server, and that it may reach that one (port 53).",
	},
	{
		kind: "dns", sdk: sdkTransport,
		is:      as[*net.DNSError],
		owner:   OwnerSiteNetwork,
		verdict: "The name server does not know the provisioning service.",
		next:    "Check the spelling of the endpoint. If it is right, have the site's name server answer for it: some answer only for names on a list.",
	},
	{
		kind: "connection-refused", sdk: sdkTransport,
		is:      wraps(syscall.ECONNREFUSED),
		owner:   OwnerSiteNetwork,
		verdict: "The connection to the provisioning service was refused.",
		next:    "Check the endpoint and its port. If they are right, let this machine out to port 443 (HTTPS, WebSocket) or 8883 (MQTT).",
	},
	{
		kind: "no-route", sdk: sdkTransport,
		is:      wraps(syscall.ENETUNREACH, syscall.EHOSTUNREACH),
		owner:   OwnerSiteNetwork,
		verdict: "This machine has no way to the provisioning service.",
		next:    "Check the network cable or radio link, this machine's address and its default route.",
	},
	{
		kind: "timeout", sdk: sdkTimeout,
		is: func(err error) bool {
			network, ok := errors.AsType[net.Error](err)
			return errors.Is(err, context.DeadlineExceeded) || ok && network.Timeout()
		},
		owner:   OwnerSiteNetwork,
		verdict: "The provisioning service did not answer in time.",
		next:    "Let this machine out to port 443 (HTTPS, WebSocket) or 8883 (MQTT): a firewall that drops packets silently looks like this.",
	},
	{
		kind: "connection-lost", sdk: sdkTransport,
		is:      either(isLost, wraps(io.EOF, io.ErrUnexpectedEOF, net.ErrClosed, syscall.ECONNRESET, syscall.EPIPE)),
		owner:   OwnerSiteNetwork,
		verdict: "The connection to the provisioning service broke off.",
		next:    "Retry. If it happens again, look for a firewall or proxy that closes connections.",
	},

	// Mistakes on this machine.
	{
		kind:    "bad-registration-id",
		is:      wraps(ErrRegistrationID),
		owner:   OwnerTechnician,
		verdict: "The device's name cannot be a registration ID.",
		next:    "Correct the name on the device, or the registration_id template of its line. The message says what is wrong.",
	},
	{
		kind: "bad-key", sdk: sdkKey,
		is:      wraps(ErrKey),
		owner:   OwnerTechnician,
		verdict: "The key that this machine was given cannot be used.",
		next:    "Copy the key as the portal shows it: base64, alone on its line. The message says what is wrong.",
	},
	{
		kind:    "bad-certificate",
		is:      wraps(ErrCertificate),
		owner:   OwnerTechnician,
		verdict: "The device's certificate or its key cannot be used for this registration.",
		next:    "The message says what is wrong. Give the certificate made for this registration ID, with its issuers and its key, as PEM.",
	},
	{
		kind: "no-key", sdk: sdkKey,
		is:      wraps(ErrNoKey),
		owner:   OwnerTechnician,
		verdict: "This gateway was granted keys for some devices, and this device is not among them.",
		next:    "Run gatewayctl keys request for its registration ID, have headquarters grant it, run gatewayctl keys install, restart gatewayd.",
	},
	{
		kind:    "bad-id-scope",
		is:      misconfigured("IDScope"),
		owner:   OwnerTechnician,
		verdict: "The ID scope is missing or malformed.",
		next:    "Copy the ID scope from the overview page of the provisioning service. It looks like 0ne00002193.",
	},
	{
		kind:    "bad-endpoint",
		is:      misconfigured("Endpoint"),
		owner:   OwnerTechnician,
		verdict: "The endpoint is neither a host nor host:port.",
		next:    "Give it without https:// and without a path, such as global.azure-devices-provisioning.net.",
	},
	{
		kind:    "bad-transport",
		is:      misconfigured("Transport"),
		owner:   OwnerTechnician,
		verdict: "The transport is unknown.",
		next:    "Choose one that the message lists.",
	},
	{
		kind:    "bad-setting",
		is:      as[*ConfigError],
		owner:   OwnerTechnician,
		verdict: "A setting of the provisioning client makes no sense.",
		next:    "Correct the setting that the message names.",
	},
	{
		kind:    "bad-payload",
		is:      wraps(ErrPayload),
		owner:   OwnerTechnician,
		verdict: "The payload for the allocation policy cannot be sent.",
		next:    `Make it a JSON object such as {"model":"x"}, of at most 64 KiB. The message says what is wrong.`,
	},
	{
		kind:    "bad-request",
		is:      wraps(ErrRequest),
		owner:   OwnerTechnician,
		verdict: "The registration request cannot be sent as it is.",
		next:    "Correct what the message names. Then retry.",
	},
	{
		kind:    "interrupted",
		is:      wraps(ErrClosed, context.Canceled),
		owner:   OwnerTechnician,
		verdict: "The registration was interrupted on this machine; the service may complete what it has begun.",
		next:    "Nothing is wrong. Retry when it suits.",
	},
	{
		kind:    "unknown",
		is:      func(error) bool { return true },
		owner:   OwnerTechnician,
		verdict: "The registration failed for a reason that is not in the list of known ones.",
		next:    "Retry. If it fails again, send the whole message to whoever looks after the gateway.",
	},
}

// Codes that mean something of their own (dps-protocol 4; 404203 in real-clients-wire).
const (
	codeAllocationFailed       = 400207
	codeAllocationNoHub        = 400208
	codeAllocationUnauthorized = 400209
	codeNoOperation            = 404203
	codeNoGroup                = 404204
	codeHubTakenOver           = 400027 // the hub's
	codeHubClosed              = 404104 // the hub's
)

// ended recognizes registrations that the service ended itself.
func ended(like func(*FailedError) bool) func(error) bool {
	return func(err error) bool {
		failed, ok := errors.AsType[*FailedError](err)
		return ok && like(failed)
	}
}

// saysOneOf recognizes a hub's trouble in a registration's end, by its code (0: none) or by its name in the message.
func saysOneOf(code int, name string) func(*FailedError) bool {
	return func(f *FailedError) bool { return code != 0 && f.Code == code || strings.Contains(f.Message, name) }
}

// answered recognizes an error answer by its status.
func answered(status int) func(error) bool {
	return func(err error) bool {
		answer, ok := errors.AsType[*ServiceError](err)
		return ok && answer.HTTPStatus == status
	}
}

// coded recognizes an error answer by the service's code.
func coded(code int) func(error) bool {
	return func(err error) bool {
		answer, ok := errors.AsType[*ServiceError](err)
		return ok && answer.Code == code
	}
}

// shown recognizes credentials that the service did not accept.
func shown(like func(*CredentialError) bool) func(error) bool {
	return func(err error) bool {
		refused, ok := errors.AsType[*CredentialError](err)
		return ok && like(refused)
	}
}

// as recognizes a type.
func as[E error](err error) bool {
	_, ok := errors.AsType[E](err)
	return ok
}

// wraps recognizes values.
func wraps(targets ...error) func(error) bool {
	return func(err error) bool {
		return slices.ContainsFunc(targets, func(target error) bool { return errors.Is(err, target) })
	}
}

// either is the disjunction.
func either(those ...func(error) bool) func(error) bool {
	return func(err error) bool {
		return slices.ContainsFunc(those, func(is func(error) bool) bool { return is(err) })
	}
}

// both is the conjunction.
func both(one, other func(error) bool) func(error) bool {
	return func(err error) bool { return one(err) && other(err) }
}

// proxy recognizes what the site's proxy did.
func proxy(like func(*ProxyError) bool) func(error) bool {
	return func(err error) bool {
		refused, ok := errors.AsType[*ProxyError](err)
		return ok && like(refused)
	}
}

// certificate recognizes what is wrong with a certificate of the other side.
func certificate(like func(x509.CertificateInvalidError) bool) func(error) bool {
	return func(err error) bool {
		invalid, ok := errors.AsType[x509.CertificateInvalidError](err)
		return ok && like(invalid)
	}
}

// alert recognizes a TLS alert from the other side whose text contains about.
func alert(about string) func(error) bool {
	return func(err error) bool {
		operation, ok := errors.AsType[*net.OpError](err)
		return ok && operation.Op == "remote error" && strings.Contains(operation.Err.Error(), about)
	}
}

// misconfigured recognizes a mistake in a field of [Config].
func misconfigured(field string) func(error) bool {
	return func(err error) bool {
		mistake, ok := errors.AsType[*ConfigError](err)
		return ok && mistake.Field == field
	}
}
