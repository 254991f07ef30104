// SPDX-License-Identifier: Apache-2.0

package main

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"syscall"
	"testing"
)

// TestKilled kills a server in the middle of registrations, with SIGKILL. What a
// device was told before holds after a restart: an assignment, and that an
// operation was begun, which the new process ends.
func TestKilled(t *testing.T) {
	const devices, enough = 20, 200
	dir := t.TempDir()
	server := startProcess(t, dir)

	var mu sync.Mutex
	told := make(map[string]string) // registration ID → operation, or "" when it was told that it is assigned
	assigned := 0
	over := func(err error) bool { // or a server that the machine held up for too long has cut one connection
		mu.Lock()
		defer mu.Unlock()
		return assigned >= enough || errors.Is(err, syscall.ECONNREFUSED)
	}
	var workers sync.WaitGroup
	for worker := range devices {
		client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: server.roots}}}
		workers.Go(func() {
			defer client.CloseIdleConnections()
			for i := 0; ; i++ {
				id := fmt.Sprintf("device-%d-%d", worker, i)
				base := "https://" + server.https + "/" + server.scope + "/registrations/" + id
				token := deviceToken(server.scope+"/registrations/"+id, id, groupKey)
				_, status, err := tryCall(client, "PUT", base+"/register?api-version=2021-06-01", token)
				if err != nil && over(err) {
					return
				}
				if err != nil {
					continue
				}
				mu.Lock()
				told[id] = status.OperationID
				mu.Unlock()
				_, status, err = tryCall(client, "GET", base+"/operations/"+status.OperationID+"?api-version=2021-06-01", token)
				if err != nil && over(err) {
					return
				}
				if err != nil {
					continue
				}
				mu.Lock()
				if status.Status == "assigned" {
					told[id] = ""
					if assigned++; assigned == enough {
						_ = server.cmd.Process.Kill()
					}
				}
				mu.Unlock()
			}
		})
	}
	workers.Wait()
	_ = server.cmd.Wait()
	if assigned < enough {
		t.Fatalf("%d devices were assigned before the server ended by itself:\n%s", assigned, server.log.String())
	}

	server = startProcess(t, dir)
	defer func() {
		_ = server.cmd.Process.Kill()
		_ = server.cmd.Wait()
	}()
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: server.roots}}}
	defer client.CloseIdleConnections()
	begun := 0
	for id, operation := range told {
		base := "https://" + server.https + "/" + server.scope + "/registrations/" + id
		token := deviceToken(server.scope+"/registrations/"+id, id, groupKey)
		if operation == "" {
			code, state, err := tryLookup(client, base, token)
			if err != nil || code != 200 || state.Status != "assigned" {
				t.Errorf("%s was told that it is assigned, and now: %d %+v, %v", id, code, state, err)
			}
			continue
		}
		begun++
		code, status, err := tryCall(client, "GET", base+"/operations/"+operation+"?api-version=2021-06-01", token)
		for err == nil && status.Status == "assigning" {
			code, status, err = tryCall(client, "GET", base+"/operations/"+operation+"?api-version=2021-06-01", token)
		}
		if err != nil || status.Status != "assigned" {
			t.Errorf("%s was told of an operation, and now: %d %+v, %v", id, code, status, err)
		}
	}
	t.Logf("%d devices were told that they are assigned and %d that it has begun; all of it holds", len(told)-begun, begun)
}

// tryLookup asks for the state of a registration.
func tryLookup(client *http.Client, base, token string) (int, operationStatus, error) {
	return tryCall(client, "POST", base+"?api-version=2021-06-01", token)
}
