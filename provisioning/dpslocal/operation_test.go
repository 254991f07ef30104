// SPDX-License-Identifier: Apache-2.0

package dpslocal

import (
	"testing"
	"testing/synctest"
)

func TestFirstAssignment(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hook := always(200, goodAnswer)
		s := newCore(t, testConfig(), hook)
		got := register(t, s, request(RegisterCall, toaster))
		if got.Status != "assigned" || got.RegistrationState.AssignedHub != toasters {
			t.Errorf("got %+v, want assigned to %s", got, toasters)
		}
		t.Log(hook.body(0))
	})
}
