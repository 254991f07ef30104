# SPDX-License-Identifier: Apache-2.0
# gatewayd: make build, make lint, make test; `make help` lists the rest.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c

FUZZTIME ?= 10s
KILLS ?= 500

GOFUMPT_VERSION := v0.12.0
STATICCHECK_VERSION := v0.8.2
GOLANGCI_LINT_VERSION := v2.15.0

TOOLS := $(CURDIR)/bin/tools
GOFUMPT := $(TOOLS)/gofumpt-$(GOFUMPT_VERSION)/gofumpt
STATICCHECK := $(TOOLS)/staticcheck-$(STATICCHECK_VERSION)/staticcheck
GOLANGCI_LINT := $(TOOLS)/golangci-lint-$(GOLANGCI_LINT_VERSION)/golangci-lint

# Static, without the paths of this machine, with the commit in --version.
GO_BUILD := CGO_ENABLED=0 go build -trimpath -buildvcs=auto -ldflags='-s -w'

.PHONY: help build lint test race test-peers test-crash test-systemd fuzz bench \
	bench-allocation bench-serialbus bench-dpslocal bench-provisioning bench-size clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | expand -t 20

build: ## static binaries into bin/
	$(GO_BUILD) -o bin/ ./cmd/...

lint: $(GOFUMPT) $(STATICCHECK) $(GOLANGCI_LINT) ## format, vet, linters, other platforms, unit file
	@out=$$($(GOFUMPT) -l $$(git ls-files '*.go')); test -z "$$out" || { echo "gofumpt would change: $$out"; exit 1; }
	go vet ./...
	$(STATICCHECK) ./...
	$(GOLANGCI_LINT) run
	GOOS=darwin GOARCH=arm64 go build -o /dev/null ./cmd/gatewayctl
	GOOS=darwin GOARCH=arm64 go build -o /dev/null ./cmd/dpslocal
	GOOS=linux GOARCH=arm64 go build ./cmd/...
	$(MAKE) --no-print-directory test-systemd

test: ## all tests that need nothing but Go
	go test ./...

race: ## the same with the race detector
	@.ci/need gcc
	go test -race ./...

test-peers: ## every test, with the programs that nobody here wrote; none may be skipped
	@.ci/need age curl openssl node:nodejs npm sqlite3 python3 promtool:prometheus mosquitto_pub:mosquitto-clients mbpoll socat tinyproxy nginx:nginx-light slowhttptest ab:apache2-utils \
		cc:gcc pkg-config /usr/include/stdlib.h:libc6-dev /usr/include/modbus/modbus.h:libmodbus-dev \
		/usr/lib/postgresql/15/bin/initdb:postgresql \
		/usr/lib/python3/dist-packages/pymodbus:python3-pymodbus \
		/usr/lib/python3/dist-packages/junitparser:python3-junitparser xmllint:libxml2-utils \
		/usr/lib/python3/dist-packages/pyvisa:python3-pyvisa /usr/lib/python3/dist-packages/pyvisa_py:python3-pyvisa-py \
		/usr/lib/python3/dist-packages/serial_asyncio:python3-serial-asyncio \
		mcs:mono-mcs mono:mono-runtime /usr/lib/mono/gac/Microsoft.CSharp:libmono-microsoft-csharp4.0-cil \
		/usr/lib/mono/gac/Newtonsoft.Json:libnewtonsoft-json5.0-cil
	PEERS=1 .ci/unskipped go test -count=1 -v ./...

test-crash: ## kill -9 at KILLS random moments
	KILLS=$(KILLS) .ci/unskipped go test -count=1 -v -run Crash -timeout 60m ./cmd/gatewayd/...

test-systemd: build ## the unit, by systemd's own tools
	@.ci/need systemd-analyze:systemd
	@mkdir -p bin/unit
	sed 's|^ExecStart=/usr/bin/|ExecStart=$(CURDIR)/bin/|' gatewayd.service >bin/unit/gatewayd.service
	systemd-analyze verify --man=no --recursive-errors=no bin/unit/gatewayd.service
	systemd-analyze security --offline=true --threshold=15 --no-pager bin/unit/gatewayd.service | tail -n 1

fuzz: ## every fuzz target for FUZZTIME
	@.ci/fuzz $(FUZZTIME)

bench: bench-allocation bench-serialbus bench-dpslocal bench-provisioning bench-size ## all benchmarks

bench-allocation: ## the webhook under load, beside a bare net/http handler and Node
	@.ci/need wrk h2load:nghttp2-client node:nodejs taskset:util-linux
	go test -run '^$$' -bench . -timeout 60m ./allocation
	go test -run '^$$' -bench . -benchtime 3s ./allocation/directory ./allocation/policy

bench-serialbus: ## scans against the limit of the wire, and a building's lines; SCAN_BENCH=full for the whole table
	go test -run '^$$' -bench . -timeout 30m ./serialbus

bench-dpslocal: ## registrations a second, beside bare TLS handshakes
	go test -run '^$$' -bench Registrations -benchtime 3s ./cmd/dpslocal

bench-provisioning: ## 1, 200 and 1,000 registrations by gatewayctl, beside Microsoft's client for Node
	go test -run '^$$' -bench Register -benchtime 1x -timeout 30m ./cmd/gatewayctl

bench-size: build ## binaries against their budget of 32 MiB
	@for f in bin/gatewayd bin/gatewayctl bin/dpslocal; do \
		awk -v f=$$f -v n=$$(wc -c <$$f) 'BEGIN { m = n / 1048576; printf "%-16s %5.1f MiB, %.2f of the budget\n", f, m, m / 32; exit m > 32 }' || exit 1; \
	done

clean: ## remove what was built, but not the tools
	rm -rf bin/unit dist $(filter-out bin/tools bin/unit,$(wildcard bin/*))

$(GOFUMPT):
	GOBIN=$(@D) go install mvdan.cc/gofumpt@$(GOFUMPT_VERSION)

$(STATICCHECK):
	GOBIN=$(@D) go install honnef.co/go/tools/cmd/staticcheck@$(STATICCHECK_VERSION)

$(GOLANGCI_LINT):
	GOBIN=$(@D) go install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(GOLANGCI_LINT_VERSION)
