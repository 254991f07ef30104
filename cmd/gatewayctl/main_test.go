// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"net/http/httptest"
	"path/filepath"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/contoso/gatewayd/allocation"
	"github.com/contoso/gatewayd/provisioning/dpslocal"
)

// groupKey is the bytes 0x00 to 0x3f, a published vector.
const groupKey = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8gISIjJCUmJygpKissLS4vMDEyMzQ1Njc4OTo7PD0+Pw=="

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"gatewayctl": main})
}

// TestScripts runs the program as its users do. Scripts whose names begin with
// register have a local service of their own, with the tutorial's policy behind
// a real webhook, and find it in the environment.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata",
		Setup: func(env *testscript.Env) error {
			env.Setenv("GROUP_KEY", groupKey)
			if name := filepath.Base(env.WorkDir); len(name) < 15 || name[:15] != "script-register" {
				return nil
			}
			return startService(t, env)
		},
	})
}

// startService runs a local service until the script has ended.
func startService(t *testing.T, env *testscript.Env) error {
	webhook := httptest.NewServer(allocation.NewHandler(allocation.Config{Policy: allocation.Tutorial()}))
	hubs := []string{"contoso-toasters-hub-1098.azure-devices.net", "contoso-heatpumps-hub-1098.azure-devices.net"}
	service, err := dpslocal.New(dpslocal.Config{
		IDScope: "0ne00ABCDEF",
		Hubs:    []dpslocal.Hub{{Name: hubs[0]}, {Name: hubs[1]}},
		EnrollmentGroups: []dpslocal.EnrollmentGroup{{
			ID: "contoso-custom-allocated-devices", PrimaryKey: groupKey, Hubs: hubs,
			AllocationPolicy: dpslocal.Custom, WebhookURL: dpslocal.Secret(webhook.URL + "/api/HttpTrigger1"),
		}},
		Enrollments: []dpslocal.IndividualEnrollment{{
			RegistrationID: "barred-contoso-tstrsd-007", PrimaryKey: groupKey, ProvisioningStatus: dpslocal.Disabled,
		}},
	}, dpslocal.Options{Dir: t.TempDir()})
	if err != nil {
		webhook.Close()
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- service.Run(ctx) }()
	env.Defer(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("the local service: %v", err)
		}
		webhook.Close()
	})
	env.Setenv("HTTPS", service.HTTPSAddr())
	env.Setenv("MQTT", service.MQTTAddr())
	env.Setenv("CA", service.CAFile())
	return nil
}
