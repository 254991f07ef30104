// SPDX-License-Identifier: Apache-2.0

package allocation

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
)

// Two keys as Azure Functions and openssl make them; the second has the
// characters that a URL treats in a special way.
const (
	keyOne = "u2Ck1f9Jc0Qm7Xy3bW8aTzr4PsLdNvGh"
	keyTwo = "q+8/3ZbT0pWm+Yc5/Jk7Ls1Rv2Xd9Fg="
)

func parseKeys(t testing.TB, lines ...string) []FunctionKey {
	t.Helper()
	keys, err := ParseFunctionKeys(strings.Join(lines, "\n"))
	if err != nil {
		t.Fatal(err)
	}
	return keys
}

func TestParseFunctionKeys(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, text string
		want       int
		wantErr    string
	}{
		{"one", keyOne, 1, ""},
		{"two, a comment, a blank line, white space", "# current\r\n" + keyOne + "\r\n\r\n  " + keyTwo + "\t\n", 2, ""},
		{"nothing", "", 0, "function keys: no key found; write one key a line"},
		{"comments only", "# none yet\n", 0, "function keys: no key found; write one key a line"},
		{"short", keyOne + "\nswordfish\n", 0, "function keys, line 2: a key has 16 to 256 characters, this one has 9"},
		{"long", strings.Repeat("k", 257), 0, "function keys, line 1: a key has 16 to 256 characters, this one has 257"},
		{"two on one line", keyOne + " " + keyTwo, 0, "function keys, line 1: a key is made of visible ASCII characters without spaces; write one key a line"},
		{"not ASCII", "schlüssel-schlüssel", 0, "function keys, line 1: a key is made of visible ASCII characters without spaces; write one key a line"},
		{"too many", strings.Repeat(keyOne+"\n", 33), 0, "function keys, line 33: more than 32 keys; remove the ones that no webhook URL uses any more"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			keys, err := ParseFunctionKeys(test.text)
			if got := errText(err); got != test.wantErr {
				t.Errorf("got error %q, want %q", got, test.wantErr)
			}
			if len(keys) != test.want {
				t.Errorf("got %d keys, want %d", len(keys), test.want)
			}
		})
	}
}

func TestFunctionKeyIsRedacted(t *testing.T) {
	t.Parallel()
	key := parseKeys(t, keyOne)[0]
	handler := NewHandler(Config{Setup: Setup{Policy: Tutorial(), FunctionKeys: []FunctionKey{key}}})

	var out strings.Builder
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		fmt.Fprintf(&out, verb+"\n", key)
	}
	fmt.Fprintf(&out, "%+v %+v\n", handler, Config{Setup: Setup{FunctionKeys: []FunctionKey{key}}})
	document, err := json.Marshal(map[string]any{"key": key})
	if err != nil {
		t.Fatal(err)
	}
	out.Write(document)
	slog.New(slog.NewTextHandler(&out, nil)).Info("x", "key", key)

	if got := strings.Count(out.String(), redacted); got < 10 {
		t.Errorf("got %d times [redacted], want at least 10:\n%s", got, out.String())
	}
	hexKey := fmt.Sprintf("%x", keyOne)
	if strings.Contains(out.String(), keyOne) || strings.Contains(out.String(), hexKey) {
		t.Errorf("the key shows:\n%s", out.String())
	}
}

func TestAuthorized(t *testing.T) {
	t.Parallel()
	both := parseKeys(t, keyOne, keyTwo)
	tests := []struct {
		name, query, header string
		keys                []FunctionKey
		want                bool
	}{
		{"no keys loaded", "", "", nil, true},
		{"none given", "", "", both, false},
		{"first in the query", "code=" + keyOne, "", both, true},
		{"second in the query, escaped", "code=" + url.QueryEscape(keyTwo), "", both, true},
		{"second in the query, as it is", "code=" + keyTwo, "", both, true},
		{"among other parameters", "a=b&code=" + keyOne + "&clientId=x", "", both, true},
		{"in the header", "", keyTwo, both, true},
		{"wrong query, right header", "code=wrong", keyOne, both, true},
		{"wrong", "code=" + keyOne + "x", "", both, false},
		{"part of a key", "code=" + keyOne[:31], "", both, false},
		{"empty", "code=", "", both, false},
		{"other case", "code=" + strings.ToUpper(keyOne), "", both, false},
		{"only the first is loaded", "code=" + url.QueryEscape(keyTwo), "", both[:1], false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			request := httptest.NewRequest(http.MethodPost, "/api/x?"+test.query, nil)
			request.Header.Set("X-Functions-Key", test.header)
			if got := authorized(request, test.keys); got != test.want {
				t.Errorf("got %t, want %t", got, test.want)
			}
		})
	}
}

// FuzzCodeOf compares with net/url.
func FuzzCodeOf(f *testing.F) {
	for _, query := range []string{
		"", "code", "code=", "code=a+b%2Bc", "a=b&code=1&code=2", "co%64e=x", "code=%zz&code=y", "%zz=1&code=y", "code=a;b&code=c", "a;code=1", "Code=1", "&&=&code=a=b&", "code=%20",
	} {
		f.Add(query)
	}
	f.Fuzz(func(t *testing.T, query string) {
		values, _ := url.ParseQuery(query) // what is wrong with a part says nothing of the rest
		want := strings.ReplaceAll(values.Get("code"), " ", "+")
		if got := codeOf(query); got != want && strings.Count(query, "&") < 1000 {
			t.Errorf("got %q, want %q", got, want)
		}
	})
}

func errText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
