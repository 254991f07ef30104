// SPDX-License-Identifier: Apache-2.0

package conformancetest

import (
	"strings"
	"testing"
)

// TestTranscriptsOfAnotherClient: the plain client registers well, but its packets are not all that the documents name,
// and the readers say so.
func TestTranscriptsOfAnotherClient(t *testing.T) {
	for transport, want := range map[Transport]string{
		HTTPS: "request 1: no document names the header Accept-Encoding",
		MQTT:  "packet 1 (CONNECT): the keep alive is 0 s, want 30 to 240",
	} {
		t.Run(string(transport), func(t *testing.T) {
			transcripts := Record(t, transport, withDefect(""))
			if len(transcripts) != 1 {
				t.Fatalf("%d connections, want 1", len(transcripts))
			}
			_, err := transcripts[0].Read()
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("got %v, want %q", err, want)
			}
		})
	}
}
