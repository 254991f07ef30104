// SPDX-License-Identifier: Apache-2.0

package allocation

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestRedact(t *testing.T) {
	t.Parallel()
	tests := []struct{ name, document, want string }{
		{"nothing secret, odd spacing", "{ \"a\" :\t[ 1, true,null ] ,\"b\":{}}\n", "{ \"a\" :\t[ 1, true,null ] ,\"b\":{}}\n"},
		{"attestation keys", `{"symmetricKey":{"primaryKey":"p","secondaryKey":"s","x":"y"}}`, `{"symmetricKey":{"primaryKey":"[redacted]","secondaryKey":"[redacted]","x":"[redacted]"}}`},
		{"an empty symmetricKey stays", `{"symmetricKey":{}}`, `{"symmetricKey":{}}`},
		{"any case and plural", `{"WiFiPassword":"p","apiKeys":["a",{"x":"b"},"c"],"d":"e"}`, `{"WiFiPassword":"[redacted]","apiKeys":["[redacted]",{"x":"[redacted]"},"[redacted]"],"d":"e"}`},
		{"everything in a secret object", `{"wifiPassword":{"value":"p","n":[1,{"m":"q"}],"none":null},"d":"e"}`, `{"wifiPassword":{"value":"[redacted]","n":["[redacted]",{"m":"[redacted]"}],"none":null},"d":"e"}`},
		{"behind a secret object", `[{"token":{"a":"b"}},"c",{"d":"e"}]`, `[{"token":{"a":"[redacted]"}},"c",{"d":"e"}]`},
		{"passphrase", `{"wifiPassphrase":"p","passphrases":["q"]}`, `{"wifiPassphrase":"[redacted]","passphrases":["[redacted]"]}`},
		{"short names", `{"pwd":"p","wifiPasswd":"q","credentials":{"user":"u"}}`, `{"pwd":"[redacted]","wifiPasswd":"[redacted]","credentials":{"user":"[redacted]"}}`},
		{"password in a URL", `["postgres://u:SECRET@h/d","postgres:\/\/u:SECRET\u0040h","https://u@h/a:b","https://h/a:b@c"]`, `["[redacted]","[redacted]","https://u@h/a:b","https://h/a:b@c"]`},
		{"password in a connection string", `["Server=h;User=u;Password=SECRET","host=h password=SECRET"]`, `["[redacted]","[redacted]"]`},
		{"number", `{"token":-12.5e3,"n":4}`, `{"token":"[redacted]","n":4}`},
		{"escaped name", `{"primary\u004bey":"p"}`, `{"primary\u004bey":"[redacted]"}`},
		{"a name as a value is no name", `["token","x"]`, `["token","x"]`},
		{"function key in a URL", `{"webhookUrl":"https://h/api/f?code=SECRET"}`, `{"webhookUrl":"https://h/api/f?****"}`},
		{"escaped URL", `{"u":"https:\/\/h\/f\u003fcode=SECRET"}`, `{"u":"https://h/f?****"}`},
		{"masked already", `{"webhookUrl":"https://h/api/f?****"}`, `{"webhookUrl":"https://h/api/f?****"}`},
		{"a question is no query", `{"a":"ready?","b":"x=y"}`, `{"a":"ready?","b":"x=y"}`},
		{"connection string", `["HostName=h;SharedAccessKey=SECRET"]`, `["[redacted]"]`},
		{"SAS token", `["SharedAccessSignature sr=h&sig=SECRET"]`, `["[redacted]"]`},
		{"storage account", `["AccountName=a;AccountKey=SECRET"]`, `["[redacted]"]`},
		{"quotes inside", `{"etag":"\"0000\"","key":"a\"b","c":"\\"}`, `{"etag":"\"0000\"","key":"[redacted]","c":"\\"}`},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			if diff := cmp.Diff(test.want, string(redact([]byte(test.document)))); diff != "" {
				t.Errorf("document (-want +got):\n%s", diff)
			}
		})
	}
}

// TestRedactKeepsTheLoggedRequest: the tutorial's own log has no secret in it,
// so ours shows the same bytes.
func TestRedactKeepsTheLoggedRequest(t *testing.T) {
	t.Parallel()
	request := golden(t, "tutorial-toaster.request.json")
	if diff := cmp.Diff(string(request), string(redact(request))); diff != "" {
		t.Errorf("request (-logged +redacted):\n%s", diff)
	}
}
