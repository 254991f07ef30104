// SPDX-License-Identifier: Apache-2.0

package dpslocal

import (
	"fmt"
	"io"
	"log/slog"
)

// redacted is what a Secret shows of itself.
const redacted = "[redacted]"

// Secret is text that must never be printed: a symmetric key, or a webhook URL
// whose query carries a function key. Every fmt verb, slog and encoding/json
// show "[redacted]"; string(s) is the one way to the value.
type Secret string

// Format implements fmt.Formatter, so that no verb shows the value.
func (s Secret) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, redacted) }

// LogValue implements slog.LogValuer.
func (s Secret) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalText implements encoding.TextMarshaler, which encoding/json uses too.
func (s Secret) MarshalText() ([]byte, error) { return []byte(redacted), nil }
