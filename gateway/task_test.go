// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// testTask becomes ready and ends after given times.
type testTask struct {
	name       string
	readyAfter time.Duration
	endAfter   time.Duration // 0 = when told to
	err        error
	ready      chan struct{}
}

func (t testTask) String() string         { return t.name }
func (t testTask) Ready() <-chan struct{} { return t.ready }

func (t testTask) Run(ctx context.Context) error {
	time.AfterFunc(t.readyAfter, func() { close(t.ready) })
	if t.endAfter > 0 {
		time.Sleep(t.endAfter)
		return t.err
	}
	<-ctx.Done()
	return nil
}

// TestReadyAfterAll: READY waits for the slowest part.
func TestReadyAfterAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		began := time.Now()
		var ready time.Duration
		tasks := []task{
			testTask{name: "quick", ready: make(chan struct{})},
			testTask{name: "slow", readyAfter: time.Minute, ready: make(chan struct{})},
		}
		err := runTasks(ctx, tasks, func() { ready = time.Since(began); cancel() })
		if err != nil || ready != time.Minute {
			t.Errorf("got ready after %s, %v; want a minute and no error", ready, err)
		}
	})
}

// TestFailureEndsAll: what an operator must mend ends the daemon and is named.
func TestFailureEndsAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		broken := errors.New("address in use")
		err := runTasks(t.Context(), []task{
			testTask{name: "good", ready: make(chan struct{})},
			testTask{name: `allocation webhook "x"`, endAfter: time.Second, err: broken, ready: make(chan struct{})},
		}, func() {})
		if !errors.Is(err, broken) || !strings.Contains(err.Error(), `allocation webhook "x"`) {
			t.Errorf("got %v, want the failure with the part's name", err)
		}
		time.Sleep(time.Minute) // let AfterFunc end inside the bubble
	})
}
