// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"cmp"
	"path/filepath"
	"runtime/debug"
	"strconv"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/contoso/gatewayd/allocation"
	"github.com/contoso/gatewayd/allocation/decisionlog"
	"github.com/contoso/gatewayd/allocation/upstream"
)

// The names of the metrics; docs/metrics.md explains each. No label holds anything
// that a request brought: the rules are those of the policy, the rest are our words.
const (
	metricBuild         = "gatewayd_build_info"
	metricReloads       = "gatewayd_reloads_total"
	metricReloadFailed  = "gatewayd_last_reload_failed"
	metricAppliances    = "gatewayd_appliances"
	metricPolicy        = "gatewayd_allocation_policy_info"
	metricDecisions     = "gatewayd_allocation_decisions_total"
	metricDevices       = "gatewayd_allocation_devices"
	metricDecisionTime  = "gatewayd_allocation_decision_duration_seconds"
	metricTurnedAway    = "gatewayd_allocation_turned_away_total"
	metricDefaultRows   = "gatewayd_allocation_directory_default_rows_total"
	metricLookups       = "gatewayd_allocation_directory_lookups_total"
	metricShadow        = "gatewayd_allocation_shadow_total"
	metricBreaker       = "gatewayd_allocation_upstream_breaker"
	metricLogWritten    = "gatewayd_allocation_decision_log_written_total"
	metricLogLost       = "gatewayd_allocation_decision_log_lost_total"
	metricLogInTrouble  = "gatewayd_allocation_decision_log_in_trouble"
	metricServiceIsAway = "gatewayd_provisioning_service_away"
)

// decisionBuckets are the bounds of the decisions' times, in seconds: the built-in
// policy takes tens of microseconds, a cloud function up to the whole five seconds.
var decisionBuckets = []float64{50e-6, 100e-6, 250e-6, 500e-6, 1e-3, 2.5e-3, 5e-3, 10e-3, 25e-3, 50e-3, 100e-3, 250e-3, 500e-3, 1, 2.5, 5}

// metrics counts what happens. What others know already is asked of them when
// somebody reads the metrics.
type metrics struct {
	registry    *prometheus.Registry
	decisions   *prometheus.CounterVec
	devices     *allocation.DeviceCounter
	times       *prometheus.HistogramVec
	turnedAway  *prometheus.CounterVec
	defaultRows prometheus.Counter
	lookups     *prometheus.CounterVec
	shadows     *prometheus.CounterVec
	reloads     *prometheus.CounterVec
	failed      *prometheus.GaugeVec
}

func newMetrics() *metrics {
	m := &metrics{
		registry: prometheus.NewRegistry(),
		decisions: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: metricDecisions,
			Help: "Answers of the allocation webhook, by HTTP status, by who decided (policy, upstream, fallback, or nobody) and by the policy's rule.",
		}, []string{"status", "source", "rule"}),
		devices: new(allocation.DeviceCounter),
		times: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: metricDecisionTime, Buckets: decisionBuckets,
			Help: "Time from a request's arrival to its decision, by who decided.",
		}, []string{"source"}),
		turnedAway: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: metricTurnedAway,
			Help: "Requests that were answered 503 without a look at them, by the limit that they were beyond.",
		}, []string{"limit"}),
		defaultRows: prometheus.NewCounter(prometheus.CounterOpts{
			Name: metricDefaultRows,
			Help: "Decisions on the policy's default row because the device directory was in trouble.",
		}),
		lookups: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: metricLookups,
			Help: "Looks into the device directory, by outcome (found, missing, failed).",
		}, []string{"outcome"}),
		shadows: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: metricShadow,
			Help: "Decisions that the shadow policy was asked about too, by result (same, different, unanswered, dropped).",
		}, []string{"result"}),
		reloads: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: metricReloads,
			Help: "Reloads, by what was reloaded and by result (ok, failed).",
		}, []string{"part", "result"}),
		failed: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: metricReloadFailed,
			Help: "Whether the last reload of a part failed, so that what was loaded before is in force.",
		}, []string{"part"}),
	}
	build := prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: metricBuild, Help: "Always 1; the labels tell which build runs.",
	}, []string{"version", "goversion"})
	if info, ok := debug.ReadBuildInfo(); ok {
		build.WithLabelValues(info.Main.Version, info.GoVersion).Set(1)
	}
	devices := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: metricDevices, Help: "Devices that the allocation webhook answered about since the start, each once, up to 100,000 of them.",
	}, func() float64 { return float64(m.devices.Count()) })
	m.registry.MustRegister(build, m.decisions, devices, m.times, m.turnedAway, m.defaultRows, m.lookups, m.shadows, m.reloads, m.failed,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// decided counts one answer of the webhook.
func (m *metrics) decided(d allocation.Decision) {
	if d.Limit != "" {
		m.turnedAway.WithLabelValues(d.Limit).Inc()
		return
	}
	m.devices.Add(d)
	source := cmp.Or(string(d.Source), "nobody")
	m.decisions.WithLabelValues(strconv.Itoa(d.Status), source, d.Rule).Inc()
	m.times.WithLabelValues(source).Observe(d.Duration.Seconds())
	if d.Lookup != allocation.LookupNone {
		m.lookups.WithLabelValues(string(d.Lookup)).Inc()
	}
	if d.DirectoryTrouble != "" {
		m.defaultRows.Inc()
	}
}

// shadowed counts what came of asking the shadow policy.
func (m *metrics) shadowed(result allocation.ShadowResult) {
	m.shadows.WithLabelValues(string(result)).Inc()
}

// reloaded counts one reload of a part.
func (m *metrics) reloaded(part string, err error) {
	result, failed := "ok", 0.0
	if err != nil {
		result, failed = "failed", 1
	}
	m.reloads.WithLabelValues(part, result).Inc()
	m.failed.WithLabelValues(part).Set(failed)
}

// watch adds what the gateway's parts know.
func (m *metrics) watch(g *Gateway) {
	if g.supervisor != nil {
		m.registry.MustRegister(&asked{
			prometheus.NewDesc(metricAppliances, "Known appliances, by state.", []string{"state"}, nil), prometheus.GaugeValue,
			func(emit func(float64, ...string)) {
				counts := map[State]int{}
				for _, a := range g.Snapshot() {
					counts[a.State]++
				}
				for _, state := range allStates() {
					emit(float64(counts[state]), string(state))
				}
			},
		}, &asked{
			prometheus.NewDesc(metricServiceIsAway, "Whether the provisioning service cannot be reached.", nil, nil), prometheus.GaugeValue,
			func(emit func(float64, ...string)) {
				_, _, away := g.supervisor.world.reach.stands()
				emit(number(away))
			},
		})
	}
	if g.webhook != nil {
		m.registry.MustRegister(&asked{
			prometheus.NewDesc(metricPolicy, "Always 1; the labels tell which policy decides.", []string{"policy", "digest"}, nil), prometheus.GaugeValue,
			func(emit func(float64, ...string)) {
				policy := g.webhook.policy.Load()
				emit(1, filepath.Base(policy.name), policy.digest)
			},
		}, &asked{
			prometheus.NewDesc(metricBreaker, "1 for the state that the breaker before the cloud function is in; absent without front mode.", []string{"state"}, nil), prometheus.GaugeValue,
			func(emit func(float64, ...string)) {
				now, fronting := g.webhook.upstreamState()
				if !fronting {
					return
				}
				for _, state := range []upstream.BreakerState{upstream.Closed, upstream.Open, upstream.HalfOpen} {
					emit(number(now.State == state), string(state))
				}
			},
		})
	}
	if g.decisions != nil {
		m.registry.MustRegister(
			g.logStat(metricLogWritten, "Decisions that are in the decision log.", prometheus.CounterValue, func(s decisionlog.Stats) float64 { return float64(s.Written) }),
			g.logStat(metricLogLost, "Decisions that are not in the decision log: they came too fast, or the disk was in trouble.", prometheus.CounterValue, func(s decisionlog.Stats) float64 { return float64(s.Lost) }),
			g.logStat(metricLogInTrouble, "Whether the decision log cannot be written.", prometheus.GaugeValue, func(s decisionlog.Stats) float64 { return number(s.Err != nil) }),
		)
	}
}

func (g *Gateway) logStat(name, help string, kind prometheus.ValueType, value func(decisionlog.Stats) float64) prometheus.Collector {
	return &asked{prometheus.NewDesc(name, help, nil, nil), kind, func(emit func(float64, ...string)) { emit(value(g.decisions.Stats())) }}
}

// asked is a metric whose values are asked for when somebody reads it.
type asked struct {
	desc   *prometheus.Desc
	kind   prometheus.ValueType
	values func(emit func(value float64, labels ...string))
}

// Describe gives the one description.
func (a *asked) Describe(out chan<- *prometheus.Desc) { out <- a.desc }

// Collect asks.
func (a *asked) Collect(out chan<- prometheus.Metric) {
	a.values(func(value float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(a.desc, a.kind, value, labels...)
	})
}

func number(yes bool) float64 {
	if yes {
		return 1
	}
	return 0
}
