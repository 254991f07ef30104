// SPDX-License-Identifier: Apache-2.0

package provisioning

import (
	"crypto/tls"
	"time"
)

// credential is what one attempt shows to the service: a token in each request or connection, or a certificate in the
// TLS handshake. The attempt and its session share it: the attempt decides what is used, the session asks for it
// whenever it sends or connects.
type credential struct {
	resource    string       // what tokens are signed for
	keys        []DeviceKey  // primary first; at least one, or a certificate
	using       int          // index of the key that signs
	certificate *Certificate // nil with keys
	clock       *Clock

	signed   time.Time // what time it was by the clock when the last token was signed
	signedAt time.Time // the same by the system's
}

func newCredential(cfg Config, r Request) *credential {
	return &credential{
		resource:    RegistrationResource(cfg.IDScope, r.RegistrationID),
		keys:        r.Keys,
		certificate: r.Certificate,
		clock:       cfg.Clock,
	}
}

// token signs a fresh one (rule 10).
func (c *credential) token() SASToken {
	c.signedAt, c.signed = time.Now(), c.clock.Now()
	return c.keys[c.using].SASToken(c.resource, registrationPolicy, c.signed.Add(tokenLifetime))
}

// skew is how far the service was ahead of the last token, if its time was that at moment.
func (c *credential) skew(service, moment time.Time) time.Duration {
	return service.Sub(c.signed.Round(0).Add(moment.Sub(c.signedAt)))
}

// begin uses a key that has worked before, by its index, if there are so many.
func (c *credential) begin(worked int) {
	if worked < len(c.keys) {
		c.using = worked
	}
}

// turnKey goes on to the next key, round and round.
func (c *credential) turnKey() { c.using = (c.using + 1) % len(c.keys) }

// secure adds the certificate, if there is one, to how TLS connects. Whatever the server says of the issuers that it
// accepts, the certificate is shown: an individual enrollment goes by the certificate itself, and without it a refusal
// would speak of a missing token.
func (c *credential) secure(base *tls.Config) *tls.Config {
	if c.certificate == nil {
		return base
	}
	own := base.Clone()
	own.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return c.certificate.TLS(), nil }
	return own
}

// check refuses a certificate that the service would refuse.
func (c *credential) check(registrationID string) error {
	if c.certificate == nil {
		return nil
	}
	return c.certificate.checkFor(registrationID, c.clock.Now())
}
