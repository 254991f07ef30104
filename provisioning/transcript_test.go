// SPDX-License-Identifier: Apache-2.0

package provisioning_test

import (
	"bytes"
	"flag"
	"os"
	"runtime/debug"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/contoso/gatewayd/provisioning/internal/conformancetest"
)

// TestConformanceTranscripts has the strict readers take apart what the client puts on the wire in one whole
// registration, and compares it with a file.
func TestConformanceTranscripts(t *testing.T) {
	for _, transport := range transports {
		t.Run(string(transport), func(t *testing.T) {
			transcript := record(t, transport)
			entries, err := transcript.Read()
			if err != nil {
				t.Error(err)
			}
			compareGolden(t, "testdata/transcript-"+string(transport)+".golden", conformancetest.Text(entries, programVersion()))
		})
	}
}

// record makes the one registration and returns the one connection that it took.
func record(t *testing.T, transport conformancetest.Transport) conformancetest.Transcript {
	t.Helper()
	transcripts := conformancetest.Record(t, transport, newConforming)
	if len(transcripts) != 1 {
		t.Fatalf("%d connections, want 1", len(transcripts))
	}
	return transcripts[0]
}

// TestConformanceTranscriptsRefused changes what was sent in one place at a time: the readers must see it, or their
// acceptance means nothing.
func TestConformanceTranscriptsRefused(t *testing.T) {
	swap := func(old, with string) func([]byte) []byte {
		return func(data []byte) []byte { return bytes.Replace(data, []byte(old), []byte(with), 1) }
	}
	tests := []struct {
		transport conformancetest.Transport
		name      string
		change    func([]byte) []byte
		want      string
	}{
		{"https", "another method", swap("PUT ", "PATCH "), "request 2: the method is PATCH"},
		{"https", "HTTP/1.0", swap("HTTP/1.1", "HTTP/1.0"), "request 1: not a request line"},
		{"https", "a bare line feed", swap("\r\n", "\n"), "request 1: not a request line"},
		{"https", "another scope", swap("/0ne00002193/", "/0ne00002194/"), "request 1: the path is /0ne00002194/"},
		{"https", "another path", swap("/register?", "/Register?"), "request 2: the path is"},
		{"https", "another operation", swap("/operations/5.", "/operations/4."), "request 3: the path is"},
		{"https", "an unknown api-version", swap("api-version=2021-06-01", "api-version=2021-06-02"), `request 1: the query is "api-version=2021-06-02"`},
		{"https", "a second parameter", swap("?api-version=", "?forceRegistration=true&api-version="), "request 1: the query is"},
		{"https", "an unknown header", swap("Accept:", "Accept-Encoding: gzip\r\nAccept:"), "request 1: no document names the header Accept-Encoding"},
		{"https", "a header twice", swap("Accept:", "Accept: application/json\r\nAccept:"), "request 1: the header Accept is given twice"},
		{"https", "another content type", swap("Content-Type: application/json", "Content-Type: text/json"), `request 1: the header Content-Type has the value "text/json; charset=utf-8"`},
		{"https", "no host", swap("Host: dps.test\r\n", ""), "request 1: the header Host is missing"},
		{"https", "no token", swap("Authorization: ", "X-Authorization: "), "request 1: no document names the header X-Authorization"},
		{"https", "lower-case escapes", swap("sr=0ne00002193%2F", "sr=0ne00002193%2f"), "request 1: the escape %2f is not in upper case"},
		{"https", "no skn", swap("&skn=registration", ""), "request 1: the token is not SharedAccessSignature sr=…&sig=…&se=…&skn=registration, in this order"},
		{"https", "another signature", swap("&se=9466", "&se=9467"), "request 1: the signature is not that of sr"},
		{"https", "a body that is cut", func(data []byte) []byte { return data[:bytes.LastIndex(data, []byte("GET "))-1] }, "request 3:"},
		{"https", "another member", swap(`{"registrationId"`, `{"RegistrationId"`), `request 1: the body has the member "RegistrationId"`},
		{"https", "an ID of another device", swap(`{"registrationId":"breakroom499`, `{"registrationId":"breakroom498`), `request 1: the body is about "breakroom498-contoso-tstrsd-007"`},
		{"https", "a payload that is no object", swap(`{"MyDeviceFirmwareVersion":"12.0.2.5"}`, `["MyDeviceFirmwareVersion","12.0.2.5"]`), "request 1: the payload is not an object"},
		{"https", "a member twice", swap(`"payload":{"MyDeviceFirmwareVersion":"12.0.2.5"}`, `"payload":{},        "payload":{"a":"1.0.2.5"}`), "request 1: the body names payload twice"},

		{"mqtt", "no CONNECT", func(data []byte) []byte { return data[bytes.IndexByte(data, 0x82):] }, "packet 1 (SUBSCRIBE): the first packet is not a CONNECT"},
		{"mqtt", "MQTT 3.1", swap("\x04MQTT\x04", "\x04MQTT\x03"), "packet 1 (CONNECT): the protocol level is 3, want 4"},
		{"mqtt", "another protocol", swap("\x04MQTT\x04", "\x04MQIs\x04"), `packet 1 (CONNECT): the protocol is "MQIs"`},
		{"mqtt", "clean session off", swap("\x04MQTT\x04\xc2", "\x04MQTT\x04\xc0"), "packet 1 (CONNECT): the flags are 0xC0"},
		{"mqtt", "a will", swap("\x04MQTT\x04\xc2", "\x04MQTT\x04\xc6"), "packet 1 (CONNECT): the flags are 0xC6"},
		{"mqtt", "no keep alive", swap("\xc2\x00\x3c", "\xc2\x00\x00"), "packet 1 (CONNECT): the keep alive is 0 s, want 30 to 240"},
		{"mqtt", "another client ID", swap("breakroom499", "breakroom498"), `packet 1 (CONNECT): the client ID is "breakroom498-contoso-tstrsd-007"`},
		{"mqtt", "a question mark", swap("/api-version", "?api-version"), "packet 1 (CONNECT): the user name is"},
		{"mqtt", "an unescaped agent", swap("gatewayd%2F", "gatewayd/v."), "packet 1 (CONNECT): the user name is"},
		{"mqtt", "lower-case escapes", swap("sr=0ne00002193%2F", "sr=0ne00002193%2f"), "packet 1 (CONNECT): the escape %2f is not in upper case"},
		{"mqtt", "another filter", swap("res/#", "res/+"), `packet 2 (SUBSCRIBE): the filter is "$dps/registrations/res/+"`},
		{"mqtt", "QoS 0", swap("res/#\x01", "res/#\x00"), "packet 2 (SUBSCRIBE): it asks for QoS 0, want 1"},
		{"mqtt", "a wrong flag", swap("\x82\x1d", "\x80\x1d"), "packet 2 (SUBSCRIBE): its flags are 0, want 2"},
		{"mqtt", "to be retained", swap("\x32\xa0\x01", "\x33\xa0\x01"), "packet 3 (PUBLISH): it is to be retained"},
		{"mqtt", "sent again", swap("\x32\xa0\x01", "\x3a\xa0\x01"), "packet 3 (PUBLISH): it says that it is sent again"},
		{"mqtt", "QoS 2", swap("\x32\xa0\x01", "\x34\xa0\x01"), "packet 3 (PUBLISH): its QoS is 2"},
		{"mqtt", "no request ID", swap("?$rid=", "?$Rid="), "packet 3 (PUBLISH): no document names the topic"},
		{"mqtt", "no question mark in the topic", swap("register/?", "register//"), "packet 3 (PUBLISH): no document names the topic"},
		{"mqtt", "a request ID again", swap("-2&operationId", "-1&operationId"), "is used again"},
		{"mqtt", "another operation", swap("&operationId=5.", "&operationId=4."), `it polls operation "4.316aac5bdc130deb`},
		{"mqtt", "another member", swap(`{"registrationId"`, `{"RegistrationId"`), `packet 3 (PUBLISH): the body has the member "RegistrationId"`},
		{"mqtt", "no DISCONNECT", func(data []byte) []byte { return data[:len(data)-2] }, "the connection ends without a DISCONNECT"},
		{"mqtt", "a long length", swap("\x82\x1d", "\x82\x9d\x00"), "packet 2 (SUBSCRIBE): its length is written longer than need be"},
		{"mqtt", "something after the end", func(data []byte) []byte { return append(data, 0xC0, 0) }, "(PINGREQ): something follows the DISCONNECT"},
		{"mqtt", "a server's packet", func(data []byte) []byte { return append(data, 0x20, 2, 0, 0) }, "(type 2): a device does not send it"},

		{"mqtt-ws", "another path", swap("/$iothub/websocket", "/$iothub/webSocket"), "upgrade: GET /$iothub/webSocket"},
		{"mqtt-ws", "another subprotocol", swap("Protocol: mqtt", "Protocol: amqp"), `upgrade: the header Sec-Websocket-Protocol has the value "amqp"`},
		{"mqtt-ws", "another version", swap("Version: 13", "Version: 12"), "upgrade: the header Sec-Websocket-Version has the value"},
		{"mqtt-ws", "a token in the head", swap("Host:", "Authorization: SharedAccessSignature\r\nHost:"), "upgrade: no document names the header Authorization"},
		{"mqtt-ws", "a frame that is not masked", afterHead(func(frame []byte) { frame[1] &= 0x7F }), "frame 1: it is not masked"},
		{"mqtt-ws", "a text frame", afterHead(func(frame []byte) { frame[0] = 0x81 }), "frame 1: its opcode is 0x1, want binary"},
		{"mqtt-ws", "a reserved bit", afterHead(func(frame []byte) { frame[0] |= 0x40 }), "frame 1: a reserved bit is set"},
		{"mqtt-ws", "a part of a message", afterHead(func(frame []byte) { frame[0] &= 0x7F }), "frame 1: it is a part of a message"},
		{"mqtt-ws", "another mask", afterHead(func(frame []byte) { frame[4] ^= 0xFF }), "packet 1"},
	}
	for _, transport := range transports {
		t.Run(string(transport), func(t *testing.T) {
			transcript := record(t, transport)
			var sent []byte
			for _, heard := range transcript.Heard {
				sent = append(sent, heard.Data...)
			}
			for _, test := range tests {
				if test.transport != transport {
					continue
				}
				t.Run(test.name, func(t *testing.T) {
					changed := test.change(bytes.Clone(sent))
					if bytes.Equal(changed, sent) {
						t.Fatal("nothing was changed")
					}
					_, err := conformancetest.Transcript{
						Transport: transport, Began: transcript.Began,
						Heard: []conformancetest.Heard{{At: transcript.Heard[0].At, Data: changed}},
					}.Read()
					if err == nil || !strings.Contains(err.Error(), test.want) {
						t.Errorf("got %v, want %q", err, test.want)
					}
				})
			}
			t.Run("signed for more than an hour", func(t *testing.T) {
				early := []conformancetest.Heard{{At: transcript.Heard[0].At.Add(-time.Second), Data: sent}}
				_, err := conformancetest.Transcript{Transport: transport, Began: transcript.Began, Heard: early}.Read()
				if want := "se lies 1h0m1s ahead, want up to 1h0m0s"; err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("got %v, want %q", err, want)
				}
			})
		})
	}
}

// afterHead changes the first frame after an upgrade.
func afterHead(change func(frame []byte)) func([]byte) []byte {
	return func(data []byte) []byte {
		change(data[bytes.Index(data, []byte("\r\n\r\n"))+4:])
		return data
	}
}

// programVersion is the version that the client sends, as the build recorded it.
func programVersion() string {
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" && info.Main.Version != "(devel)" {
		return info.Main.Version
	}
	return "devel"
}

// compareGolden compares text with a file, or with -update writes it.
func compareGolden(t *testing.T, path, got string) {
	t.Helper()
	if flag.Lookup("update").Value.String() == "true" {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", path, diff)
	}
}
