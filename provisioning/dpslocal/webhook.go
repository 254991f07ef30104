// SPDX-License-Identifier: Apache-2.0

package dpslocal

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"
)

const (
	// webhookTimeout bounds one call; the service's own limit is not documented
	// (dps-protocol 12.3), nor is that of the answer's size.
	webhookTimeout     = 30 * time.Second
	maxWebhookResponse = 64 << 10

	// webhookAPIVersion is what the portal writes into an enrollment.
	webhookAPIVersion = "2021-10-01"
)

// allocationRequest is the document that a webhook is sent, its members in the
// order of a logged request of the real service.
type allocationRequest struct {
	IndividualEnrollment *enrollmentDocument  `json:"individualEnrollment,omitempty"`
	EnrollmentGroup      *enrollmentDocument  `json:"enrollmentGroup,omitempty"`
	DeviceRuntimeContext deviceRuntimeContext `json:"deviceRuntimeContext"`
	LinkedHubs           []string             `json:"linkedHubs"`
}

// enrollmentDocument is an enrollment without its secrets.
type enrollmentDocument struct {
	EnrollmentGroupID          string                     `json:"enrollmentGroupId,omitempty"`
	RegistrationID             string                     `json:"registrationId,omitempty"`
	DeviceID                   string                     `json:"deviceId,omitempty"`
	Attestation                attestationDocument        `json:"attestation"`
	Capabilities               capabilitiesDocument       `json:"capabilities"`
	InitialTwin                json.RawMessage            `json:"initialTwin,omitempty"`
	ETag                       string                     `json:"etag"`
	ProvisioningStatus         ProvisioningStatus         `json:"provisioningStatus"`
	ReprovisionPolicy          reprovisionPolicyDocument  `json:"reprovisionPolicy"`
	CreatedDateTimeUTC         string                     `json:"createdDateTimeUtc"`
	LastUpdatedDateTimeUTC     string                     `json:"lastUpdatedDateTimeUtc"`
	AllocationPolicy           AllocationPolicy           `json:"allocationPolicy"`
	IoTHubs                    []string                   `json:"iotHubs,omitempty"`
	CustomAllocationDefinition customAllocationDefinition `json:"customAllocationDefinition"`
}

// attestationDocument is cut down to the type: no key and no certificate leaves the service
// (dps-protocol 12.1).
type attestationDocument struct {
	Type AttestationType `json:"type"`
}

// capabilitiesDocument says whether the devices are edge devices.
type capabilitiesDocument struct {
	IoTEdge bool `json:"iotEdge"`
}

// reprovisionPolicyDocument is a ReprovisionPolicy as the two flags that the wire
// has for it (dps-protocol 19.1).
type reprovisionPolicyDocument struct {
	UpdateHubAssignment bool `json:"updateHubAssignment"`
	MigrateDeviceData   bool `json:"migrateDeviceData"`
}

// customAllocationDefinition names the webhook, with its query masked.
type customAllocationDefinition struct {
	WebhookURL string `json:"webhookUrl"`
	APIVersion string `json:"apiVersion"`
}

// deviceRuntimeContext is what is known of the device. The current members are
// there exactly when it holds an assignment (dps-protocol 19.3). One of
// symmetricKey and x509 is there; the former is an empty object, whatever the
// documentation promises.
type deviceRuntimeContext struct {
	RegistrationID        string          `json:"registrationId"`
	CurrentIoTHubHostName string          `json:"currentIotHubHostName,omitempty"`
	CurrentDeviceID       string          `json:"currentDeviceId,omitempty"`
	SymmetricKey          *struct{}       `json:"symmetricKey,omitempty"`
	X509                  *x509Context    `json:"x509,omitempty"`
	Payload               json.RawMessage `json:"payload,omitempty"`
}

// newAllocationRequest builds the request for an operation. What is in it does
// not change from one retry to the next.
func newAllocationRequest(e Enrollment, record Operation, r Registration, linked []string) []byte {
	document := &enrollmentDocument{
		Attestation:            attestationDocument{Type: e.Attestation},
		Capabilities:           capabilitiesDocument{IoTEdge: e.IoTEdge},
		InitialTwin:            e.InitialTwin,
		ETag:                   `"` + e.ETag + `"`,
		ProvisioningStatus:     e.ProvisioningStatus,
		CreatedDateTimeUTC:     utcTime(e.Created),
		LastUpdatedDateTimeUTC: utcTime(e.Updated),
		AllocationPolicy:       e.AllocationPolicy,
		IoTHubs:                e.Hubs,
		ReprovisionPolicy: reprovisionPolicyDocument{
			UpdateHubAssignment: e.ReprovisionPolicy != ReprovisionNever,
			MigrateDeviceData:   e.ReprovisionPolicy == ReprovisionMigrate,
		},
		CustomAllocationDefinition: customAllocationDefinition{
			WebhookURL: maskQuery(string(e.WebhookURL)),
			APIVersion: cmp.Or(e.WebhookAPIVersion, webhookAPIVersion),
		},
	}
	request := allocationRequest{
		DeviceRuntimeContext: deviceRuntimeContext{
			RegistrationID:        record.RegistrationID,
			CurrentIoTHubHostName: r.AssignedHub,
			CurrentDeviceID:       r.DeviceID,
			Payload:               record.Payload,
		},
		LinkedHubs: linked,
	}
	if certificates := splitCertificates(record.Certificates); len(certificates) > 0 {
		request.DeviceRuntimeContext.X509 = newX509Context(certificates)
	} else {
		request.DeviceRuntimeContext.SymmetricKey = new(struct{})
	}
	if e.Kind == Group {
		document.EnrollmentGroupID = e.ID
		request.EnrollmentGroup = document
	} else {
		document.RegistrationID, document.DeviceID = e.ID, e.DeviceID
		request.IndividualEnrollment = document
	}
	return encodeJSON(request)
}

// maskQuery hides a URL's query, where the function key is.
func maskQuery(text string) string {
	before, _, found := strings.Cut(text, "?")
	if !found {
		return text
	}
	return before + "?****"
}

// allocationResponse is what a webhook answers with 200.
type allocationResponse struct {
	IoTHubHostName *string         `json:"iotHubHostName"`
	InitialTwin    json.RawMessage `json:"initialTwin"`
	Payload        json.RawMessage `json:"payload"`
}

// webhook calls webhooks.
type webhook struct {
	transport http.RoundTripper // for all of them, or nil
	log       *webhookLog       // or nil

	mu      sync.Mutex
	clients map[string]*http.Transport // CA file, or "" → transport that trusts it
}

// trust makes the transport for a CA file ahead of the first call, so that a
// wrong file is found when the enrollment is made.
func (w *webhook) trust(caFile string) error {
	_, err := w.roundTripper(caFile)
	return err
}

// roundTripper returns the transport that trusts a CA file, made on first use and
// kept for its connections.
func (w *webhook) roundTripper(caFile string) (http.RoundTripper, error) {
	if w.transport != nil {
		return w.transport, nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if transport, ok := w.clients[caFile]; ok {
		return transport, nil
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if caFile != "" {
		roots, err := loadRoots(caFile)
		if err != nil {
			return nil, fmt.Errorf("webhook_ca_file: %w", err)
		}
		config.RootCAs = roots
	}
	transport := &http.Transport{
		Proxy:               http.ProxyFromEnvironment,
		TLSClientConfig:     config,
		ForceAttemptHTTP2:   true,
		MaxIdleConnsPerHost: 16,
		IdleConnTimeout:     90 * time.Second,
	}
	if w.clients == nil {
		w.clients = make(map[string]*http.Transport)
	}
	w.clients[caFile] = transport
	return transport, nil
}

// closeIdle ends the connections that nobody uses.
func (w *webhook) closeIdle() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, transport := range w.clients {
		transport.CloseIdleConnections()
	}
}

// webhookOutcome is one call's: a status and a body, or an error.
type webhookOutcome struct {
	status int
	body   []byte
	err    error
}

// post calls the webhook of an enrollment once. Redirects are not followed.
func (w *webhook) post(ctx context.Context, e Enrollment, request []byte) webhookOutcome {
	begun := time.Now()
	outcome := w.exchange(ctx, e, request)
	if w.log != nil && ctx.Err() == nil {
		w.log.write(string(e.WebhookURL), request, outcome, begun, time.Now())
	}
	return outcome
}

// exchange makes the HTTP call. Its errors show no URL.
func (w *webhook) exchange(ctx context.Context, e Enrollment, request []byte) webhookOutcome {
	transport, err := w.roundTripper(e.webhookCAFile)
	if err != nil {
		return webhookOutcome{err: err}
	}
	client := http.Client{
		Transport:     transport,
		Timeout:       webhookTimeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, string(e.WebhookURL), bytes.NewReader(request))
	if err != nil {
		return webhookOutcome{err: errors.New("the webhook URL cannot be used")}
	}
	req.Header.Set("Content-Type", "application/json; charset=utf-8")
	req.Header.Set("User-Agent", "dpslocal")
	response, err := client.Do(req)
	if err != nil {
		return webhookOutcome{err: withoutURL(err)}
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, maxWebhookResponse+1))
	if err != nil {
		return webhookOutcome{err: withoutURL(err)}
	}
	return webhookOutcome{status: response.StatusCode, body: body}
}

// withoutURL takes the URL out of a client error: its query is a key.
func withoutURL(err error) error {
	if wrapped, ok := errors.AsType[*url.Error](err); ok {
		return wrapped.Err
	}
	return err
}

// again tells whether the service calls a second time: when the webhook is
// overloaded or broken, or does not answer (dps-protocol 12.4).
func (o webhookOutcome) again() bool { return o.err != nil || o.status >= 429 }

// trouble says why it will be called again.
func (o webhookOutcome) trouble() error {
	if o.err != nil {
		return o.err
	}
	return fmt.Errorf("status %d", o.status)
}

// conclude turns the last outcome into a verdict, row by row of dps-protocol 12.4.
func (o webhookOutcome) conclude(v verdict, linked []string) verdict {
	fail := func(code int, message string) verdict {
		v.code, v.message = code, message
		return v
	}
	switch {
	case o.err != nil:
		return fail(codeCustomFailed, "An error occurred while sending the request.")
	case o.status == http.StatusUnauthorized:
		return fail(codeCustomAccess, fmt.Sprintf("Custom allocation failed with status code: %d", o.status))
	case o.status != http.StatusOK:
		return fail(codeCustomFailed, fmt.Sprintf("Custom allocation failed with status code: %d", o.status))
	case len(o.body) > maxWebhookResponse:
		return fail(codeCustomFailed, fmt.Sprintf("Custom allocation failed: the response is longer than %d bytes.", maxWebhookResponse))
	}
	var response allocationResponse
	if err := decodeJSON(o.body, &response); err != nil {
		return fail(codeCustomFailed, "Custom allocation failed: the response is not an AllocationResponse.")
	}
	if response.IoTHubHostName == nil || *response.IoTHubHostName == "" {
		return fail(codeCustomNoHub, "Custom allocation failed: iotHubHostName is not specified.")
	}
	for _, hub := range linked {
		if strings.EqualFold(hub, *response.IoTHubHostName) {
			v.hub = hub
		}
	}
	if v.hub == "" {
		return fail(codeCustomFailed, fmt.Sprintf("Custom allocation failed: %.255q is not one of the linked hubs.", *response.IoTHubHostName))
	}
	if present(response.InitialTwin) {
		twin, err := parseInitialTwin(response.InitialTwin)
		if err != nil {
			v.hub = ""
			return fail(codeCustomFailed, fmt.Sprintf("Custom allocation failed: initialTwin: %v.", err))
		}
		v.twin = &twin
	}
	if present(response.Payload) {
		v.payload = compactJSON(response.Payload)
	}
	return v
}
