// SPDX-License-Identifier: Apache-2.0

package serialbus

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"time"
)

// How long ALP/1 waits for a reply and how often it asks (serial 6). Every request may be repeated: the appliance
// answers the same to the same.
const (
	alpTries         = 3
	alpCommitTimeout = 5 * time.Second // the appliance writes its memory
)

// alpInvalidParams is the JSON-RPC error for a value that the appliance does not take.
const alpInvalidParams = -32602

// alpDriver speaks ALP/1 with the one appliance on a line. It belongs to the goroutine that owns the port.
type alpDriver struct {
	port    port
	timing  timing
	wait    time.Duration
	profile profile
	journal Journal // nil = nothing is noted
	log     *slog.Logger
	lastID  uint64 // of the last request; a reply must repeat it
	maxLine int    // what the appliance said it takes, 0 = not asked yet
}

// alpRequest is a JSON-RPC 2.0 request.
type alpRequest struct {
	JSONRPC string          `json:"jsonrpc"`
	ID      uint64          `json:"id"`
	Method  string          `json:"method"`
	Params  json.RawMessage `json:"params,omitempty"`
}

// alpReply is an answer: Result or Error, and the ID of what was asked. A pointer tells a missing ID from 0.
type alpReply struct {
	ID     *uint64         `json:"id"`
	Result json.RawMessage `json:"result"`
	Error  *alpError       `json:"error"`
}

// alpError is the appliance's refusal of a request. Data.Property is our addition: which member of desired it was.
type alpError struct {
	Code    int    `json:"code"`
	Message string `json:"message"`
	Data    struct {
		Property string `json:"property"`
	} `json:"data"`
}

// Error shows the appliance's own words, made safe for a terminal.
func (e *alpError) Error() string {
	return fmt.Sprintf("the appliance refused with error %d: %s", e.Code, cleanText(e.Message))
}

// alpIdentity is the result of identify.
type alpIdentity struct {
	ALP            int    `json:"alp"`
	Vendor         string `json:"vendor"`
	Model          string `json:"model"`
	Serial         string `json:"serial"`
	RegistrationID string `json:"registrationId"`
	Firmware       string `json:"firmware"`
	Provisioning   string `json:"provisioning"`
	MaxLine        int    `json:"maxLine"`
}

// present asks for the status, which is cheap and changes nothing. An appliance that refuses it is there as well.
func (d *alpDriver) present(ctx context.Context, _ byte) error {
	_, err := d.call(ctx, "status", nil, d.wait)
	var refused *alpError
	if errors.As(err, &refused) {
		return nil
	}
	return err
}

// identify reads who the appliance says it is. "alp" is the major version of the protocol: a higher one is used as far
// as version 1 goes, and unknown members are ignored (serial 6).
func (d *alpDriver) identify(ctx context.Context, _ byte) (Identity, error) {
	result, err := d.call(ctx, "identify", nil, d.wait)
	if err != nil {
		return Identity{}, fmt.Errorf("identifying: %w", err)
	}
	var said alpIdentity
	if err := json.Unmarshal(result, &said); err != nil {
		return Identity{}, fmt.Errorf("identifying: the appliance's answer is not an ALP/1 identity: %w", err)
	}
	if said.ALP < 1 {
		return Identity{}, errors.New(`identifying: the appliance's answer has no "alp" version of 1 or more: it speaks another protocol`)
	}
	d.maxLine = alpMaxLine
	if said.MaxLine > 0 {
		d.maxLine = min(said.MaxLine, alpMaxLine)
	}
	return Identity{
		Vendor:         said.Vendor,
		Model:          said.Model,
		Serial:         said.Serial,
		Firmware:       said.Firmware,
		Provisioning:   said.Provisioning,
		RegistrationID: said.RegistrationID,
		Source:         SourceALP,
	}.cleaned(), nil
}

// call sends a request up to three times and returns the result of the reply. Errors are ErrSilent, ErrNoise, an
// *alpError, a lost port, and the context's.
func (d *alpDriver) call(ctx context.Context, method string, params json.RawMessage, wait time.Duration) (json.RawMessage, error) {
	var err error
	for range alpTries {
		var result json.RawMessage
		result, err = d.try(ctx, method, params, wait)
		if !errors.Is(err, ErrSilent) && !errors.Is(err, ErrNoise) {
			return result, err
		}
	}
	return nil, err
}

// try sends a request once and waits for its reply. Each try has an ID of its own, so that a late reply to the one
// before cannot be taken for this one's.
func (d *alpDriver) try(ctx context.Context, method string, params json.RawMessage, wait time.Duration) (json.RawMessage, error) {
	d.lastID++
	message, err := json.Marshal(alpRequest{JSONRPC: "2.0", ID: d.lastID, Method: method, Params: params})
	if err != nil {
		return nil, fmt.Errorf("writing the request %s: %w", method, err)
	}
	if err := d.port.Flush(); err != nil {
		return nil, err
	}
	// The bare line feed ends what a broken-off line may have left in the appliance.
	frame := append([]byte("\n"), alpEncode(message)...)
	d.log.Debug("sending", "frame", hexText(frame))
	if err := d.port.Write(frame); err != nil {
		return nil, err
	}
	firstBy := time.Now().Add(time.Duration(len(frame))*d.timing.char + wait)
	return d.receive(ctx, firstBy)
}

// receive waits for the reply to the last request. Lines that are none are dropped while the timer runs on.
func (d *alpDriver) receive(ctx context.Context, firstBy time.Time) (json.RawMessage, error) {
	var (
		lines lineReader
		buf   [256]byte
		heard bool
		// The reply must begin by firstBy; the whole line may take as long as the longest one does.
		lineBy = firstBy.Add(alpMaxLine*d.timing.char + 50*time.Millisecond)
	)
	for {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		deadline := firstBy
		if len(lines.buf) > 0 {
			deadline = lineBy
		}
		wait := min(time.Until(deadline), readSlice)
		if wait <= 0 {
			break
		}
		n, err := d.port.Read(buf[:], wait)
		if errors.Is(err, errTimeout) {
			continue
		}
		if err != nil {
			return nil, err
		}
		for _, line := range lines.take(buf[:n]) {
			d.log.Debug("received", "frame", hexText(line))
			message, ok := alpDecode(line)
			if !ok {
				heard = true
				continue
			}
			var reply alpReply
			if json.Unmarshal(message, &reply) != nil || reply.ID == nil || *reply.ID != d.lastID {
				continue // not ours: late, or another protocol
			}
			if reply.Error != nil {
				return nil, reply.Error
			}
			if reply.Result != nil { // else it is the echo of the request
				return reply.Result, nil
			}
		}
	}
	if heard || len(lines.buf) > 0 || lines.overlong {
		return nil, ErrNoise
	}
	return nil, ErrSilent
}
