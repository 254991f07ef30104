// SPDX-License-Identifier: Apache-2.0

package pgstore_test

import (
	"testing"

	"github.com/contoso/gatewayd/provisioning/dpslocal"
	"github.com/contoso/gatewayd/provisioning/dpslocal/pgstore"
)

func open(t *testing.T, url dpslocal.Secret) dpslocal.SharedStore {
	t.Helper()
	store, err := pgstore.Open(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	return store
}

func TestOpen(t *testing.T) {
	url := newDatabase(t)
	s := open(t, url)
	if err := s.BeginLease(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := s.RenewLease(t.Context()); err != nil {
		t.Fatal(err)
	}
	ops, err := s.TakeOperations(t.Context())
	t.Log(ops, err)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}
