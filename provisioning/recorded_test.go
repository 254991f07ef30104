// SPDX-License-Identifier: Apache-2.0

package provisioning_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/contoso/gatewayd/provisioning"
	"github.com/contoso/gatewayd/provisioning/internal/conformancetest"
)

// recording is a file of testdata/recorded; its README says how to read one.
type recording struct {
	name, source string
	device       string
	at           time.Time
	answers      []conformancetest.Answer
}

func readRecording(t *testing.T, path string) recording {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	r := recording{name: strings.TrimSuffix(filepath.Base(path), ".txt"), device: toaster}
	head, rest, _ := strings.Cut(string(text), "SAYS ")
	for line := range strings.Lines(head) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), ": ")
		switch key {
		case "source":
			r.source = value
		case "device":
			r.device = value
		case "at":
			if r.at, err = time.Parse(time.RFC3339, value); err != nil {
				t.Fatalf("%s: %v", path, err)
			}
		default:
			t.Fatalf("%s: the line %q", path, line)
		}
	}
	for part := range strings.SplitSeq(rest, "\nSAYS ") {
		said, body, _ := strings.Cut(part, "\n")
		status, hint, _ := strings.Cut(said, " retry-after=")
		answer := conformancetest.Answer{RetryAfter: hint, Body: strings.TrimSuffix(body, "\n")}
		if answer.Status, err = strconv.Atoi(status); err != nil {
			t.Fatalf("%s: the line %q", path, said)
		}
		// The service tells one time in the body and in the header.
		var document struct{ TimestampUTC time.Time }
		if json.Unmarshal([]byte(answer.Body), &document) == nil && !document.TimestampUTC.IsZero() {
			answer.Header = http.Header{"Date": {document.TimestampUTC.Format(http.TimeFormat)}}
		}
		r.answers = append(r.answers, answer)
	}
	if r.source == "" || r.answers[0].Body == "" {
		t.Fatalf("%s names no source or no body", path)
	}
	return r
}

// TestRecordedAnswers has the client meet what the real service is known to say.
func TestRecordedAnswers(t *testing.T) {
	paths, err := filepath.Glob("testdata/recorded/*.txt")
	if err != nil || len(paths) == 0 {
		t.Fatalf("no recordings: %v", err)
	}
	var outcomes strings.Builder
	for _, path := range paths {
		r := readRecording(t, path)
		fmt.Fprintf(&outcomes, "%s\n", r.name)
		said := make(map[string]string)
		for _, transport := range transports {
			t.Run(r.name+"/"+string(transport), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) { said[string(transport)] = r.play(t, transport) })
			})
		}
		if said["https"] == said["mqtt"] && said["mqtt"] == said["mqtt-ws"] {
			fmt.Fprintf(&outcomes, "%s\n", said["https"])
			continue
		}
		for _, transport := range transports {
			fmt.Fprintf(&outcomes, "  over %s:\n%s", transport, said[string(transport)])
		}
		fmt.Fprintln(&outcomes)
	}
	compareGolden(t, "testdata/recorded/outcomes.golden", outcomes.String())
}

// play has a client register at a service that answers as recorded, at the recorded time.
func (r recording) play(t *testing.T, transport conformancetest.Transport) string {
	time.Sleep(time.Until(r.at))
	service := conformancetest.NewService(t)
	service.Script = conformancetest.InOrder(r.answers...)
	client, err := provisioning.New(provisioning.Config{
		Endpoint: conformancetest.Host, IDScope: conformancetest.IDScope, Transport: provisioning.Transport(transport),
		RootCAs: service.Roots, DialContext: service.Network.DialContext, RegistersPerMinute: 1e9, PollsPerSecond: 1e9,
	})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	key, err := provisioning.ParseDeviceKey("JC8F96eayuQwwz+PkE7IzjH2lIAjCUnAa61tDigBnSs=")
	if err != nil {
		t.Fatal(err)
	}
	got, err := client.Register(t.Context(), provisioning.Request{RegistrationID: r.device, Keys: []provisioning.DeviceKey{key}})

	var kinds []string
	for _, q := range service.Requests() {
		kinds = append(kinds, q.Do)
	}
	text := "    asked:   " + strings.Join(kinds, ", ") + "\n"
	if err == nil {
		text += fmt.Sprintf("    hub:     %s, device %s\n    state:   %q, group %q, payload %q, etag %q, operation %s\n", got.AssignedHub, got.DeviceID,
			got.Substatus, got.EnrollmentGroupID, got.Payload, got.ETag, got.OperationID)
		text += fmt.Sprintf("    created: %s, updated %s\n", got.CreatedDateTimeUTC.Format(time.RFC3339Nano), got.LastUpdatedDateTimeUTC.Format(time.RFC3339Nano))
		return text
	}
	verdict := provisioning.Verdict(err)
	text += fmt.Sprintf("    error:   %v\n    verdict: %s %d, %s\n", err, verdict.Kind, verdict.Code, verdict.Owner)
	if failed := (*provisioning.FailedError)(nil); errors.As(err, &failed) {
		if status, named := failed.WebhookStatus(); named {
			text += fmt.Sprintf("    webhook: %d\n", status)
		}
	}
	return text
}
