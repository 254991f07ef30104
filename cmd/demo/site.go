// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"os"
	"path/filepath"

	"github.com/contoso/gatewayd/provisioning/dpslocal"
	"github.com/contoso/gatewayd/serialbus/serialbustest"
)

// The tutorial's names.
const (
	idScope     = "0ne00ABCDEF"
	serviceName = "contoso-provisioning-service-1098"
	groupID     = "contoso-custom-allocated-devices"
	toasterHub  = "contoso-toasters-hub-1098.azure-devices.net"
	heatPumpHub = "contoso-heatpumps-hub-1098.azure-devices.net"
)

// site is all that surrounds the gateway: lines, service, files.
type site struct {
	configFile string
	expected   []string     // registration IDs
	webhook    net.Listener // given to the gateway, which closes it
	lines      []*serialbustest.Line
	stop       context.CancelFunc
	service    chan error // the local DPS's end
}

// buildSite starts the lines and the local DPS and writes what the gateway
// reads: configuration, group key, function key, certificate.
func buildSite(ctx context.Context, dir string, s settings, log *slog.Logger) (_ *site, err error) {
	ctx, stop := context.WithCancel(context.WithoutCancel(ctx)) // the service outlives the gateway's stop
	place := &site{configFile: filepath.Join(dir, "gatewayd.toml"), stop: stop}
	defer func() {
		if err != nil {
			err = errors.Join(err, place.close())
		}
	}()
	buses, err := place.connectLines(s)
	if err != nil {
		return nil, err
	}
	if place.webhook, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		return nil, fmt.Errorf("opening a port for the webhook: %w", err)
	}
	functionKey := rand.Text()
	if err := writeCertificate(dir); err != nil {
		return nil, err
	}
	service, err := startService(dir, place.webhook.Addr().String(), functionKey, log)
	if err != nil {
		place.webhook.Close()
		return nil, err
	}
	place.service = make(chan error, 1)
	go func() { place.service <- service.Run(ctx) }()

	groupKey, _, err := service.GroupKeys(groupID)
	if err != nil {
		return nil, fmt.Errorf("reading the enrollment group's key: %w", err)
	}
	return place, errors.Join(
		writeSecret(dir, "group-key", groupKey),
		writeSecret(dir, "function-keys", functionKey),
		writeConfig(place.configFile, configuration{Dir: dir, Transport: s.transport, Service: service, Buses: buses}),
	)
}

// startService opens the local DPS with the tutorial's hubs and enrollment
// group. Its keys are generated on the first start in dir and kept there.
func startService(dir, webhook, functionKey string, log *slog.Logger) (*dpslocal.Server, error) {
	service, err := dpslocal.New(dpslocal.Config{
		IDScope: idScope, Name: serviceName,
		Hubs: []dpslocal.Hub{{Name: toasterHub}, {Name: heatPumpHub}},
	}, dpslocal.Options{
		Dir: filepath.Join(dir, "dpslocal"), HTTPS: "127.0.0.1:0", MQTT: "127.0.0.1:0", Logger: log.With("program", "dpslocal"),
	})
	if err != nil {
		return nil, fmt.Errorf("starting the local DPS: %w", err)
	}
	address := url.URL{Scheme: "https", Host: webhook, Path: "/api/HttpTrigger1", RawQuery: url.Values{"code": {functionKey}}.Encode()}
	err = service.SetGroup(dpslocal.EnrollmentGroup{
		ID: groupID, AllocationPolicy: "custom", Hubs: []string{toasterHub, heatPumpHub},
		WebhookURL: dpslocal.Secret(address.String()), WebhookCAFile: filepath.Join(dir, webhookCA),
	})
	if err != nil {
		return nil, fmt.Errorf("making the enrollment group: %w", err)
	}
	return service, nil
}

// close ends the lines and the service.
func (p *site) close() error {
	p.stop()
	var all []error
	if p.service != nil {
		all = append(all, <-p.service)
	}
	for _, line := range p.lines {
		all = append(all, line.Close())
	}
	return errors.Join(all...)
}

// writeSecret writes a file that only its owner may read.
func writeSecret(dir, name, text string) error {
	return os.WriteFile(filepath.Join(dir, name), []byte(text+"\n"), 0o600)
}
