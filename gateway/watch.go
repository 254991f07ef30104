// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/contoso/gatewayd/gateway/config"
)

// Limits of the listener for those who watch.
const (
	watchTime     = 10 * time.Second
	watchIdleTime = 2 * time.Minute
	watchers      = 4 // who may read the metrics at once
)

// watchServer answers those who watch the gateway: /metrics, /livez and /readyz. It
// answers until the other parts have stopped, so that a balancer sees the end of a
// service before it is there.
type watchServer struct {
	listener net.Listener
	server   *http.Server
	log      *slog.Logger
}

func newWatchServer(cfg config.Metrics, g *Gateway) (*watchServer, error) {
	listener, err := net.Listen("tcp", cfg.Listen)
	if err != nil {
		return nil, fmt.Errorf("listening for [metrics]: %w (another program may have the port; change [metrics] listen)", err)
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(g.metrics.registry, promhttp.HandlerOpts{
		MaxRequestsInFlight: watchers, Timeout: watchTime / 2,
	}))
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, r *http.Request) {
		if err := g.lives(r.Context()); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ok")
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		readiness := g.Readiness()
		w.Header().Set("Content-Type", "application/json; charset=utf-8")
		w.Header().Set("Cache-Control", "no-store")
		if !readiness.Ready {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		encoder := json.NewEncoder(w)
		encoder.SetIndent("", "  ")
		_ = encoder.Encode(readiness) // an error means that the reader has gone
	})
	return &watchServer{
		listener: listener, log: g.log,
		server: &http.Server{
			Handler:           mux,
			ReadHeaderTimeout: watchTime, ReadTimeout: watchTime, WriteTimeout: watchTime, IdleTimeout: watchIdleTime,
			MaxHeaderBytes: 16 << 10,
			ErrorLog:       slog.NewLogLogger(g.log.Handler(), slog.LevelDebug),
		},
	}, nil
}

// run serves until ctx ends. Trouble here is no reason to stop the gateway.
func (s *watchServer) run(ctx context.Context) {
	s.log.Info("serving metrics", "address", s.listener.Addr().String())
	stop := context.AfterFunc(ctx, func() { s.server.Close() })
	defer stop()
	if err := s.server.Serve(s.listener); !errors.Is(err, http.ErrServerClosed) {
		s.log.Error("metrics are not served any more", "err", err)
	}
}

func (s *watchServer) close() error {
	if err := s.listener.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
		return err
	}
	return nil
}
