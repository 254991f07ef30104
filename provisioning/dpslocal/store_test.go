// SPDX-License-Identifier: Apache-2.0

package dpslocal_test

import (
	"path/filepath"
	"testing"

	"github.com/contoso/gatewayd/provisioning/dpslocal"
	"github.com/contoso/gatewayd/provisioning/dpslocal/storetest"
)

func TestSQLiteStore(t *testing.T) {
	storetest.Run(t, func(t *testing.T) func() dpslocal.Store {
		path := filepath.Join(t.TempDir(), "store.db")
		return func() dpslocal.Store {
			store, err := dpslocal.OpenStore(path)
			if err != nil {
				t.Fatal(err)
			}
			return store
		}
	})
}
