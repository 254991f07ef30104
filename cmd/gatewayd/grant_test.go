// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"regexp"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/contoso/gatewayd/provisioning"
	"github.com/contoso/gatewayd/provisioning/sealedkeys"
)

var groupKeyLine = regexp.MustCompile(`(?m)^group_key = .*$`)

// scriptGrant takes the group's key away from the site and gives it the keys of
// some appliances, sealed to its identity:
//
//	grant ID...
func scriptGrant(ts *testscript.TestScript, _ bool, ids []string) {
	text, _, err := worldOf(ts).service.GroupKeys(groupID)
	ts.Check(err)
	group, err := provisioning.ParseGroupKey(text)
	ts.Check(err)

	write := func(name, content string) {
		ts.Check(os.WriteFile(ts.MkAbs(name), []byte(content), 0o600))
	}
	made, err := sealedkeys.NewIdentity()
	ts.Check(err)
	write("gateway-identity", made.Reveal())
	request, err := sealedkeys.NewRequest("mainbuilding", made.Recipient(), ids, time.Now())
	ts.Check(err)
	grant, err := sealedkeys.Derive(request, provisioning.GroupKeys{group}, idScope, time.Now())
	ts.Check(err)
	sealed, err := grant.Seal(request.Recipient)
	ts.Check(err)
	write("derived-keys", string(sealed))

	file := groupKeyLine.ReplaceAllString(ts.ReadFile("gatewayd.toml"),
		`derived_keys = "`+ts.MkAbs("derived-keys")+`"`+"\n"+`derived_keys_identity = "`+ts.MkAbs("gateway-identity")+`"`)
	write("gatewayd.toml", file)
	ts.Check(os.RemoveAll(ts.MkAbs("group-key")))
}
