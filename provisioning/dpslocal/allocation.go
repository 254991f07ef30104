// SPDX-License-Identifier: Apache-2.0

package dpslocal

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"
)

// decide finds the hub for an operation, or why there is none. Its error means
// that there is no outcome yet: the server is stopping, or the store failed.
func (s *service) decide(ctx context.Context, record *Operation, r Registration) (verdict, error) {
	enrollment, ok := s.enrollments.find(record.EnrollmentKind, record.EnrollmentID)
	if !ok {
		return verdict{code: codeUnknown, message: "The enrollment does not exist any more."}, nil
	}
	v := verdict{enrollment: enrollment, keyID: record.KeyID, certificates: splitCertificates(record.Certificates)}
	if enrollment.ProvisioningStatus == Disabled {
		return v, nil
	}
	candidates := s.candidates(enrollment, r)
	switch enrollment.AllocationPolicy {
	case Custom:
		return s.allocateByWebhook(ctx, record, r, v, candidates)
	case Static:
		v.hub = candidates[0]
	case GeoLatency:
		v.hub = nearest(s.hubNames, candidates)
	default:
		v.hub = rendezvous(candidates, s.weights, strings.ToLower(r.ID))
	}
	return v, nil
}

// candidates are the hubs that a device may go to: the enrollment's, or all
// that are linked; only the current one when the device must not move
// (dps-protocol 12.1 and 19.1).
func (s *service) candidates(enrollment Enrollment, r Registration) []string {
	if enrollment.ReprovisionPolicy == ReprovisionNever && containsFold(s.hubNames, r.AssignedHub) {
		return []string{r.AssignedHub}
	}
	var chosen []string
	for _, name := range enrollment.Hubs {
		// A hub can have been unlinked since the enrollment was stored.
		if containsFold(s.hubNames, name) {
			chosen = append(chosen, name)
		}
	}
	if len(chosen) == 0 {
		return s.hubNames
	}
	return chosen
}

// nearest is the first linked hub that is a candidate; their order stands for
// distance, as good a choice as any without a network to measure
// (dps-protocol 10.3).
func nearest(linked, candidates []string) string {
	for _, name := range linked {
		if containsFold(candidates, name) {
			return name
		}
	}
	return candidates[0]
}

// containsFold tells whether a host name is among others; host names have no case.
func containsFold(names []string, name string) bool {
	return slices.ContainsFunc(names, func(n string) bool { return strings.EqualFold(n, name) })
}

// rendezvous picks the hub whose hash together with the ID, raised by its
// weight, is highest: each hub gets its share, and one that comes or goes moves
// only that. The service's own hash is not known (dps-protocol 10.3).
func rendezvous(hubs []string, weights map[string]int, id string) string {
	var best string
	var highest float64
	for _, hub := range hubs {
		name := strings.ToLower(hub)
		sum := sha256.Sum256([]byte(name + "\n" + id))
		// A uniform number between 0 and 1, neither included.
		uniform := (float64(binary.BigEndian.Uint64(sum[:8])>>11) + 0.5) / (1 << 53)
		if score := -float64(max(weights[name], 1)) / math.Log(uniform); best == "" || score > highest {
			best, highest = hub, score
		}
	}
	return best
}

// The documented retry policy for a webhook that is in trouble
// (dps-protocol 12.5): 1, 10, 19, ... 82 seconds before the ten retries.
const (
	webhookRetries   = 10
	webhookInitial   = 1 * time.Second
	webhookIncrement = 9 * time.Second
)

// webhookDelay is the wait before retry n, n = 1 to webhookRetries.
func webhookDelay(n int) time.Duration {
	return webhookInitial + time.Duration(n-1)*webhookIncrement
}

// allocateByWebhook asks the webhook, and again while it is in trouble. How far
// that has come is stored before each wait.
func (s *service) allocateByWebhook(ctx context.Context, record *Operation, r Registration, v verdict, linked []string) (verdict, error) {
	request := newAllocationRequest(v.enrollment, *record, r, linked)
	for {
		if err := sleepUntil(ctx, record.NextCall); err != nil {
			return verdict{}, err
		}
		outcome := s.webhook.post(ctx, v.enrollment, request)
		if ctx.Err() != nil {
			return verdict{}, ctx.Err() // the call was cut short by us and does not count
		}
		record.WebhookCalls++
		if !outcome.again() || record.WebhookCalls > webhookRetries {
			return outcome.conclude(v, linked), nil
		}
		delay := webhookDelay(record.WebhookCalls)
		record.NextCall = time.Now().Add(delay)
		err := s.insist(ctx, "storing the progress", func() error {
			return s.store.SaveProgress(ctx, record.ID, record.WebhookCalls, record.NextCall)
		})
		if err != nil {
			return verdict{}, fmt.Errorf("storing the progress: %w", err)
		}
		s.logger.Warn("webhook in trouble", "registration_id", record.RegistrationID, "operation_id", record.ID,
			"attempt", record.WebhookCalls, "retry_in", delay, "err", outcome.trouble())
	}
}

// sleepUntil waits for a moment, or for ctx.
func sleepUntil(ctx context.Context, moment time.Time) error {
	left := time.Until(moment)
	if left <= 0 {
		return ctx.Err()
	}
	timer := time.NewTimer(left)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}
