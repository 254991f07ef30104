// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"strings"

	"github.com/spf13/cobra"

	"github.com/contoso/gatewayd/provisioning"
	"github.com/contoso/gatewayd/provisioning/enrollment"
	"github.com/contoso/gatewayd/provisioning/sealedkeys"
)

// errReported ends a command whose errors a person has read already.
var errReported = errors.New("reported")

// usageError says that the command line is wrong, and whose help to read.
type usageError struct {
	command string // the words up to the command, such as "gatewayctl register"
	err     error
}

// Error gives the message without the command.
func (e usageError) Error() string { return e.err.Error() }

// Unwrap gives what is wrong.
func (e usageError) Unwrap() error { return e.err }

// wrongUsage makes a usageError for cmd from words.
func wrongUsage(cmd *cobra.Command, format string, args ...any) error {
	return usageError{command: cmd.CommandPath(), err: fmt.Errorf(format, args...)}
}

// printError shows why a command could not do its work at all. Such errors come
// from files and keys on this machine or from the service API, so the next step
// is found here and not in the diagnosis of a registration.
func printError(w io.Writer, err error) {
	fmt.Fprintln(w, "gatewayctl:", err)
	path, isPath := errors.AsType[*fs.PathError](err)
	refused, isRefused := errors.AsType[*enrollment.ServiceError](err)
	directoryNext, isDirectory := nextForDirectory(err)
	switch {
	case isDirectory:
		fmt.Fprintln(w, "  Next:", directoryNext)
	case isRefused:
		fmt.Fprintln(w, "  Next:", nextAfter(refused))
	case errors.Is(err, enrollment.ErrNotService):
		fmt.Fprintln(w, "  Next: look for a login page or a proxy in between, and check the HostName of the connection string.")
	case errors.Is(err, enrollment.ErrConnectionString):
		fmt.Fprintln(w, "  Next: copy the connection string of a shared access policy of the provisioning service (not of a hub), on one line.")
	case errors.Is(err, sealedkeys.ErrOtherGateway):
		fmt.Fprintln(w, "  Next: give the identity that the request was made with, or make a new request with this one.")
	case errors.Is(err, sealedkeys.ErrRequest):
		fmt.Fprintln(w, "  Next: have the request made again with gatewayctl keys request, and sent as it is.")
	case errors.Is(err, sealedkeys.ErrGrant):
		fmt.Fprintln(w, "  Next: have headquarters send the file again, as an attachment and not as text in a mail.")
	case errors.Is(err, sealedkeys.ErrIdentity):
		fmt.Fprintln(w, "  Next: give the file that gatewayctl keys request made; if it is lost, make a new request with a new one.")
	case isPath && path.Op == "write":
		fmt.Fprintln(w, "  Next: check the path, that you may write there, and that the disk has room.")
	case isPath:
		fmt.Fprintln(w, "  Next: check the path, and that you may read the file.")
	case errors.Is(err, provisioning.ErrCertificate):
		fmt.Fprintln(w, "  Next: give a certificate with its intermediates, and its own private key without a password, both as PEM.")
	case errors.Is(err, provisioning.ErrKey), errors.Is(err, enrollment.ErrKey):
		fmt.Fprintln(w, "  Next: give the key as the portal shows it: base64, on a line of its own.")
	default:
		printNetworkNext(w, err)
	}
}

// nextAfter says what to do about a refusal of the service API.
func nextAfter(refused *enrollment.ServiceError) string {
	switch status := refused.HTTPStatus; {
	case status == http.StatusBadRequest:
		return "read the service's message: it names what it does not take."
	case status == http.StatusUnauthorized, status == http.StatusForbidden:
		return "check that the connection string's policy and key are current, that the policy has the permission, and this machine's clock."
	case status == http.StatusNotFound:
		return "check the spelling; the command list shows what there is."
	case status == http.StatusConflict:
		return "there is one of that ID already: change it with update, or delete it first."
	case status == http.StatusPreconditionFailed:
		return "somebody has changed it meanwhile: look at it with show, and run the command again."
	case status == http.StatusTooManyRequests && refused.RetryAfter > 0:
		return fmt.Sprintf("wait %s and run the command again.", refused.RetryAfter)
	case status == http.StatusTooManyRequests:
		return "wait a minute and run the command again."
	case status >= http.StatusInternalServerError:
		return "run the command again; if it fails for long, the provider's status page may know more."
	default:
		return "look up the code and the message, and give Microsoft the tracking ID if they do not explain it."
	}
}

// printNetworkNext says what to do about an error on the way to the service, if
// it is one. The kinds are those of a registration's diagnosis; where its advice
// is for a registration, there is another here.
func printNetworkNext(w io.Writer, err error) {
	switch diagnosis := provisioning.Verdict(err); diagnosis.Kind {
	case "tls-untrusted":
		fmt.Fprintln(w, "  Next: give the root that signed it with --ca-file; for dpslocal that is the ca.pem of its directory.")
	case "connection-refused":
		fmt.Fprintln(w, "  Next: let this machine out to the service on port 443; a local service listens elsewhere: see --address.")
	case "interrupted", "dns", "dns-silent", "no-route", "connection-lost", "timeout", "tls-name", "tls-clock", "tls-expired", "tls-refused", "not-dps":
		fmt.Fprintf(w, "  Next: %s\n", lowerFirst(diagnosis.Next))
	}
}

// lowerFirst begins a sentence in lower case.
func lowerFirst(text string) string { return strings.ToLower(text[:1]) + text[1:] }
