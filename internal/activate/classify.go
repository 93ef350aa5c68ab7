package activate

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/nixfleet/nixfleet-agent/internal/system"
)

// Baseline is what runs on the host.
type Baseline struct {
	// Running is the system behind /run/current-system, Booted the one behind /run/booted-system. Where there is none, its
	// Closure is "".
	Running system.Components
	Booted  system.Components
	Live    system.Live
	// Extra holds the running system's value at each path of Rules.Extra.
	Extra map[string]string
	// Notes say what could not be read for the baseline.
	Notes []string
}

// Target is what the host is to be brought to.
type Target struct {
	Components system.Components
	// Extra holds the target's value at each path of Rules.Extra.
	Extra map[string]string
}

// Change is a component in which the target differs from what runs. From and To are store paths, versions or contents; "" is
// an absence.
type Change struct {
	Component string
	From      string
	To        string
	Treatment Treatment
}

// Verdict holds every difference, by what it leads to.
type Verdict struct {
	Deferred []Change
	Switched []Change
	Ignored  []Change
	// Notes say, in words, where something else than the obvious was compared.
	Notes []string
}

// Live reports whether the target can be activated without a reboot.
func (v Verdict) Live() bool { return len(v.Deferred) == 0 }

// Classify compares a target with what runs. Absent on both sides is equal, absent on one side is a difference.
//
// What is compared: the implementation of the system bus; systemd as PID 1 runs it; kernel and modules as booted; the
// init interface of the running system, which is what switch-to-configuration compares and ends with 100 for (the file
// "init" differs in every closure); every key that the switch-inhibitors of both the running system and the target have,
// which no treatment can change since NixOS itself refuses; and what the rules add.
func Classify(base Baseline, target Target, rules Rules) Verdict {
	c := classifier{rules: rules}
	c.verdict.Notes = append(c.verdict.Notes, base.Notes...)
	booted := c.booted(base)
	c.dbus(base, target.Components)
	c.systemd(base, target.Components)
	c.kernel(booted, target.Components)
	c.compare(ComponentInit, base.Running.InitInterface, target.Components.InitInterface)
	c.inhibitors(base.Running, target.Components)
	c.extras(base, booted, target)
	return c.verdict
}

type classifier struct {
	rules   Rules
	verdict Verdict
}

func (c *classifier) note(format string, args ...any) {
	c.verdict.Notes = append(c.verdict.Notes, fmt.Sprintf(format, args...))
}

func (c *classifier) compare(component, from, to string) {
	if from != to {
		c.change(component, from, to)
	}
}

func (c *classifier) change(component, from, to string) {
	change := Change{Component: component, From: from, To: to, Treatment: c.rules.treatment(component)}
	switch change.Treatment {
	case Ignore:
		c.verdict.Ignored = append(c.verdict.Ignored, change)
	case Switch:
		c.verdict.Switched = append(c.verdict.Switched, change)
	default:
		change.Treatment = Defer
		c.verdict.Deferred = append(c.verdict.Deferred, change)
	}
}

// booted is the system whose kernel runs.
func (c *classifier) booted(base Baseline) system.Components {
	if base.Booted.Closure == "" && base.Running.Closure != "" {
		c.note("the booted system cannot be told; the running one stands for it")
		return base.Running
	}
	return base.Booted
}

// dbus compares implementations. A bus that is not from the store is not NixOS's (a container, a test host): then the running
// system's unit counts.
func (c *classifier) dbus(base Baseline, target system.Components) {
	from := base.Running.DBus
	switch {
	case base.Live.DBus != "" && (base.Live.Bus == "" || inStore(base.Live.Bus)):
		from = base.Live.DBus
	case base.Live.Bus != "":
		c.note("the system bus runs %s, which is not from the store; the running system's bus is compared", base.Live.Bus)
	case base.Live.BusNote != "" && (from != "" || target.DBus != ""):
		c.note("%s; the running system's bus is compared", base.Live.BusNote)
	}
	c.compare(ComponentDBus, from, target.DBus)
}

// systemd compares what PID 1 executes with the target's link, by version or by store path.
func (c *classifier) systemd(base Baseline, target system.Components) {
	fromPath, fromVersion := c.liveSystemd(base)
	if c.rules.SystemdBy == ByPath || !versioned(fromPath, fromVersion) || !versioned(target.SystemdPath, target.SystemdVersion) {
		c.compare(ComponentSystemd, fromPath, target.SystemdPath)
		return
	}
	c.compare(ComponentSystemd, fromVersion, target.SystemdVersion)
}

// systemdProgram is the name of systemd's binary in its package.
const systemdProgram = "systemd"

// liveSystemd is the systemd that PID 1 runs, by store path and version. With systemd in the initrd, a closure's "init" is a
// copy of the binary (nixos/modules/system/activation/top-level.nix), so PID 1 may run it under that name.
func (c *classifier) liveSystemd(base Baseline) (storePath, version string) {
	pid1 := base.Live.PID1
	for _, s := range []system.Components{base.Booted, base.Running} {
		if s.Closure != "" && pid1 == s.Closure+"/init" {
			return s.SystemdPath, s.SystemdVersion
		}
	}
	switch {
	case inStore(pid1) && path.Base(pid1) == systemdProgram:
		storePath = packageOf(pid1)
		return storePath, versionOf(storePath)
	case inStore(pid1):
		c.note("PID 1 runs %s, which is not systemd's own binary; the running system's systemd is compared", pid1)
	case pid1 != "":
		c.note("PID 1 runs %s, which is not from the store; the running system's systemd is compared", pid1)
	case base.Live.PID1Note != "":
		c.note("%s; the running system's systemd is compared", base.Live.PID1Note)
	}
	return base.Running.SystemdPath, base.Running.SystemdVersion
}

// versioned reports whether a systemd can be compared by version: it is absent, or its name has one.
func versioned(storePath, version string) bool { return storePath == "" || version != "" }

// kernel compares kernel and modules as one: one without the other does not boot.
func (c *classifier) kernel(booted, target system.Components) {
	switch {
	case booted.Kernel != target.Kernel:
		c.change(ComponentKernel, booted.Kernel, target.Kernel)
	case booted.KernelModules != target.KernelModules:
		c.change(ComponentKernel, booted.KernelModules, target.KernelModules)
	}
}

// inhibitors compares as NixOS's own check does: only keys that both have, and a file that is not JSON is an empty one.
func (c *classifier) inhibitors(running, target system.Components) {
	for _, side := range []struct {
		name string
		system.Components
	}{{"running system", running}, {"target", target}} {
		if side.InhibitorsUnparsable {
			c.note("the switch-inhibitors of the %s are not JSON; NixOS takes them as none", side.name)
		}
	}
	c.verdict.Deferred = append(c.verdict.Deferred, inhibitorChanges(running, target)...)
}

// inhibitorChanges are the inhibitors for which the target's switch-to-configuration refuses to switch from running.
func inhibitorChanges(running, target system.Components) []Change {
	var changes []Change
	for key, from := range running.Inhibitors {
		if to, both := target.Inhibitors[key]; both && from != to {
			changes = append(changes, Change{Component: inhibitorPrefix + key, From: from, To: to, Treatment: Defer})
		}
	}
	slices.SortFunc(changes, func(a, b Change) int { return strings.Compare(a.Component, b.Component) })
	return changes
}

func (c *classifier) extras(base Baseline, booted system.Components, target Target) {
	for i, name := range c.rules.Extra {
		if slices.Contains(c.rules.Extra[:i], name) {
			continue
		}
		switch name {
		case ComponentInitrd:
			c.compare(name, booted.Initrd, target.Components.Initrd)
		case ComponentKernelParams:
			c.compare(name, booted.KernelParams, target.Components.KernelParams)
		case ComponentFirmware:
			c.compare(name, booted.Firmware, target.Components.Firmware)
		default:
			c.compare(name, base.Extra[name], target.Extra[name])
		}
	}
}

const storePrefix = "/nix/store/"

func inStore(file string) bool { return strings.HasPrefix(file, storePrefix) }

// packageOf is the store path that a file of the store belongs to.
func packageOf(file string) string {
	name, _, _ := strings.Cut(strings.TrimPrefix(file, storePrefix), "/")
	return storePrefix + name
}

// versionOf is the version in the name of a store path: what follows the first dash before a digit, as Nix itself divides
// names (DrvName). "" if there is none.
func versionOf(storePath string) string {
	_, name, _ := strings.Cut(path.Base(storePath), "-")
	for i := 0; i+1 < len(name); i++ {
		if name[i] == '-' && '0' <= name[i+1] && name[i+1] <= '9' {
			return name[i+1:]
		}
	}
	return ""
}
