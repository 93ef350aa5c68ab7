package activate_test

import (
	"context"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/nixfleet/nixfleet-agent/internal/activate"
	"github.com/nixfleet/nixfleet-agent/internal/system"
)

// classify lays out both closures on a host that booted and runs the first, and classifies the second.
func classify(t *testing.T, running, target closure, rules activate.Rules, more ...func(*root)) activate.Verdict {
	t.Helper()
	r := newRoot(t, running)
	target.label += "-target"
	r.add(target)
	for _, change := range more {
		change(r)
	}
	base, to, err := activate.Gather(context.Background(), r.host(), target.path(), rules)
	if err != nil {
		t.Fatal(err)
	}
	return activate.Classify(base, to, rules)
}

func names(changes []activate.Change) []string {
	list := []string{}
	for _, c := range changes {
		list = append(list, c.Component)
	}
	return list
}

// all are the changes of a verdict, whatever they lead to.
func all(v activate.Verdict) []activate.Change {
	return slices.Concat(v.Deferred, v.Switched, v.Ignored)
}

// pid1 lets PID 1 of the host execute a file.
func pid1(exe string) func(*root) {
	return func(r *root) { r.link("/proc/1/exe", exe) }
}

// bus lets the system bus of the host be a process of a unit that executes a file.
func bus(unit, exe string) func(*root) {
	return func(r *root) {
		r.file("/sys/fs/cgroup/system.slice/"+unit+"/cgroup.procs", "77\n")
		r.link("/proc/77/exe", exe)
	}
}

// A component of a table: how a closure without it, with one value and with another of it is made, and how the two read.
type component struct {
	name   string
	set    func(c *closure, value string)
	one    string
	two    string
	oneWas string
	twoWas string
	extra  string // what Rules.Extra must hold, "" for what is always compared
	byPath bool
}

func components() []component {
	set := func(field func(*closure) *string) func(*closure, string) {
		return func(c *closure, value string) { *field(c) = value }
	}
	return []component{
		{name: "dbus", set: set(func(c *closure) *string { return &c.dbus }), one: "dbus", two: "broker", oneWas: "dbus", twoWas: "broker"},
		{name: "systemd", set: set(func(c *closure) *string { return &c.systemd }), one: "systemd-258.3", two: "systemd-259", oneWas: "258.3", twoWas: "259"},
		{name: "systemd", byPath: true, set: set(func(c *closure) *string { return &c.systemd }), one: "systemd-258.3", two: "systemd-259",
			oneWas: storePathOf("systemd-258.3"), twoWas: storePathOf("systemd-259")},
		{name: "kernel", set: set(func(c *closure) *string { return &c.kernel }), one: "linux-6.12.1", two: "linux-6.12.2",
			oneWas: storePathOf("linux-6.12.1") + "/bzImage", twoWas: storePathOf("linux-6.12.2") + "/bzImage"},
		{name: "kernel", set: set(func(c *closure) *string { return &c.modules }), one: "linux-6.12.1-modules", two: "linux-6.12.1-zfs-modules",
			oneWas: storePathOf("linux-6.12.1-modules"), twoWas: storePathOf("linux-6.12.1-zfs-modules")},
		{name: "init", set: set(func(c *closure) *string { return &c.init }), one: "systemd 2", two: "systemd 3", oneWas: "systemd 2", twoWas: "systemd 3"},
		{name: "initrd", extra: "initrd", set: set(func(c *closure) *string { return &c.initrd }), one: "initrd-1", two: "initrd-2",
			oneWas: storePathOf("initrd-1") + "/initrd", twoWas: storePathOf("initrd-2") + "/initrd"},
		{name: "kernel-params", extra: "kernel-params", set: set(func(c *closure) *string { return &c.params }), one: "quiet", two: "quiet iommu=off",
			oneWas: "quiet", twoWas: "quiet iommu=off"},
		{name: "firmware", extra: "firmware", set: set(func(c *closure) *string { return &c.firmware }), one: "firmware-1", two: "firmware-2",
			oneWas: storePathOf("firmware-1") + "/lib/firmware", twoWas: storePathOf("firmware-2") + "/lib/firmware"},
		{name: "etc/fstab", extra: "etc/fstab", set: func(c *closure, value string) {
			if c.files = nil; value != "" {
				c.files = map[string]string{"etc/fstab": value}
			}
		}, one: "a\n", two: "b\n",
			oneWas: "sha256:87428fc522803d31065e7bce3cf03fe475096631e5e07bbd7a0fde60c4cf25c7",
			twoWas: "sha256:0263829989b6fd954f72baaf2fc64bc2e2f01d692d4de72986ea808f6e99813f"},
	}
}

func (c component) rules(treatment activate.Treatment) activate.Rules {
	rules := activate.Rules{}
	if treatment != "" {
		rules.Treatment = map[string]activate.Treatment{c.name: treatment}
	}
	if c.extra != "" {
		rules.Extra = []string{c.extra}
	}
	if c.byPath {
		rules.SystemdBy = activate.ByPath
	}
	return rules
}

func TestEveryComponent(t *testing.T) {
	for _, c := range components() {
		for _, sides := range []struct{ from, to, saidFrom, saidTo string }{
			{c.one, c.one, "", ""},
			{"", "", "", ""},
			{c.one, c.two, c.oneWas, c.twoWas},
			{c.one, "", c.oneWas, ""},
			{"", c.two, "", c.twoWas},
		} {
			for _, treatment := range []activate.Treatment{"", activate.Defer, activate.Switch, activate.Ignore} {
				t.Run(fmt.Sprintf("%s %q to %q, %s", c.name, sides.from, sides.to, treatment), func(t *testing.T) {
					running, target := nixos(), nixos()
					c.set(&running, sides.from)
					c.set(&target, sides.to)
					rules := c.rules(treatment)
					if err := rules.Validate(); err != nil {
						t.Fatal(err)
					}
					got := classify(t, running, target, rules)
					var want activate.Verdict
					if sides.from != sides.to {
						change := []activate.Change{{Component: c.name, From: sides.saidFrom, To: sides.saidTo, Treatment: activate.Defer}}
						switch treatment {
						case activate.Switch:
							change[0].Treatment, want.Switched = treatment, change
						case activate.Ignore:
							change[0].Treatment, want.Ignored = treatment, change
						default:
							want.Deferred = change
						}
					}
					got.Notes = nil
					if !reflect.DeepEqual(got, want) {
						t.Errorf("got  %+v\nwant %+v", got, want)
					}
					if live := sides.from == sides.to || treatment == activate.Switch || treatment == activate.Ignore; got.Live() != live {
						t.Errorf("live is %t", got.Live())
					}
				})
			}
		}
	}
}

func TestExtrasAreComparedOnlyWhereTheyAreAdded(t *testing.T) {
	target := nixos()
	target.initrd, target.params, target.firmware = "initrd-2", "quiet", "firmware-2"
	target.files = map[string]string{"init": "#!/bin/sh\n", "etc/fstab": "x"}
	if got := classify(t, nixos(), target, activate.Rules{}); len(all(got)) != 0 {
		t.Errorf("got %+v", got)
	}
	rules := activate.Rules{Extra: []string{"firmware", "etc/fstab", "initrd", "firmware"}}
	if got, want := names(classify(t, nixos(), target, rules).Deferred), []string{"firmware", "etc/fstab", "initrd"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q: in the operator's order, each once", got, want)
	}
}

func TestSystemdOfAnotherBuildIsTheSameVersion(t *testing.T) {
	running, target := nixos(), nixos()
	running.systemd, target.systemd = "systemd-minimal-258.3", "systemd-258.3"
	if got := classify(t, running, target, activate.Rules{}); !got.Live() {
		t.Errorf("by version: %+v", got.Deferred)
	}
	if got := classify(t, running, target, activate.Rules{SystemdBy: activate.ByPath}); got.Live() {
		t.Error("by path: no difference")
	}
	// A name without a version can only be compared as a path.
	target.systemd = "systemd-custom"
	want := []activate.Change{{Component: "systemd", From: storePathOf("systemd-minimal-258.3"), To: storePathOf("systemd-custom"), Treatment: activate.Defer}}
	if got := classify(t, running, target, activate.Rules{}).Deferred; !slices.Equal(got, want) {
		t.Errorf("without a version: %+v", got)
	}
}

func TestInhibitors(t *testing.T) {
	const one, two = `{"dbus-implementation":"dbus","fstab":"/a","z":"1","num":1}`, `{"dbus-implementation":"dbus","fstab":"/b","z":"2","num":2}`
	tests := []struct {
		name     string
		from, to string
		want     []string // key from to
		note     string
	}{
		{"equal", one, one, nil, ""},
		{"all that differ, in order", one, two, []string{"inhibitor:fstab /a /b", "inhibitor:num 1 2", "inhibitor:z 1 2"}, ""},
		{"a key that is new or gone never inhibits", `{"a":"1","b":"1"}`, `{"b":"1","c":"1"}`, nil, ""},
		{"none before", "", one, nil, ""},
		{"none after", one, "", nil, ""},
		{"none at all", "", "", nil, ""},
		{"text before", "/nix/store/x.drv\n", one, nil, "running system"},
		{"text after", one, "/nix/store/x.drv\n", nil, "target"},
		{"an array", one, `["fstab"]`, nil, "target"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			running, target := nixos(), nixos()
			running.inhibitors, target.inhibitors = test.from, test.to
			// No treatment changes what NixOS itself refuses.
			rules := activate.Rules{Treatment: map[string]activate.Treatment{"inhibitor:fstab": activate.Ignore, "inhibitor:z": activate.Switch}}
			v := classify(t, running, target, rules)
			var got []string
			for _, c := range v.Deferred {
				got = append(got, c.Component+" "+c.From+" "+c.To)
				if c.Treatment != activate.Defer {
					t.Errorf("%s is to %s", c.Component, c.Treatment)
				}
			}
			if !slices.Equal(got, test.want) || len(v.Switched)+len(v.Ignored) > 0 {
				t.Errorf("got %q, want %q; %+v", got, test.want, v)
			}
			if said := strings.Contains(strings.Join(v.Notes, "\n"), "switch-inhibitors of the "+test.note+" are not JSON"); test.note != "" && !said {
				t.Errorf("notes are %q", v.Notes)
			}
		})
	}
}

func TestInhibitorsCannotBeTreated(t *testing.T) {
	for _, treatment := range []activate.Treatment{activate.Defer, activate.Switch, activate.Ignore} {
		rules := activate.Rules{Treatment: map[string]activate.Treatment{"inhibitor:fstab": treatment}}
		if err := rules.Validate(); err == nil || !strings.Contains(err.Error(), "NixOS itself refuses") {
			t.Errorf("%s: got %v", treatment, err)
		}
	}
}

func TestDBusImplementationIsSaidByItsInhibitorToo(t *testing.T) {
	running, target := nixos(), nixos()
	running.inhibitors, target.inhibitors = `{"dbus-implementation":"dbus"}`, `{"dbus-implementation":"broker"}`
	target.dbus = system.DBusBroker
	want := []string{"dbus", "inhibitor:dbus-implementation"}
	if got := names(classify(t, running, target, activate.Rules{}).Deferred); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	ignored := activate.Rules{Treatment: map[string]activate.Treatment{"dbus": activate.Ignore}}
	if got := classify(t, running, target, ignored); got.Live() {
		t.Error("an inhibitor was ignored with its component")
	}
}

// The baseline is what runs, and not what the running link names.
func TestBaselineIsWhatRuns(t *testing.T) {
	newer := nixos()
	newer.label = "26.11"
	newer.systemd, newer.kernel, newer.modules, newer.initrd, newer.dbus = "systemd-259", "linux-7.0", "linux-7.0-modules", "initrd-7.0", system.DBusBroker
	rules := activate.Rules{Extra: []string{"initrd"}}
	older := nixos()
	old := func(r *root) { r.link("/run/booted-system", r.add(older)) }
	systemdExe := storePathOf("systemd-258.3") + "/lib/systemd/systemd"
	busExe := storePathOf("dbus-1.16.2") + "/bin/dbus-daemon"
	tests := []struct {
		name string
		host []func(*root)
		want []string
		note string
	}{
		{"it all runs", nil, nil, ""},
		{"another system was booted", []func(*root){old}, []string{"kernel", "initrd"}, ""},
		{"PID 1 is an older one", []func(*root){pid1(systemdExe)}, []string{"systemd"}, ""},
		{"PID 1 was unlinked since", []func(*root){pid1(systemdExe + " (deleted)")}, []string{"systemd"}, ""},
		{"the bus is the other one", []func(*root){bus("dbus.service", busExe)}, []string{"dbus"}, ""},
		{"PID 1 is not from the store", []func(*root){pid1("/usr/lib/systemd/systemd")}, nil, "PID 1 runs /usr/lib/systemd/systemd, which is not from the store"},
		{"PID 1 is the init of a container", []func(*root){pid1("/usr/bin/tini")}, nil, "not from the store"},
		{"PID 1 cannot be read", nil, nil, "the executable of PID 1 cannot be read"},
		{"the bus is not from the store", []func(*root){bus("dbus.service", "/usr/bin/dbus-daemon")}, nil, "the system bus runs /usr/bin/dbus-daemon, which is not from the store"},
		{"no bus is found", nil, nil, "no process of dbus-broker.service or dbus.service"},
		{"nothing is said to be booted", []func(*root){func(r *root) { r.remove("/run/booted-system") }}, nil, "the booted system cannot be told"},
		// With systemd in the initrd, a closure's init is a copy of systemd's binary: PID 1 may run it under that name.
		{"PID 1 runs its closure's own init", []func(*root){pid1(newer.path() + "/init")}, nil, ""},
		{"PID 1 runs the init of the closure that was booted", []func(*root){old, pid1(older.path() + "/init")}, []string{"systemd", "kernel", "initrd"}, ""},
		{"PID 1 runs something else of the store", []func(*root){pid1(storePathOf("tini-0.19") + "/bin/tini")}, nil, "which is not systemd's own binary"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			v := classify(t, newer, newer, rules, test.host...)
			if got := names(v.Deferred); !slices.Equal(got, append([]string{}, test.want...)) {
				t.Errorf("got %+v, want %q", v.Deferred, test.want)
			}
			if !strings.Contains(strings.Join(v.Notes, "\n"), test.note) {
				t.Errorf("notes are %q, want %q", v.Notes, test.note)
			}
			for _, c := range v.Deferred {
				if c.From == c.To || c.From == "" || c.To == "" {
					t.Errorf("from and to are not told: %+v", c)
				}
			}
		})
	}
}

// After a forced switch NixOS compares the new closure's inhibitors with themselves; the bus that runs is still the old one.
func TestForcedSwitchDoesNotHideTheOldBus(t *testing.T) {
	forced := nixos()
	forced.dbus, forced.inhibitors = system.DBusBroker, `{"dbus-implementation":"broker"}`
	v := classify(t, forced, forced, activate.Rules{}, bus("dbus.service", storePathOf("dbus-1.16.2")+"/bin/dbus-daemon"))
	want := []activate.Change{{Component: "dbus", From: "dbus", To: "broker", Treatment: activate.Defer}}
	if !slices.Equal(v.Deferred, want) {
		t.Errorf("got %+v", v.Deferred)
	}
}

func TestGatherFails(t *testing.T) {
	r := newRoot(t, nixos())
	if _, _, err := activate.Gather(context.Background(), r.host(), storePathOf("nixos-system-gone"), activate.Rules{}); err == nil {
		t.Error("a target that is not there: no error")
	}
	other := nixos()
	other.label = "other"
	target := r.add(other)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	// The running link is missing while a booted system is there: a switch is just replacing it.
	r.remove("/run/current-system")
	if _, _, err := activate.Gather(ctx, r.host(), target, activate.Rules{}); err == nil {
		t.Error("the wait for the running link did not end with the context")
	}
	base, _, err := activate.Gather(context.Background(), r.host(), target, activate.Rules{})
	if err != nil || base.Running.Closure != "" {
		t.Errorf("without a running system: %q, %v", base.Running.Closure, err)
	}
}

// The moment in which "ln -sfn" has unlinked the running link and not made the new one.
func TestGatherWaitsForTheRunningLink(t *testing.T) {
	r := newRoot(t, nixos())
	other := nixos()
	other.label = "other"
	target := r.add(other)
	for range 20 {
		r.remove("/run/current-system")
		made := make(chan struct{})
		go func() {
			defer close(made)
			r.link("/run/current-system", nixos().path())
		}()
		base, _, err := activate.Gather(context.Background(), r.host(), target, activate.Rules{})
		<-made
		if err != nil || base.Running.Closure != nixos().path() {
			t.Fatalf("got %q, %v", base.Running.Closure, err)
		}
	}
}

func TestRules(t *testing.T) {
	good := activate.Rules{Extra: []string{"initrd", "etc/fstab"}, SystemdBy: activate.ByVersion,
		Treatment: map[string]activate.Treatment{"dbus": activate.Switch, "etc/fstab": activate.Ignore}}
	if err := good.Validate(); err != nil {
		t.Error(err)
	}
	bad := activate.Rules{Extra: []string{"kernel", "../etc", "/etc", ".", ""}, SystemdBy: "name",
		Treatment: map[string]activate.Treatment{"bus": activate.Switch, "init": "reboot"}}
	err := bad.Validate()
	if err == nil {
		t.Fatal("accepted")
	}
	for _, part := range []string{`"kernel": is always compared`, `"../etc"`, `"/etc"`, `"."`, `""`, `"bus": no such component`, `"reboot" is none of`, `"name"`} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("%q does not say %s", err, part)
		}
	}
	if again := bad.Validate(); again.Error() != err.Error() {
		t.Error("the order of the errors changes")
	}
}

// drawComponents draws what a closure brings, of few values, so that many are equal.
func drawComponents(t *rapid.T, label string) system.Components {
	pick := func(name string, values ...string) string {
		return rapid.SampledFrom(append(values, "")).Draw(t, label+" "+name)
	}
	c := system.Components{
		Closure:       storePathOf("nixos-system-" + label),
		DBus:          pick("dbus", system.DBusDaemon, system.DBusBroker),
		Kernel:        pick("kernel", "/nix/store/k1", "/nix/store/k2"),
		KernelModules: pick("modules", "/nix/store/m1", "/nix/store/m2"),
		Initrd:        pick("initrd", "/nix/store/i1", "/nix/store/i2"),
		KernelParams:  pick("params", "quiet"),
		Firmware:      pick("firmware", "/nix/store/f1"),
		InitInterface: pick("init", "systemd 1", "systemd 2"),
		Inhibitors: rapid.MapOf(rapid.SampledFrom([]string{"dbus-implementation", "fstab", "kernel"}),
			rapid.SampledFrom([]string{"1", "2"})).Draw(t, label+" inhibitors"),
	}
	switch pick("systemd", "systemd-258.3", "systemd-259", "systemd-custom") {
	case "systemd-258.3":
		c.SystemdPath, c.SystemdVersion = storePathOf("systemd-258.3"), "258.3"
	case "systemd-259":
		c.SystemdPath, c.SystemdVersion = storePathOf("systemd-259"), "259"
	case "systemd-custom":
		c.SystemdPath = storePathOf("systemd-custom")
	}
	return c
}

var treatments = rapid.SampledFrom([]activate.Treatment{activate.Defer, activate.Switch, activate.Ignore})

func drawRules(t *rapid.T) activate.Rules {
	return activate.Rules{
		Treatment: rapid.MapOf(rapid.SampledFrom([]string{"dbus", "systemd", "kernel", "init", "initrd", "kernel-params", "firmware"}), treatments).Draw(t, "treatment"),
		Extra:     rapid.SliceOfDistinct(rapid.SampledFrom([]string{"initrd", "kernel-params", "firmware"}), rapid.ID).Draw(t, "extra"),
		SystemdBy: rapid.SampledFrom([]string{"", activate.ByVersion, activate.ByPath}).Draw(t, "systemd by"),
	}
}

// running is the baseline of a host that booted a closure and runs all of it.
func running(c system.Components, live bool) activate.Baseline {
	base := activate.Baseline{Running: c, Booted: c}
	if !live {
		return base
	}
	if c.SystemdPath != "" {
		base.Live.PID1 = c.SystemdPath + "/lib/systemd/systemd"
	}
	base.Live.DBus = c.DBus
	if c.DBus != "" {
		base.Live.Bus = storePathOf(c.DBus) + "/bin/" + c.DBus
	}
	return base
}

func TestPropertyWhatRunsIsLive(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := drawComponents(t, "x")
		v := activate.Classify(running(c, rapid.Bool().Draw(t, "live")), activate.Target{Components: c}, drawRules(t))
		if !v.Live() || len(all(v)) != 0 {
			t.Fatalf("what runs differs from itself: %+v", v)
		}
	})
}

func TestPropertyDifferencesAreSymmetric(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b, rules := drawComponents(t, "a"), drawComponents(t, "b"), drawRules(t)
		live := rapid.Bool().Draw(t, "live")
		there := activate.Classify(running(a, live), activate.Target{Components: b}, rules)
		back := activate.Classify(running(b, live), activate.Target{Components: a}, rules)
		if !slices.Equal(names(all(there)), names(all(back))) {
			t.Fatalf("there %+v, back %+v", all(there), all(back))
		}
		for i, c := range all(there) {
			if r := all(back)[i]; c.From != r.To || c.To != r.From || c.Treatment != r.Treatment {
				t.Fatalf("there %+v, back %+v", c, r)
			}
			if c.From == c.To {
				t.Fatalf("%+v is no difference", c)
			}
		}
	})
}

func TestPropertyMoreDifferencesNeverGoLive(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b, other, rules := drawComponents(t, "a"), drawComponents(t, "b"), drawComponents(t, "c"), drawRules(t)
		before := activate.Classify(running(a, true), activate.Target{Components: b}, rules)
		for _, take := range rapid.SliceOf(rapid.IntRange(0, 7)).Draw(t, "take") {
			switch take {
			case 0:
				b.DBus = differing(a.DBus, b.DBus, other.DBus)
			case 1:
				if differs := b.SystemdPath != a.SystemdPath; !differs && other.SystemdPath != a.SystemdPath {
					b.SystemdPath, b.SystemdVersion = other.SystemdPath, other.SystemdVersion
				}
			case 2:
				b.Kernel = differing(a.Kernel, b.Kernel, other.Kernel)
			case 3:
				b.KernelModules = differing(a.KernelModules, b.KernelModules, other.KernelModules)
			case 4:
				b.InitInterface = differing(a.InitInterface, b.InitInterface, other.InitInterface)
			case 5:
				b.Initrd = differing(a.Initrd, b.Initrd, other.Initrd)
			case 6:
				b.Firmware = differing(a.Firmware, b.Firmware, other.Firmware)
			case 7:
				b.Inhibitors = maps.Clone(b.Inhibitors)
				for key, value := range a.Inhibitors {
					if _, both := b.Inhibitors[key]; !both {
						b.Inhibitors[key] = value + "'"
					}
				}
			}
		}
		after := activate.Classify(running(a, true), activate.Target{Components: b}, rules)
		for _, c := range before.Deferred {
			if !slices.Contains(names(after.Deferred), c.Component) {
				t.Fatalf("%s is deferred for in %+v and not in %+v", c.Component, before, after)
			}
		}
		if !before.Live() && after.Live() {
			t.Fatalf("deferred before, live after: %+v, %+v", before, after)
		}
	})
}

// differing leaves a difference and makes one where there is none.
func differing(a, b, other string) string {
	if a != b {
		return b
	}
	return other
}

func TestPropertyOrderIsStable(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b, rules := drawComponents(t, "a"), drawComponents(t, "b"), drawRules(t)
		first := activate.Classify(running(a, true), activate.Target{Components: b}, rules)
		for range 3 {
			if again := activate.Classify(running(a, true), activate.Target{Components: b}, rules); !reflect.DeepEqual(first, again) {
				t.Fatalf("got %+v and %+v", first, again)
			}
		}
	})
}

func benchmarkedHost(b *testing.B) (*root, string, activate.Rules) {
	was, target := nixos(), nixos()
	was.inhibitors, target.inhibitors = `{"dbus-implementation":"dbus","fstab":"/a"}`, `{"dbus-implementation":"broker","fstab":"/b"}`
	target.label, target.dbus, target.kernel, target.systemd = "target", system.DBusBroker, "linux-7.0", "systemd-259"
	r := newRoot(b, was)
	pid1(storePathOf("systemd-258.3") + "/lib/systemd/systemd")(r)
	bus("dbus.service", storePathOf("dbus-1.16.2")+"/bin/dbus-daemon")(r)
	return r, r.add(target), activate.Rules{Extra: []string{"initrd", "kernel-params"}}
}

func BenchmarkClassify(b *testing.B) {
	r, target, rules := benchmarkedHost(b)
	base, to, err := activate.Gather(context.Background(), r.host(), target, rules)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if activate.Classify(base, to, rules).Live() {
			b.Fatal("live")
		}
	}
}

// BenchmarkGather reads a host whose files are in the page cache.
func BenchmarkGather(b *testing.B) {
	r, target, rules := benchmarkedHost(b)
	host := r.host()
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := activate.Gather(context.Background(), host, target, rules); err != nil {
			b.Fatal(err)
		}
	}
}
