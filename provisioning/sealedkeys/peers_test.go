// SPDX-License-Identifier: Apache-2.0

package sealedkeys

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// peer runs a program that nobody here wrote, unless PEERS is not 1.
func peer(t *testing.T, program, stdin string, args ...string) string {
	t.Helper()
	if os.Getenv("PEERS") != "1" {
		t.Skip("needs " + program + ": set PEERS=1")
	}
	cmd := exec.CommandContext(t.Context(), program, args...)
	cmd.Stdin = strings.NewReader(stdin)
	output, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v", cmd, err)
	}
	return string(output)
}

// TestPeerAge has the command age open what we sealed, and seals with it what we open.
func TestPeerAge(t *testing.T) {
	gateway := identity(t)
	file := filepath.Join(t.TempDir(), "identity")
	if err := os.WriteFile(file, []byte(gateway.Reveal()), 0o600); err != nil {
		t.Fatal(err)
	}
	g := grant(t, group(t, primaryKey, secondaryKey), toaster, heatPump)
	sealed, err := g.Seal(gateway.Recipient())
	if err != nil {
		t.Fatal(err)
	}
	opened := peer(t, "age", string(sealed), "-d", "-i", file)
	var inside wireGrant
	if err := json.Unmarshal([]byte(opened), &inside); err != nil || len(inside.Devices) != 2 || inside.Devices[0].PrimaryKey != g.Devices[0].Keys[0].Reveal() {
		t.Errorf("age opened %q, %v", opened, err)
	}
	for _, args := range [][]string{{"-r", gateway.Recipient()}, {"-a", "-r", gateway.Recipient()}} {
		got, err := Open([]byte(peer(t, "age", opened, args...)), gateway)
		if err != nil || len(got.Devices) != 2 || got.Devices[1].Keys[1].Reveal() != g.Devices[1].Keys[1].Reveal() {
			t.Errorf("age %s: %+v, %v", args[0], got, err)
		}
	}
	if recipient := strings.TrimSpace(peer(t, "age-keygen", "", "-y", file)); recipient != gateway.Recipient() {
		t.Errorf("age-keygen says %s, we say %s", recipient, gateway.Recipient())
	}
	theirs, err := ParseIdentity(peer(t, "age-keygen", ""))
	if err != nil || !strings.HasPrefix(theirs.Recipient(), "age1") {
		t.Errorf("an identity of age-keygen: %v", err)
	}
}

// TestPeerOpenSSL derives a granted key with openssl.
func TestPeerOpenSSL(t *testing.T) {
	material, err := base64.StdEncoding.DecodeString(primaryKey)
	if err != nil {
		t.Fatal(err)
	}
	raw := peer(t, "openssl", toaster, "dgst", "-sha256", "-mac", "HMAC", "-macopt", "hexkey:"+hex.EncodeToString(material), "-binary")
	if want, got := base64.StdEncoding.EncodeToString([]byte(raw)), grant(t, group(t, primaryKey), toaster).Devices[0].Keys[0].Reveal(); got != want {
		t.Errorf("got %s, openssl says %s", got, want)
	}
}
