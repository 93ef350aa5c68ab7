package simhost

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestTreeThatStandsAlone(t *testing.T) {
	t.Parallel()
	c := NixOS("web", "1")
	c.Extra = map[string]string{"sw/bin/agent": "#!/bin/sh\nexit 0\n", "etc/motd": "hello", "note": "-> /etc/motd"}
	c.Units = map[string]string{"web.service": "[Service]\n"}
	dir := filepath.Join(t.TempDir(), "tree")
	if err := c.WriteTree(dir, nil); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"etc/systemd/system/dbus-broker.service", "etc/systemd/system/dbus.service", "switch-inhibitors", "etc/motd", "sim/units/web.service", "init", "specialisation"} {
		if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
			t.Error(err)
		}
	}
	for _, name := range []string{"kernel", "kernel-modules", "initrd", "systemd", "firmware"} {
		if text, err := os.Readlink(filepath.Join(dir, name)); err != nil || !strings.HasPrefix(text, "/nix/store/") {
			t.Errorf("%s is a link to %s (%v)", name, text, err)
		}
	}
	for _, name := range []string{"bin/switch-to-configuration", "activate", "sim/install-boot-loader", "sw/bin/agent"} {
		if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.Mode()&0o111 == 0 {
			t.Errorf("%s is no program (%v)", name, err)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "sw/bin/nix-env")); err == nil {
		t.Error("a tree for a real store brings a simulated Nix")
	}
	if text, _ := os.Readlink(filepath.Join(dir, "note")); text != "/etc/motd" {
		t.Errorf("note leads to %q", text)
	}
}

func TestTreeWithPlacedComponents(t *testing.T) {
	t.Parallel()
	c := NixOS("web", "1")
	c.Specialisations = map[string]Closure{"rescue": {KernelParams: "single"}}
	if err := c.WriteTree(filepath.Join(t.TempDir(), "tree"), nil); err == nil {
		t.Error("a specialisation needs no place")
	}
	store := t.TempDir()
	var names []string
	place := func(name, tree string) (string, error) {
		names = append(names, name)
		return "/nix/store/" + name, os.Rename(tree, filepath.Join(store, name))
	}
	dir := filepath.Join(t.TempDir(), "tree")
	c.Label = "2"
	if err := c.WriteTree(dir, func(name, tree string) (string, error) {
		if slices.Contains(names, name) {
			return "/nix/store/" + name, nil
		}
		return place(name, tree)
	}); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"linux-6.12.1", "systemd-257.3", "switch-inhibitors", "etc", "system-path", "dbus-broker-36", c.StoreName()} {
		if !slices.Contains(names, name) {
			t.Errorf("%s was not placed: %v", name, names)
		}
	}
	if text, _ := os.Readlink(filepath.Join(dir, "specialisation/rescue")); text != "/nix/store/"+c.StoreName() {
		t.Errorf("the specialisation leads to %s", text)
	}
	broken := errors.New("store is full")
	if err := c.WriteTree(filepath.Join(t.TempDir(), "x"), func(string, string) (string, error) { return "", broken }); !errors.Is(err, broken) {
		t.Errorf("error of the place: %v", err)
	}
}

func TestClosuresThatAreNoTargets(t *testing.T) {
	t.Parallel()
	h := newHost(t, Options{})
	appliance := NixOS("web", "2")
	appliance.NotSwitchable = true
	toplevel := h.addStaged(appliance)
	if h.exists(toplevel+"/bin/switch-to-configuration") || !h.exists(toplevel+"/nixos-version") {
		t.Error("an appliance is switchable, or no system")
	}
	other := Closure{Name: "hello", Label: "2.12", NotNixOS: true}
	storePath := h.add(other)
	if !strings.HasSuffix(storePath, "-hello-2.12") || h.exists(storePath+"/nixos-version") {
		t.Errorf("%s is a system", storePath)
	}
	if _, err := h.AddClosure(Closure{Name: "x", Label: "1", DBus: "kdbus"}); err == nil {
		t.Error("an unknown bus was accepted")
	}
}

func TestScriptsAreValidShell(t *testing.T) {
	t.Parallel()
	for name, script := range Scripts() {
		if !strings.HasPrefix(string(script), "#!/bin/sh\n") {
			t.Errorf("%s has no interpreter", name)
		}
		check := exec.Command("/bin/sh", "-n")
		check.Stdin = strings.NewReader(string(script))
		if output, err := check.CombinedOutput(); err != nil {
			t.Errorf("%s: %v: %s", name, err, output)
		}
	}
}

func TestEarlyUnitNamesItsScript(t *testing.T) {
	t.Parallel()
	unit := EarlyUnit("/usr/local/lib/stage-2.sh")
	for _, line := range []string{"ExecStart=/usr/local/lib/stage-2.sh", "DefaultDependencies=no", "Type=oneshot", "ConditionPathExists=!/run/booted-system"} {
		if !strings.Contains(unit, "\n"+line+"\n") {
			t.Errorf("unit lacks %q:\n%s", line, unit)
		}
	}
}

func TestParseSwitches(t *testing.T) {
	t.Parallel()
	for _, line := range []string{"started switch /x 1", "started switch /x one 1", "ended switch /x 1 0", "began switch /x 1 0", "started switch /x 1 now"} {
		if records, err := ParseSwitches(line + "\n"); err == nil {
			t.Errorf("%q was parsed as %+v", line, records)
		}
	}
	records, err := ParseSwitches("started switch /a 7 100\nstarted boot /b 8 101\nended switch /a 7 4\nstarted switch /a 7 102\n")
	if err != nil {
		t.Fatal(err)
	}
	if len(records) != 3 || !records[0].Ended || records[0].ExitCode != 4 || records[1].Ended || records[2].Ended || records[2].Start.Unix() != 102 {
		t.Errorf("records: %+v", records)
	}
}
