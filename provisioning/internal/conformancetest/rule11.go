// SPDX-License-Identifier: Apache-2.0

package conformancetest

import "strings"

// rule11 is about registration IDs.
var rule11 = []Case{
	{
		Rule: 11, Name: "an ID that the documented rule forbids is refused before anything is sent",
		Peer: "every SDK: the service is asked, and its answer is one of several",
		check: func(tr *Trial) {
			for _, id := range []string{
				"", "dev.", "dev_", "dev:", "a b", "a/b", "a@b", "../x", "a?b", "a#b", "a%41", "gerät", "a\nb", "a\x00", " dev", strings.Repeat("a", 129),
			} {
				tr.part(abbreviated(id), func(tr *Trial) {
					_, _ = tr.register(device(id), EndInvalid)
					if n := len(tr.Service.Connections()); n != 0 {
						tr.find("%d connections were made", n)
					}
				})
			}
		},
	},
	{
		Rule: 11, Name: "an ID that the documented rule allows arrives as it is spelled",
		Peer: "Edge: the resource of the token is lower-cased, and hubs tell the cases apart",
		check: func(tr *Trial) {
			for _, id := range []string{"a", "-", "Dev:A_1.x-Y", "sn-007-888-abc-mac-a1-b2-c3-d4-e5-f6", strings.Repeat("a", 128)} {
				tr.part(abbreviated(id), func(tr *Trial) {
					tr.Service.Script = InOrder(Assigning("1"), Assigned(Operation))
					_, _ = tr.register(device(id), EndAssigned)
					for _, q := range tr.Service.Requests() {
						if q.RegistrationID != id {
							tr.find("a %s of %q arrived", q.Do, q.RegistrationID)
						}
						if q.Do == "register" && !strings.Contains(q.Body, `"registrationId":"`+id+`"`) {
							tr.find("the body %s names another ID", q.Body)
						}
					}
				})
			}
		},
	},
}
