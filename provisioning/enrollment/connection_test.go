// SPDX-License-Identifier: Apache-2.0

package enrollment

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"testing"
	"time"
)

func TestParseConnectionString(t *testing.T) {
	for _, test := range []struct{ name, text, host, want string }{
		{name: "as the portal shows it", text: "HostName=contoso.azure-devices-provisioning.net;SharedAccessKeyName=p;SharedAccessKey=" + policyKey, host: "contoso.azure-devices-provisioning.net"},
		{name: "any order, any case, a newline", text: "sharedaccesskey=" + policyKey + ";HOSTNAME=localhost;SharedAccessKeyName=p;\n", host: "localhost"},
		{name: "a part from later", text: "HostName=h;SharedAccessKeyName=p;SharedAccessKey=BwcH;Other=x", host: "h"},
		{name: "empty", text: " \n", want: "it is empty"},
		{name: "two lines", text: "HostName=h;\nSharedAccessKeyName=p;SharedAccessKey=BwcH", want: "spans several lines"},
		{name: "long", text: strings.Repeat("x", 5000), want: "longer than 4096 bytes"},
		{name: "a device's", text: "HostName=h;DeviceId=d;SharedAccessKey=BwcH", want: "it has no SharedAccessKeyName"},
		{name: "no key", text: "HostName=h;SharedAccessKeyName=p;SharedAccessKey=", want: "it has no SharedAccessKey"},
		{name: "no base64", text: "HostName=h;SharedAccessKeyName=p;SharedAccessKey=sesame*", want: "not standard base64"},
		{name: "a URL", text: "HostName=https://h;SharedAccessKeyName=p;SharedAccessKey=BwcH", want: "no scheme and no port"},
		{name: "a port", text: "HostName=h:443;SharedAccessKeyName=p;SharedAccessKey=BwcH", want: "no scheme and no port"},
		{name: "twice", text: "HostName=h;HostName=i;SharedAccessKeyName=p;SharedAccessKey=BwcH", want: "there twice"},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := ParseConnectionString(test.text)
			if test.want == "" && (err != nil || got.HostName != test.host || got.Policy != "p") {
				t.Errorf("got %+v, %v", got, err)
			}
			if test.want != "" && (!errors.Is(err, ErrConnectionString) || !strings.Contains(err.Error(), test.want)) {
				t.Errorf("got %v, want an error with %q", err, test.want)
			}
			if err != nil && strings.Contains(err.Error(), "sesame") {
				t.Errorf("the error quotes the key: %v", err)
			}
		})
	}
}

// TestTokenVectors signs the published tokens of the service API anew.
func TestTokenVectors(t *testing.T) {
	text, err := os.ReadFile("../testdata/dps-vectors.json")
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		SAS struct {
			Service []struct {
				ID        string `json:"id"`
				Key       string `json:"key_b64"`
				Resource  string `json:"sr_on_wire"`
				Expiry    int64  `json:"se"`
				Policy    string `json:"skn"`
				Signature string `json:"signature_b64"`
				Token     string `json:"token"`
			} `json:"service"`
		} `json:"sas"`
	}
	if err := json.Unmarshal(text, &file); err != nil {
		t.Fatal(err)
	}
	whole := 0
	for _, v := range file.SAS.Service {
		c, err := ParseConnectionString("HostName=" + v.Resource + ";SharedAccessKeyName=" + v.Policy + ";SharedAccessKey=" + v.Key)
		if err != nil {
			t.Fatal(err)
		}
		if got := c.sign(fmt.Sprintf("%s\n%d", v.Resource, v.Expiry)); got != v.Signature {
			t.Errorf("%s: signature %s, want %s", v.ID, got, v.Signature)
		}
		if v.ID == "service-se-before-skn" { // the others are Node's order of the parts
			whole++
			if got := c.token(time.Unix(v.Expiry, 0)); got != v.Token {
				t.Errorf("%s: token\n got %s\nwant %s", v.ID, got, v.Token)
			}
		}
	}
	if len(file.SAS.Service) < 3 || whole != 1 {
		t.Errorf("%d vectors, %d of our shape: the file has changed", len(file.SAS.Service), whole)
	}
}

func TestSecretsStayIn(t *testing.T) {
	const secret = "c2VjcmV0c2VjcmV0c2VjcmV0"
	key, err := ParseKey(" " + secret + "\n")
	if err != nil {
		t.Fatal(err)
	}
	if key.Reveal() != secret {
		t.Errorf("revealed %q", key.Reveal())
	}
	group := Group{ID: "g", Entry: Entry{
		Attestation:      Attestation{Type: AttestationSymmetricKey, SymmetricKey: &SymmetricKey{PrimaryKey: key, SecondaryKey: key}},
		CustomAllocation: &CustomAllocation{WebhookURL: NewWebhookURL("https://u:" + secret + "@f.example/api/T?code=" + secret), APIVersion: "2019-03-31"},
	}}
	policy := ConnectionString{HostName: "h", Policy: "p", Key: key}
	var shown strings.Builder
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%d", "%x", "%q"} {
		fmt.Fprintf(&shown, verb+"\n"+verb+"\n"+verb+"\n", group, policy, &group)
	}
	slog.New(slog.NewJSONHandler(&shown, nil)).Info("x", "group", group, "key", key, "url", group.CustomAllocation.WebhookURL, "policy", policy)
	slog.New(slog.NewTextHandler(&shown, nil)).Info("x", "group", group, "key", key, "url", group.CustomAllocation.WebhookURL, "policy", policy)
	text, err := json.Marshal(group)
	if err != nil {
		t.Fatal(err)
	}
	shown.Write(text)
	for _, form := range []string{secret, "secretsecret", fmt.Sprintf("%x", secret), fmt.Sprintf("%v", []byte(secret))} {
		if strings.Contains(shown.String(), form) {
			t.Errorf("%q is shown in\n%s", form, shown.String())
		}
	}
	want := `{"enrollmentGroupId":"g","attestation":{"type":"symmetricKey","symmetricKey":{"primaryKey":"[redacted]","secondaryKey":"[redacted]"}},` +
		`"customAllocationDefinition":{"webhookUrl":"https://****@f.example/api/T?****","apiVersion":"2019-03-31"}}`
	if string(text) != want {
		t.Errorf("JSON\n got %s\nwant %s", text, want)
	}
	revealed, err := RevealJSON(group)
	if err != nil || strings.Count(string(revealed), secret) != 4 || strings.Contains(string(revealed), "**") {
		t.Errorf("revealed %s, %v", revealed, err)
	}
}

func TestParseKey(t *testing.T) {
	for text, want := range map[string]string{
		"":                           "it is empty",
		"BwcH":                       "it has 3 bytes, not 16 to 64",
		"sesame*":                    "not standard base64",
		"BwcHBwcHBwcH\nBwcHBwcHBwcH": "not standard base64",
		strings.Repeat("BwcH", 22):   "it has 66 bytes",
		policyKey[:len(policyKey)-1]: "not standard base64",
	} {
		if _, err := ParseKey(text); !errors.Is(err, ErrKey) || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "sesame") {
			t.Errorf("%q: got %v, want %q", text, err, want)
		}
	}
	if _, err := ParseKey(GenerateKey().Reveal()); err != nil {
		t.Errorf("a generated key: %v", err)
	}
	if first, second := GenerateKey(), GenerateKey(); first.Reveal() == second.Reveal() {
		t.Error("two generated keys are one")
	}
}
