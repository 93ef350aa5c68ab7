package simhost

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

func entryFormats(t *testing.T, test func(t *testing.T, format string)) {
	for _, format := range []string{EntryFormatGeneration, EntryFormatHashed} {
		t.Run(format, func(t *testing.T) {
			t.Parallel()
			test(t, format)
		})
	}
}

// entryOf is the name of the entry that boots the closure, of the newest generation that does.
func (h host) entryOf(toplevel string) string {
	h.t.Helper()
	found, version := "", ""
	for _, name := range h.entries() {
		text := h.read("/boot/loader/entries/" + name)
		if !strings.Contains(text, "\noptions init="+toplevel+"/init ") {
			continue
		}
		for line := range strings.Lines(text) {
			if strings.HasPrefix(line, "version ") && line > version {
				found, version = name, line
			}
		}
	}
	if found == "" {
		h.t.Fatalf("no entry boots %s: %v", toplevel, h.entries())
	}
	return found
}

func TestBootMakesAListedClosureTheDefault(t *testing.T) {
	t.Parallel()
	entryFormats(t, func(t *testing.T, format string) {
		h := newHost(t, Options{Hostname: "web", EntryFormat: format})
		first := h.Running()
		next := h.addStaged(newerKernel(NixOS("web", "2")))
		h.doSwitch(next, "boot").want(t, 0)
		conf := h.read("/boot/loader/loader.conf")
		entry := h.entryOf(next)
		switch format {
		case EntryFormatGeneration:
			if entry != "nixos-generation-2.conf" || !strings.Contains(conf, "\ndefault "+entry+"\n") {
				t.Errorf("entry %s, loader.conf:\n%s", entry, conf)
			}
		case EntryFormatHashed:
			if !regexp.MustCompile(`^nixos-[0-9a-f]{64}\.conf$`).MatchString(entry) ||
				!strings.Contains(conf, "\npreferred "+entry+"\ndefault nixos-*\n") {
				t.Errorf("entry %s, loader.conf:\n%s", entry, conf)
			}
		}
		text := h.read("/boot/loader/entries/" + entry)
		if !strings.Contains(text, "version Generation 2 NixOS 2, built on ") || !strings.Contains(text, "-linux-6.12.9-bzImage.efi\n") {
			t.Errorf("entry:\n%s", text)
		}
		h.wantRunning(first)
		h.must(h.Boot())
		h.wantRunning(next)
		if h.Booted() != next {
			t.Errorf("booted %s instead of %s", h.Booted(), next)
		}
		// The way back: the older closure is listed, and becomes the default by its own script.
		h.doSwitch(first, "boot").want(t, 0)
		h.must(h.Boot())
		h.wantRunning(first)
	})
}

func TestBootForAnUnlistedClosureChangesNothing(t *testing.T) {
	t.Parallel()
	h := newHost(t, Options{Hostname: "web"})
	first := h.Running()
	before, entries := h.read("/boot/loader/loader.conf"), h.entries()
	h.doSwitch(h.add(NixOS("web", "2")), "boot").want(t, 0)
	if after := h.read("/boot/loader/loader.conf"); after != before || !slices.Equal(h.entries(), entries) {
		t.Errorf("loader.conf:\n%s\nentries: %v", after, h.entries())
	}
	h.must(h.Boot())
	h.wantRunning(first)
}

func TestHashedBootForAnUnlistedClosureLeavesTheNewestAsDefault(t *testing.T) {
	t.Parallel()
	h := newHost(t, Options{Hostname: "web", EntryFormat: EntryFormatHashed})
	first := h.Running()
	newest := h.addStaged(NixOS("web", "2"))
	h.doSwitch(first, "boot").want(t, 0)
	h.doSwitch(h.add(NixOS("web", "3")), "boot").want(t, 0)
	if conf := h.read("/boot/loader/loader.conf"); conf != "timeout 5\ndefault nixos-*\nconsole-mode keep\n" {
		t.Errorf("loader.conf:\n%s", conf)
	}
	h.must(h.Boot())
	h.wantRunning(newest)
}

func TestSpecialisationsHaveEntries(t *testing.T) {
	t.Parallel()
	entryFormats(t, func(t *testing.T, format string) {
		h := newHost(t, Options{Hostname: "web", EntryFormat: format})
		parent := NixOS("web", "2")
		parent.Specialisations = map[string]Closure{"rescue": {KernelParams: "single"}}
		toplevel := h.addStaged(parent)
		child, err := h.Resolve(toplevel + "/specialisation/rescue")
		h.must(err)
		if child == toplevel || h.read(child+"/kernel-params") != "single" || h.read(child+"/nixos-version") != "2" {
			t.Fatalf("child is %s", child)
		}
		h.doSwitch(toplevel, "boot").want(t, 0)
		entry := h.entryOf(child)
		if text := h.read("/boot/loader/entries/" + entry); !strings.Contains(text, "title NixOS (rescue)\n") {
			t.Errorf("entry of the specialisation:\n%s", text)
		}
		if format == EntryFormatGeneration && entry != "nixos-generation-2-specialisation-rescue.conf" {
			t.Errorf("entry of the specialisation is %s", entry)
		}
		// The older builder does not make a specialisation the default, the newer does.
		h.doSwitch(child, "boot").want(t, 0)
		want := map[string]string{EntryFormatGeneration: toplevel, EntryFormatHashed: child}[format]
		h.must(h.Boot())
		if h.Booted() != want {
			t.Errorf("booted %s, want %s", h.Booted(), want)
		}
		h.must(h.ChooseOnce(child))
		h.must(h.Boot())
		h.wantRunning(child)
		if h.Profile() != toplevel {
			t.Errorf("the profile is %s", h.Profile())
		}
	})
}

func TestEntriesOfVanishedGenerationsAreRemoved(t *testing.T) {
	t.Parallel()
	entryFormats(t, func(t *testing.T, format string) {
		h := newHost(t, Options{Hostname: "web", EntryFormat: format})
		first := h.Running()
		h.stage(h.add(newerKernel(NixOS("web", "2"))))
		third := h.addStaged(newerKernel(NixOS("web", "3")))
		h.doSwitch(third, "switch").want(t, 0)
		if len(h.entries()) != 3 {
			t.Fatalf("entries: %v", h.entries())
		}
		h.nix("nix-env", "-p", "/nix/var/nix/profiles/system", "--delete-generations", "old").want(t, 0)
		h.doSwitch(third, "boot").want(t, 0)
		if got := h.entries(); len(got) != 1 || got[0] != h.entryOf(third) {
			t.Errorf("entries: %v", got)
		}
		images, err := os.ReadDir(h.Path("/boot/EFI/nixos"))
		h.must(err)
		if len(images) != 2 {
			t.Errorf("images of a vanished kernel are left: %v", images)
		}
		h.must(h.ChooseOnce(first))
		if err := h.Boot(); err == nil {
			t.Error("a closure without an entry was chosen in the menu")
		}
	})
}

func TestFullBootPartitionIsPrunedBeforeItFails(t *testing.T) {
	t.Parallel()
	h := newHost(t, Options{Hostname: "web"})
	h.stage(h.add(NixOS("web", "2")))
	third := h.addStaged(NixOS("web", "3"))
	h.doSwitch(third, "boot").want(t, 0)
	h.nix("nix-env", "-p", "/nix/var/nix/profiles/system", "--delete-generations", "2").want(t, 0)
	h.must(h.Knob(KnobBootLoader, "full"))
	fourth := h.addStaged(NixOS("web", "4"))
	h.doSwitch(fourth, "boot").want(t, 1, "Failed to install bootloader")
	if got := h.entries(); !slices.Equal(got, []string{"nixos-generation-1.conf", "nixos-generation-3.conf"}) {
		t.Errorf("entries: %v", got)
	}
	h.must(h.Boot())
	h.wantRunning(third)
}

func TestTheNewestOfEqualGenerationsIsTheDefault(t *testing.T) {
	t.Parallel()
	h := newHost(t, Options{Hostname: "web"})
	first := h.Running()
	h.stage(h.add(NixOS("web", "2")))
	h.stage(first)
	h.doSwitch(first, "boot").want(t, 0)
	if conf := h.read("/boot/loader/loader.conf"); !strings.Contains(conf, "default nixos-generation-3.conf\n") {
		t.Errorf("loader.conf:\n%s", conf)
	}
}

func TestGenerationBeyondTheLimitIsNoDefault(t *testing.T) {
	t.Parallel()
	h := newHost(t, Options{Hostname: "web"})
	first := h.Running()
	next := h.addStaged(NixOS("web", "2"))
	h.must(h.Knob(KnobConfigurationLimit, "1"))
	h.doSwitch(next, "boot").want(t, 0)
	h.doSwitch(first, "boot").want(t, 0)
	if conf := h.read("/boot/loader/loader.conf"); !strings.Contains(conf, "default nixos-generation-2.conf\n") {
		t.Errorf("loader.conf:\n%s", conf)
	}
	if got := h.entries(); !slices.Equal(got, []string{"nixos-generation-2.conf"}) {
		t.Errorf("entries: %v", got)
	}
}

func TestFilesOnTheBootPartitionAreReplacedWhole(t *testing.T) {
	t.Parallel()
	h := newHost(t, Options{Hostname: "web"})
	h.doSwitch(h.addStaged(NixOS("web", "2")), "boot").want(t, 0)
	h.must(filepath.WalkDir(h.Path("/boot"), func(at string, d os.DirEntry, err error) error {
		if strings.HasSuffix(at, ".tmp") {
			t.Errorf("%s is left", at)
		}
		return err
	}))
}
