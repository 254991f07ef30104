// SPDX-License-Identifier: Apache-2.0

package provisioning

// credential is what one attempt shows to the service. The attempt and its session share it: the attempt decides
// what is used, the session asks for it whenever it sends or connects.
type credential struct {
	resource string      // what tokens are signed for
	keys     []DeviceKey // primary first; at least one
	using    int         // index of the key that signs
	clock    *Clock
}

func newCredential(cfg Config, r Request) *credential {
	return &credential{
		resource: RegistrationResource(cfg.IDScope, r.RegistrationID),
		keys:     r.Keys,
		clock:    cfg.Clock,
	}
}

// token signs a fresh one (rule 10).
func (c *credential) token() SASToken {
	return c.keys[c.using].SASToken(c.resource, registrationPolicy, c.clock.Now().Add(tokenLifetime))
}
