// SPDX-License-Identifier: Apache-2.0

package dpslocal

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"strconv"
	"time"
)

// maxAdminBody bounds a request to the admin port.
const maxAdminBody = 64 << 10

// checkLoopback refuses an admin address that others could reach: the port has
// no credentials.
func checkLoopback(address string) error {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return fmt.Errorf("%q: give host and port, such as 127.0.0.1:9000", address)
	}
	if !isLoopback(host) {
		return fmt.Errorf("%q: the admin port takes commands from anybody, so it is for loopback only; use 127.0.0.1", address)
	}
	return nil
}

// isLoopback tells whether a host without its port is this machine's own.
func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// newAdminServer makes the plain HTTP server of the admin port.
func newAdminServer(s *service) *http.Server {
	mux := http.NewServeMux()
	front := adminFront{s}
	mux.HandleFunc("GET /faults", front.list)
	mux.HandleFunc("POST /faults", front.add)
	mux.HandleFunc("DELETE /faults", front.clear)
	mux.HandleFunc("DELETE /faults/{id}", front.remove)
	mux.HandleFunc("POST /away", front.away)
	return &http.Server{
		Handler:           localOnly(mux),
		ReadHeaderTimeout: 10 * time.Second,
		ReadTimeout:       30 * time.Second,
		WriteTimeout:      30 * time.Second,
		MaxHeaderBytes:    32 << 10,
	}
}

// localOnly keeps web pages out. A browser on this machine sends their requests
// here too, but it names the page in Origin, and a page whose name was made to
// lead here is still named in Host.
func localOnly(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !isLoopback(hostname(r.Host)) || r.Header.Get("Origin") != "" {
			http.Error(w, "The admin port is for programs on this machine.", http.StatusForbidden)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// adminFront is the fault script over HTTP, with the keys of a [[fault]] as JSON.
type adminFront struct {
	service *service
}

// shownFault is a rule with what became of it.
type shownFault struct {
	ID   int `json:"id"`
	Used int `json:"used"`
	rawFault
}

// list shows the script.
func (f adminFront) list(w http.ResponseWriter, _ *http.Request) {
	shown := []shownFault{}
	for _, state := range f.service.script.list() {
		shown = append(shown, shownFault{state.ID, state.Used, state.Rule.text()})
	}
	writeAdmin(w, http.StatusOK, shown)
}

// add appends a rule.
func (f adminFront) add(w http.ResponseWriter, r *http.Request) {
	var raw rawFault
	if err := readAdmin(w, r, &raw); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	rule, err := raw.rule()
	if err == nil {
		var id int
		if id, err = f.service.script.add(rule); err == nil {
			writeAdmin(w, http.StatusCreated, shownFault{ID: id, rawFault: rule.text()})
			return
		}
	}
	status := http.StatusBadRequest
	if errors.Is(err, ErrTooManyFaults) {
		status = http.StatusConflict
	}
	http.Error(w, err.Error(), status)
}

// clear empties the script.
func (f adminFront) clear(w http.ResponseWriter, _ *http.Request) {
	f.service.script.clear()
	w.WriteHeader(http.StatusNoContent)
}

// remove takes one rule out.
func (f adminFront) remove(w http.ResponseWriter, r *http.Request) {
	id, err := strconv.Atoi(r.PathValue("id"))
	if err != nil || !f.service.script.remove(id) {
		http.Error(w, "no fault of this id: GET /faults lists them", http.StatusNotFound)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

// away closes all connections at once, and the new ones for a while.
func (f adminFront) away(w http.ResponseWriter, r *http.Request) {
	var raw struct {
		For string `json:"for"`
	}
	err := readAdmin(w, r, &raw)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	d, err := time.ParseDuration(raw.For)
	if err != nil || d <= 0 || d > maxFaultTime {
		http.Error(w, fmt.Sprintf("for %.64q: write a duration up to %s, such as \"30s\"", raw.For, maxFaultTime), http.StatusBadRequest)
		return
	}
	f.service.gate.shut(d)
	w.WriteHeader(http.StatusNoContent)
}

// readAdmin reads a bounded JSON body and refuses members that mean nothing.
func readAdmin(w http.ResponseWriter, r *http.Request, v any) error {
	if mediaType, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || mediaType != "application/json" {
		return errors.New("the Content-Type must be application/json")
	}
	decoder := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxAdminBody))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(v); err != nil {
		return fmt.Errorf("reading the JSON: %w", err)
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return errors.New("reading the JSON: more than one document")
	}
	return nil
}

// writeAdmin answers with JSON.
func writeAdmin(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.WriteHeader(status)
	_, _ = w.Write(append(encodeJSON(v), '\n'))
}

// serveAdmin serves the admin port until ctx ends.
func (s *Server) serveAdmin(ctx context.Context) error {
	server := newAdminServer(s.service)
	closed := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(closed)
		_ = server.Close()
	})
	err := server.Serve(s.admin)
	if stop() { // nobody asked for it
		_ = server.Close()
		return fmt.Errorf("serving the admin port: %w", err)
	}
	<-closed
	return nil
}
