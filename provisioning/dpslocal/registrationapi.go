// SPDX-License-Identifier: Apache-2.0

package dpslocal

import (
	"context"
	"encoding/json"
)

// getRegistration shows how a registration stands.
func (a *serviceAPI) getRegistration(ctx context.Context, c operatorCall) answer {
	r, err := a.service.store.Registration(ctx, c.id)
	if err != nil {
		return a.failure(err, codeUnknown)
	}
	document, _, err := registrationDocument(r)
	if err != nil {
		return a.failure(err, codeUnknown)
	}
	return answer{status: 200, body: document}
}

// deleteRegistration forgets a registration, so that the next one counts as the
// first (dps-protocol 19.3). The device identity on the hub stays.
func (a *serviceAPI) deleteRegistration(ctx context.Context, c operatorCall) answer {
	err := a.service.store.DeleteRegistration(ctx, c.id, func(r Registration) error {
		if r.Status == Assigning {
			return errBusy
		}
		_, etag, err := registrationDocument(r)
		if err != nil {
			return err
		}
		if c.ifMatch != "" && !etagMatches(c.ifMatch, etag) {
			return errETag
		}
		return nil
	})
	if err != nil {
		return a.failure(err, codeUnknown)
	}
	return answer{status: 204}
}

// queryRegistrations lists the registrations of an enrollment group. Its body is
// ignored: one client sends a query there, another one nothing.
func (a *serviceAPI) queryRegistrations(ctx context.Context, c operatorCall) answer {
	if _, ok := a.service.enrollments.find(Group, c.id); !ok {
		return a.failure(ErrNotFound, codeGroupUnknown)
	}
	p, err := parsePage(c.maxItems, c.continuation)
	if err != nil {
		return refuse(400, codeInvalid, sentence(err))
	}
	registrations, err := a.service.store.RegistrationsOf(ctx, c.id, p.after, p.size+1)
	if err != nil {
		return a.failure(err, codeGroupUnknown)
	}
	next := ""
	if len(registrations) > p.size {
		registrations = registrations[:p.size]
		next = continueAfter(registrations[p.size-1].ID)
	}
	documents := []json.RawMessage{}
	for _, r := range registrations {
		document, _, err := registrationDocument(r)
		if err != nil {
			return a.failure(err, codeUnknown)
		}
		documents = append(documents, document)
	}
	return listing(encodeJSON(documents), "deviceRegistration", next)
}
