// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"context"
	"log/slog"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
)

// notifier tells systemd how the daemon is. Without a NOTIFY_SOCKET each call
// does nothing.
type notifier struct{ log *slog.Logger }

func (n notifier) send(state string) {
	if _, err := daemon.SdNotify(false, state); err != nil {
		n.log.Warn("systemd not told", "state", state, "err", err)
	}
}

func (n notifier) ready(status string)  { n.send(daemon.SdNotifyReady + "\nSTATUS=" + status) }
func (n notifier) status(status string) { n.send("STATUS=" + status) }
func (n notifier) stopping()            { n.send(daemon.SdNotifyStopping + "\nSTATUS=stopping") }

// watchdog pings systemd at half the interval that the unit asks for, each time
// only after alive has looked at the real work. It returns when ctx ends, or at
// once when no watchdog is wanted.
func (n notifier) watchdog(ctx context.Context, alive func(context.Context) error) {
	interval, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		n.log.Warn("watchdog settings of systemd not understood", "err", err)
	}
	if interval <= 0 {
		return
	}
	ticker := time.NewTicker(interval / 2)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			if err := alive(ctx); err != nil {
				n.log.Error("not pinging the watchdog", "err", err)
				continue
			}
			n.send(daemon.SdNotifyWatchdog)
		}
	}
}
