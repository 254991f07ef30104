// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"strings"
	"testing"

	"github.com/contoso/gatewayd/allocation"
)

// a device with everything that conditions can look at.
const fullRequest = `{
 "enrollmentGroup":{"enrollmentGroupId":"Contoso-Devices","etag":null,"attestation":{"type":"x509"},"reprovisionPolicy":{"updateHubAssignment":true,"migrateDeviceData":false}},
 "deviceRuntimeContext":{
  "registrationId":"Breakroom499-contoso-tstrsd-007",
  "currentIotHubHostName":"Contoso-Toasters-Hub-1098.azure-devices.net","currentDeviceId":"breakroom499",
  "x509":{"clientCertificates":{"primary":{"info":{"subjectName":"CN=breakroom499, O=Contoso","issuerName":"CN=Contoso Root","sha1Thumbprint":"AABB01","sha256Thumbprint":"CCDD02","serialNumber":"0A1B"}}}},
  "payload":{"model":"contoso-tstrsd-007","MyDeviceFirmwareVersion":"12.10.0","load":2.5,"count":3,"vip":true,"nothing":null,"zone":{"name":"west","a.b":"dotted","c/~d":"escaped","list":[{"n":1}]}}},
 "linkedHubs":["contoso-toasters-hub-1098.azure-devices.net","contoso-heatpumps-hub-1098.azure-devices.net"]}`

// bareRequest is a device of an individual enrollment at its first registration,
// without a payload.
const bareRequest = `{"individualEnrollment":{"registrationId":"Lobby1"},
 "deviceRuntimeContext":{"registrationId":"lobby1","symmetricKey":{}},"linkedHubs":[]}`

var fullRow = allocation.Row{"hub": heatPumpsHub, "room": "499", "floor": int64(3), "vip": true}

// TestConditions asks each condition whether it holds for a device that has
// everything and for one that has next to nothing.
func TestConditions(t *testing.T) {
	t.Parallel()
	tests := []struct {
		when       string
		full, bare string // "yes", "no", or how the error ends
	}{
		{`registration_id = "Breakroom499-contoso-tstrsd-007"`, "yes", "no"},
		{`registration_id = "breakroom499-contoso-tstrsd-007"`, "no", "no"},
		{`registration_id = { equals = "BREAKROOM499-contoso-tstrsd-007", ignore_case = true }`, "yes", "no"},
		{`registration_id = ["lobby1", "lobby2"]`, "no", "yes"},
		{`registration_id.prefix = "Break"`, "yes", "no"},
		{`registration_id.suffix = ["-008", "-007"]`, "yes", "no"},
		{`registration_id.suffix = "Breakroom499"`, "no", "no"},
		{`registration_id.contains = "-tstrsd-"`, "yes", "no"},
		{`registration_id = { prefix = "Break", suffix = "-008" }`, "no", "no"},
		{`registration_id = [{ prefix = "lob" }, { suffix = "-007" }]`, "yes", "yes"},
		{`registration_id.glob = "B*room4?9-*"`, "yes", "no"},
		{`registration_id.glob = "b*room4?9-*"`, "no", "no"},
		{`registration_id = { glob = "B*ROOM*", ignore_case = true }`, "yes", "no"},
		{`registration_id.glob = "room*"`, "no", "no"},
		{`registration_id.glob = "*room499"`, "no", "no"},
		{`registration_id.glob = "499"`, "no", "no"},
		{`registration_id.regex = '\d{3}-'`, "yes", "no"},
		{`registration_id.regex = '^\d+$'`, "no", "no"},
		{`registration_id = { regex = 'TSTRSD', ignore_case = true }`, "yes", "no"},
		{`registration_id.not.prefix = "Break"`, "no", "yes"},
		{`registration_id = { prefix = "Break", not = { suffix = "-007" } }`, "no", "no"},
		{`registration_id.present = true`, "yes", "yes"},
		{`model = "contoso-tstrsd-007"`, "yes", "no"},
		{`model.present = false`, "no", "yes"},
		{`model.not = "kettle"`, "yes", "yes"},
		{`firmware = { from = "12.9", below = "12.11" }`, "yes", "no"},
		{`firmware.from = "12.10"`, "yes", "no"},
		{`firmware.above = "12.10"`, "no", "no"},
		{`firmware.up_to = "12.10"`, "yes", "no"},
		{`firmware.below = "12.10"`, "no", "no"},
		{`firmware.prefix = "12."`, "yes", "no"},
		{`payload.load = 2.5`, "yes", "no"},
		{`payload.load.above = 2`, "yes", "no"},
		{`payload.load.below = 2.5`, "no", "no"},
		{`payload.load.from = "2.4"`, "yes", "no"},
		{`payload.count = 3`, "yes", "no"},
		{`payload.count = 3.0`, "yes", "no"},
		{`payload.count = "3"`, "no", "no"},
		{`payload.count.prefix = "3"`, "yes", "no"},
		{`payload.vip = true`, "yes", "no"},
		{`payload.vip = [false, "x", 1]`, "no", "no"},
		{`payload.nothing.present = false`, "yes", "yes"},
		{`payload."zone.name" = "west"`, "yes", "no"},
		{`payload."zone.list.0.n" = 1`, "yes", "no"},
		{`payload."zone.list.1.n".present = true`, "no", "no"},
		{`payload."/zone/a.b" = "dotted"`, "yes", "no"},
		{`payload."/zone/c~1~0d" = "escaped"`, "yes", "no"},
		{`payload.zone.present = true`, "yes", "no"},
		{`payload.zone = "west"`, "no", "no"},
		{`payload.zone.above = 3`, `payload.zone: {"a.b":"dotted","c/~d":"escaped","list":[{"n":1}],"name":"west"} is no number to compare with 3`, "no"},
		{`payload.model.from = "1"`, `payload.model: "contoso-tstrsd-007" is no version, which is numbers with dots between them`, "no"},
		{`enrollment_group = "Contoso-Devices"`, "yes", "no"},
		{`enrollment_group.present = false`, "no", "yes"},
		{`individual_enrollment = "Lobby1"`, "no", "yes"},
		{`attestation = "x509"`, "yes", "no"},
		{`attestation = ["tpm", "symmetricKey"]`, "no", "yes"},
		{`certificate.subject.contains = "O=Contoso"`, "yes", "no"},
		{`certificate.issuer = "CN=Contoso Root"`, "yes", "no"},
		{`certificate.thumbprint = "aa:bb:01"`, "yes", "no"},
		{`certificate.thumbprint = "CC DD 02"`, "yes", "no"},
		{`certificate.thumbprint = "aabb02"`, "no", "no"},
		{`certificate.thumbprint.present = false`, "no", "yes"},
		{`certificate.serial_number = "0a:1b"`, "yes", "no"},
		{`current_hub = "contoso-toasters-hub-1098.azure-devices.net"`, "no", "no"},
		{`current_hub = { contains = "-toasters-", ignore_case = true }`, "yes", "no"},
		{`current_hub.present = false`, "no", "yes"},
		{`current_device_id = "breakroom499"`, "yes", "no"},
		{`linked_hubs.contains = "-heatpumps-"`, "yes", "no"},
		{`linked_hubs = { contains = "-toasters-", prefix = "contoso-heat" }`, "no", "no"},
		{`linked_hubs.not.contains = "-kettles-"`, "yes", "yes"},
		{`linked_hubs.present = true`, "yes", "yes"},
		{`device.hub.contains = "-heatpumps-"`, "yes", "no"},
		{`device.floor = 3`, "yes", "no"},
		{`device.floor = [1, 3]`, "yes", "no"},
		{`device.floor = { from = 3, below = 4 }`, "yes", "no"},
		{`device.floor.above = 3`, "no", "no"},
		{`device.vip = true`, "yes", "no"},
		{`device.vip.not = true`, "no", "yes"},
		{`device.room.present = false`, "no", "yes"},
		{`cel = 'device.floor > 2.5 && device.floor == 3'`, "yes", `"floor" is absent for this device; write .?floor with orValue(…), or ask with has(…)`},
		{`cel = 'device.?floor.orValue(0) > 2'`, "yes", "no"},
		{`cel = 'has(device.vip) && device.vip'`, "yes", "no"},
		{`cel = 'payload.?model.orValue("") == "contoso-tstrsd-007"'`, "yes", "no"},
		{`cel = 'payload.model == "x"'`, "no", `"model" is absent for this device; write .?model with orValue(…), or ask with has(…)`},
		{`cel = 'payload.zone.name.startsWith("w") && payload.count + 1 == 4'`, "yes", `"zone" is absent for this device; write .?zone with orValue(…), or ask with has(…)`},
		{`cel = 'request.enrollmentGroup.reprovisionPolicy.migrateDeviceData'`, "no", `"enrollmentGroup" is absent for this device; write .?enrollmentGroup with orValue(…), or ask with has(…)`},
		{`cel = 'has(request.enrollmentGroup) && has(request.enrollmentGroup.etag)'`, "no", "no"},
		{`cel = 'request.deviceRuntimeContext.registrationId.lowerAscii().endsWith("-007")'`, "yes", "no"},
		{`cel = 'request.deviceRuntimeContext.?x509.?clientCertificates.?primary.?info.?issuerName.orValue("") == "CN=Contoso Root"'`, "yes", "no"},
		{`cel = 'size(request.linkedHubs) == 2 && request.linkedHubs.exists(h, h.contains("-heatpumps-"))'`, "yes", "no"},
		{`cel = '["", "a", "", ""].join("-") == "-a--"'`, "yes", "yes"},
		{`cel = '"a-b".split("-").join("+").replace("+", "x").upperAscii().trim() == "AXB"'`, "yes", "yes"},
		{`registration_id.prefix = "Break"` + "\n" + `when.cel = 'payload.vip == true'`, "yes", "no"},
	}
	for _, test := range tests {
		t.Run(test.when, func(t *testing.T) {
			t.Parallel()
			p := mustParse(t, exampleDirectory+"default = { }\nmissing = \"default\"\n[[rule]]\nname = \"rule\"\nwhen."+test.when+"\nrefuse = \"yes\"\n[[rule]]\nrefuse = \"no\"\n")
			for _, one := range []struct {
				request string
				row     allocation.Row
				want    string
			}{{fullRequest, fullRow, test.full}, {bareRequest, nil, test.bare}} {
				got := ask(t, p, allocation.Question{Request: mustRequest(t, one.request), Device: one.row})
				want := map[string]string{"yes": "rule refuses: yes", "no": "rule 2 refuses: no"}[one.want]
				if want == "" {
					want = one.want
					if !strings.HasPrefix(got, `trouble: policy.toml:`) || !strings.Contains(got, `: rule "rule": `) {
						t.Errorf("got %s, want an error with place and rule", got)
					}
					got = got[max(0, len(got)-len(want)):]
				}
				if got != want {
					t.Errorf("got %s, want %s", got, want)
				}
			}
		})
	}
}
