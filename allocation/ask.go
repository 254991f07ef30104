// SPDX-License-Identifier: Apache-2.0

package allocation

import (
	"context"
	"maps"
)

// Ask asks a policy what the webhook would answer to a question, without a
// webhook: with its checks, its limit on thinking and the policy's own word on a
// device without a row. A nil Device means that the directory has no row.
//
// The error is what stood in the way of an answer; the answer is 503 then, and
// the service would ask again.
func Ask(ctx context.Context, policy Policy, question Question) (Answer, error) {
	directory := onlyRow{question.Device}
	if question.Device != nil {
		// A row by hand, or of a record, leaves out what is NULL.
		directory.row = maps.Clone(question.Device)
		for column := range directoryUse(policy).Columns {
			if _, there := directory.row[column]; !there {
				directory.row[column] = nil
			}
		}
	}
	return AskWith(ctx, policy, directory, question.Request)
}

// AskWith is [Ask] with a whole directory to look the device up in, which may be
// nil.
func AskWith(ctx context.Context, policy Policy, directory Directory, request Request) (Answer, error) {
	setup := Setup{Policy: policy, Directory: directory}.clone()
	decided := setup.decideHere(ctx, request)
	return Answer{Status: decided.Status, Rule: decided.Rule, Response: decided.wire, Refusal: decided.Refusal}, decided.cause
}

// onlyRow is a directory in which every device has the same row, or none.
type onlyRow struct{ row Row }

// Lookup gives the row.
func (o onlyRow) Lookup(context.Context, string) (Row, bool, error) { return o.row, o.row != nil, nil }
