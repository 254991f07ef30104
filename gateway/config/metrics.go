// SPDX-License-Identifier: Apache-2.0

package config

import (
	"path/filepath"
	"strings"
)

// Defaults and bounds of the decision log, in MiB. The least lets a file hold the
// longest record.
const (
	defaultDecisionLog     = "decisions.jsonl"
	defaultDecisionLogSize = 64
	leastDecisionLogSize   = 4
	mostDecisionLogSize    = 10 << 10
)

// checkDecisionLog checks where the webhook's decisions are kept for replaying.
func checkDecisionLog(p *problems, raw rawAllocation, stateDir string) DecisionLog {
	log := DecisionLog{Path: defaultDecisionLog, Limit: defaultDecisionLogSize << 20}
	if raw.DecisionLog != nil {
		log.Path = *raw.DecisionLog
	}
	if log.Path != "" && !filepath.IsAbs(log.Path) {
		log.Path = filepath.Join(stateDir, log.Path)
	}
	if size := raw.DecisionLogSize; size != nil {
		if *size < leastDecisionLogSize || *size > mostDecisionLogSize {
			p.add("[allocation] decision_log_size", "%d is not between %d and %d MiB; to keep no decisions write decision_log = \"\"", *size, leastDecisionLogSize, mostDecisionLogSize)
		}
		log.Limit = *size << 20
	}
	return log
}

// checkMetrics checks the listener for those who watch the gateway; nil without
// one. webhook is where the webhook listens, or empty.
func checkMetrics(p *problems, raw rawMetrics, webhook string) *Metrics {
	if raw.Listen == "" {
		if raw.Public {
			p.add("[metrics] public", "of no use without listen, the address to serve metrics on")
		}
		return nil
	}
	if err := checkAddress(raw.Listen); err != nil {
		p.add("[metrics] listen", "%w", err)
	} else if !raw.Public && !Loopback(raw.Listen) {
		p.add("[metrics] listen", "%q can be reached from other machines, and who reads metrics is not asked for a key; listen on 127.0.0.1, or write public = true beside it", raw.Listen)
	}
	if raw.Listen == webhook && !strings.HasSuffix(webhook, ":0") {
		p.add("[metrics] listen", "%q is where the webhook listens; give it a port of its own", raw.Listen)
	}
	return &Metrics{Listen: raw.Listen}
}
