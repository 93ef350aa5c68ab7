package system

import (
	"errors"
	"os"
	"strings"
	"testing"
)

func TestParseStorePath(t *testing.T) {
	hash := "/nix/store/" + strings.Repeat("0", 32) + "-"
	for _, good := range []string{
		hash + "nixos-system-lab-25.11", hash + "a", hash + "A+b.c_d?e=f-0",
		storePathOf("nixos-system-x"), hash + strings.Repeat("n", maxStoreName),
	} {
		if err := ParseStorePath(good); err != nil {
			t.Errorf("%s: %v", good, err)
		}
	}
	for _, bad := range []string{
		"", "/", "/nix/store", "/nix/store/", hash, hash + "a/", hash + "a/b", hash + "a\n", hash + "a b", hash + "ä",
		"/nix/store/" + strings.Repeat("e", 32) + "-x", "/nix/store/" + strings.Repeat("0", 31) + "-x",
		"nix/store/" + strings.Repeat("0", 32) + "-x", "/run/current-system", " " + hash + "a",
		hash + strings.Repeat("n", maxStoreName+1), hash + "../x",
	} {
		var unfit *NotSwitchable
		if err := ParseStorePath(bad); !errors.As(err, &unfit) || unfit.Reason != NotAStorePath || unfit.Closure != bad {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func TestInspectTarget(t *testing.T) {
	for name, c := range map[string]struct {
		spoil  func(tr *tree, top string)
		reason Reason
	}{
		"good":                 {func(*tree, string) {}, ""},
		"gone":                 {func(tr *tree, top string) { tr.remove(top) }, DoesNotExist},
		"a file":               {func(tr *tree, top string) { tr.remove(top).file(top, "x") }, NotNixOS},
		"no version":           {func(tr *tree, top string) { tr.remove(top + "/nixos-version") }, NotNixOS},
		"no system":            {func(tr *tree, top string) { tr.remove(top + "/system") }, NotNixOS},
		"version is a dir":     {func(tr *tree, top string) { tr.remove(top + "/nixos-version").dir(top + "/nixos-version") }, NotNixOS},
		"no switch":            {func(tr *tree, top string) { tr.remove(top + "/bin/switch-to-configuration") }, NoSwitchToConfiguration},
		"no bin":               {func(tr *tree, top string) { tr.remove(top + "/bin") }, NoSwitchToConfiguration},
		"other machine":        {func(tr *tree, top string) { tr.file(top+"/system", "aarch64-linux") }, WrongMachine},
		"machine, also spoilt": {func(tr *tree, top string) { tr.file(top+"/system", "a").remove(top + "/bin") }, NoSwitchToConfiguration},
		"not executable": {func(tr *tree, top string) {
			if err := os.Chmod(tr.at(top+"/bin/switch-to-configuration"), 0o644); err != nil {
				tr.t.Fatal(err)
			}
		}, NoSwitchToConfiguration},
		"wrapper": {func(tr *tree, top string) {
			wrapper := storePathOf("switch") + "/bin/stc"
			tr.remove(top+"/bin").link(top+"/bin/switch-to-configuration", wrapper).write(wrapper, "", 0o555)
		}, ""},
	} {
		tr := newTree(t)
		top := tr.closure("25.11")
		c.spoil(tr, top)
		got, err := tr.host().InspectTarget(top)
		if c.reason == "" {
			if err != nil || got.Version != "25.11" {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		var unfit *NotSwitchable
		if !errors.As(err, &unfit) || unfit.Reason != c.reason || unfit.Closure != top {
			t.Errorf("%s: %v, want reason %s", name, err, c.reason)
			continue
		}
		if unfit.Hints() == "" || strings.Contains(unfit.Error(), "\n") || !strings.Contains(unfit.Error(), top) {
			t.Errorf("%s: %q, hint %q", name, unfit.Error(), unfit.Hints())
		}
		if (got.Closure != "") != (c.reason == WrongMachine) {
			t.Errorf("%s: components of %q", name, got.Closure)
		}
	}
	if _, err := newTree(t).host().InspectTarget("/run/current-system"); err == nil {
		t.Error("a link was taken for a store path")
	}
}
