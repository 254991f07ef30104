// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/contoso/gatewayd/provisioning"
)

// The whole budget of one service instance (dps-protocol 2.4), unless flags say
// otherwise. A person who registers by hand bounds the load with --concurrency.
const (
	defaultRegistersPerMinute = 1000
	defaultPollsPerSecond     = 200
)

// idScopeShape is what ID scopes look like. The service takes them as they are, so
// this finds the portal's other names and the letter O, not more.
var idScopeShape = regexp.MustCompile(`^(?i:0ne)[0-9A-Za-z]{1,61}$`)

// noIDScope says what is wrong with what has another shape.
const noIDScope = "does not look like one: the digit 0, then ne, then letters and digits, such as 0ne00002193; it stands on the overview page of the provisioning service"

// transports are those of the client.
var transports = []provisioning.Transport{provisioning.TransportAuto, provisioning.TransportHTTPS, provisioning.TransportMQTTWS, provisioning.TransportMQTT}

// transportNames lists them for people.
func transportNames() string {
	var names []string
	for _, transport := range transports {
		names = append(names, string(transport))
	}
	return strings.Join(names, ", ")
}

// maxConcurrency keeps the connections of this command below the usual limit of
// open files.
const maxConcurrency = 200

// registerFlags are the flags of register.
type registerFlags struct {
	endpoint        string   // host, or host:port
	idScope         string   // which service instance
	registrationIDs []string // in the order of the command line
	deviceKeyFile   string   // exactly one of these four names a file
	groupKeyFile    string
	certFile        string
	certKeyFile     string // goes with certFile
	derivedKeys     string
	identity        string  // a file, goes with derivedKeys
	transport       string  // one of transports
	payload         string  // a JSON object, or empty for none
	caFile          string  // PEM roots beside the system's, or empty
	concurrency     int     // 1 to maxConcurrency
	perMinute       float64 // registers, above 0
	perSecond       float64 // polls, above 0
	output          string  // text or json
}

// newRegisterCommand builds register.
func newRegisterCommand() *cobra.Command {
	var flags registerFlags
	cmd := &cobra.Command{
		Use: `register --id-scope SCOPE --registration-id ID...
    (--group-key-file F | --device-key-file F | --cert F --cert-key F |
     --derived-keys F --identity F)`,
		Short: "Register devices with the provisioning service",
		Long: `Register makes one registration for each ID, without a daemon, and shows each
status as it comes. A registration may take ten minutes, because the service
waits that long for its allocation webhook.`,
		Example: `  gatewayctl register --id-scope 0ne00002193 --group-key-file group-key \
    --registration-id breakroom499-contoso-tstrsd-007 \
    --registration-id mainbuilding167-contoso-hpsd-088
  gatewayctl register --endpoint localhost:8443 --ca-file ca.pem --id-scope 0ne00ABCDEF \
    --device-key-file key --registration-id breakroom499-contoso-tstrsd-007 -o json`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error { return flags.run(cmd) },
	}
	set := cmd.Flags()
	set.StringVar(&flags.endpoint, "endpoint", "global.azure-devices-provisioning.net", "`host` or host:port")
	set.StringVar(&flags.idScope, "id-scope", "", "ID `scope`, from the service's overview page")
	set.StringArrayVar(&flags.registrationIDs, "registration-id", nil, "registration `ID`; once for each device")
	set.StringVar(&flags.deviceKeyFile, "device-key-file", "", "`file` with the one device's key, the secondary on a second line")
	set.StringVar(&flags.groupKeyFile, "group-key-file", "", "`file` with the enrollment group's key, likewise")
	set.StringVar(&flags.certFile, "cert", "", "`file` with the one device's certificate and its intermediates")
	set.StringVar(&flags.certKeyFile, "cert-key", "", "`file` with the certificate's private key")
	set.StringVar(&flags.derivedKeys, "derived-keys", "", "`file` that keys install has written")
	set.StringVar(&flags.identity, "identity", "", "`file` with this gateway's identity, which opens it")
	set.StringVar(&flags.transport, "transport", string(provisioning.TransportAuto), "one of "+transportNames())
	set.StringVar(&flags.payload, "payload", "", "`JSON` object for the allocation policy")
	set.StringVar(&flags.caFile, "ca-file", "", "`file` with certificates to trust beside the system's")
	set.IntVar(&flags.concurrency, "concurrency", 10, "at most `N` registrations at once")
	set.Float64Var(&flags.perMinute, "registers-per-minute", defaultRegistersPerMinute, "at most `N` registrations begun in a minute")
	set.Float64Var(&flags.perSecond, "polls-per-second", defaultPollsPerSecond, "at most `N` polls in a second")
	set.StringVarP(&flags.output, "output", "o", "text", "`form`: text, or json with one object a line")
	cmd.SetHelpTemplate(cmd.HelpTemplate() + failuresHelp())
	return cmd
}

// run makes all registrations. Each one's error is shown when it happens, beside
// its device, so that nothing is left to say but that there was one.
func (f registerFlags) run(cmd *cobra.Command) error {
	if err := f.check(cmd); err != nil {
		return err
	}
	prove, err := f.credentials()
	if err != nil {
		return err
	}
	roots, err := loadRoots(f.caFile)
	if err != nil {
		return err
	}
	to := newScreen(cmd.OutOrStdout(), cmd.ErrOrStderr(), len(f.registrationIDs))
	client, err := f.client(roots, to)
	if err != nil {
		return usageError{command: cmd.CommandPath(), err: err} // nothing but flags can be wrong there
	}
	defer client.Close()

	var show reporter = &textReporter{screen: to, many: len(f.registrationIDs) > 1}
	if f.output == "json" {
		show = &jsonReporter{screen: to}
	}
	failed := f.registerAll(cmd.Context(), client, prove, show, to.tick)
	show.summary()
	if err := to.unwritten(); err != nil {
		return err
	}
	if failed {
		return errReported
	}
	return nil
}

// check refuses a command line that cannot work, before anything is sent.
func (f registerFlags) check(cmd *cobra.Command) error {
	switch {
	case f.idScope == "":
		return wrongUsage(cmd, "--id-scope is missing; it stands on the overview page of the provisioning service")
	case !idScopeShape.MatchString(f.idScope):
		return wrongUsage(cmd, "--id-scope %s", noIDScope)
	case strings.Contains(f.endpoint, "/"):
		return wrongUsage(cmd, "--endpoint %q is a URL; give only the host, or host:port", f.endpoint)
	case len(f.registrationIDs) == 0:
		return wrongUsage(cmd, "--registration-id is missing")
	case (f.certFile == "") != (f.certKeyFile == ""):
		return wrongUsage(cmd, "--cert and --cert-key belong together; both may name the same file")
	case (f.derivedKeys == "") != (f.identity == ""):
		return wrongUsage(cmd, "--derived-keys and --identity belong together")
	case given(f.deviceKeyFile, f.groupKeyFile, f.certFile, f.derivedKeys) != 1:
		return wrongUsage(cmd, "give exactly one of --group-key-file, --device-key-file, --cert and --derived-keys")
	case f.certFile != "" && len(f.registrationIDs) > 1:
		return wrongUsage(cmd, "--cert is the certificate of one device, but there are %d registration IDs", len(f.registrationIDs))
	case f.deviceKeyFile != "" && len(f.registrationIDs) > 1:
		return wrongUsage(cmd, "--device-key-file holds the key of one device, but there are %d registration IDs; use --group-key-file", len(f.registrationIDs))
	case !slices.Contains(transports, provisioning.Transport(f.transport)):
		return wrongUsage(cmd, "--transport %q is none of %s", f.transport, transportNames())
	case f.output != "text" && f.output != "json":
		return wrongUsage(cmd, "--output %q is neither text nor json", f.output)
	case f.concurrency < 1 || f.concurrency > maxConcurrency:
		return wrongUsage(cmd, "--concurrency %d is not between 1 and %d", f.concurrency, maxConcurrency)
	case !(f.perMinute > 0):
		return wrongUsage(cmd, "--registers-per-minute %v lets nothing through; give a number above 0", f.perMinute)
	case !(f.perSecond > 0):
		return wrongUsage(cmd, "--polls-per-second %v lets nothing through; give a number above 0", f.perSecond)
	}
	for i, id := range f.registrationIDs {
		if err := provisioning.CheckRegistrationID(id); err != nil {
			return usageError{command: cmd.CommandPath(), err: err}
		}
		// The service takes IDs that differ only in case for one device.
		if slices.ContainsFunc(f.registrationIDs[:i], func(other string) bool { return strings.EqualFold(id, other) }) {
			return wrongUsage(cmd, "--registration-id %s is there twice", id)
		}
	}
	var object map[string]json.RawMessage
	if f.payload != "" && (json.Unmarshal([]byte(f.payload), &object) != nil || object == nil) {
		return wrongUsage(cmd, `--payload is not a JSON object such as '{"model":"x"}'`)
	}
	return nil
}

// given counts texts that are not empty.
func given(texts ...string) int {
	return len(slices.DeleteFunc(texts, func(text string) bool { return text == "" }))
}

// credentials gives the function that puts into a request what its device proves
// itself by: a certificate, or keys, primary first.
func (f registerFlags) credentials() (func(*provisioning.Request), error) {
	switch {
	case f.certFile != "":
		cert, err := readFile(f.certFile)
		if err != nil {
			return nil, err
		}
		key, err := readFile(f.certKeyFile)
		if err != nil {
			return nil, err
		}
		certificate, err := provisioning.ParseCertificate(cert, key)
		if err != nil {
			return nil, fmt.Errorf("%s and %s: %w", f.certFile, f.certKeyFile, err)
		}
		return func(r *provisioning.Request) { r.Certificate = certificate }, nil
	case f.deviceKeyFile != "":
		keys, err := readKeys(f.deviceKeyFile, provisioning.ParseDeviceKey)
		if err != nil {
			return nil, err
		}
		return func(r *provisioning.Request) { r.Keys = keys }, nil
	case f.derivedKeys != "":
		return f.grantedKeys()
	default:
		groupKeys, err := readKeys(f.groupKeyFile, provisioning.ParseGroupKey)
		if err != nil {
			return nil, err
		}
		return func(r *provisioning.Request) {
			for _, key := range groupKeys {
				r.Keys = append(r.Keys, key.Derive(r.RegistrationID))
			}
		}, nil
	}
}

// grantedKeys opens a gateway's derived keys. Keys of another service's, and devices
// without one, are refused before any other is registered.
func (f registerFlags) grantedKeys() (func(*provisioning.Request), error) {
	identity, err := readIdentity(f.identity)
	if err != nil {
		return nil, err
	}
	grant, err := openSealed(f.derivedKeys, identity)
	if err != nil {
		return nil, err
	}
	if grant.IDScope != "" && !strings.EqualFold(grant.IDScope, f.idScope) {
		return nil, fmt.Errorf("%s was granted for ID scope %s, and --id-scope is %s", f.derivedKeys, grant.IDScope, f.idScope)
	}
	granted := grant.Keys()
	for _, id := range f.registrationIDs {
		if _, err := granted.DeviceKeys(id); err != nil {
			return nil, fmt.Errorf("%s: %w", f.derivedKeys, err)
		}
	}
	return func(r *provisioning.Request) { r.Keys = granted[r.RegistrationID] }, nil
}

// client makes the one client that all registrations share, as its budgets and
// its pool of connections ask for. Of what it logs, its clock's warnings and
// those of certificates are shown; retries the reporters show themselves.
func (f registerFlags) client(roots *x509.CertPool, to *screen) (*provisioning.Client, error) {
	return provisioning.New(provisioning.Config{
		Endpoint:           f.endpoint,
		IDScope:            f.idScope,
		Transport:          provisioning.Transport(f.transport),
		RootCAs:            roots,
		RegistersPerMinute: f.perMinute,
		PollsPerSecond:     f.perSecond,
		Fleet:              len(f.registrationIDs),
		Logger:             slog.New(warnings{screen: to}),
	})
}

// loadRoots gives the system's roots and those of file; nil, which means the
// system's alone, without a file.
func loadRoots(file string) (*x509.CertPool, error) {
	if file == "" {
		return nil, nil
	}
	content, err := readFile(file)
	if err != nil {
		return nil, err
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		return nil, fmt.Errorf("reading the system's roots: %w", err)
	}
	if !pool.AppendCertsFromPEM(content) {
		return nil, fmt.Errorf("%s holds no certificate in PEM form; for dpslocal give the ca.pem of its directory", file)
	}
	return pool, nil
}

// registerAll registers all IDs, at most f.concurrency at once, and tells
// whether one failed.
func (f registerFlags) registerAll(ctx context.Context, client *provisioning.Client, prove func(*provisioning.Request), show reporter, tick func()) (failed bool) {
	results := make(chan bool)
	turns := make(chan struct{}, f.concurrency) // holds one entry for each that runs
	var running sync.WaitGroup
	go func() {
		for _, id := range f.registrationIDs {
			turns <- struct{}{}
			running.Go(func() {
				request := provisioning.Request{RegistrationID: id, Payload: json.RawMessage(f.payload)}
				prove(&request)
				results <- register(ctx, client, request, f.transport == string(provisioning.TransportAuto), show)
				<-turns
			})
		}
		running.Wait()
		close(results)
	}()
	second := time.NewTicker(time.Second)
	defer second.Stop()
	for {
		select {
		case ok, more := <-results:
			if !more {
				return failed
			}
			failed = failed || !ok
		case <-second.C:
			tick()
		}
	}
}

// register makes one registration and shows it. Nothing is stored, so an attempt
// that is cut off leaves no operation ID to resume by. Registering again is safe:
// the service goes on with the same operation, or asks to wait (dps-protocol 11.4).
func register(ctx context.Context, client *provisioning.Client, request provisioning.Request, auto bool, show reporter) (ok bool) {
	o := outcome{registrationID: request.RegistrationID, status: provisioning.StatusUnassigned, began: time.Now()}
	request.Observe = func(progress provisioning.Progress) error {
		o.observe(progress)
		show.progress(request.RegistrationID, progress)
		return nil
	}
	show.begin(request.RegistrationID)
	o.assignment, o.err = client.Register(ctx, request)
	if auto && errors.Is(o.err, provisioning.ErrNotService) {
		// Somebody else took the request, a login page perhaps. The client does not send it again in one attempt, but
		// begins the next below the transport where that was.
		o.assignment, o.err = client.Register(ctx, request)
	}
	o.settle()
	show.end(o)
	return o.err == nil
}
