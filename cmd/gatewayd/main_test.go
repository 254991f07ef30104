// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

// TestMain makes the daemon callable from the scripts, and re-runs this binary
// as the daemon for the tests that kill it.
func TestMain(m *testing.M) {
	if os.Getenv(asDaemon) != "" {
		os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
	}
	testscript.Main(m, map[string]func(){"gatewayd": main})
}

// TestScripts runs one script a behaviour; the commands that they add are
// explained in script_test.go.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata",
		Setup: func(env *testscript.Env) error {
			env.Values[worldKey{}] = &scriptWorld{instances: map[string]*instance{}}
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"site":      scriptSite,
			"waittwin":  scriptWaitTwin,
			"waitlog":   scriptWaitLog,
			"daemon":    scriptDaemon,
			"grant":     scriptGrant,
			"terminate": scriptTerminate,
			"webhook":   scriptWebhook,
			"takeport":  scriptTakePort,
			"instance":  scriptInstance,
			"ask":       scriptAsk,
			"look":      scriptLook,
			"reload":    scriptReload,
			"quit":      scriptQuit,
		},
	})
}
