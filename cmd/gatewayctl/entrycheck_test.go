// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto/x509"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"syscall"
	"testing"

	"github.com/contoso/gatewayd/provisioning/enrollment"
)

// TestCheckEntry makes one mistake at a time in an entry that is right.
func TestCheckEntry(t *testing.T) {
	const good = "https://f.example/api/HttpTrigger1?code=sesame"
	entry := func(change func(*enrollment.Entry)) enrollment.Entry {
		e := enrollment.Entry{
			ProvisioningStatus: enrollment.Enabled, AllocationPolicy: enrollment.Custom, IoTHubs: []string{"h.azure-devices.net"},
			CustomAllocation:  &enrollment.CustomAllocation{WebhookURL: enrollment.NewWebhookURL(good), APIVersion: "2021-10-01"},
			ReprovisionPolicy: &enrollment.ReprovisionPolicy{UpdateHubAssignment: true, MigrateDeviceData: true},
		}
		change(&e)
		return e
	}
	webhook := func(address string) func(*enrollment.Entry) {
		return func(e *enrollment.Entry) { e.CustomAllocation.WebhookURL = enrollment.NewWebhookURL(address) }
	}
	for _, test := range []struct {
		name   string
		change func(*enrollment.Entry)
		local  bool
		want   string // the findings that are not ok, "check verdict what", up to a colon or comma
	}{
		{"right", func(*enrollment.Entry) {}, false, ""},
		{"disabled", func(e *enrollment.Entry) { e.ProvisioningStatus = enrollment.Disabled }, false, "status wrong disabled"},
		{"hashed", func(e *enrollment.Entry) { e.AllocationPolicy, e.CustomAllocation = enrollment.Hashed, nil }, false, "allocation policy wrong hashed"},
		{"custom without a webhook", func(e *enrollment.Entry) { e.CustomAllocation = nil }, false, "allocation policy wrong custom"},
		{"no URL", webhook("f.example/api"), false, "URL wrong the webhook's URL is not one that can be called"},
		{"a password", webhook("https://u:p@f.example/api?code=sesame"), false, "URL wrong the webhook's URL is not one that can be called"},
		{"http", webhook("http://f.example/api?code=sesame"), true, "URL wrong http"},
		{"http on loopback, Azure", webhook("http://localhost/api?code=sesame"), false, "URL wrong http"},
		{"http on loopback, local", webhook("http://localhost/api?code=sesame"), true, ""},
		{"another scheme", webhook("ftp://f.example/api?code=sesame"), false, "URL wrong ftp"},
		{"no key", webhook("https://f.example/api"), false, "function key wrong none in the URL"},
		{"empty key", webhook("https://f.example/api?code="), true, "function key wrong none in the URL"},
		{"no key, own machine", webhook("http://127.0.0.1/api"), true, "function key note none in the URL"},
		{"hidden key", webhook("https://f.example/api?****"), false, "function key wrong asterisks stand in the place of the key"},
		{"two keys", webhook("https://f.example/api?code=a&code=b"), false, "function key wrong the URL has 2 keys"},
		{"plus sign", webhook("https://f.example/api?code=a+b"), false, "function key note ?code= is in the URL"},
		{"no version", func(e *enrollment.Entry) { e.CustomAllocation.APIVersion = "" }, false, "API version wrong none"},
		{"old version", func(e *enrollment.Entry) { e.CustomAllocation.APIVersion = "2018-11-01" }, false, "API version note 2018-11-01"},
		{"all hubs", func(e *enrollment.Entry) { e.IoTHubs = nil }, false, "hubs note none is named"},
		{"old hub", func(e *enrollment.Entry) { e.IoTHubs, e.IoTHubHostName = nil, "h" }, false, "hubs note h"},
		{"never", func(e *enrollment.Entry) { e.ReprovisionPolicy = new(enrollment.ReprovisionPolicy) }, false, "reprovisioning note never"},
		{"reset", func(e *enrollment.Entry) { e.ReprovisionPolicy.MigrateDeviceData = false }, false, ""},
		{"undocumented", func(e *enrollment.Entry) { e.ReprovisionPolicy.UpdateHubAssignment = false }, false, "reprovisioning note data would be moved without a move"},
		{"untold", func(e *enrollment.Entry) { e.ReprovisionPolicy = nil }, false, "reprovisioning note not told"},
	} {
		t.Run(test.name, func(t *testing.T) {
			var got []string
			for _, f := range checkEntry(entry(test.change), test.local) {
				if strings.Contains(f.What+f.Next, "sesame") {
					t.Errorf("the key is shown: %+v", f)
				}
				if (f.Verdict == verdictOK) != (f.Next == "") {
					t.Errorf("a next step belongs to what is not ok, and to nothing else: %+v", f)
				}
				if f.Verdict != verdictOK {
					what, _, _ := strings.Cut(f.What, ":")
					what, _, _ = strings.Cut(what, ",")
					got = append(got, f.Check+" "+string(f.Verdict)+" "+what)
				}
			}
			if all := strings.Join(got, "; "); all != test.want {
				t.Errorf("got  %s\nwant %s", all, test.want)
			}
		})
	}
}

// TestJudgeAddresses tells what DPS can reach from what it cannot.
func TestJudgeAddresses(t *testing.T) {
	for _, test := range []struct {
		host, addresses string
		local           bool
		want            verdict
	}{
		{"f.example", "20.50.1.1", false, verdictOK},
		{"f.example", "2603:1020::1 20.50.1.1", false, verdictOK},
		{"localhost", "127.0.0.1 ::1", false, verdictWrong},
		{"gateway.site", "10.1.2.3", false, verdictWrong},
		{"gateway.site", "192.168.1.2", true, verdictOK},
		{"gateway.site", "::ffff:172.16.0.1", false, verdictWrong},
		{"gateway.site", "169.254.7.7", false, verdictWrong},
		{"gateway.site", "fd00::1", false, verdictWrong},
		{"100.64.0.9", "100.64.0.9", false, verdictWrong},
		{"gateway.site", "20.50.1.1 10.1.2.3", false, verdictNote},
	} {
		var addresses []netip.Addr
		for text := range strings.FieldsSeq(test.addresses) {
			addresses = append(addresses, netip.MustParseAddr(text))
		}
		if got := judgeAddresses(test.host, addresses, test.local); got.Verdict != test.want {
			t.Errorf("%s, %s, local %t: got %+v, want %s", test.host, test.addresses, test.local, got, test.want)
		}
	}
}

// TestJudgeAnswer reads what a webhook, or somebody in its place, may answer.
func TestJudgeAnswer(t *testing.T) {
	const page = "text/html; charset=utf-8"
	for _, test := range []struct {
		name     string
		status   int
		kind     string // Content-Type
		body     string
		want     verdict
		wantPart string
	}{
		{"linked hub", 200, "application/json", `{"iotHubHostName":"H.azure-devices.net"}`, verdictOK, "would send a device that it does not know to H.azure-devices.net"},
		{"other hub", 200, "application/json", `{"iotHubHostName":"x.azure-devices.net"}`, verdictWrong, "which the enrollment does not have"},
		{"no hub", 200, "application/json", `{"iotHubHostName":null}`, verdictWrong, "400208"},
		{"login page", 200, page, "<html>", verdictWrong, "without an AllocationResponse"},
		{"too long", 200, "application/json", `{"iotHubHostName":"h.azure-devices.net"}` + strings.Repeat(" ", maxProbeAnswer), verdictWrong, "without an AllocationResponse"},
		{"refusal", 400, "text/plain", "Unrecognized\x1b[2J device registration.", verdictOK, "does not know: Unrecognized [2J device registration."},
		{"refusal without words", 400, "", "", verdictOK, "(without a word)"},
		{"page of a proxy", 400, page, "The plain HTTP request was sent to HTTPS port", verdictWrong, "a web page"},
		{"page without a type", 400, "", "<html>", verdictWrong, "a web page"},
		{"key", 401, "", "", verdictWrong, "400209"},
		{"stopped app", 403, page, "<html>", verdictWrong, "403"},
		{"path", 404, "", "", verdictWrong, "no function at this path"},
		{"method", 405, "", "", verdictWrong, "it answers 405"},
		{"redirect", 302, "", "", verdictWrong, "redirects elsewhere (302)"},
		{"throttled", 429, "", "", verdictWrong, "not at the moment"},
		{"reloading", 503, "", "", verdictWrong, "not at the moment"},
		{"proxy without a webhook", 502, page, "<html>", verdictWrong, "in trouble"},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := judgeAnswer(test.status, http.Header{"Content-Type": {test.kind}}, []byte(test.body), []string{"h.azure-devices.net"})
			if got.Verdict != test.want || !strings.Contains(got.What, test.wantPart) {
				t.Errorf("got %+v, want %s, %q", got, test.want, test.wantPart)
			}
		})
	}
}

// TestUnreachable names each reason, and never the URL.
func TestUnreachable(t *testing.T) {
	for _, test := range []struct {
		err  error
		want string
	}{
		{&net.DNSError{Name: "f.example", IsNotFound: true}, "its host name is not known here"},
		{&net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}, "the connection is refused"},
		{&net.OpError{Op: "dial", Err: syscall.EHOSTUNREACH}, "there is no way from here"},
		{context.DeadlineExceeded, "there is no answer within"},
		{x509.UnknownAuthorityError{}, "not signed by a trusted root"},
		{x509.HostnameError{Certificate: new(x509.Certificate), Host: "f.example"}, "for another name"},
		{x509.CertificateInvalidError{Cert: new(x509.Certificate), Reason: x509.Expired}, "not valid today"},
		{syscall.ECONNRESET, "closes the connection"},
		{context.Canceled, "interrupted"},
		{errors.New("http: server gave HTTP response to HTTPS client"), "there is no answer: http: server gave HTTP response"},
	} {
		got := unreachable(&url.Error{Op: "Post", URL: "https://f.example/api?code=sesame", Err: test.err})
		if got.Verdict != verdictWrong || !strings.Contains(got.What, test.want) || strings.Contains(got.What, "sesame") {
			t.Errorf("%v: got %+v, want %q", test.err, got, test.want)
		}
	}
}

// TestQuoteWord makes words that a shell takes for one.
func TestQuoteWord(t *testing.T) {
	for text, want := range map[string]string{
		"site-url":   "site-url",
		"/etc/a b":   "'/etc/a b'",
		"it's":       `'it'\''s'`,
		"$(reboot)":  "'$(reboot)'",
		"":           "''",
		"C=1,D=2":    "C=1,D=2",
		"a\nb; true": "'a\nb; true'",
	} {
		if got := quoteWord(text); got != want {
			t.Errorf("%q: got %s, want %s", text, got, want)
		}
	}
}
