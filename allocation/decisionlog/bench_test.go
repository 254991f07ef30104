// SPDX-License-Identifier: Apache-2.0

package decisionlog

import (
	"bytes"
	"os"
	"testing"
	"time"

	"github.com/contoso/gatewayd/allocation"
)

// BenchmarkAppendRecord writes the tutorial's decision into memory, which the
// writer's goroutine does for each request beside answering it.
func BenchmarkAppendRecord(b *testing.B) {
	read := func(name string) []byte {
		document, err := os.ReadFile("../testdata/tutorial-toaster." + name + ".json")
		if err != nil {
			b.Fatal(err)
		}
		return document
	}
	record, _ := FromDecision(allocation.Decision{
		Time: time.Now(), RegistrationID: "breakroom499-contoso-tstrsd-007", Status: 200, Source: allocation.SourcePolicy, Rule: "toasters",
		Duration: 31 * time.Microsecond, Request: read("request"), Response: read("response"),
	})
	var out bytes.Buffer
	b.ReportAllocs()
	for b.Loop() {
		out.Reset()
		if err := appendRecord(&out, record); err != nil {
			b.Fatal(err)
		}
	}
}
