// SPDX-License-Identifier: Apache-2.0

package directory

import (
	"bufio"
	"context"
	"encoding/csv"
	"fmt"
	"io"
)

// Export writes the table as CSV, in the order of registration IDs and in the
// form that [Import] reads: an import with the same types gives the same table.
// NULL and empty text are both an empty value. It returns the number of rows.
func (d *Directory) Export(ctx context.Context, w io.Writer, columns []Column) (rows int, err error) {
	buffered := bufio.NewWriter(w)
	out := csv.NewWriter(buffered)
	cells := make([]string, len(columns))
	for i, c := range columns {
		cells[i] = c.Name
	}
	if err := out.Write(cells); err != nil {
		return 0, err
	}
	err = d.Each(ctx, columns, func(values []any) error {
		for i, value := range values {
			cells[i] = toText(value)
		}
		rows++
		return out.Write(cells)
	})
	if err != nil {
		return rows, err
	}
	out.Flush()
	if err := out.Error(); err != nil {
		return rows, fmt.Errorf("writing the CSV: %w", err)
	}
	return rows, buffered.Flush()
}
