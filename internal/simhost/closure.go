package simhost

import (
	"runtime"
)

// DBus implementations, as NixOS spells them in services.dbus.implementation.
const (
	DBusDaemon = "dbus"
	DBusBroker = "broker"
)

// Closure says what a system closure holds. The zero value of a field is an absence: a container has no kernel, a system before
// 26.05 no switch inhibitors. [NixOS] gives a whole one to begin with.
//
// Components are named as in the store, "linux-6.12.1". Two closures with the same name share the component. What follows a
// '#' is not part of the name but makes another store path: "systemd-257.3#rebuilt" is the same version after a mass rebuild.
type Closure struct {
	Name  string // host name in the closure's name
	Label string // content of nixos-version
	// System is the platform, such as x86_64-linux.
	System string

	Kernel        string // such as "linux-6.12.1"; its modules are "linux-6.12.1-modules"
	Initrd        string // such as "initrd-linux-6.12.1"
	Systemd       string // such as "systemd-257.3"
	Firmware      string // such as "firmware"
	KernelParams  string // content of kernel-params; separated by blanks, without init=
	InitInterface string // content of init-interface-version, such as "systemd 2"
	DBus          string // DBusDaemon, DBusBroker or "" for a system without a bus

	// Inhibitors becomes switch-inhibitors; nil is a closure without the file. InhibitorsRaw is written as it is instead.
	Inhibitors    map[string]string
	InhibitorsRaw string

	NotSwitchable bool // system.switch.enable = false: no bin/switch-to-configuration and no activate
	NotNixOS      bool // some store path that is no system at all

	// Specialisations are child closures; what a child leaves empty it has from its parent. Children have no children.
	Specialisations map[string]Closure

	// Behaviour holds knobs (see [Host.Knob]) that are part of the closure.
	Behaviour map[string]string

	// Units are files of /etc/systemd/system. On a booted host a switch stops, starts and restarts those that changed, as the
	// X-RestartIfChanged, X-StopIfChanged and X-StopOnRemoval settings in them say. If there are none, the closure pretends
	// to have two that changed, so that every switch has something in its lists.
	Units map[string]string

	// Extra holds further files by their path in the closure; "sw/…" and "etc/…" go where these links lead. A value that
	// begins with "#!" is an executable, one that begins with "-> " a link to what follows.
	Extra map[string]string
}

// NixOS is a complete, switchable system as release 26.05 makes it: D-Bus by the broker, systemd 257, and the one inhibitor that
// NixOS has by default.
func NixOS(name, label string) Closure {
	return Closure{
		Name:          name,
		Label:         label,
		System:        platform(),
		Kernel:        "linux-6.12.1",
		Initrd:        "initrd-linux-6.12.1",
		Systemd:       "systemd-257.3",
		Firmware:      "firmware",
		KernelParams:  "loglevel=4 lsm=landlock,yama,bpf",
		InitInterface: "systemd 2",
		DBus:          DBusBroker,
		Inhibitors:    map[string]string{"dbus-implementation": DBusBroker},
	}
}

// StoreName is the name part of the closure's store path, nixos-system-NAME-LABEL, which `nix store add-path --name` takes.
func (c Closure) StoreName() string {
	if c.NotNixOS {
		return c.Name + "-" + c.Label
	}
	return "nixos-system-" + c.Name + "-" + c.Label
}

func platform() string {
	if runtime.GOARCH == "arm64" {
		return "aarch64-linux"
	}
	return "x86_64-linux"
}

// child is a specialisation with everything that it leaves to its parent filled in.
func (c Closure) child(override Closure) Closure {
	child := c
	child.Specialisations = nil
	inherit := func(field *string, value string) {
		if value != "" {
			*field = value
		}
	}
	inherit(&child.Name, override.Name)
	inherit(&child.Label, override.Label)
	inherit(&child.System, override.System)
	inherit(&child.Kernel, override.Kernel)
	inherit(&child.Initrd, override.Initrd)
	inherit(&child.Systemd, override.Systemd)
	inherit(&child.Firmware, override.Firmware)
	inherit(&child.KernelParams, override.KernelParams)
	inherit(&child.InitInterface, override.InitInterface)
	inherit(&child.DBus, override.DBus)
	inherit(&child.InhibitorsRaw, override.InhibitorsRaw)
	for field, value := range map[*map[string]string]map[string]string{
		&child.Inhibitors: override.Inhibitors,
		&child.Behaviour:  override.Behaviour,
		&child.Units:      override.Units,
		&child.Extra:      override.Extra,
	} {
		if value != nil {
			*field = value
		}
	}
	child.NotSwitchable = c.NotSwitchable || override.NotSwitchable
	return child
}
