// SPDX-License-Identifier: Apache-2.0

package allocation

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
)

// TestElevenCallsOfOneDevice: the service asks up to eleven times, in a row and
// at the same time. All of them get one answer, and they are one device.
func TestElevenCallsOfOneDevice(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"tutorial-toaster", "tutorial-heatpump"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var devices DeviceCounter
			var mu sync.Mutex
			decisions := 0
			handler := NewHandler(Config{Setup: Setup{Policy: Tutorial()}, Observe: func(d Decision) {
				devices.Add(d)
				mu.Lock()
				defer mu.Unlock()
				decisions++
			}})
			body, want := string(golden(t, name+".request.json")), string(golden(t, name+".response.json"))
			var group sync.WaitGroup
			for range 11 {
				group.Go(func() {
					if got := post(handler, "/api/HttpTrigger1", body); got.Code != 200 || got.Body.String() != want {
						t.Errorf("got %d %s, want 200 %s", got.Code, got.Body, want)
					}
				})
			}
			group.Wait()
			if decisions != 11 || devices.Count() != 1 {
				t.Errorf("got %d decisions about %d devices, want 11 about 1", decisions, devices.Count())
			}
		})
	}
}

func TestDeviceCounter(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name string
		ids  []string
		want int
	}{
		{"nobody", nil, 0},
		{"without an ID", []string{"", ""}, 0},
		{"one, in any case", []string{"a-contoso-tstrsd-007", "A-Contoso-TSTRSD-007"}, 1},
		{"two", []string{"a", "b", "a", "b"}, 2},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			var devices DeviceCounter
			for _, id := range test.ids {
				devices.Add(Decision{RegistrationID: id})
			}
			if got := devices.Count(); got != test.want {
				t.Errorf("got %d, want %d", got, test.want)
			}
		})
	}
}

func TestDeviceCounterIsBounded(t *testing.T) {
	t.Parallel()
	var devices DeviceCounter
	for i := range maxDevices + 5 {
		devices.Add(Decision{RegistrationID: fmt.Sprint(i)})
	}
	if got := devices.Count(); got != maxDevices {
		t.Errorf("got %d, want %d", got, maxDevices)
	}
}

// answersOfSeed gives a digest of the webhook's answers to 500 generated
// requests.
func answersOfSeed(t *testing.T) string {
	t.Helper()
	handler := NewHandler(Config{Setup: Setup{Policy: Tutorial()}})
	digest := sha256.New()
	for i := range 500 {
		g := generator{rand.New(rand.NewPCG(8, uint64(i)))}
		response := post(handler, "/api/f", g.request())
		fmt.Fprintf(digest, "%d %s\n", response.Code, response.Body)
	}
	return hex.EncodeToString(digest.Sum(nil))
}

// TestDecideIsPure asks the same questions again and again, at the same time, in
// turn with others, and in another process: there is one answer to each.
func TestDecideIsPure(t *testing.T) {
	t.Parallel()
	const child = "ALLOCATION_TEST_ANSWERS"
	if os.Getenv(child) != "" {
		fmt.Println("answers " + answersOfSeed(t))
		return
	}
	want := answersOfSeed(t)
	var group sync.WaitGroup
	for range 4 {
		group.Go(func() {
			if got := answersOfSeed(t); got != want {
				t.Errorf("got other answers at the same time")
			}
		})
	}
	group.Wait()

	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	again := exec.CommandContext(t.Context(), self, "-test.run=^"+t.Name()+"$")
	again.Env = append(os.Environ(), child+"=1")
	out, err := again.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if !strings.Contains(string(out), "answers "+want) {
		t.Errorf("another process gives other answers: %s", out)
	}
}

// TestDecideKeepsTheQuestion: a policy changes nothing that others hold.
func TestDecideKeepsTheQuestion(t *testing.T) {
	t.Parallel()
	for i := range 200 {
		g := generator{rand.New(rand.NewPCG(9, uint64(i)))}
		body := g.request()
		kept := strings.Clone(body)
		request, err := ParseRequest([]byte(body))
		if err != nil {
			t.Fatal(err)
		}
		before := fmt.Sprintf("%#v", request)
		_, _ = Tutorial().Decide(t.Context(), Question{Request: request})
		if after := fmt.Sprintf("%#v", request); after != before {
			t.Errorf("%s\nbefore %s\nafter  %s", body, before, after)
		}
		if body != kept {
			t.Errorf("the body became %s", body)
		}
	}
}
