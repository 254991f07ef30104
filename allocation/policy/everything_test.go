// SPDX-License-Identifier: Apache-2.0

package policy

// everything is a policy with each feature of the language in it.
const everything = `
[directory]
missing = "default"
unavailable = "default"
timeout = "500ms"
columns = { hub = "text", room = "text", floor = "number", vip = "bool" }
default = { room = "none", floor = 1.5 }

[[rule]]
name = "no ID"
when.registration_id.present = false
refuse = "Who is it?"

[[rule]]
name = "names"
when = [
  { registration_id = { prefix = "room", not = { suffix = ["-x", "-y"] } }, attestation = ["x509", "tpm"] },
  { registration_id = { glob = "*-LOBBY-?", ignore_case = true }, current_hub.present = true },
  { registration_id.regex = '^\d+$' },
  { certificate.subject.contains = "O=Contoso", certificate.thumbprint = "AA:BB" },
]
hub = { contains = "-toasters-", pick = "first", none = "next", keep_current = true }

[[rule]]
name = "payload"
when.payload."zone.floor" = { from = 1, below = 5 }
when.firmware = { from = "12.0", up_to = "13" }
hub = { weights = { a = 1, b = 2.5, c = 0 }, keep_current = true, none = "next" }
tags = { zone = { cel = 'payload.zone' }, list = [1, "two", { cel = 'payload.?three.orValue(3)' }], four = { cel = 'payload.?four' } }

[[rule]]
name = "row"
when.device.hub.present = true
when.cel = 'device.?floor.orValue(0) > 0'
hub = { cel = 'device.?hub', none = { refuse = { cel = '"No hub for " + device.?room.orValue("?") + "."' } } }
desired = { room = { cel = 'device.?room' }, from = { cel = 'request.deviceRuntimeContext.registrationId' }, keys = { cel = 'payload.map(k, k)' } }
payload = { cel = '{"hubs": size(request.linkedHubs), "now": has(request.enrollmentGroup)}' }

[[rule]]
name = "expression"
when = 'request.linkedHubs.exists(h, h.contains("heat")) && payload.?model.orValue("x").lowerAscii().split("-").size() > 1'
hub = { suffix = ["b", ".net"], pick = "last", none = "next" }
payload = { at = 2026-11-22T07:00:00Z, day = 2026-11-22, number = 0x10 }

[[rule]]
name = "spread"
when.linked_hubs.prefix = "a"
hub.pick = "spread"

[[rule]]
name = "last"
refuse = { cel = '"Not you, " + request.deviceRuntimeContext.registrationId + "."' }
`
