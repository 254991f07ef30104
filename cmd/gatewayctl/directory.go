// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/contoso/gatewayd/allocation"
	"github.com/contoso/gatewayd/allocation/directory"
	"github.com/contoso/gatewayd/provisioning"
)

// newDirectoryCommand builds directory and what is below it.
func newDirectoryCommand() *cobra.Command {
	return newParentCommand("directory", "The site's device directory, whose rows allocation policies read",
		`Directory fills and shows the device directory: a table "devices" with a column
"registration_id" and whatever other columns the site has. It is a SQLite file, or
a PostgreSQL database, whose URL stands in a file because it may hold a password.
The webhook of gatewayd reads it, also while it is imported.`,
		newDirectoryImportCommand(), newDirectoryShowCommand(), newDirectoryListCommand(), newDirectoryExportCommand())
}

// directoryPlace is where a command finds the directory.
type directoryPlace struct{ file, urlFile string }

func (p *directoryPlace) add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&p.file, "directory", "", "SQLite `file` with the table devices")
	cmd.Flags().StringVar(&p.urlFile, "directory-url-file", "", "`file` with the URL of a PostgreSQL database: postgres://user@host/database?sslmode=verify-full")
}

func (p *directoryPlace) config(cmd *cobra.Command) (directory.Config, error) {
	switch {
	case (p.file == "") == (p.urlFile == ""):
		return directory.Config{}, wrongUsage(cmd, "give exactly one of --directory and --directory-url-file")
	case strings.Contains(p.file, "://"):
		return directory.Config{}, wrongUsage(cmd, "--directory is the path of a SQLite file; put the URL of a PostgreSQL database into a file and give --directory-url-file")
	case p.file != "":
		return directory.Config{File: p.file}, nil
	}
	url, err := readFile(p.urlFile)
	if err != nil {
		return directory.Config{}, err
	}
	return directory.Config{URL: string(url)}, nil
}

// directoryCommand builds a command that reads the directory; run gets it open,
// and its columns.
func directoryCommand(cmd *cobra.Command, run func(cmd *cobra.Command, args []string, d *directory.Directory, columns []directory.Column) error) *cobra.Command {
	place := &directoryPlace{}
	place.add(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		config, err := place.config(cmd)
		if err != nil {
			return err
		}
		d, err := directory.Open(config)
		if err != nil {
			return err
		}
		defer d.Close()
		columns, err := d.Columns(cmd.Context())
		if err != nil {
			return directoryError{err}
		}
		return run(cmd, args, d, columns)
	}
	return cmd
}

// newDirectoryShowCommand builds directory show.
func newDirectoryShowCommand() *cobra.Command {
	output := ""
	cmd := directoryCommand(&cobra.Command{
		Use:   "show ID",
		Short: "Show the row of one device",
		Long: `Show looks a registration ID up as the webhook does and prints its row; what is
NULL is left out, since a policy does not see it either.`,
		Example: "  gatewayctl directory show --directory devices.db breakroom499-contoso-tstrsd-007",
		Args:    oneID("device"),
	}, func(cmd *cobra.Command, args []string, d *directory.Directory, columns []directory.Column) error {
		if err := checkOutput(cmd, output); err != nil {
			return err
		}
		row, found, err := d.Lookup(cmd.Context(), args[0])
		switch {
		case err != nil:
			return err
		case !found:
			return fmt.Errorf("the device directory has no row for %s", cell(args[0]))
		}
		if output == "json" {
			return printJSON(cmd.OutOrStdout(), withoutNULLs(row))
		}
		lines := newFacts(cmd.OutOrStdout())
		for _, column := range columns {
			if value := row[column.Name]; value != nil {
				lines.add(column.Name, fmt.Sprint(value))
			}
		}
		return lines.end()
	})
	cmd.Flags().StringVarP(&output, "output", "o", "text", "text, or json: one object")
	return cmd
}

func withoutNULLs(row allocation.Row) allocation.Row {
	for name, value := range row {
		if value == nil {
			delete(row, name)
		}
	}
	return row
}

// newDirectoryListCommand builds directory list.
func newDirectoryListCommand() *cobra.Command {
	output, onlyColumns := "", false
	cmd := directoryCommand(&cobra.Command{
		Use:     "list",
		Short:   "List every device, or the columns of the table",
		Long:    `List prints every row in the order of registration IDs.`,
		Example: "  gatewayctl directory list --directory devices.db\n  gatewayctl directory list --directory devices.db --columns",
		Args:    noArguments,
	}, func(cmd *cobra.Command, _ []string, d *directory.Directory, columns []directory.Column) error {
		if err := checkOutput(cmd, output); err != nil {
			return err
		}
		if onlyColumns {
			return listColumns(cmd.OutOrStdout(), output, columns)
		}
		return listDevices(cmd, output, d, columns)
	})
	cmd.Flags().BoolVar(&onlyColumns, "columns", false, "list the columns, and what each holds")
	cmd.Flags().StringVarP(&output, "output", "o", "text", "text, or json: one object a line")
	return cmd
}

func listColumns(out io.Writer, output string, columns []directory.Column) error {
	if output == "json" {
		for _, c := range columns {
			if err := printJSON(out, map[string]string{"column": c.Name, "type": string(c.Type), "declared": c.Declared}); err != nil {
				return err
			}
		}
		return nil
	}
	t := newTable(out, "COLUMN", "HOLDS", "DECLARED")
	for _, c := range columns {
		t.row(c.Name, string(c.Type), c.Declared)
	}
	return t.end()
}

func listDevices(cmd *cobra.Command, output string, d *directory.Directory, columns []directory.Column) (err error) {
	if output == "json" {
		return d.Each(cmd.Context(), columns, func(values []any) error {
			row := allocation.Row{}
			for i, value := range values {
				if value != nil {
					row[columns[i].Name] = value
				}
			}
			return printJSON(cmd.OutOrStdout(), row)
		})
	}
	var head []string
	for _, c := range columns {
		head = append(head, strings.ToUpper(strings.ReplaceAll(c.Name, "_", " ")))
	}
	t := newTable(cmd.OutOrStdout(), head...)
	defer func() { err = errors.Join(err, t.end()) }()
	return d.Each(cmd.Context(), columns, func(values []any) error {
		cells := make([]string, len(values))
		for i, value := range values {
			if value != nil {
				cells[i] = fmt.Sprint(value)
			}
		}
		t.row(cells...)
		return nil
	})
}

// newDirectoryExportCommand builds directory export.
func newDirectoryExportCommand() *cobra.Command {
	return directoryCommand(&cobra.Command{
		Use:   "export",
		Short: "Write the table as CSV",
		Long: `Export writes the table to standard output as CSV, in the order of registration
IDs, in the form that import reads. What is NULL becomes an empty value. Standard
error tells the --types with which an import gives the same table.`,
		Example: "  gatewayctl directory export --directory devices.db >devices.csv",
		Args:    noArguments,
	}, func(cmd *cobra.Command, _ []string, d *directory.Directory, columns []directory.Column) error {
		if _, err := d.Export(cmd.Context(), cmd.OutOrStdout(), columns); err != nil {
			return err
		}
		if types := typesText(columns); types != "" {
			fmt.Fprintf(cmd.ErrOrStderr(), "Import it into another directory with --types %s\n", types)
		}
		return nil
	})
}

// typesText is the value of --types for columns.
func typesText(columns []directory.Column) string {
	var all []string
	for _, c := range columns {
		if c.Type == allocation.ColumnNumber || c.Type == allocation.ColumnBool {
			all = append(all, c.Name+"="+string(c.Type))
		}
	}
	return strings.Join(all, ",")
}

// newDirectoryImportCommand builds directory import.
func newDirectoryImportCommand() *cobra.Command {
	place := &directoryPlace{}
	var options directory.ImportOptions
	var types, delimiter, output string
	cmd := &cobra.Command{
		Use:   "import FILE.csv",
		Short: "Fill the directory from a CSV file, all of it or nothing",
		Long: `Import reads a CSV file: a line of column names, one of them registration_id, then
one line for each device. Its rows are added to the table, or take new values in
the columns of the file; with --replace the table has these rows and columns and
no others. A SQLite file or a table that is not there is made.

Columns hold text unless --types says number or bool; those of a table that is
there keep their types. An empty value is NULL. Upper case in a registration ID
becomes lower case.

Every bad line is told with its number, its column and the reason, and one bad
line keeps all others out, unless --skip-bad is given. Whoever reads the table
meanwhile sees the old one or the new one, and an import that is killed leaves
the old one. The name - stands for standard input.`,
		Example: "  gatewayctl directory import --directory devices.db --types floor=number,wired=bool devices.csv\n  gatewayctl directory import --directory-url-file url --replace --dry-run devices.csv",
		Args:    oneFile("one CSV file"),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			if err := checkOutput(cmd, output); err != nil {
				return err
			}
			if options.Types, err = directory.ParseTypes(types); err != nil {
				return wrongUsage(cmd, "--types: %w", err)
			}
			if options.Delimiter, err = parseDelimiter(delimiter); err != nil {
				return wrongUsage(cmd, "%w", err)
			}
			config, err := place.config(cmd)
			if err != nil {
				return err
			}
			return importDirectory(cmd, config, args[0], options, output)
		},
	}
	place.add(cmd)
	cmd.Flags().StringVar(&types, "types", "", "what `columns` hold that hold no text: COLUMN=number or COLUMN=bool, separated by commas")
	cmd.Flags().BoolVar(&options.Replace, "replace", false, "remove the rows and columns that the file does not have")
	cmd.Flags().BoolVar(&options.DryRun, "dry-run", false, "read the whole file and change nothing")
	cmd.Flags().BoolVar(&options.SkipBad, "skip-bad", false, "import the good lines of a file with bad ones")
	cmd.Flags().StringVar(&delimiter, "delimiter", ",", "the `character` between the values; tab for a tabulator")
	cmd.Flags().StringVarP(&output, "output", "o", "text", "text, or json: one object")
	return cmd
}

// parseDelimiter reads what stands between values.
func parseDelimiter(text string) (rune, error) {
	if text == "tab" {
		return '\t', nil
	}
	r, size := utf8.DecodeRuneInString(text)
	if size != len(text) || r == utf8.RuneError || strings.ContainsRune("\"\r\n", r) {
		return 0, fmt.Errorf("--delimiter %q is neither one character nor tab", text)
	}
	return r, nil
}

func importDirectory(cmd *cobra.Command, config directory.Config, path string, options directory.ImportOptions, output string) error {
	file, size := cmd.InOrStdin(), int64(0)
	if path != "-" {
		opened, err := os.Open(path)
		if err != nil {
			return err
		}
		defer opened.Close()
		if info, err := opened.Stat(); err == nil {
			size = info.Size()
		}
		file = opened
	}
	bar := scanBar(cmd.ErrOrStderr())
	options.Progress = func(read int64, rows int) { bar.draw(importText(read, size, rows)) }
	report, err := directory.Import(cmd.Context(), config, file, options)
	bar.clear()
	if err != nil {
		if errors.Is(err, context.Canceled) {
			return errors.New("interrupted; the table is as it was")
		}
		return directoryError{err}
	}
	if output == "json" {
		err = printJSON(cmd.OutOrStdout(), importJSON(report))
	} else {
		err = tellImport(cmd, report, options)
	}
	if err == nil && importFailed(report, options) {
		err = errReported
	}
	return err
}

// importFailed tells whether a file was refused. Bad lines that are to be skipped
// are no failure, a head without columns is one.
func importFailed(report directory.Report, options directory.ImportOptions) bool {
	return report.BadLines > 0 && (!options.SkipBad || len(report.Columns) == 0)
}

// importText is one line of progress.
func importText(read, size int64, rows int) string {
	if size == 0 {
		return fmt.Sprintf("%d rows", rows)
	}
	return fmt.Sprintf("%3d%%  %d rows", min(read*100/size, 100), rows)
}

// tellImport shows a person what was found: problems on standard error, the
// outcome on standard output.
func tellImport(cmd *cobra.Command, report directory.Report, options directory.ImportOptions) error {
	for _, problem := range report.Problems {
		fmt.Fprintln(cmd.ErrOrStderr(), problem)
	}
	if len(report.Problems) == directory.MaxProblems {
		fmt.Fprintf(cmd.ErrOrStderr(), "…; %d lines are bad in all\n", report.BadLines)
	}
	if importFailed(report, options) {
		fmt.Fprintf(cmd.ErrOrStderr(), "gatewayctl: nothing is imported; %d good, %s\n", report.Rows, counted(report.BadLines, "bad line"))
		next := "mend the file, or import only its good lines with --skip-bad."
		if len(report.Columns) == 0 {
			next = "mend the file."
		}
		fmt.Fprintln(cmd.ErrOrStderr(), "  Next:", next)
		return nil
	}
	lines := newFacts(cmd.OutOrStdout())
	imported := "Rows imported"
	if options.DryRun {
		imported = "Rows to import"
	}
	lines.add(imported, strconv.Itoa(report.Rows))
	if report.BadLines > 0 {
		lines.add("Bad lines left out", strconv.Itoa(report.BadLines))
	}
	if report.Lowered > 0 {
		lines.add("IDs put in lower case", strconv.Itoa(report.Lowered))
	}
	if report.Imported {
		lines.add("Rows in the table", fmt.Sprintf("%d, before %d", report.After, report.Before))
	}
	var columns []string
	for _, c := range report.Columns {
		columns = append(columns, c.Name+" "+string(c.Type))
	}
	lines.add("Columns", strings.Join(columns, ", "))
	return lines.end()
}

// importJSON is a report for programs.
func importJSON(report directory.Report) any {
	type problem struct {
		Line   int    `json:"line,omitempty"`
		Field  int    `json:"field,omitempty"`
		Column string `json:"column,omitempty"`
		Reason string `json:"reason"`
	}
	problems := []problem{}
	for _, p := range report.Problems {
		problems = append(problems, problem(p))
	}
	columns := map[string]allocation.ColumnType{}
	for _, c := range report.Columns {
		columns[c.Name] = c.Type
	}
	return struct {
		Imported bool                             `json:"imported"`
		Rows     int                              `json:"rows"`
		BadLines int                              `json:"badLines"`
		Lowered  int                              `json:"lowered"`
		Before   int                              `json:"before"`
		After    int                              `json:"after"`
		Columns  map[string]allocation.ColumnType `json:"columns"`
		Problems []problem                        `json:"problems"`
	}{report.Imported, report.Rows, report.BadLines, report.Lowered, report.Before, report.After, columns, problems}
}

// nextForDirectory says what to do about an error of the directory, if it is one.
func nextForDirectory(err error) (next string, ok bool) {
	var wrong *allocation.DirectoryTableError
	if errors.As(err, &wrong) {
		return "gatewayctl directory import makes the table; gatewayctl directory list --columns shows what it has.", true
	}
	if _, of := errors.AsType[directoryError](err); of && provisioning.Verdict(err).Kind == "connection-refused" {
		return "start PostgreSQL there, or mend the host and the port of the URL.", true
	}
	return "", false
}

// directoryError says that the directory failed, and no service of Azure's.
type directoryError struct{ error }

// Unwrap gives what is wrong.
func (e directoryError) Unwrap() error { return e.error }
