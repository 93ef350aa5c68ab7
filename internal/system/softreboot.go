package system

import (
	"context"
	"os"
	"strconv"
	"time"

	"github.com/godbus/dbus/v5"
)

// managerTimeout bounds the question to PID 1. It answers in milliseconds; it
// does not answer at all for a moment while it re-executes itself, and a system
// bus that was replaced under it can leave a caller waiting for ever.
const managerTimeout = 2 * time.Second

// softRebootsFile stands in for the property of PID 1 where the root is a
// directory: a decimal number. Absent means that there was no soft reboot.
const softRebootsFile = "/run/systemd/soft-reboots-count"

// managerAddress is one way to reach PID 1 by D-Bus.
type managerAddress struct {
	address string
	// bus is true for a message bus, which wants Hello; PID 1's own socket is a
	// plain connection between two peers.
	bus bool
}

// managerAddresses are asked in this order. The private socket is open to root
// only and works without a bus.
var managerAddresses = []managerAddress{
	{address: "unix:path=/run/systemd/private"},
	{address: "unix:path=/run/dbus/system_bus_socket", bus: true},
}

// softReboots counts the soft reboots since the kernel was booted, by the
// property SoftRebootsCount of org.freedesktop.systemd1.Manager.
func (h *Host) softReboots(ctx context.Context) (count uint32, known bool) {
	if !h.real() {
		text, err := newWalk(h).readText(softRebootsFile)
		if err != nil {
			return 0, false
		}
		if text == "" {
			return 0, true
		}
		n, err := strconv.ParseUint(text, 10, 32)
		return uint32(n), err == nil
	}
	ctx, cancel := context.WithTimeout(ctx, managerTimeout)
	defer cancel()
	for _, manager := range h.managers {
		if count, err := manager.softReboots(ctx); err == nil {
			return count, true
		}
	}
	return 0, false
}

func (m managerAddress) softReboots(ctx context.Context) (uint32, error) {
	conn, err := dbus.Dial(m.address, dbus.WithContext(ctx))
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	uid := strconv.Itoa(os.Getuid())
	if err := conn.Auth([]dbus.Auth{dbus.AuthExternal(uid)}); err != nil {
		return 0, err
	}
	if m.bus {
		if err := conn.Hello(); err != nil {
			return 0, err
		}
	}
	var value dbus.Variant
	err = conn.Object("org.freedesktop.systemd1", "/org/freedesktop/systemd1").
		CallWithContext(ctx, "org.freedesktop.DBus.Properties.Get", 0, "org.freedesktop.systemd1.Manager", "SoftRebootsCount").
		Store(&value)
	if err != nil {
		return 0, err
	}
	var count uint32
	err = value.Store(&count)
	return count, err
}
