// SPDX-License-Identifier: Apache-2.0

package dpslocal

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"
)

// Permission is what a shared access policy may allow.
type Permission string

// The permissions of the provisioning service (dps-protocol 17.3). ServiceConfig
// is known because Azure's policies name it; no call here needs it.
const (
	ServiceConfig           Permission = "ServiceConfig"
	EnrollmentRead          Permission = "EnrollmentRead"
	EnrollmentWrite         Permission = "EnrollmentWrite"
	RegistrationStatusRead  Permission = "RegistrationStatusRead"
	RegistrationStatusWrite Permission = "RegistrationStatusWrite"
)

// The permissions of a hub, of which the calls on twins need ServiceConnect.
const (
	RegistryRead   Permission = "RegistryRead"
	RegistryWrite  Permission = "RegistryWrite"
	ServiceConnect Permission = "ServiceConnect"
	DeviceConnect  Permission = "DeviceConnect"
)

var (
	servicePermissions = []Permission{ServiceConfig, EnrollmentRead, EnrollmentWrite, RegistrationStatusRead, RegistrationStatusWrite}
	hubPermissions     = []Permission{RegistryRead, RegistryWrite, ServiceConnect, DeviceConnect}
)

// PolicyKey is one shared access policy: of the service API, or of a hub.
type PolicyKey struct {
	// Name is what a token names in skn, such as "provisioningserviceowner" or
	// "iothubowner".
	Name string

	// Key is base64 of 16 to 64 bytes.
	Key Secret

	// Permissions are what the policy allows; none given means all of them.
	Permissions []Permission
}

// policies are the ways into a service API; without any, nobody gets in.
type policies []PolicyKey

// validate reports what is wrong with the policies of owner, the table in which
// they stand, when these are the permissions that exist there.
func (p policies) validate(owner string, known []Permission) error {
	var errs []error
	for i, policy := range p {
		if policy.Name == "" {
			errs = append(errs, fmt.Errorf("%s without a name", owner))
		}
		if slices.ContainsFunc(p[:i], func(other PolicyKey) bool { return other.Name == policy.Name }) {
			errs = append(errs, fmt.Errorf("%s %q: named twice", owner, policy.Name))
		}
		if _, err := decodeKey(string(policy.Key)); err != nil {
			errs = append(errs, fmt.Errorf("%s %q: key: %w", owner, policy.Name, err))
		}
		for _, permission := range policy.Permissions {
			if !slices.Contains(known, permission) {
				errs = append(errs, fmt.Errorf("%s %q: permission %q: use some of %v", owner, policy.Name, permission, known))
			}
		}
	}
	return errors.Join(errs...)
}

// The ways in which a token of an operator fails, beside those of a device's.
// They are for the log; the caller learns that it is not authorized.
var (
	errNoPolicy     = errors.New("the token names no policy that exists here")
	errPolicyKey    = errors.New("the signature does not match the policy's key")
	errNoPermission = errors.New("the policy does not allow this")
)

// authorize judges a token by dps-protocol 17.3 and returns the name of its
// policy: it is signed with that policy's key, speaks of one of the host names
// or of a path under it that leads to the resource, and the policy allows what
// is asked for.
func (p policies) authorize(token string, hosts []string, segments []string, need Permission) (string, error) {
	sas, err := parseSASToken(token)
	if err != nil {
		return "", err
	}
	if !sas.covers(hosts, segments) {
		return "", errSASResource
	}
	if time.Now().After(sas.goodUntil()) {
		return "", errSASExpired
	}
	i := slices.IndexFunc(p, func(policy PolicyKey) bool { return policy.Name == sas.policy })
	if i < 0 {
		return "", errNoPolicy
	}
	if !sas.signedWith(p[i].Key) {
		return "", errPolicyKey
	}
	if len(p[i].Permissions) > 0 && !slices.Contains(p[i].Permissions, need) {
		return "", fmt.Errorf("policy %q, %s: %w", p[i].Name, need, errNoPermission)
	}
	return p[i].Name, nil
}

// covers tells whether the token's resource is one of the hosts, or the first
// segments of a path there. A port is left out, since clients that were
// configured with one sign it too.
func (t sasToken) covers(hosts, segments []string) bool {
	parts := strings.Split(strings.TrimSuffix(t.resource, "/"), "/")
	host := parts[0]
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	if !containsFold(hosts, host) || len(parts)-1 > len(segments) {
		return false
	}
	return slices.EqualFunc(parts[1:], segments[:len(parts)-1], strings.EqualFold)
}
