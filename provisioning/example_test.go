// SPDX-License-Identifier: Apache-2.0

package provisioning_test

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log"
	"os"

	"github.com/contoso/gatewayd/provisioning"
	"github.com/contoso/gatewayd/provisioning/dpslocal"
)

// startLocal runs a service of one's own until stop is called, so that the examples need no cloud. With Azure the
// endpoint is global.azure-devices-provisioning.net, the system's roots do, and the portal shows ID scope and key.
func startLocal() (cfg provisioning.Config, groupKey string, stop func()) {
	dir, err := os.MkdirTemp("", "dpslocal")
	if err != nil {
		log.Fatal(err)
	}
	service, err := dpslocal.New(dpslocal.Config{
		IDScope:          "0ne00ABCDEF",
		Hubs:             []dpslocal.Hub{{Name: "contoso-toasters-hub-1098.azure-devices.net"}},
		EnrollmentGroups: []dpslocal.EnrollmentGroup{{ID: "toasters"}},
	}, dpslocal.Options{Dir: dir})
	if err != nil {
		log.Fatal(err)
	}
	groupKey, _, err = service.GroupKeys("toasters")
	if err != nil {
		log.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(service.CAPEM())

	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() { ended <- service.Run(ctx) }()
	stop = func() {
		cancel()
		if err := <-ended; err != nil {
			log.Fatal(err)
		}
		_ = os.RemoveAll(dir)
	}
	return provisioning.Config{
		Endpoint:  service.HTTPSAddr(),
		IDScope:   service.IDScope(),
		Transport: provisioning.TransportHTTPS,
		RootCAs:   roots,
		Proxy:     provisioning.NoProxy,
	}, groupKey, stop
}

// One device of an enrollment group registers, and learns its hub.
func Example() {
	cfg, groupKeyText, stop := startLocal()
	defer stop()
	client, err := provisioning.New(cfg)
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()

	groupKey, err := provisioning.ParseGroupKey(groupKeyText)
	if err != nil {
		log.Fatal(err)
	}
	const id = "breakroom499-contoso-tstrsd-007"
	assignment, err := client.Register(context.Background(), provisioning.Request{
		RegistrationID: id,
		Keys:           []provisioning.DeviceKey{groupKey.Derive(id)},
		Payload:        []byte(`{"model":"contoso-tstrsd-007"}`),
	})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("hub:", assignment.AssignedHub)
	fmt.Println("device ID:", assignment.DeviceID)
	// Output:
	// hub: contoso-toasters-hub-1098.azure-devices.net
	// device ID: breakroom499-contoso-tstrsd-007
}

// A device signs with a key that is not its enrollment's. The verdict says who can do what about it.
func ExampleVerdict() {
	cfg, _, stop := startLocal()
	defer stop()
	client, err := provisioning.New(cfg)
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()

	key, err := provisioning.ParseDeviceKey("bm90IHRoZSBlbnJvbGxtZW50J3Mga2V5")
	if err != nil {
		log.Fatal(err)
	}
	_, err = client.Register(context.Background(), provisioning.Request{
		RegistrationID: "breakroom499-contoso-tstrsd-007",
		Keys:           []provisioning.DeviceKey{key},
	})
	diagnosis := provisioning.Verdict(err)
	fmt.Println(diagnosis.Kind, diagnosis.Code)
	fmt.Println(diagnosis.Verdict)
	fmt.Println("who:", diagnosis.Owner)
	fmt.Println("next:", diagnosis.Next)

	// A program looks at the type.
	if refused, ok := errors.AsType[*provisioning.CredentialError](err); ok {
		fmt.Println("keys tried:", refused.Tried)
	}
	// Output:
	// unauthorized 401002
	// The provisioning service did not accept the device's key.
	// who: cloud operator
	// next: Check the ID scope, and that the key here is the enrollment's current one; an individual enrollment has its own. Then retry.
	// keys tried: 1
}
