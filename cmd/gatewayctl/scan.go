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
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/contoso/gatewayd/serialbus"
)

// newScanCommand builds scan.
func newScanCommand() *cobra.Command {
	var line serialbus.Config
	var driver, parity, baud, units, output string
	var fast bool
	cmd := &cobra.Command{
		Use:   "scan --port PATH --driver modbus-rtu|line",
		Short: "Say who is on a serial line, and what is wrong with it",
		Long: `Scan looks once at every address of a line and says who answers and what is wrong.
It works without the daemon, which must not hold the port, and changes no setting of
any appliance. Ctrl-C ends it and shows what was found so far. It fails if nobody
answers. Where another master talks it asks nothing more and says so.`,
		Example: `  gatewayctl scan --port /dev/ttyUSB0 --driver modbus-rtu --units 1-32
  gatewayctl scan --port /dev/ttyUSB0 --driver modbus-rtu --baud auto --fast
  gatewayctl scan --port /dev/ttyUSB0 --driver line --profile oven.toml`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if output != "text" && output != "json" {
				return wrongUsage(cmd, "--output %q is neither text nor json", output)
			}
			line.Driver, line.Parity = serialbus.Driver(driver), serialbus.Parity(parity)
			if err := ownProfile(&line); err != nil {
				return wrongUsage(cmd, "--profile %s: %v", line.Profile, err)
			}
			if line.AutoBaud = baud == "auto"; !line.AutoBaud && baud != "" {
				n, err := strconv.Atoi(baud)
				if err != nil {
					return wrongUsage(cmd, "--baud %q is neither a number nor auto", baud)
				}
				line.Baud = n
			}
			if line.Driver == serialbus.DriverModbusRTU {
				list, err := serialbus.ParseUnits(units)
				if err != nil {
					return wrongUsage(cmd, "--units: %v", err)
				}
				line.Units = list
			}
			if err := line.Validate(); err != nil {
				return wrongUsage(cmd, "%s", strings.ReplaceAll(err.Error(), "\n", "; "))
			}
			return runScan(cmd.Context(), line, fast, output == "json", cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&line.Port, "port", "", "the tty of the line (required)")
	flags.StringVar(&driver, "driver", "", "modbus-rtu or line (required)")
	flags.StringVar(&line.Profile, "profile", "", "the profile of the product, by its name or as a file (x.toml); the driver line needs one")
	flags.StringVar(&baud, "baud", "", "speed of the line, or auto to search it (default: the profile's)")
	flags.StringVar(&parity, "parity", "", "parity of the line: none, even or odd (default: the profile's)")
	flags.StringVar(&units, "units", "1-247", "the Modbus addresses to look at, such as 1-32,40")
	flags.BoolVar(&fast, "fast", false, "leave out the slow second look at silent addresses")
	flags.StringVarP(&output, "output", "o", "text", "text, or json: one object a line")
	return cmd
}

// ownProfile reads a profile that was given as a file, as a site writes its own.
func ownProfile(line *serialbus.Config) error {
	if !strings.HasSuffix(line.Profile, ".toml") {
		return nil
	}
	text, err := readFile(line.Profile)
	if err != nil {
		return err
	}
	profile, err := serialbus.ParseProfile(text)
	if err != nil {
		return err
	}
	line.Profile, line.Profiles = profile.Name, []serialbus.Profile{profile}
	return nil
}

// scanRow is an appliance as -o json shows it, and troubleRow a diagnosis.
type scanRow struct {
	Unit           int    `json:"unit"`
	Heard          string `json:"heard"`
	Speed          string `json:"speed"`
	Vendor         string `json:"vendor,omitempty"`
	Model          string `json:"model,omitempty"`
	Serial         string `json:"serial,omitempty"`
	Firmware       string `json:"firmware,omitempty"`
	RegistrationID string `json:"registrationId,omitempty"`
	Source         string `json:"source,omitempty"`
	Confidence     string `json:"confidence,omitempty"`
}

type troubleRow struct {
	Kind    string `json:"kind"`
	Units   []int  `json:"units,omitempty"`
	Heard   string `json:"heardInNumbers"`
	Verdict string `json:"verdict"`
	Owner   string `json:"owner"`
	Next    string `json:"next"`
}

// runScan scans a line and shows what came of it.
func runScan(ctx context.Context, line serialbus.Config, fast, asJSON bool, out, errOut io.Writer) error {
	bar := scanBar(errOut)
	speed := "" // as tried last; of the line where anybody answered
	result, err := serialbus.Scan(ctx, line, serialbus.ScanOptions{Fast: fast}, func(p serialbus.Progress) {
		speed = p.Speed
		bar.draw(progressText(p))
	})
	bar.clear()
	rows := newTable(out, "UNIT", "HEARD", "VENDOR", "MODEL", "SERIAL", "FIRMWARE", "REGISTRATION ID", "SOURCE", "SURE OF")
	found, shown := 0, 0
	for _, f := range result.Findings {
		if f.Heard == serialbus.HeardSilence {
			continue
		}
		if shown++; f.Heard != serialbus.HeardNoise {
			found++
		}
		id, sure := f.Identity, ""
		if f.Heard == serialbus.HeardIdentity {
			sure = string(id.Sure())
		}
		if asJSON {
			if err := printJSON(out, scanRow{f.Unit, string(f.Heard), speed, id.Vendor, id.Model, id.Serial, id.Firmware, id.RegistrationID, id.Source, sure}); err != nil {
				return err
			}
			continue
		}
		rows.row(fmt.Sprint(f.Unit), string(f.Heard), id.Vendor, id.Model, id.Serial, id.Firmware, id.RegistrationID, id.Source, sure)
	}
	if !asJSON && shown > 0 {
		if err := rows.end(); err != nil {
			return err
		}
	}
	if !asJSON && line.AutoBaud && found > 0 {
		fmt.Fprintf(out, "The line talks at %s.\n", speed)
	}
	for _, d := range result.Diagnoses {
		if asJSON {
			if err := printJSON(out, troubleRow{string(d.Kind), d.Units, d.Heard, d.Verdict, d.Owner, d.Next}); err != nil {
				return err
			}
			continue
		}
		fmt.Fprintf(out, "%s.\n  Heard: %s.\n  Next: %s\n  Kind: %s\n", d.Verdict, d.Heard, d.Next, d.Kind)
	}
	if left := unitsLeft(line.Units, result.Findings, fast); err != nil && left != "" && len(result.Findings) > 0 {
		defer fmt.Fprintf(errOut, "  Next: --units %s scans the rest.\n", left)
	}
	switch {
	case errors.Is(err, context.Canceled):
		fmt.Fprintf(errOut, "gatewayctl: the scan was stopped; %d of the addresses were looked at.\n", len(result.Findings))
		return errReported
	case err != nil && serialbus.Diagnose(err) == nil:
		return err
	case err != nil, found == 0:
		return errReported
	}
	return nil
}

// unitsLeft lists, as --units takes them, the addresses that a stopped scan has not looked at, or not as well as it was
// to: a silent one is looked at a second time unless the scan is fast.
func unitsLeft(units []byte, findings []serialbus.Finding, fast bool) string {
	looked := make(map[int]bool)
	for _, f := range findings {
		looked[f.Unit] = fast || f.Slow || f.Heard != serialbus.HeardSilence
	}
	var left []string
	for i := 0; i < len(units); i++ {
		if looked[int(units[i])] {
			continue
		}
		first := units[i]
		for i+1 < len(units) && units[i+1] == units[i]+1 && !looked[int(units[i+1])] {
			i++
		}
		if text := strconv.Itoa(int(first)); units[i] == first {
			left = append(left, text)
		} else {
			left = append(left, text+"-"+strconv.Itoa(int(units[i])))
		}
	}
	return strings.Join(left, ",")
}

// scanBar is the progress line where standard error is a terminal, else nil.
func scanBar(errOut io.Writer) *progressLine {
	file, ok := errOut.(*os.File)
	if !ok || !term.IsTerminal(int(file.Fd())) {
		return nil
	}
	return &progressLine{to: file, width: func() int {
		if width, _, err := term.GetSize(int(file.Fd())); err == nil && width > 0 {
			return width
		}
		return 80
	}}
}

// progressText is one line of progress, in ASCII, which progressLine can cut. It fits a terminal of 80 columns; one of 40
// cuts what matters least.
func progressText(p serialbus.Progress) string {
	const width = 8
	full := p.Percent * width / 100
	return fmt.Sprintf("[%s%s] %3d%%  unit %d, %s left, %d found, %s, %s",
		strings.Repeat("#", full), strings.Repeat(".", width-full), p.Percent, p.Unit, p.Left.Round(time.Second), p.Found, p.Step, p.Speed)
}
