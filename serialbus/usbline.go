// SPDX-License-Identifier: Apache-2.0

package serialbus

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"regexp"
	"slices"
)

// usbDialect names the USB device that the appliance itself is. A bridge chip has descriptors as well, but they name the
// cable (serial 2.1), so the profile of a product has to say that its descriptors are the product's.
type usbDialect struct {
	VendorID  string `toml:"vendor_id"` // four hex digits in lower case, as in sysfs
	ProductID string `toml:"product_id"`
}

// usbID is what a vendor or product ID looks like in sysfs.
var usbID = regexp.MustCompile(`^[0-9a-f]{4}$`)

// check refuses IDs that no device can have.
func (u usbDialect) check() error {
	if !usbID.MatchString(u.VendorID) || !usbID.MatchString(u.ProductID) {
		return fmt.Errorf("vendor_id %q, product_id %q: both have four hex digits in lower case", u.VendorID, u.ProductID)
	}
	return nil
}

// usbDriver reads who an appliance is from its USB descriptors; no byte goes over the line.
type usbDriver struct {
	port    port
	machine Machine
	path    string // of the port, as configured
	dialect usbDialect
}

var _ driver = (*usbDriver)(nil)

// present looks whether the device is still plugged in. What the appliance says by itself is read and dropped: reading
// is what notices a pulled plug.
func (d *usbDriver) present(ctx context.Context, unit byte) error {
	var buf [256]byte
	if _, err := d.port.Read(buf[:], 0); err != nil && !errors.Is(err, errTimeout) {
		return err
	}
	_, err := d.identify(ctx, unit)
	return err
}

// identify reads the descriptors from sysfs.
func (d *usbDriver) identify(ctx context.Context, _ byte) (Identity, error) {
	device, err := filepath.EvalSymlinks(d.path)
	if err != nil {
		return Identity{}, fmt.Errorf("%w: %w", ErrSilent, err)
	}
	ports, err := d.machine.Ports()
	if err != nil {
		return Identity{}, err
	}
	i := slices.IndexFunc(ports, func(p PortInfo) bool { return filepath.Base(p.Device) == filepath.Base(device) })
	switch {
	case i < 0 || ports[i].VendorID == "":
		return Identity{}, fmt.Errorf("%w: the port belongs to no USB device", ErrStrange)
	case ports[i].VendorID != d.dialect.VendorID || ports[i].ProductID != d.dialect.ProductID:
		return Identity{}, fmt.Errorf("%w: USB device %s:%s is plugged in, the profile is for %s:%s",
			ErrStrange, ports[i].VendorID, ports[i].ProductID, d.dialect.VendorID, d.dialect.ProductID)
	}
	id := Identity{Vendor: ports[i].Vendor, Model: ports[i].Product, Serial: ports[i].Serial}.cleaned()
	if id != (Identity{}) {
		id.Source = SourceUSB
	}
	return id, ctx.Err()
}

// apply finds no place for any setting: descriptors cannot be written.
func (d *usbDriver) apply(_ context.Context, _ byte, s Settings) (Applied, error) {
	return Applied{Unmapped: slices.Sorted(maps.Keys(s.Desired))}, nil
}

// holds is true: it holds all that it has a place for.
func (d *usbDriver) holds(context.Context, byte, Settings) (bool, error) { return true, nil }
