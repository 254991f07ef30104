// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"fmt"
	"io"
	"log/slog"
	"net"

	"github.com/coreos/go-systemd/v22/activation"
	"github.com/coreos/go-systemd/v22/journal"

	"github.com/contoso/gatewayd/gateway/config"
)

// LoadConfig reads and checks a configuration file; the error is a
// [ConfigError] that names file, line and what to do.
func LoadConfig(path string) (config.Config, error) {
	cfg, err := config.Load(path)
	if err != nil {
		return config.Config{}, &ConfigError{err}
	}
	return cfg, nil
}

// webhookSocket is the FileDescriptorName of the webhook's socket unit.
const webhookSocket = "webhook"

// ActivatedWebhook returns the listener that systemd has opened for the
// webhook, or nil. Call it once: it takes the descriptors over.
func ActivatedWebhook() (net.Listener, error) {
	byName, err := activation.ListenersWithNames()
	if err != nil {
		return nil, fmt.Errorf("taking over systemd's sockets: %w", err)
	}
	var webhook net.Listener
	for name, listeners := range byName {
		for _, listener := range listeners {
			if name == webhookSocket && webhook == nil {
				webhook = listener
				continue
			}
			return nil, fmt.Errorf("systemd passed a socket named %q; only one named %q is of use (FileDescriptorName= in the socket unit)", name, webhookSocket)
		}
	}
	return webhook, nil
}

// NewLogger writes text lines. The journal stamps its lines itself, so under it
// the time is left out.
func NewLogger(w io.Writer, level slog.Leveler) *slog.Logger {
	underJournal, err := journal.StderrIsJournalStream()
	return slog.New(newTextHandler(w, level, err != nil || !underJournal))
}
