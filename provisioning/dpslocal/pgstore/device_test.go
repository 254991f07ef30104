// SPDX-License-Identifier: Apache-2.0

package pgstore_test

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"testing"
	"time"
)

const (
	scope    = "0ne00002193"
	group    = "contoso-custom-allocated-devices"
	toasters = "contoso-toasters-hub-1098.azure-devices.net"

	// groupKey is that of the published vectors, bytes 0x00 to 0x3f.
	groupKey = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8gISIjJCUmJygpKissLS4vMDEyMzQ1Njc4OTo7PD0+Pw=="
)

// status is what the device API answers, whatever the call.
type status struct {
	OperationID       string `json:"operationId"`
	Status            string `json:"status"`
	RegistrationState struct {
		AssignedHub string `json:"assignedHub"`
		Substatus   string `json:"substatus"`
	} `json:"registrationState"`
}

// device is a client of the device API with a key derived from a group's.
type device struct {
	client *http.Client
	id     string
	key    string // the group's
}

// trusting returns a client that trusts a CA.
func trusting(t *testing.T, caPEM []byte) *http.Client {
	t.Helper()
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(caPEM) {
		t.Fatal("the CA is not PEM")
	}
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}, MaxIdleConnsPerHost: 100}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: 5 * time.Minute}
}

// register sends a register call to the service at host:port.
func (d device) register(address string) (status, error) {
	return d.call(http.MethodPut, address, "/register")
}

// poll asks how an operation stands.
func (d device) poll(address, operationID string) (status, error) {
	return d.call(http.MethodGet, address, "/operations/"+operationID)
}

// call sends one request; an answer above 202 is an error.
func (d device) call(method, address, path string) (s status, err error) {
	resource := scope + "/registrations/" + d.id
	request, err := http.NewRequest(method, "https://"+address+"/"+resource+path+"?api-version=2021-06-01", nil)
	if err != nil {
		return s, err
	}
	request.Header.Set("Authorization", d.token(resource))
	response, err := d.client.Do(request)
	if err != nil {
		return s, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return s, err
	}
	if response.StatusCode > http.StatusAccepted {
		return s, fmt.Errorf("%s %s: %d %s", method, path, response.StatusCode, body)
	}
	return s, json.Unmarshal(body, &s)
}

// token signs for a resource with the derived key.
func (d device) token(resource string) string {
	key, _ := base64.StdEncoding.DecodeString(d.key)
	sr, se := url.QueryEscape(resource), fmt.Sprint(time.Now().Add(time.Hour).Unix())
	signature := base64.StdEncoding.EncodeToString(sum(sum(key, d.id), sr+"\n"+se))
	return "SharedAccessSignature sr=" + sr + "&sig=" + url.QueryEscape(signature) + "&se=" + se + "&skn=registration"
}

func sum(key []byte, text string) []byte {
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte(text))
	return mac.Sum(nil)
}
