// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"net/http"
	"strings"

	"github.com/spf13/cobra"

	"github.com/contoso/gatewayd/provisioning/enrollment"
)

// entryKind is what the commands of the two kinds of entries do not have in
// common.
type entryKind[E enrollment.Kind] struct {
	command  string // the word on the command line
	group    bool   // of enrollment groups
	noun     string // in sentences, such as "enrollment group"
	title    string // the name of its ID, such as "Enrollment group"
	argument string // in usage lines, such as "GROUP"
	example  string // an ID

	all   func(*enrollment.Client) enrollment.Collection[E]
	make  func(id string) E
	id    func(E) string
	entry func(*E) *enrollment.Entry

	// records reads what became of the entry's devices.
	records func(ctx context.Context, client *enrollment.Client, id string) iter.Seq2[enrollment.Registration, error]

	addFlags   func(cmd *cobra.Command, flags *entryFlags) // those of this kind alone
	applyOwn   func(cmd *cobra.Command, flags *entryFlags, e *E)
	head       []string // of the list
	row        func(E) []string
	ownFacts   func(f facts, e E)
	deleteNote string // what a delete does to devices
}

// entryCommand is what every command on entries has.
type entryCommand[E enrollment.Kind] struct {
	kind        entryKind[E]
	service     serviceFlags
	output      string
	showSecrets bool
}

// command builds the command's frame; run gets the ID, or "".
func (c *entryCommand[E]) command(use, short, long, example string, args cobra.PositionalArgs, run func(cmd *cobra.Command, client *enrollment.Client, id string) error) *cobra.Command {
	cmd := &cobra.Command{
		Use:     use,
		Short:   short,
		Long:    long,
		Example: example,
		Args:    args,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkOutput(cmd, c.output); err != nil {
				return err
			}
			client, err := c.service.client(cmd)
			if err != nil {
				return err
			}
			defer client.Close()
			return run(cmd, client, strings.Join(args, ""))
		},
	}
	c.service.add(cmd)
	cmd.Flags().StringVarP(&c.output, "output", "o", "text", "text, or json: one object a line")
	return cmd
}

// addShowSecrets declares --show-secrets where entries are shown.
func (c *entryCommand[E]) addShowSecrets(cmd *cobra.Command) *cobra.Command {
	cmd.Flags().BoolVar(&c.showSecrets, "show-secrets", false, "show keys, and the key in a webhook's URL")
	return cmd
}

// show prints one entry.
func (c *entryCommand[E]) show(cmd *cobra.Command, e E) error {
	if c.output == "json" {
		return c.showJSON(cmd, e)
	}
	lines := newFacts(cmd.OutOrStdout())
	lines.add(c.kind.title, c.kind.id(e))
	c.kind.ownFacts(lines, e)
	entry := c.kind.entry(&e)
	lines.addEntry(*entry, c.showSecrets)
	if keys := entry.Attestation.SymmetricKey; keys != nil && c.showSecrets {
		lines.add("Primary key", keys.PrimaryKey.Reveal())
		lines.add("Secondary key", keys.SecondaryKey.Reveal())
	}
	return lines.end()
}

// showJSON prints one entry as the service spells it.
func (c *entryCommand[E]) showJSON(cmd *cobra.Command, e E) error {
	if !c.showSecrets {
		return printJSON(cmd.OutOrStdout(), e)
	}
	text, err := enrollment.RevealJSON(e)
	if err != nil {
		return err
	}
	return printJSON(cmd.OutOrStdout(), json.RawMessage(text))
}

// newShowCommand builds show.
func newShowCommand[E enrollment.Kind](kind entryKind[E]) *cobra.Command {
	c := &entryCommand[E]{kind: kind}
	return c.addShowSecrets(c.command("show "+kind.argument, "Show one "+kind.noun,
		"Show prints one "+kind.noun+". Its keys are another command's, keys; the query of\na webhook's URL, where the function key stands, is hidden without --show-secrets.",
		"  gatewayctl "+kind.command+" show "+kind.example, oneID(kind.noun),
		func(cmd *cobra.Command, client *enrollment.Client, id string) error {
			e, err := kind.all(client).Get(cmd.Context(), id)
			if err != nil {
				return err
			}
			return c.show(cmd, e)
		}))
}

// newListCommand builds list.
func newListCommand[E enrollment.Kind](kind entryKind[E]) *cobra.Command {
	c := &entryCommand[E]{kind: kind}
	return c.addShowSecrets(c.command("list", "List every "+kind.noun,
		"List prints every "+kind.noun+", page by page as the service gives them.",
		"  gatewayctl "+kind.command+" list\n  gatewayctl "+kind.command+" list -o json | jq -r .etag", noArguments,
		func(cmd *cobra.Command, client *enrollment.Client, _ string) (err error) {
			var rows *table
			if c.output == "text" {
				rows = newTable(cmd.OutOrStdout(), kind.head...)
				defer func() { err = errors.Join(err, rows.end()) }()
			}
			for e, err := range kind.all(client).Query(cmd.Context(), pageSize) {
				switch {
				case err != nil:
					return err
				case rows != nil:
					rows.row(kind.row(e)...)
				default:
					if err := c.showJSON(cmd, e); err != nil {
						return err
					}
				}
			}
			return nil
		}))
}

// pageSize asks for enough at a time to make a list of thousands quick.
const pageSize = 100

// newCreateCommand builds create.
func newCreateCommand[E enrollment.Kind](kind entryKind[E]) *cobra.Command {
	c, flags := &entryCommand[E]{kind: kind}, &entryFlags{}
	cmd := c.command("create "+kind.argument, "Create one "+kind.noun,
		"Create makes one "+kind.noun+", and is refused if there is one of that ID. Without\nkeys and certificates the service generates both keys; the command keys shows them.",
		"  gatewayctl "+kind.command+" create "+kind.example+" \\\n    --hub contoso-toasters-hub-1098.azure-devices.net --webhook-url-file webhook-url",
		oneID(kind.noun),
		func(cmd *cobra.Command, client *enrollment.Client, id string) error {
			change, err := flags.read(cmd, kind.group)
			if err != nil {
				return err
			}
			e := kind.make(id)
			entry := kind.entry(&e)
			entry.Attestation.Type = enrollment.AttestationSymmetricKey
			if err := change.apply(entry); err != nil {
				return err
			}
			kind.applyOwn(cmd, flags, &e)
			stored, err := kind.all(client).Put(cmd.Context(), e)
			if err != nil {
				return err
			}
			return c.show(cmd, stored)
		})
	flags.add(cmd)
	kind.addFlags(cmd, flags)
	return c.addShowSecrets(cmd)
}

// newUpdateCommand builds update.
func newUpdateCommand[E enrollment.Kind](kind entryKind[E]) *cobra.Command {
	c, flags := &entryCommand[E]{kind: kind}, &entryFlags{}
	cmd := c.command("update "+kind.argument, "Change one "+kind.noun,
		"Update changes what the flags name and leaves everything else as it is, keys\nincluded. It is refused if somebody else has changed the "+kind.noun+" meanwhile.\n\nKeys are rolled one at a time: --regenerate-key secondary, move the devices to\nkeys derived from it, --regenerate-key primary.",
		"  gatewayctl "+kind.command+" update "+kind.example+" --reprovision-policy reset\n  gatewayctl "+kind.command+" update "+kind.example+" --regenerate-key secondary",
		oneID(kind.noun),
		func(cmd *cobra.Command, client *enrollment.Client, id string) error {
			change, err := flags.read(cmd, kind.group)
			if err != nil {
				return err
			}
			stored, err := kind.all(client).Update(cmd.Context(), id, func(e *E) error {
				kind.applyOwn(cmd, flags, e)
				return change.apply(kind.entry(e))
			})
			if err != nil {
				return err
			}
			return c.show(cmd, stored)
		})
	flags.add(cmd)
	cmd.Flags().StringVar(&flags.regenerateKey, "regenerate-key", "", "primary or secondary: put a new random key in its place")
	kind.addFlags(cmd, flags)
	cmd.PreRunE = func(cmd *cobra.Command, _ []string) error {
		for _, name := range changingFlags {
			if cmd.Flags().Changed(name) {
				return nil
			}
		}
		return wrongUsage(cmd, "nothing is to be changed; give at least one of the flags that set something")
	}
	return c.addShowSecrets(cmd)
}

// newKeysCommand builds keys.
func newKeysCommand[E enrollment.Kind](kind entryKind[E]) *cobra.Command {
	c := &entryCommand[E]{kind: kind}
	return c.command("keys "+kind.argument, "Show the keys of one "+kind.noun,
		"Keys prints the primary key and, on a second line, the secondary: the form in\nwhich this program's other commands read a file of keys.",
		"  (umask 077; gatewayctl "+kind.command+" keys "+kind.example+" >keys)", oneID(kind.noun),
		func(cmd *cobra.Command, client *enrollment.Client, id string) error {
			primary, secondary, err := keysOf(kind, cmd, client, id)
			if err != nil {
				return err
			}
			if c.output == "json" {
				return printJSON(cmd.OutOrStdout(), struct {
					PrimaryKey   string `json:"primaryKey"`
					SecondaryKey string `json:"secondaryKey"`
				}{primary.Reveal(), secondary.Reveal()})
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s\n%s\n", primary.Reveal(), secondary.Reveal())
			return err
		})
}

// keysOf reads the keys of an entry that has some.
func keysOf[E enrollment.Kind](kind entryKind[E], cmd *cobra.Command, client *enrollment.Client, id string) (primary, secondary enrollment.Key, err error) {
	attestation, err := kind.all(client).Attestation(cmd.Context(), id)
	switch {
	case err != nil:
		return enrollment.Key{}, enrollment.Key{}, err
	case attestation.SymmetricKey == nil:
		return enrollment.Key{}, enrollment.Key{}, fmt.Errorf("%s %q has no keys: its devices prove themselves by %s", kind.noun, id, cell(attestationText(attestation)))
	}
	// What is printed alone on a line must be a key and nothing else.
	for _, key := range []*enrollment.Key{&attestation.SymmetricKey.PrimaryKey, &attestation.SymmetricKey.SecondaryKey} {
		if *key, err = enrollment.ParseKey(key.Reveal()); err != nil {
			return enrollment.Key{}, enrollment.Key{}, fmt.Errorf("reading the keys of %s %q: %w", kind.noun, id, err)
		}
	}
	return attestation.SymmetricKey.PrimaryKey, attestation.SymmetricKey.SecondaryKey, nil
}

// newDeleteCommand builds delete.
func newDeleteCommand[E enrollment.Kind](kind entryKind[E]) *cobra.Command {
	c, yes := &entryCommand[E]{kind: kind}, false
	cmd := c.command("delete "+kind.argument, "Delete one "+kind.noun,
		"Delete removes one "+kind.noun+" after asking. "+kind.deleteNote,
		"  gatewayctl "+kind.command+" delete "+kind.example+"\n  gatewayctl "+kind.command+" delete "+kind.example+" --yes", oneID(kind.noun),
		func(cmd *cobra.Command, client *enrollment.Client, id string) error {
			question := fmt.Sprintf("Delete %s %s of %s?", kind.noun, cell(id), client.HostName())
			if err := confirm(cmd, yes, question); err != nil {
				return err
			}
			if err := kind.all(client).Delete(cmd.Context(), id, enrollment.AnyETag); err != nil {
				return err
			}
			return c.done(cmd, id, "deleted", "")
		})
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask")
	return cmd
}

// done tells what has happened to an entry, and what follows from it.
func (c *entryCommand[E]) done(cmd *cobra.Command, id, what, consequence string) error {
	if c.output == "json" {
		return printJSON(cmd.OutOrStdout(), map[string]string{c.kind.jsonID(): id, "status": what})
	}
	_, err := fmt.Fprintf(cmd.OutOrStdout(), "%s %s is %s at the service.%s\n", c.kind.title, cell(id), what, consequence)
	return err
}

// jsonID is the service's name of the ID.
func (k entryKind[E]) jsonID() string {
	if k.group {
		return "enrollmentGroupId"
	}
	return "registrationId"
}

// newStatusCommand builds disable and enable.
func newStatusCommand[E enrollment.Kind](kind entryKind[E], verb, short, long string, status enrollment.ProvisioningStatus, consequence string) *cobra.Command {
	c := &entryCommand[E]{kind: kind}
	return c.command(verb+" "+kind.argument, short, long, "  gatewayctl "+kind.command+" "+verb+" "+kind.example, oneID(kind.noun),
		func(cmd *cobra.Command, client *enrollment.Client, id string) error {
			_, err := kind.all(client).Update(cmd.Context(), id, func(e *E) error {
				kind.entry(e).ProvisioningStatus = status
				return nil
			})
			if refused, ok := errors.AsType[*enrollment.ServiceError](err); ok && refused.HTTPStatus == http.StatusNotFound {
				return fmt.Errorf("%w; a device that only a group lets in has no %s of its own, and create makes one", err, kind.noun)
			}
			if err != nil {
				return err
			}
			return c.done(cmd, id, string(status), consequence)
		})
}
