// SPDX-License-Identifier: Apache-2.0

// Command appliancesim simulates appliances on serial lines, on pseudo-terminals that any program can open as ports.
//
//	appliancesim [flags] SCRIPT                    the lines that a script describes: a file, or a built-in one's name
//	appliancesim [flags] --toasters N --heatpumps N   toasters with a line each, heat pumps with up to 32 on a line
//	appliancesim replay [flags] RECORDING          what "gatewayctl capture" or the daemon recorded of a line
//	appliancesim scripts [NAME]                    list the built-in scripts, or print one
//
// It prints its ports as they come: a table, or with -o json one object a line. Then it takes commands on standard
// input and answers each of them; help lists them. What happens is logged to standard error. At the end of its input it
// goes on until SIGINT or SIGTERM, so that it can stay in the background.
//
// Exit status: 0 after quit or a signal, 1 for a failure, 2 for wrong usage. docs/appliancesim.md explains scripts and
// commands.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/contoso/gatewayd/serialbus/serialbustest"
)

func main() { os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr)) }

const usage = `usage: appliancesim [flags] SCRIPT
       appliancesim [flags] --toasters N --heatpumps N
       appliancesim replay [--link PATH] [--speed 1] RECORDING
       appliancesim scripts [NAME]`

// errUsage marks an error of the command line.
var errUsage = errors.New("wrong usage")

// run is main without the process around it.
func run(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second signal ends the process at once

	var err error
	switch {
	case len(args) > 0 && args[0] == "scripts":
		err = printScripts(args[1:], stdout)
	case len(args) > 0 && args[0] == "replay":
		err = replay(ctx, args[1:], stdout, stderr)
	default:
		err = simulate(ctx, args, stdin, stdout, stderr)
	}
	switch {
	case err == nil:
		return 0
	case errors.Is(err, flag.ErrHelp):
		return 0
	case errors.Is(err, errUsage):
		fmt.Fprintf(stderr, "appliancesim: %v\n%s\n", err, usage)
		return 2
	default:
		fmt.Fprintln(stderr, "appliancesim:", err)
		return 1
	}
}

// settings are the flags.
type settings struct {
	toasters, heatPumps, baud int
	link, output              string
	seed                      uint64
	verbose                   bool
}

// flagsOf adds the flags to a set.
func flagsOf(flags *flag.FlagSet) *settings {
	s := new(settings)
	flags.IntVar(&s.toasters, "toasters", 0, "`number` of toasters, each on a line of its own")
	flags.IntVar(&s.heatPumps, "heatpumps", 0, "`number` of heat pumps, 32 on a line")
	flags.IntVar(&s.baud, "baud", 0, "with --toasters and --heatpumps: the only `speed` that they understand; 0 = the port's")
	flags.StringVar(&s.link, "link", "", "`directory` for symbolic links to the ports, named like the lines; they stay the same when a line is plugged in again")
	flags.Uint64Var(&s.seed, "seed", 0, "`seed` of faults and noise, in place of the script's")
	flags.StringVar(&s.output, "o", "text", "output `format`: text, or json with one object a line")
	flags.BoolVar(&s.verbose, "v", false, "log every request with its reply")
	flags.Usage = func() {
		fmt.Fprintln(flags.Output(), usage)
		flags.PrintDefaults()
	}
	return s
}

// simulate runs the lines until it is told to stop.
func simulate(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) error {
	flags := flag.NewFlagSet("appliancesim", flag.ContinueOnError)
	flags.SetOutput(stderr)
	s := flagsOf(flags)
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return err
		}
		return fmt.Errorf("%w: %w", errUsage, err)
	}
	script, err := s.script(flags.Args())
	if err != nil {
		return err
	}
	if s.output != "text" && s.output != "json" {
		return fmt.Errorf("%w: -o %q: allowed are text and json", errUsage, s.output)
	}
	level := slog.LevelInfo
	if s.verbose {
		level = slog.LevelDebug
	}
	if s.seed != 0 {
		script.Seed = s.seed
		for i := range script.Lines {
			script.Lines[i].Seed = 0
		}
	}
	if s.link != "" {
		if err := os.MkdirAll(s.link, 0o777); err != nil {
			return fmt.Errorf("making the directory for the links: %w", err)
		}
	}
	log := slog.New(slog.NewTextHandler(stderr, &slog.HandlerOptions{Level: level}))
	return play(ctx, script, s, log, stdin, stdout)
}

// script returns what the command line asks for.
func (s *settings) script(args []string) (*serialbustest.Script, error) {
	counted := s.toasters > 0 || s.heatPumps > 0
	switch {
	case s.toasters < 0 || s.heatPumps < 0:
		return nil, fmt.Errorf("%w: a number of appliances is not negative", errUsage)
	case len(args) == 0 && counted:
		return building(s.toasters, s.heatPumps, s.baud), nil
	case len(args) != 1 || counted:
		return nil, fmt.Errorf("%w: name one script, or a number of toasters and heat pumps", errUsage)
	case s.baud != 0:
		return nil, fmt.Errorf("%w: --baud: the script says it of each line", errUsage)
	}
	text, err := os.ReadFile(args[0])
	if errors.Is(err, fs.ErrNotExist) {
		builtin, unknown := serialbustest.BuiltinScript(args[0])
		if unknown == nil {
			text, err = builtin, nil
		}
	}
	if err != nil {
		return nil, fmt.Errorf("reading the script: %w; \"appliancesim scripts\" lists the built-in ones", err)
	}
	script, err := serialbustest.ParseScript(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", args[0], err)
	}
	return script, nil
}

// printScripts lists the built-in scripts, or prints one.
func printScripts(args []string, stdout io.Writer) error {
	switch len(args) {
	case 0:
		for _, name := range serialbustest.Scripts() {
			fmt.Fprintln(stdout, name)
		}
		return nil
	case 1:
		text, err := serialbustest.BuiltinScript(args[0])
		if err != nil {
			return err
		}
		_, err = stdout.Write(text)
		return err
	default:
		return fmt.Errorf("%w: scripts takes one name at the most", errUsage)
	}
}

// building describes toasters and heat pumps, each with a name of its own.
func building(toasters, heatPumps, baud int) *serialbustest.Script {
	const unitsPerLine = 32
	script := new(serialbustest.Script)
	for i := range toasters {
		script.Lines = append(script.Lines, serialbustest.ScriptLine{
			Name: fmt.Sprintf("toaster%d", i+1), Speaks: "alp", Baud: baud,
			Units: []serialbustest.ScriptUnit{{
				RegistrationID: fmt.Sprintf("breakroom%d-contoso-tstrsd-007", 499+i),
				Vendor:         "Contoso", Model: "TSTRSD-007", Serial: fmt.Sprint(499 + i), Firmware: "12.0.2.5", Provisioning: "1.0.0.0",
			}},
		})
	}
	for first := 0; first < heatPumps; first += unitsPerLine {
		line := serialbustest.ScriptLine{Name: fmt.Sprintf("heatpumps%d", first/unitsPerLine+1), Speaks: "modbus-rtu", Baud: baud}
		for i := first; i < min(first+unitsPerLine, heatPumps); i++ {
			line.Units = append(line.Units, heatPump(i-first+1, 167+i))
		}
		script.Lines = append(script.Lines, line)
	}
	return script
}

// heatPump describes an HPSD-088.
func heatPump(unit, number int) serialbustest.ScriptUnit {
	return serialbustest.ScriptUnit{
		Units: fmt.Sprint(unit),
		Objects: map[string]string{
			"0": "Contoso", "1": "HPSD-088", "2": "12.0.2.5",
			"0x80": fmt.Sprintf("mainbuilding%d-contoso-hpsd-088", number), "0x81": fmt.Sprint(number), "0x82": "1.0.0.0",
		},
		ServerID:  "Contoso-HPSD-088-12.0.2.5",
		Registers: map[string]uint16{"0-199": 0},
		Settings: []serialbustest.ScriptSetting{
			{Name: "state", Register: 100, Max: 1, Words: map[string]uint16{"off": 0, "on": 1}},
			{Name: "temperatureSetting", Register: 101, Min: 400, Max: 900, Scale: 10, Start: int64(600)},
		},
	}
}
