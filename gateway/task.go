// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"context"
	"errors"
	"fmt"
	"sync"
)

// task is a part of the daemon that runs as long as the daemon does.
type task interface {
	// Run works until ctx ends and then returns nil. An error ends the
	// daemon, so it is only for what an operator must mend.
	Run(ctx context.Context) error
	// Ready closes once, when the part is at work.
	Ready() <-chan struct{}
	// String names the part: serial line "/dev/ttyUSB0".
	String() string
}

// runTasks runs the tasks until ctx ends or one of them fails, and waits for
// all. ready is called once, when every task has become ready.
func runTasks(ctx context.Context, tasks []task, ready func()) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var group sync.WaitGroup
	for _, t := range tasks {
		group.Go(func() {
			if err := t.Run(ctx); err != nil {
				cancel(fmt.Errorf("%s: %w", t, err))
			}
		})
	}
	group.Go(func() {
		for _, t := range tasks {
			select {
			case <-t.Ready():
			case <-ctx.Done():
				return
			}
		}
		ready()
	})
	<-ctx.Done()
	group.Wait()
	if cause := context.Cause(ctx); !errors.Is(cause, context.Canceled) {
		return cause
	}
	return nil
}
