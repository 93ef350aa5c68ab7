package activate_test

import (
	"context"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/nixfleet/nixfleet-agent/internal/activate"
	"github.com/nixfleet/nixfleet-agent/internal/system"
)

func TestCheck(t *testing.T) {
	target := nixos()
	target.label = "26.11"
	changed := func(change func(*closure)) closure {
		c := target
		change(&c)
		return c
	}
	tests := []struct {
		name   string
		target closure
		host   func(r *root)
		opt    activate.CheckOptions
		reason string // "": it passes
	}{
		{name: "fit", target: target},
		{name: "another machine type", target: changed(func(c *closure) { c.system = "riscv64-linux" }), reason: activate.ReasonWrongMachine},
		{name: "another machine type, forced", target: changed(func(c *closure) { c.system = "riscv64-linux" }), opt: activate.CheckOptions{Force: true}},
		{name: "another host", target: changed(func(c *closure) { c.name = "db1" }), reason: activate.ReasonWrongHost},
		{name: "another host, forced", target: changed(func(c *closure) { c.name = "db1" }), opt: activate.CheckOptions{Force: true}},
		{name: "a host whose name begins alike", target: changed(func(c *closure) { c.name = "web10" }), reason: activate.ReasonWrongHost},
		{name: "the host's other name", target: changed(func(c *closure) { c.name = "db1" }), opt: activate.CheckOptions{Hostname: "db1"}},
		{name: "its name with a domain", target: target, host: func(r *root) { r.file("/proc/sys/kernel/hostname", "web1.example.org\n") }},
		{name: "a name that does not tell", target: changed(func(c *closure) { c.name = "unnamed" })},
		// Whoever names his systems otherwise than his hosts must not be kept from all of them.
		{name: "the running system does not bear the host's name", target: changed(func(c *closure) { c.name = "db1" }),
			host: func(r *root) { r.file("/proc/sys/kernel/hostname", "cattle-17\n") }},
		{name: "no switch-to-configuration", target: changed(func(c *closure) { c.noSwitch = true }), reason: activate.ReasonNotSwitchable},
		{name: "a switch-to-configuration that is no program", target: target, reason: activate.ReasonNotSwitchable, host: func(r *root) {
			if err := os.Chmod(r.at(target.path()+"/bin/switch-to-configuration"), 0o644); err != nil {
				r.t.Fatal(err)
			}
		}},
		{name: "not a NixOS system", target: target, host: func(r *root) { r.remove(target.path() + "/nixos-version") }, reason: activate.ReasonNotNixOS},
		{name: "a file", target: target, host: func(r *root) { r.remove(target.path()); r.file(target.path(), "") }, reason: activate.ReasonNotNixOS},
		{name: "not in the store yet", target: target, host: func(r *root) { r.remove(target.path()) }},
		{name: "not in the store yet, another host", target: changed(func(c *closure) { c.name = "db1" }),
			host: func(r *root) { r.remove(storePathOf("nixos-system-db1-26.11")) }, reason: activate.ReasonWrongHost},
		// statfs(2) of /proc says that nothing is free.
		{name: "no room in the store", target: target, reason: activate.ReasonDiskFull, host: func(r *root) {
			r.remove("/nix/store")
			r.link("/nix/store", "/proc")
		}},
		{name: "no room for GRUB", target: target, host: bootPartition("kernels"), reason: activate.ReasonDiskFull},
		{name: "no room for systemd-boot", target: target, host: bootPartition("EFI/nixos"), reason: activate.ReasonDiskFull},
		{name: "the images are there already", target: target, host: func(r *root) {
			bootPartition("kernels")(r)
			for _, image := range []string{target.kernel + "/bzImage", target.initrd + "/initrd"} {
				name, file, _ := strings.Cut(image, "/")
				r.file("/boot/kernels/"+strings.TrimPrefix(storePathOf(name), "/nix/store/")+"-"+file, "")
			}
		}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			r := newRoot(t, nixos())
			r.add(test.target)
			if test.host != nil {
				test.host(r)
			}
			before := r.tree()
			err := r.runner().Check(within(t), test.target.path(), test.opt)
			if after := r.tree(); !slices.Equal(before, after) {
				t.Errorf("the host was touched: %q, then %q", before, after)
			}
			if test.reason == "" {
				if err != nil {
					t.Errorf("got %v", err)
				}
				return
			}
			f := failureOf(t, err)
			if f.Reason != test.reason || f.Retryable || f.Hint == "" || f.ExitCode != -1 || strings.Contains(f.Detail, "\n") {
				t.Errorf("got %+v, want %s", f, test.reason)
			}
		})
	}
}

// bootPartition lays out a boot partition, and images of which one is larger than any file system.
func bootPartition(dir string) func(r *root) {
	return func(r *root) {
		r.file("/boot/"+dir+"/old", "")
		image := r.at(storePathOf("linux-6.12.1") + "/bzImage")
		r.file(storePathOf("linux-6.12.1")+"/bzImage", "")
		r.file(storePathOf("initrd-linux-6.12.1")+"/initrd", "initrd")
		if err := os.Truncate(image, 1<<43); err != nil {
			r.t.Fatal(err)
		}
	}
}

// tree lists what is below the root but for what the agent's own state directory holds.
func (r *root) tree() []string {
	r.t.Helper()
	var list []string
	for _, dir := range []string{"/boot", "/run", "/nix/var", "/etc"} {
		_ = walkFiles(r.at(dir), func(file string) { list = append(list, file) })
	}
	slices.Sort(list)
	return list
}

func TestCheckOfPaths(t *testing.T) {
	r := newRoot(t, nixos())
	runner := r.runner()
	for _, bad := range []string{"", "/", "/etc/passwd", "nixos-system", "/nix/store", "/nix/store/short-name", nixos().path() + "/bin", nixos().path() + "/",
		"/nix/store/../etc", strings.Replace(nixos().path(), "/nix/store/", "/nix/store/E", 1), nixos().path() + " ", nixos().path() + "\n", nixos().path() + "-" + strings.Repeat("x", 211)} {
		f := failureOf(t, runner.Check(within(t), bad, activate.CheckOptions{Force: true}))
		if f.Reason != activate.ReasonBadPath || f.Retryable || f.Hint == "" {
			t.Errorf("%q: got %+v", bad, f)
		}
	}
}

func TestCheckOfAPinnedBootDefault(t *testing.T) {
	other := nixos()
	other.label = "26.11"
	third := nixos()
	third.label = "25.11"
	for _, pinned := range []bool{false, true} {
		r := newRoot(t, nixos())
		target, old := r.add(other), r.add(third)
		r.file("/boot/grub/grub.cfg", "set default=0\nif [ -s $prefix/grubenv ]; then\n  load_env\nfi\n"+
			"if [ \"${next_entry}\" ]; then\n  set default=\"${next_entry}\"\n  set next_entry=\n  save_env next_entry\nfi\n"+
			"menuentry \"NixOS - Default\" {\n  linux ($drive1)/kernels/k init="+nixos().path()+"/init\n}\n"+
			"menuentry \"old\" {\n  linux ($drive1)/kernels/k init="+old+"/init\n}\n")
		env := "# GRUB Environment Block\n"
		if pinned {
			env += "next_entry=old\n"
		}
		r.file("/boot/grub/grubenv", env+strings.Repeat("#", 1024-len(env)))
		now := r.host().BootDefault()
		if now.Closure == "" || now.Pinned != pinned {
			t.Fatalf("the boot default is read as %+v", now)
		}
		err := r.runner().Check(within(t), target, activate.CheckOptions{})
		if !pinned {
			if err != nil {
				t.Errorf("got %v", err)
			}
			continue
		}
		if f := failureOf(t, err); f.Reason != activate.ReasonBootPinned || !strings.Contains(f.Hint, "grub-editenv") {
			t.Errorf("got %+v", f)
		}
		if err := r.runner().Check(within(t), old, activate.CheckOptions{}); err != nil {
			t.Errorf("the pinned one itself: %v", err)
		}
	}
}

// managed is a launcher that also knows the host's service manager.
type managed struct {
	*activate.Exec
	state  string
	runs   string
	failed []string
}

func (m managed) SystemState(context.Context) (string, error) { return m.state, nil }

func (m managed) UnitRuns(_ context.Context, name string) (bool, error) { return name == m.runs, nil }

func (m managed) FailedUnits(context.Context) ([]string, error) { return m.failed, nil }

func withManager(m managed) func(*activate.Options) {
	return func(o *activate.Options) {
		m.Exec, _ = o.Launcher.(*activate.Exec)
		o.Launcher = m
	}
}

func TestCheckAsksTheServiceManager(t *testing.T) {
	for _, test := range []struct {
		manager managed
		reason  string
		says    string
	}{
		{managed{state: "running"}, "", ""},
		{managed{state: "degraded"}, "", ""},
		{managed{state: "maintenance"}, "", ""},
		{managed{state: "initializing"}, activate.ReasonBootNotFinished, "initializing"},
		{managed{state: "starting"}, activate.ReasonBootNotFinished, "starting"},
		{managed{state: "stopping"}, activate.ReasonBootNotFinished, "stopping"},
		{managed{state: "running", runs: "nixos-rebuild-switch-to-configuration.service"}, activate.ReasonBusy, "nixos-rebuild-switch-to-configuration.service"},
		{managed{state: "running", runs: "nixos-upgrade.service"}, "", ""},
	} {
		r := newRoot(t, nixos())
		err := r.runner(withManager(test.manager)).Check(within(t), nixos().path(), activate.CheckOptions{})
		if test.reason == "" {
			if err != nil {
				t.Errorf("%+v: got %v", test.manager, err)
			}
			continue
		}
		if f := failureOf(t, err); f.Reason != test.reason || !f.Retryable || !strings.Contains(f.Detail, test.says) {
			t.Errorf("%+v: got %+v", test.manager, f)
		}
	}
}

func TestCheckEndsWithItsContext(t *testing.T) {
	r := newRoot(t, nixos())
	other := nixos()
	other.name = "db1"
	target := r.add(other)
	r.remove("/run/current-system")
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := r.runner().Check(ctx, target, activate.CheckOptions{}); err == nil {
		t.Error("a target that could not be judged has passed")
	}
}

func TestInspect(t *testing.T) {
	target := nixos()
	target.label, target.kernel = "26.11", "linux-7.0"
	r := newRoot(t, nixos())
	top := r.add(target)
	v, err := r.runner().Inspect(within(t), top, false)
	if err != nil || !slices.Equal(names(v.Deferred), []string{"kernel"}) {
		t.Errorf("got %+v, %v", v, err)
	}
	if f := failureOf(t, second(r.runner().Inspect(within(t), storePathOf("nixos-system-gone"), false))); f.Reason != activate.ReasonNotFound {
		t.Errorf("got %+v", f)
	}

	foreign := nixos()
	foreign.label, foreign.system = "26.12", "riscv64-linux"
	other := r.add(foreign)
	if f := failureOf(t, second(r.runner().Inspect(within(t), other, false))); f.Reason != activate.ReasonWrongMachine {
		t.Errorf("got %+v", f)
	}
	if _, err := r.runner().Inspect(within(t), other, true); err != nil {
		t.Errorf("a forced target of another machine type: %v", err)
	}
}

func second(_ activate.Verdict, err error) error { return err }

func TestCriticalForReturn(t *testing.T) {
	was, now := nixos(), nixos()
	now.label, now.kernel, now.modules = "26.11", "linux-7.0", "linux-7.0-modules"
	now.inhibitors, was.inhibitors = `{"fstab":"/b"}`, `{"fstab":"/a"}`
	now.dbus, now.systemd, now.init = system.DBusBroker, "systemd-259", "systemd 3"
	r := newRoot(t, now)
	prior := r.add(was)
	got, err := r.runner().CriticalForReturn(within(t), prior)
	if want := []string{"dbus", "systemd", "init", "inhibitor:fstab"}; err != nil || !slices.Equal(names(got), want) {
		t.Errorf("got %q, %v, want %q", names(got), err, want)
	}
	// What may go live towards a target may not on the way back of one that failed; what is ignored is no component at all.
	rules := func(o *activate.Options) {
		o.Rules.Treatment = map[string]activate.Treatment{"dbus": activate.Switch, "systemd": activate.Ignore, "init": activate.Switch, "kernel": activate.Switch}
	}
	got, err = r.runner(rules).CriticalForReturn(within(t), prior)
	if want := []string{"inhibitor:fstab", "dbus", "init"}; err != nil || !slices.Equal(names(got), want) {
		t.Errorf("got %q, %v, want %q", names(got), err, want)
	}
}

func TestRestoreRunningLink(t *testing.T) {
	was, now := nixos(), nixos()
	now.label = "26.11"
	r := newRoot(t, now)
	prior := r.add(was)
	if err := r.runner().RestoreRunningLink(prior); err != nil {
		t.Fatal(err)
	}
	if got, _ := os.Readlink(r.at("/run/current-system")); got != now.path() {
		t.Errorf("a link that was there leads to %s now", got)
	}
	if err := os.Remove(r.at("/run/current-system")); err != nil {
		t.Fatal(err)
	}
	if err := r.runner().RestoreRunningLink("/tmp"); err == nil {
		t.Errorf("made a link to what is not of the store: %v", err)
	}
	if err := r.runner().RestoreRunningLink(prior); err != nil {
		t.Fatal(err)
	}
	if got, _ := os.Readlink(r.at("/run/current-system")); got != prior {
		t.Errorf("the link leads to %s", got)
	}
}
