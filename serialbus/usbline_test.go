// SPDX-License-Identifier: Apache-2.0

package serialbus

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const usbProfile = "name='x'\ndriver='line'\nprotocol='usb'\n[serial]\nbaud=9600\nparity='none'\nstop_bits=1\n[usb]\nvendor_id='0403'\nproduct_id='6001'\n"

// TestUSBIdentity: descriptors are the identity only where the profile says that this device is the appliance.
func TestUSBIdentity(t *testing.T) {
	tr := newTree(t)
	tr.adapter("ttyACM0", "cdc_acm", "A10K", "usb-one", "path-one")
	tr.file("sys/class/tty/ttyS0/device/uevent", "")
	tr.file("dev/ttyS0", "")
	for _, tc := range []struct {
		name, port string
		ids        usbDialect
		want       Identity
		wantErr    error
	}{
		{"by its name", "dev/ttyACM0", usbDialect{"0403", "6001"}, Identity{Vendor: "FTDI", Model: "FT232R USB UART", Serial: "A10K", Source: SourceUSB}, nil},
		{"by a link", "dev/serial/by-path/path-one", usbDialect{"0403", "6001"}, Identity{Vendor: "FTDI", Model: "FT232R USB UART", Serial: "A10K", Source: SourceUSB}, nil},
		{"another device", "dev/ttyACM0", usbDialect{"2e8a", "000a"}, Identity{}, ErrStrange},
		{"no USB device", "dev/ttyS0", usbDialect{"0403", "6001"}, Identity{}, ErrStrange},
		{"unplugged", "dev/ttyACM7", usbDialect{"0403", "6001"}, Identity{}, ErrSilent},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := &wire{}
			d := &usbDriver{port: w, machine: tr.machine(), path: filepath.Join(tr.root, tc.port), dialect: tc.ids}
			got, err := d.identify(t.Context(), 0)
			if !errors.Is(err, tc.wantErr) || tc.wantErr == nil && err != nil {
				t.Errorf("error %v, want %v", err, tc.wantErr)
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Error(diff)
			}
			if err := d.present(t.Context(), 0); !errors.Is(err, tc.wantErr) {
				t.Errorf("presence: %v, want %v", err, tc.wantErr)
			}
			if w.writes() != 0 {
				t.Errorf("%d frames were sent", w.writes())
			}
			w.cut()
			if err := d.present(t.Context(), 0); !isLost(err) {
				t.Errorf("on a port that is gone: %v", err)
			}
		})
	}
}

func TestUSBProfile(t *testing.T) {
	if _, err := ParseProfile([]byte(usbProfile)); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct{ name, old, new, want string }{
		{"no IDs", "[usb]\nvendor_id='0403'\nproduct_id='6001'\n", "", "usb: the protocol usb needs it"},
		{"IDs of another protocol", "'usb'", "'alp'", "usb: the protocol usb needs it, no other has it"},
		{"capitals", "'0403'", "'2E8A'", `vendor_id "2E8A", product_id "6001": both have four hex digits`},
		{"a property", "[usb]", "[[property]]\nname='p'\ntype='enum'\nallowed=['on']\n[usb]", "sets nothing"},
	} {
		_, err := ParseProfile([]byte(strings.Replace(usbProfile, tc.old, tc.new, 1)))
		if err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: got %v, want %q in it", tc.name, err, tc.want)
		}
	}
}
