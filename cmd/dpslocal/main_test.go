// SPDX-License-Identifier: Apache-2.0

package main

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// limit ends what hangs; a machine with much to do may take long for everything.
const limit = 5 * time.Minute

// TestMain makes the binary callable from the scripts.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"dpslocal": main, "register-here": registerHere})
}

func TestScripts(t *testing.T) {
	hook := httptest.NewServer(tutorialWebhook())
	t.Cleanup(hook.Close) // not deferred: the scripts run in parallel, after this function
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = taken.Close() })
	testscript.Run(t, testscript.Params{
		Dir: "testdata",
		Setup: func(env *testscript.Env) error {
			env.Setenv("WEBHOOK", hook.URL+"/api/HttpTrigger1?code=SECRET")
			env.Setenv("KEY", "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8gISIjJCUmJygpKissLS4vMDEyMzQ1Njc4OTo7PD0+Pw==") // of the published vectors
			env.Setenv("TAKEN", taken.Addr().String())
			return nil
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"expand":   expand,
			"await":    await,
			"register": register,
			"operator": operator,
			"groupkey": groupKeyOf,
			"admin":    admin,
		},
	})
}

// tutorialWebhook allocates as the tutorial's function does, and plays the rows
// of its troubleshooting section for devices that are called after them.
func tutorialWebhook() http.HandlerFunc {
	const twin = `"initialTwin":{"tags":{"deviceType":"%s"},"properties":{"desired":{"state":"ready"}}}`
	var busy atomic.Bool
	return func(w http.ResponseWriter, r *http.Request) {
		var request struct {
			DeviceRuntimeContext struct{ RegistrationID string }
		}
		if err := json.NewDecoder(r.Body).Decode(&request); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		id := request.DeviceRuntimeContext.RegistrationID
		switch {
		case id == "empty-hub":
			fmt.Fprint(w, `{"iotHubHostName":""}`)
		case id == "denied":
			w.WriteHeader(http.StatusUnauthorized)
		case strings.HasPrefix(id, "busy-") && !busy.Swap(true):
			w.WriteHeader(http.StatusTooManyRequests)
		case strings.Contains(id, "-contoso-tstrsd-"):
			fmt.Fprintf(w, `{"iotHubHostName":"contoso-toasters-hub-1098.azure-devices.net",`+twin+`}`, "toaster")
		case strings.Contains(id, "-contoso-hpsd-"):
			fmt.Fprintf(w, `{"iotHubHostName":"contoso-heatpumps-hub-1098.azure-devices.net",`+twin+`}`, "heatpump")
		default:
			http.Error(w, "Unrecognized device registration.", http.StatusBadRequest)
		}
	}
}

// expand FILE replaces $VARIABLES in a file.
func expand(ts *testscript.TestScript, _ bool, args []string) {
	path := ts.MkAbs(args[0])
	ts.Check(os.WriteFile(path, []byte(os.Expand(ts.ReadFile(args[0]), ts.Getenv)), 0o600))
}

// await FILE waits until a file holds a whole line.
func await(ts *testscript.TestScript, _ bool, args []string) {
	path := ts.MkAbs(args[0])
	for end := time.Now().Add(limit); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		if data, err := os.ReadFile(path); err == nil && strings.Contains(string(data), "\n") {
			return
		}
	}
	ts.Fatalf("%s: still no line in it", args[0])
}

// register FILE ID KEY WANT registers a device with the group key at the server
// whose first line is in the file, and wants a hub, a status or an error code;
// with ! an error.
func register(ts *testscript.TestScript, neg bool, args []string) {
	var server struct{ HTTPS, CA, IDScope string }
	ts.Check(json.Unmarshal([]byte(ts.ReadFile(args[0])), &server))
	id, groupKey, want := args[1], args[2], args[3]
	client := trusting(ts, server.CA)
	defer client.CloseIdleConnections()
	base := "https://" + server.HTTPS + "/" + server.IDScope + "/registrations/" + id
	token := deviceToken(server.IDScope+"/registrations/"+id, id, groupKey)
	code, status := call(ts, client, "PUT", base+"/register?api-version=2021-06-01", token)
	for status.Status == "assigning" {
		code, status = call(ts, client, "GET", base+"/operations/"+status.OperationID+"?api-version=2021-06-01", token)
	}
	if neg != (code > 202) {
		ts.Fatalf("got %d %+v", code, status)
	}
	if neg {
		return
	}
	if state := status.RegistrationState; state.AssignedHub != want && status.Status != want && fmt.Sprint(state.ErrorCode) != want {
		ts.Fatalf("got %+v, want %s", status, want)
	}
}

// trusting is a client that trusts the CA in a file.
func trusting(ts *testscript.TestScript, ca string) *http.Client {
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM([]byte(ts.ReadFile(ca))) {
		ts.Fatalf("%s: no certificate", ca)
	}
	return &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}, Timeout: limit}
}

// operator FILE METHOD PATH [BODY] calls an operators' API of the server with the
// policy key $KEY and leaves the answer in answer.json; with ! an error.
func operator(ts *testscript.TestScript, neg bool, args []string) {
	var server struct{ HTTPS, CA string }
	ts.Check(json.Unmarshal([]byte(ts.ReadFile(args[0])), &server))
	client := trusting(ts, server.CA)
	defer client.CloseIdleConnections()
	body := ""
	if len(args) > 3 {
		body = ts.ReadFile(args[3])
	} else if args[1] == "POST" {
		body = `{"query":"*"}`
	}
	request, err := http.NewRequest(args[1], "https://"+server.HTTPS+args[2]+"?api-version=2021-10-01", strings.NewReader(body))
	ts.Check(err)
	key, err := base64.StdEncoding.DecodeString(ts.Getenv("KEY"))
	ts.Check(err)
	sr, se := "localhost", fmt.Sprint(time.Now().Add(time.Hour).Unix())
	request.Header.Set("Authorization", "SharedAccessSignature sr="+sr+"&sig="+
		url.QueryEscape(base64.StdEncoding.EncodeToString(sum(key, sr+"\n"+se)))+"&se="+se+"&skn=provisioningserviceowner")
	request.Header.Set("Content-Type", "application/json; charset=utf-8")
	response, err := client.Do(request)
	ts.Check(err)
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	ts.Check(err)
	if neg != (response.StatusCode > 299) {
		ts.Fatalf("%v: %s %s", args, response.Status, answer)
	}
	ts.Check(os.WriteFile(ts.MkAbs("answer.json"), answer, 0o600))
}

// groupKeyOf FILE puts the primary key of an attestation mechanism into $GROUPKEY.
func groupKeyOf(ts *testscript.TestScript, _ bool, args []string) {
	var mechanism struct {
		SymmetricKey struct{ PrimaryKey string }
	}
	ts.Check(json.Unmarshal([]byte(ts.ReadFile(args[0])), &mechanism))
	ts.Setenv("GROUPKEY", mechanism.SymmetricKey.PrimaryKey)
}

// registerHere is a program for "dpslocal exec": it registers a device with what
// its environment says, and finds the CA where Go programs look for it.
func registerHere() {
	client := &http.Client{Timeout: limit}
	scope, id := os.Getenv("DPS_ID_SCOPE"), "dev-1"
	base := os.Getenv("DPS_ENDPOINT") + "/" + scope + "/registrations/" + id
	token := deviceToken(scope+"/registrations/"+id, id, os.Getenv("DPS_GROUP_KEY"))
	_, status, err := tryCall(client, "PUT", base+"/register?api-version=2021-06-01", token)
	for err == nil && status.Status == "assigning" {
		_, status, err = tryCall(client, "GET", base+"/operations/"+status.OperationID+"?api-version=2021-06-01", token)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println(status.Status, "to", status.RegistrationState.AssignedHub)
}

type operationStatus struct {
	OperationID, Status string
	RegistrationState   struct {
		AssignedHub string
		ErrorCode   int
	}
}

func call(ts *testscript.TestScript, client *http.Client, method, target, token string) (code int, status operationStatus) {
	code, status, err := tryCall(client, method, target, token)
	ts.Check(err)
	return code, status
}

func tryCall(client *http.Client, method, target, token string) (code int, status operationStatus, err error) {
	request, err := http.NewRequest(method, target, nil)
	if err != nil {
		return 0, status, err
	}
	request.Header.Set("Authorization", token)
	response, err := client.Do(request)
	if err != nil {
		return 0, status, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return 0, status, err
	}
	return response.StatusCode, status, json.Unmarshal(body, &status)
}

// admin FILE METHOD PATH [BODY] gives a command to the server's admin port.
func admin(ts *testscript.TestScript, _ bool, args []string) {
	var server struct{ Admin string }
	ts.Check(json.Unmarshal([]byte(ts.ReadFile(args[0])), &server))
	request, err := http.NewRequest(args[1], "http://"+server.Admin+args[2], strings.NewReader(strings.Join(args[3:], "")))
	ts.Check(err)
	request.Header.Set("Content-Type", "application/json")
	response, err := http.DefaultClient.Do(request)
	ts.Check(err)
	defer response.Body.Close()
	if response.StatusCode > 204 {
		ts.Fatalf("%v: %s", args, response.Status)
	}
}

func deviceToken(resource, id, groupKey string) string {
	key, err := base64.StdEncoding.DecodeString(groupKey)
	if err != nil {
		panic(err)
	}
	sr, se := url.QueryEscape(resource), fmt.Sprint(time.Now().Add(time.Hour).Unix())
	sig := base64.StdEncoding.EncodeToString(sum(sum(key, id), sr+"\n"+se))
	return "SharedAccessSignature sr=" + sr + "&sig=" + url.QueryEscape(sig) + "&se=" + se + "&skn=registration"
}

func sum(key []byte, text string) []byte {
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte(text))
	return mac.Sum(nil)
}
