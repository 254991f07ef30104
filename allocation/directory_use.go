// SPDX-License-Identifier: Apache-2.0

package allocation

import (
	"context"
	"strings"
	"time"
)

// Directory finds the row of the site's device directory for a registration ID.
// A registration ID that the directory does not have gives false and no error;
// every error is trouble of our own. The ID is valid and in lower case
// (dps-protocol 2.2). The row has every column of the table, and nil for NULL.
// Lookup is called from many goroutines at once and ends when ctx does.
type Directory interface {
	Lookup(ctx context.Context, registrationID string) (row Row, found bool, err error)
}

// DirectoryUser is implemented by a [Policy] that may read the device directory.
// A policy that does not implement it never does.
type DirectoryUser interface {
	DirectoryUse() DirectoryUse
}

// DirectoryUse is what a policy wants of the device directory. It is the same
// for the life of the policy.
type DirectoryUse struct {
	// Used is whether the policy reads the directory at all. Nothing is looked
	// up for one that does not, and the other fields have no meaning then.
	Used bool

	// Missing says what happens to a registration ID without a row, an invalid
	// one included. Empty means [DirectoryRetry].
	Missing DirectoryOutcome

	// Refusal is the sentence of [DirectoryRefuse].
	Refusal string

	// Unavailable says what happens when the directory does not answer in time
	// or at all, or answers with a row that Columns does not fit. It is
	// [DirectoryRetry], also when empty, or [DirectoryDefault]; never a refusal,
	// because trouble of our own is none of the device's.
	Unavailable DirectoryOutcome

	// Default is the row of [DirectoryDefault].
	Default Row

	// Timeout bounds one lookup; zero means [DefaultDirectoryTimeout], and more
	// than [MaxDirectoryTimeout] means that.
	Timeout time.Duration

	// Columns are the columns that the policy reads, and what they hold. A row
	// that lacks one, or has something else in it, is trouble of our own. Other
	// columns are not looked at, but stay in the question: they are in the record
	// of the decision, so that another policy can be tried on it.
	Columns map[string]ColumnType
}

// How long a lookup may take: unless the policy says otherwise, and at most,
// whatever it says. An answer is due within five seconds, and the policy needs
// some of them.
const (
	DefaultDirectoryTimeout = 2 * time.Second
	MaxDirectoryTimeout     = 3 * time.Second
)

// DirectoryTableError says what is wrong with a directory's table. It is known
// for certain and needs a person; trouble with asking is another error.
type DirectoryTableError struct {
	Problems []string // at least one, each without a full stop
}

// Error lists the problems.
func (e *DirectoryTableError) Error() string {
	return "the device directory does not fit: " + strings.Join(e.Problems, "; ")
}

// DirectoryOutcome says how a decision goes on without a row of its own.
type DirectoryOutcome string

// The outcomes, in the words of a policy's file.
const (
	DirectoryRetry   DirectoryOutcome = "retry"   // 503: the service asks again
	DirectoryRefuse  DirectoryOutcome = "refuse"  // 400 with the policy's sentence
	DirectoryDefault DirectoryOutcome = "default" // the policy decides on the default row
)

// ColumnType is what a column of the directory holds.
type ColumnType string

// The types of columns, in the words of a policy's file.
const (
	ColumnText   ColumnType = "text"   // a string
	ColumnNumber ColumnType = "number" // an int64 or a float64
	ColumnBool   ColumnType = "bool"   // a bool, or the int64 0 or 1, which databases keep for one
)
