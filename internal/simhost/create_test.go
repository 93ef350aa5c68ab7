package simhost

import (
	"regexp"
	"strings"
	"testing"
)

func TestCreatedHostRunsItsFirstClosure(t *testing.T) {
	t.Parallel()
	h := newHost(t, Options{Hostname: "web"})
	first := h.Running()
	if !regexp.MustCompile(`^/nix/store/[0-9abcdfghijklmnpqrsvwxyz]{32}-nixos-system-web-25\.11\.1$`).MatchString(first) {
		t.Errorf("running system is %q", first)
	}
	if h.Booted() != first || h.Profile() != first {
		t.Errorf("booted %s, profile %s, running %s", h.Booted(), h.Profile(), first)
	}
	for logical, text := range map[string]string{
		"/run/current-system":                      first,
		"/run/booted-system":                       first,
		"/nix/var/nix/profiles/system":             "system-1-link",
		"/nix/var/nix/profiles/system-1-link":      first,
		"/nix/var/nix/gcroots/current-system":      "/run/current-system",
		"/nix/var/nix/gcroots/booted-system":       "/run/booted-system",
		first + "/etc/systemd/system/dbus.service": "",
	} {
		resolved, err := h.Resolve(logical)
		h.must(err)
		if text == "" {
			if !strings.HasSuffix(resolved, "/dbus-broker.service") {
				t.Errorf("%s leads to %s", logical, resolved)
			}
			continue
		}
		if got := h.linkText(logical); got != text {
			t.Errorf("%s has the text %q, want %q", logical, got, text)
		}
	}
	if got := h.read(first + "/nixos-version"); got != "25.11.1" {
		t.Errorf("nixos-version is %q", got)
	}
	if exe := h.linkText("/proc/1/exe"); !strings.HasSuffix(exe, "-systemd-257.3/lib/systemd/systemd") {
		t.Errorf("PID 1 is %s", exe)
	}
	pid := strings.TrimSpace(h.read("/sys/fs/cgroup/system.slice/dbus-broker.service/cgroup.procs"))
	if exe := h.linkText("/proc/" + pid + "/exe"); !strings.HasSuffix(exe, "/bin/dbus-broker-launch") {
		t.Errorf("the bus is %s", exe)
	}
	entry := h.read("/boot/loader/entries/nixos-generation-1.conf")
	for _, line := range []string{"title NixOS", "sort-key nixos", "options init=" + first + "/init loglevel=4 lsm=landlock,yama,bpf"} {
		if !strings.Contains(entry, line+"\n") {
			t.Errorf("entry lacks %q:\n%s", line, entry)
		}
	}
	if len(h.switches()) != 0 {
		t.Errorf("switches before the first: %v", h.switches())
	}
}

func TestCreateRefusesADirectoryInUse(t *testing.T) {
	t.Parallel()
	h := newHost(t, Options{})
	if _, err := Create(h.Root(), Options{}); err == nil {
		t.Error("a host was created on top of another")
	}
	if _, err := Open("/"); err == nil {
		t.Error("the root of this machine was taken for a simulated host")
	}
}

func TestClosureOfAContainerHasNoKernel(t *testing.T) {
	t.Parallel()
	c := NixOS("box", "1")
	c.Kernel, c.Initrd, c.Firmware, c.DBus, c.Inhibitors = "", "", "", "", nil
	h := newHost(t, Options{First: c})
	for _, name := range []string{"kernel", "kernel-modules", "kernel-params", "initrd", "firmware", "switch-inhibitors", "etc/systemd/system/dbus.service"} {
		if _, err := h.Resolve(h.Running() + "/" + name); err == nil {
			t.Errorf("the closure has %s", name)
		}
	}
	if h.exists("/proc/" + busPID + "/exe") {
		t.Error("a bus runs")
	}
}

func TestStorePathsFollowFromContent(t *testing.T) {
	t.Parallel()
	h := newHost(t, Options{})
	a := NixOS("web", "1")
	if first, second := h.add(a), h.add(NixOS("web", "1")); first != second {
		t.Errorf("one closure has the store paths %s and %s", first, second)
	}
	other := newerKernel(a)
	if h.add(a) == h.add(other) {
		t.Error("two closures have one store path")
	}
	rebuilt := a
	rebuilt.Systemd += "#rebuilt"
	one, err := h.Resolve(h.add(a) + "/systemd")
	h.must(err)
	two, err := h.Resolve(h.add(rebuilt) + "/systemd")
	h.must(err)
	if one == two || !strings.HasSuffix(two, "-systemd-257.3") {
		t.Errorf("a rebuilt systemd is %s, the other %s", two, one)
	}
}

// newerKernel is the closure with another kernel, its modules and its initrd.
func newerKernel(c Closure) Closure {
	c.Kernel, c.Initrd = "linux-6.12.9", "initrd-linux-6.12.9"
	return c
}
