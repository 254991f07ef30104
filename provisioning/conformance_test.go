// SPDX-License-Identifier: Apache-2.0

package provisioning_test

import (
	"context"
	"encoding/json"
	"errors"
	"testing"

	"github.com/contoso/gatewayd/provisioning"
	"github.com/contoso/gatewayd/provisioning/internal/conformancetest"
)

// transports are those that the suite is run over.
var transports = []conformancetest.Transport{conformancetest.HTTPS, conformancetest.MQTT, conformancetest.MQTTWebSocket}

// TestConformance runs the suite of the rules. With -v its output reads as the list of what the rules ask, and
// conformancetest.Cases says beside each who gets it wrong.
func TestConformance(t *testing.T) {
	for _, transport := range transports {
		t.Run(string(transport), func(t *testing.T) {
			for _, c := range conformancetest.Cases() {
				if !c.Concerns(transport) {
					continue
				}
				t.Run(c.String(), func(t *testing.T) {
					for _, finding := range c.Run(t, transport, newConforming) {
						t.Error(finding)
					}
				})
			}
		})
	}
}

// TestConformanceOfTheLadder runs the suite over HTTPS again, as the first transport of "auto". Left out is what the
// ladder answers in its own way: by going on to another transport.
func TestConformanceOfTheLadder(t *testing.T) {
	auto := func(env conformancetest.Environment) (conformancetest.Client, error) {
		env.Transport = conformancetest.Transport(provisioning.TransportAuto)
		return newConforming(env)
	}
	goesOn := map[string]bool{
		"a 404 of somebody else begins nothing":                             true,
		"a connection that cannot be made is tried again soon, a few times": true,
	}
	for _, c := range conformancetest.Cases() {
		if !c.Concerns(conformancetest.HTTPS) || goesOn[c.Name] {
			continue
		}
		t.Run(c.String(), func(t *testing.T) {
			for _, finding := range c.Run(t, conformancetest.HTTPS, auto) {
				t.Error(finding)
			}
		})
	}
}

// conforming is the client in the suite's words.
type conforming struct {
	*provisioning.Client
	keep func() error // writes down what must outlive the client
}

func newConforming(env conformancetest.Environment) (conformancetest.Client, error) {
	var budget *provisioning.Budget
	if env.Memory != nil {
		var err error
		if budget, err = remember(env); err != nil {
			return nil, err
		}
	}
	client, err := provisioning.New(provisioning.Config{
		Budget:             budget,
		Endpoint:           env.Endpoint,
		IDScope:            env.IDScope,
		Transport:          provisioning.Transport(env.Transport),
		RootCAs:            env.RootCAs,
		DialContext:        env.DialContext,
		RegistersPerMinute: env.RegistersPerMinute,
		PollsPerSecond:     env.PollsPerSecond,
		Fleet:              env.Fleet,
		AttemptLimit:       env.AttemptLimit,
		Logger:             env.Logger,
	})
	if err != nil {
		return nil, err
	}
	keep := func() error {
		if budget == nil {
			return nil
		}
		text, err := json.Marshal(budget.State())
		if err == nil {
			env.Memory.Save(text)
		}
		return err
	}
	return conforming{client, keep}, nil
}

// remember makes the budget of an owner who keeps it.
func remember(env conformancetest.Environment) (*provisioning.Budget, error) {
	var state provisioning.BudgetState
	if text := env.Memory.Load(); text != nil {
		if err := json.Unmarshal(text, &state); err != nil {
			return nil, err
		}
	}
	return provisioning.NewBudget(env.RegistersPerMinute, env.PollsPerSecond, state)
}

// Register implements [conformancetest.Client].
func (c conforming) Register(ctx context.Context, device conformancetest.Device) (conformancetest.Outcome, error) {
	request := provisioning.Request{
		RegistrationID: device.RegistrationID,
		Payload:        device.Payload,
		OperationID:    device.OperationID,
		Interrupted:    device.Interrupted,
		Observe:        func(provisioning.Progress) error { return c.keep() },
	}
	if device.Certificate != nil {
		certificate, err := provisioning.ParseCertificate(device.Certificate, device.Certificate)
		if err != nil {
			return conformancetest.Outcome{Ending: conformancetest.EndInvalid}, err
		}
		request.Certificate = certificate
	}
	for _, text := range device.Keys {
		key, err := provisioning.ParseDeviceKey(text)
		if err != nil {
			return conformancetest.Outcome{Ending: conformancetest.EndInvalid}, err
		}
		request.Keys = append(request.Keys, key)
	}
	assignment, err := c.Client.Register(ctx, request)
	outcome := conformancetest.Outcome{Ending: ending(err)}
	var throttled *provisioning.ThrottledError
	switch {
	case err == nil:
		outcome.AssignedHub, outcome.DeviceID = assignment.AssignedHub, assignment.DeviceID
		outcome.Payload, outcome.OperationID = string(assignment.Payload), assignment.OperationID
	case errors.As(err, &throttled):
		outcome.NextAttempt = throttled.NextAttempt
	}
	return outcome, err
}

// ending looks for the documented errors in their documented order.
func ending(err error) conformancetest.Ending {
	var throttled *provisioning.ThrottledError
	var unreachable *provisioning.UnreachableError
	var failed *provisioning.FailedError
	var refused *provisioning.ServiceError
	switch {
	case err == nil:
		return conformancetest.EndAssigned
	case errors.As(err, &throttled):
		return conformancetest.EndThrottled
	case errors.As(err, &unreachable):
		return conformancetest.EndUnreachable
	case errors.As(err, &failed):
		return conformancetest.EndFailed
	case errors.As(err, &refused):
		return conformancetest.EndRefused
	case errors.Is(err, provisioning.ErrRegistrationID), errors.Is(err, provisioning.ErrKey), errors.Is(err, provisioning.ErrRequest):
		return conformancetest.EndInvalid
	default:
		return conformancetest.EndAbandoned
	}
}
