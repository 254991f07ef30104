// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/contoso/gatewayd/provisioning/enrollment"
)

// side is one of the two places where an enrollment's webhook can be.
type side string

// The two sides.
const (
	siteSide  side = "site"
	cloudSide side = "cloud"
)

func (s side) other() side {
	if s == siteSide {
		return cloudSide
	}
	return siteSide
}

// errChanged ends an update of what has changed since it was probed.
var errChanged = errors.New("it was changed meanwhile")

// failoverFlags are what a failover is told.
type failoverFlags struct {
	to            string
	files         map[side]*string // with the two URLs
	webhookCAFile string
	watch         time.Duration
	rollback      bool
	skipProbe     bool
	dryRun        bool
	yes           bool
}

// newFailoverCommand builds failover.
func newFailoverCommand[E enrollment.Kind](kind entryKind[E]) *cobra.Command {
	c := &entryCommand[E]{kind: kind}
	flags := failoverFlags{files: map[side]*string{siteSide: new(string), cloudSide: new(string)}}
	cmd := c.command("failover "+kind.argument+" --to site|cloud", "Move the webhook of one "+kind.noun+" between the cloud function and the site",
		`Failover puts the webhook's URL of one `+kind.noun+` in the place of the
other, each of which is in a file of its own, key included. It reads the `+kind.noun+`,
asks the new webhook a dry question, swaps the URL on condition that nobody
has changed the `+kind.noun+` meanwhile, and watches the next registrations. When one
fails because of the webhook it goes back, with --rollback, or asks at a terminal.

The file of the side that is in use now may be absent: the URL is saved there
first, for this user alone. So whenever the command ends, and be it by kill -9,
the same command with the other --to undoes it.

The question comes from this machine, which is not in the network of DPS. Only a
registration proves that DPS reaches the webhook.`,
		"  gatewayctl "+kind.command+" failover "+kind.example+" --to site \\\n    --site-url-file site-url --cloud-url-file cloud-url --rollback\n  gatewayctl "+kind.command+" failover "+kind.example+" --to cloud \\\n    --site-url-file site-url --cloud-url-file cloud-url --dry-run",
		oneID(kind.noun),
		func(cmd *cobra.Command, client *enrollment.Client, id string) error {
			f := &failover[E]{entryCommand: c, flags: flags, cmd: cmd, client: client, id: id, to: side(flags.to)}
			return f.run(cmd.Context())
		})
	set := cmd.Flags()
	set.StringVar(&flags.to, "to", "", "site or cloud")
	set.StringVar(flags.files[siteSide], "site-url-file", "", "`file` with the URL of this site's webhook, function key included")
	set.StringVar(flags.files[cloudSide], "cloud-url-file", "", "`file` with the URL of the cloud function, function key included")
	set.StringVar(&flags.webhookCAFile, "webhook-ca-file", "", "`file` with certificates to trust for the webhook beside the system's, for a local service that does too")
	set.DurationVar(&flags.watch, "watch", 5*time.Minute, "how long to watch registrations after the swap; 0 for not at all")
	set.BoolVar(&flags.rollback, "rollback", false, "go back without asking when a registration fails because of the webhook")
	set.BoolVar(&flags.skipProbe, "skip-probe", false, "swap without asking the new webhook, which DPS may reach although this machine does not")
	set.BoolVar(&flags.dryRun, "dry-run", false, "read and ask, and change nothing")
	set.BoolVar(&flags.yes, "yes", false, "do not ask before the swap")
	cmd.PreRunE = func(cmd *cobra.Command, _ []string) error {
		switch {
		case flags.to != string(siteSide) && flags.to != string(cloudSide):
			return wrongUsage(cmd, "--to %q is neither site nor cloud", flags.to)
		case *flags.files[siteSide] == "" || *flags.files[cloudSide] == "":
			return wrongUsage(cmd, "--site-url-file and --cloud-url-file are both needed; the one of the side that is in use now may name a file that is yet to be made")
		case flags.watch < 0:
			return wrongUsage(cmd, "--watch %s is before the swap", flags.watch)
		}
		return nil
	}
	return cmd
}

// failover is one run of the command.
type failover[E enrollment.Kind] struct {
	*entryCommand[E]
	flags  failoverFlags
	cmd    *cobra.Command
	client *enrollment.Client
	id     string
	to     side

	next, previous enrollment.WebhookURL
	etag           string // of the entry as it was read, then as it was written
	save           bool   // previous has no file yet
	already        bool   // the webhook is next
	swapped        bool   // by this run
}

// failoverStep is what is told of one step. Nothing in it is secret.
type failoverStep struct {
	Step           string                 `json:"step"` // read, probe, save, swap, watch, device, rollback or end
	Side           side                   `json:"side,omitempty"`
	WebhookURL     *enrollment.WebhookURL `json:"webhookUrl,omitempty"` // prints without its query
	ETag           string                 `json:"etag,omitempty"`
	Verdict        verdict                `json:"verdict,omitempty"`
	RegistrationID string                 `json:"registrationId,omitempty"`
	Status         string                 `json:"status,omitempty"`
	AssignedHub    string                 `json:"assignedHub,omitempty"`
	ErrorCode      int                    `json:"errorCode,omitempty"`
	Result         string                 `json:"result,omitempty"` // of the end: unchanged, swapped, rolledBack, changedByOthers or unknown
	Undo           string                 `json:"undo,omitempty"`   // the command that does
	Text           string                 `json:"text"`
}

// tell shows a step as it happens.
func (f *failover[E]) tell(s failoverStep, format string, args ...any) {
	s.Text = fmt.Sprintf(format, args...)
	if f.output == "json" {
		_ = printJSON(f.cmd.OutOrStdout(), s) // who closes the output wants the swap all the same
		return
	}
	name := s.Step
	if s.RegistrationID != "" {
		s.Text = cell(s.RegistrationID) + ": " + s.Text
	}
	fmt.Fprintf(f.cmd.OutOrStdout(), "%-9s %s\n", strings.ToUpper(name[:1])+name[1:], s.Text)
}

// run takes the steps, and says at the end how things stand.
func (f *failover[E]) run(ctx context.Context) error {
	e, err := f.read(ctx)
	if err != nil {
		return f.unchanged(ctx, err)
	}
	if err := f.probe(ctx, e); err != nil {
		return f.unchanged(ctx, err)
	}
	switch {
	case f.already:
		f.tell(failoverStep{Step: "end", Side: f.to, Result: "unchanged", Undo: f.undo()}, "The webhook is the %s's already. To move it away: %s", f.to, f.undo())
		return nil
	case f.flags.dryRun:
		f.tell(failoverStep{Step: "end", Side: f.to.other(), Result: "unchanged"}, "Nothing was changed, as --dry-run wants it.")
		return nil
	}
	question := fmt.Sprintf("Move the webhook of %s %s of %s from the %s to the %s?", f.kind.noun, cell(f.id), f.client.HostName(), f.to.other(), f.to)
	if err := confirm(f.cmd, f.flags.yes, question); err != nil {
		return err
	}
	if err := f.keep(); err != nil {
		return f.unchanged(ctx, err)
	}
	w, err := newWatcher(f.records(ctx))
	if err != nil && f.flags.watch > 0 {
		return f.unchanged(ctx, err)
	}
	if ctx.Err() != nil {
		return f.unchanged(ctx, ctx.Err())
	}
	since, err := f.swap(ctx)
	if err != nil {
		return err
	}
	if f.flags.watch == 0 {
		f.tell(failoverStep{Step: "end", Side: f.to, Result: "swapped"}, "Swapped, and not watched.")
		return nil
	}
	w.since = since
	return f.watch(ctx, w)
}

func (f *failover[E]) records(ctx context.Context) iter.Seq2[enrollment.Registration, error] {
	return f.kind.records(ctx, f.client, f.id)
}

// unchanged ends a run that has changed nothing.
func (f *failover[E]) unchanged(ctx context.Context, err error) error {
	word := "Nothing was changed."
	if ctx.Err() != nil {
		word, err = "Interrupted: nothing was changed.", errReported
	}
	f.tell(failoverStep{Step: "end", Result: "unchanged"}, "%s", word)
	return err
}

// read reads the entry and both files, and finds out which side is in use.
func (f *failover[E]) read(ctx context.Context) (e E, err error) {
	if f.next, err = f.readURL(f.to); err != nil {
		return e, err
	}
	away := f.to.other()
	other, err := f.readURL(away)
	f.save = errors.Is(err, fs.ErrNotExist)
	if err != nil && !f.save {
		return e, err
	}
	if other.Reveal() == f.next.Reveal() {
		return e, fmt.Errorf("%s and %s hold the same URL; each side has its own", *f.flags.files[siteSide], *f.flags.files[cloudSide])
	}
	if e, err = f.kind.all(f.client).Get(ctx, f.id); err != nil {
		return e, err
	}
	entry := f.kind.entry(&e)
	if entry.AllocationPolicy != enrollment.Custom || entry.CustomAllocation == nil {
		return e, fmt.Errorf("%s %q has the allocation policy %s and no webhook to move; gatewayctl %s update --webhook-url-file FILE makes it custom",
			f.kind.noun, f.id, cell(string(entry.AllocationPolicy)), f.kind.command)
	}
	f.previous, f.etag = entry.CustomAllocation.WebhookURL, entry.ETag
	now := away
	switch {
	case f.previous.Reveal() == f.next.Reveal():
		f.already, f.save, now = true, false, f.to
	case f.save, f.previous.Reveal() == other.Reveal():
	case f.previous.String() == other.String():
		return e, fmt.Errorf("%s has another key than the enrollment's webhook at the same address; correct the file, or remove it and it is made from the enrollment", *f.flags.files[away])
	default:
		return e, fmt.Errorf("the enrollment's webhook, %s, is neither that of %s nor that of %s; correct the file of the %s, or remove it and it is made from the enrollment",
			f.previous, *f.flags.files[siteSide], *f.flags.files[cloudSide], away)
	}
	f.tell(failoverStep{Step: "read", Side: now, WebhookURL: &f.previous, ETag: f.etag}, "%s %s of %s: its webhook is the %s's, %s", f.kind.noun, cell(f.id), f.client.HostName(), now, f.previous)
	if entry.ProvisioningStatus == enrollment.Disabled {
		f.tell(failoverStep{Step: "read", Verdict: verdictNote}, "it is disabled: no device can register, and no webhook is asked")
	}
	return e, nil
}

// readURL reads the URL of a side, and warns if others can too.
func (f *failover[E]) readURL(of side) (enrollment.WebhookURL, error) {
	path := *f.flags.files[of]
	content, err := readFile(path)
	if err != nil {
		return enrollment.WebhookURL{}, err
	}
	text := strings.TrimSpace(string(content))
	u, err := url.Parse(text)
	switch {
	case err != nil || strings.ContainsAny(text, " \t\r\n") || u.Hostname() == "" || u.User != nil || u.Scheme != "https" && u.Scheme != "http":
		return enrollment.WebhookURL{}, fmt.Errorf("%s holds no URL such as https://host/api/name?code=key, alone on a line", path)
	case u.Scheme == "http" && !isLoopback(u.Hostname()):
		return enrollment.WebhookURL{}, fmt.Errorf("%s: the URL is not https, and its key could be read on the way", path)
	case strings.Contains(u.RawQuery, "****"):
		return enrollment.WebhookURL{}, fmt.Errorf("%s: asterisks stand in the place of the key: the URL was copied from where it is hidden", path)
	}
	if info, err := os.Stat(path); err == nil && info.Mode().Perm()&0o077 != 0 {
		fmt.Fprintf(f.cmd.ErrOrStderr(), "gatewayctl: %s holds a key, and others may read it\n  Next: chmod 600 %s\n", path, quoteWord(path))
	}
	return enrollment.NewWebhookURL(text), nil
}

// probe asks the new webhook a dry question.
func (f *failover[E]) probe(ctx context.Context, e E) error {
	if f.flags.skipProbe {
		f.tell(failoverStep{Step: "probe", Side: f.to, Verdict: verdictNote}, "left out: whether the %s's webhook answers is not known", f.to)
		return nil
	}
	roots, err := loadRoots(f.flags.webhookCAFile)
	if err != nil {
		return err
	}
	body, hubs, err := dryRequest(f.kind, e)
	if err != nil {
		return err
	}
	found := newProber(roots).ask(ctx, f.next, body, hubs)
	f.tell(failoverStep{Step: "probe", Side: f.to, WebhookURL: &f.next, Verdict: found.Verdict}, "the %s's, %s, from this machine: %s", f.to, f.next, found.What)
	if found.Verdict != verdictWrong || ctx.Err() != nil {
		return ctx.Err()
	}
	fmt.Fprintf(f.cmd.ErrOrStderr(), "gatewayctl: the %s's webhook is not fit to take over\n  Next: %s\n", f.to, found.Next)
	return errReported
}

// keep writes the URL that is in use now where its side's file is missing.
func (f *failover[E]) keep() error {
	if !f.save {
		return nil
	}
	path := *f.flags.files[f.to.other()]
	if err := newSecretFile(path, f.previous.Reveal()+"\n"); err != nil {
		return err
	}
	f.tell(failoverStep{Step: "save", Side: f.to.other(), WebhookURL: &f.previous}, "the %s's URL, with its key, in %s", f.to.other(), path)
	return nil
}

// write puts a URL into the entry if it is still the one that is known. An
// interrupt does not reach it: cut off in the middle nobody would know whether
// it was made.
func (f *failover[E]) write(ctx context.Context, to enrollment.WebhookURL) (enrollment.Entry, error) {
	stored, err := f.kind.all(f.client).Update(context.WithoutCancel(ctx), f.id, func(e *E) error {
		entry := f.kind.entry(e)
		if entry.ETag != f.etag {
			return errChanged
		}
		entry.CustomAllocation.WebhookURL = to
		return nil
	})
	entry := *f.kind.entry(&stored)
	if err == nil {
		return entry, nil
	}
	return f.afterFailure(ctx, to, err)
}

// afterFailure finds out what is there when a write seems to have failed.
func (f *failover[E]) afterFailure(ctx context.Context, to enrollment.WebhookURL, cause error) (enrollment.Entry, error) {
	refused, isRefused := errors.AsType[*enrollment.ServiceError](cause)
	changed := errors.Is(cause, errChanged) || isRefused && refused.HTTPStatus == http.StatusPreconditionFailed
	e, err := f.kind.all(f.client).Get(context.WithoutCancel(ctx), f.id)
	entry := *f.kind.entry(&e)
	there := entry.CustomAllocation != nil && entry.CustomAllocation.WebhookURL.Reveal() == to.Reveal()
	switch {
	case err != nil:
		f.tell(failoverStep{Step: "end", Result: "unknown", Undo: f.undo()}, "Whether the webhook was changed is not known. Look with: gatewayctl %s show %s. To undo: %s", f.kind.command, quoteWord(f.id), f.undo())
	case there && !changed:
		return entry, nil // the write was made, and its answer lost
	case changed:
		webhook := "none any more"
		if entry.CustomAllocation != nil {
			webhook = entry.CustomAllocation.WebhookURL.String()
		}
		f.tell(failoverStep{Step: "end", Result: "changedByOthers", ETag: entry.ETag}, "Somebody else has changed the %s meanwhile, and this command left it alone. It is %s, its webhook %s.", f.kind.noun, cell(string(entry.ProvisioningStatus)), webhook)
	case f.swapped:
		f.tell(failoverStep{Step: "end", Side: f.to, Result: "swapped", ETag: entry.ETag, Undo: f.undo()}, "The webhook is still the %s's. To undo: %s", f.to, f.undo())
	default:
		f.tell(failoverStep{Step: "end", Result: "unchanged", ETag: entry.ETag}, "Nothing was changed.")
	}
	return enrollment.Entry{}, cause
}

// swap puts the new URL in the place of the old, and tells since when by the
// service's clock.
func (f *failover[E]) swap(ctx context.Context) (time.Time, error) {
	asked := time.Now()
	entry, err := f.write(ctx, f.next)
	if errors.Is(err, errChanged) {
		fmt.Fprintf(f.cmd.ErrOrStderr(), "gatewayctl: %s %q was changed between the question and the swap\n  Next: look at it with show, and run the command again.\n", f.kind.noun, f.id)
		return time.Time{}, errReported
	}
	if err != nil {
		return time.Time{}, err
	}
	f.etag, f.swapped = entry.ETag, true
	since := entry.LastUpdatedDateTimeUTC.Time
	if since.IsZero() {
		since = asked
	}
	f.tell(failoverStep{Step: "swap", Side: f.to, WebhookURL: &f.next, ETag: f.etag, Undo: f.undo()}, "the webhook is the %s's now; to undo: %s", f.to, f.undo())
	return since, nil
}

// watch follows the next registrations, and goes back if one fails.
func (f *failover[E]) watch(ctx context.Context, w *watcher) error {
	f.tell(failoverStep{Step: "watch"}, "the registrations of the next %s; Ctrl-C ends the watch, and the swap stays", f.flags.watch)
	assigned, others := 0, 0
	failed, err := w.watch(ctx, f.flags.watch, func() iter.Seq2[enrollment.Registration, error] { return f.records(ctx) },
		func(s sighting) {
			f.tell(failoverStep{Step: "device", RegistrationID: s.RegistrationID, Status: s.Status, AssignedHub: s.AssignedHub, ErrorCode: s.ErrorCode}, "%s", s.text())
			switch {
			case s.Status == "assigned" && !s.old:
				assigned++
			case !s.old:
				others++
			}
		},
		func(err error) { f.tell(failoverStep{Step: "watch", Verdict: verdictNote}, "looking again: %v", err) })
	end := failoverStep{Step: "end", Side: f.to, Result: "swapped", Undo: f.undo()}
	switch {
	case failed != nil:
		return f.goBack(ctx)
	case ctx.Err() != nil:
		f.tell(end, "Interrupted while watching: the webhook is the %s's, and stays so. To undo: %s", f.to, f.undo())
		return errReported
	case err != nil:
		f.tell(end, "The webhook is the %s's; how devices fare could not be seen. To undo: %s", f.to, f.undo())
		return err
	case assigned == 0:
		f.tell(end, "The webhook is the %s's. No device was assigned meanwhile (%d ended otherwise), so that DPS reaches it is not proven yet: register one, and look with gatewayctl %s check %s. To undo: %s",
			f.to, others, f.kind.command, quoteWord(f.id), f.undo())
	default:
		f.tell(end, "The webhook is the %s's, and works: %d assigned, %d ended otherwise. To undo: %s", f.to, assigned, others, f.undo())
	}
	return nil
}

// goBack puts the old URL back, if that is wanted.
func (f *failover[E]) goBack(ctx context.Context) error {
	if !f.flags.rollback {
		keyboard, isThere := terminal(f.cmd)
		if !isThere || !ask(f.cmd, keyboard, fmt.Sprintf("Go back to the %s?", f.to.other())) {
			f.tell(failoverStep{Step: "end", Side: f.to, Result: "swapped", Undo: f.undo()}, "The webhook is the %s's, and a device failed by it. To undo: %s", f.to, f.undo())
			return errReported
		}
	}
	entry, err := f.write(ctx, f.previous)
	if errors.Is(err, errChanged) {
		return errReported // and told
	}
	if err != nil {
		return err
	}
	f.etag = entry.ETag
	f.tell(failoverStep{Step: "rollback", Side: f.to.other(), WebhookURL: &f.previous, ETag: f.etag}, "the webhook is the %s's again", f.to.other())
	f.tell(failoverStep{Step: "end", Side: f.to.other(), Result: "rolledBack"}, "Rolled back: devices that failed meanwhile must register again.")
	return errReported
}

// undo is the command that moves the webhook back, as it can be typed.
func (f *failover[E]) undo() string {
	words := []string{f.cmd.CommandPath(), quoteWord(f.id), "--to", string(f.to.other())}
	for _, name := range []string{"site-url-file", "cloud-url-file", "webhook-ca-file", "connection-string-file", "address", "ca-file"} {
		if flag := f.cmd.Flags().Lookup(name); flag.Changed {
			words = append(words, "--"+name, quoteWord(flag.Value.String()))
		}
	}
	return strings.Join(words, " ")
}

// quoteWord makes one word of a shell's command line of a text.
func quoteWord(text string) string {
	const plain = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._/:=@%+,"
	if text != "" && strings.Trim(text, plain) == "" {
		return text
	}
	return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'"
}
