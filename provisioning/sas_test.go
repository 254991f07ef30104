// SPDX-License-Identifier: Apache-2.0

package provisioning

import (
	"encoding/base64"
	"fmt"
	"net/url"
	"testing"
	"time"
)

// sasVector is a published or computed token.
type sasVector struct {
	ID        string  `json:"id"`
	Key       string  `json:"key_b64"`
	Resource  string  `json:"sr_on_wire"`
	Expiry    int64   `json:"se"`
	Policy    *string `json:"skn"`
	Signature string  `json:"signature_b64"`
	Token     string  `json:"token"`
}

// TestSASVectors signs every vector's text, and makes those tokens anew whose shape is ours.
func TestSASVectors(t *testing.T) {
	var file struct {
		SAS struct {
			Device  []sasVector `json:"device"`
			Service []sasVector `json:"service"`
			Hub     []sasVector `json:"hub"`
			Generic []sasVector `json:"generic"`
		} `json:"sas"`
	}
	vectors(t, &file)
	all := append(append(append(file.SAS.Device, file.SAS.Service...), file.SAS.Hub...), file.SAS.Generic...)

	// The others are other clients' ways to write the same: raw or lower-case sr, skn before se.
	ours := map[string]bool{
		"device-upper-hex": true, "device-mixed-case-id-upper-hex": true, "device-edge-lower-cased-upper-hex": true,
		"service-se-before-skn": true,
		"hub-docs":              true, "hub-node-sak": true, "hub-node-sas": true, "hub-toaster": true,
		"generic-node-unit": true,
	}
	for _, v := range all {
		t.Run(v.ID, func(t *testing.T) {
			material, err := base64.StdEncoding.DecodeString(v.Key)
			if err != nil {
				t.Fatal(err)
			}
			key := DeviceKey{secret: keep(material)} // some are too short for ParseDeviceKey
			expiry := time.Unix(v.Expiry, 0)
			signature := base64.StdEncoding.EncodeToString(key.secret.sign(fmt.Sprintf("%s\n%d", v.Resource, v.Expiry)))
			if signature != v.Signature {
				t.Errorf("signature %s, want %s", signature, v.Signature)
			}
			if !ours[v.ID] {
				return
			}
			delete(ours, v.ID)
			resource, err := url.PathUnescape(v.Resource)
			if err != nil {
				t.Fatal(err)
			}
			policy := ""
			if v.Policy != nil {
				policy = *v.Policy
			}
			if got := key.SASToken(resource, policy, expiry).Reveal(); got != v.Token {
				t.Errorf("token\n got %s\nwant %s", got, v.Token)
			}
		})
	}
	if len(ours) != 0 {
		t.Errorf("vectors that were not found: %v", ours)
	}
}

func TestResources(t *testing.T) {
	var file struct {
		HubMQTT struct {
			Connect struct{ Password string }
		} `json:"hub_mqtt"`
		MQTT struct {
			Connect []struct{ ID, Password string }
		} `json:"mqtt"`
	}
	vectors(t, &file)
	expiry := time.Unix(1893456000, 0)

	got := testKey().SASToken(HubResource("contoso-toasters-hub-1098.azure-devices.net", testID), "", expiry).Reveal()
	if want := file.HubMQTT.Connect.Password; got != want {
		t.Errorf("hub\n got %s\nwant %s", got, want)
	}
	got = testKey().SASToken(RegistrationResource(testScope, testID), "registration", expiry).Reveal()
	if want := file.MQTT.Connect[0].Password; got != want {
		t.Errorf("provisioning service\n got %s\nwant %s", got, want)
	}
}

// TestRule10TokenEscapes has an ID with every character that needs escaping.
func TestRule10TokenEscapes(t *testing.T) {
	token := testKey().SASToken(RegistrationResource("0ne", "a-b.c_d:e f"), "registration", time.Unix(10, 0)).Reveal()
	want := "SharedAccessSignature sr=0ne%2Fregistrations%2Fa-b.c_d%3Ae%20f&sig="
	if token[:len(want)] != want {
		t.Errorf("got %s, want it to begin with %s", token, want)
	}
}
