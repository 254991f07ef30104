// SPDX-License-Identifier: Apache-2.0

package dpslocal

import (
	"bytes"
	"errors"
	"io"
	"log/slog"
	"testing"
	"time"
)

func slogTo(w io.Writer) *slog.Logger { return slog.New(slog.NewTextHandler(w, nil)) }

// TestWebhookLog holds the form of the tutorial's log, and what becomes of
// answers that the tutorial does not show.
func TestWebhookLog(t *testing.T) {
	v := loadVectors(t).Webhook
	begun := time.Date(2022, 8, 3, 20, 34, 41, 178e6, time.UTC)
	ended := begun.Add(227 * time.Millisecond)
	var text bytes.Buffer
	log := &webhookLog{w: &text}
	request := []byte(v.Requests[0].Raw)
	log.write(v.Masking.Stored, request, webhookOutcome{status: 200, body: []byte(goodAnswer)}, begun, ended)
	log.write(v.Masking.Stored, []byte("{}"), webhookOutcome{status: 400, body: []byte("Unrecognized device registration.")}, begun, ended)
	log.write("https://h/", []byte("{}"), webhookOutcome{status: 503}, begun, ended)
	log.write("https://h/", []byte("{}"), webhookOutcome{err: errors.New("dial tcp: connection refused")}, begun, ended)
	log.write("https://h/", []byte("{}"), webhookOutcome{status: 400, body: []byte("a\x1b[31mred\r\nnew")}, begun, ended)
	golden(t, "webhook-log.txt", mask(text.Bytes()))
}
