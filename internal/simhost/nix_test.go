package simhost

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const systemProfile = "/nix/var/nix/profiles/system"

func TestGenerationNumbers(t *testing.T) {
	t.Parallel()
	h := newHost(t, Options{Hostname: "web"})
	a, b, c := h.Running(), h.add(NixOS("web", "2")), h.add(NixOS("web", "3"))
	for _, step := range []struct {
		args []string
		code int
		link string
	}{
		{[]string{"--set", a}, 0, "system-1-link"}, // the highest already
		{[]string{"--set", b}, 0, "system-2-link"},
		{[]string{"--set", a}, 0, "system-3-link"}, // an older one is not taken again
		{[]string{"--rollback"}, 0, "system-2-link"},
		{[]string{"--rollback"}, 0, "system-1-link"},
		{[]string{"--rollback"}, 1, "system-1-link"},
		{[]string{"--set", a}, 0, "system-3-link"}, // the highest again, whatever the profile stood at
		{[]string{"--switch-generation", "1"}, 0, "system-1-link"},
		{[]string{"--set", b}, 0, "system-4-link"},
		{[]string{"--switch-generation", "9"}, 1, "system-4-link"},
		{[]string{"--delete-generations", "2"}, 0, "system-4-link"},
		{[]string{"--rollback"}, 0, "system-3-link"},
		{[]string{"--delete-generations", "old"}, 0, "system-3-link"},
		{[]string{"--set", c}, 0, "system-4-link"},
		{[]string{"--set", "/nix/store/00000000000000000000000000000000-gone"}, 1, "system-4-link"},
		{[]string{"--set", "/etc/hostname"}, 1, "system-4-link"},
	} {
		for _, flag := range []string{"-p", "--profile"} {
			if flag == "--profile" && step.args[0] != "--set" {
				continue // the second time would be another step
			}
			h.nix("nix-env", append([]string{flag, systemProfile}, step.args...)...).want(t, step.code)
			if got := h.linkText(systemProfile); got != step.link {
				t.Fatalf("after %v the profile is %s, want %s", step.args, got, step.link)
			}
		}
	}
	if got := h.linkText(systemProfile + "-4-link"); got != c {
		t.Errorf("generation 4 is %s, want %s", got, c)
	}
	if h.exists(systemProfile + "-2-link") {
		t.Error("a deleted generation is left")
	}
	list := h.nix("nix-env", "-p", systemProfile, "--list-generations").stdout
	lines := strings.Split(strings.TrimSuffix(list, "\n"), "\n")
	if len(lines) != 2 || !strings.HasPrefix(lines[0], "   3   2") || !strings.HasSuffix(lines[1], "   (current)") {
		t.Errorf("generations:\n%s", list)
	}
}

func TestPathsMayCarryTheRoot(t *testing.T) {
	t.Parallel()
	h := newHost(t, Options{Hostname: "web"})
	next := h.add(NixOS("web", "2"))
	h.nix("nix-env", "--profile", h.Path(systemProfile), "--set", h.Path(next)).want(t, 0)
	if h.linkText(systemProfile+"-2-link") != next {
		t.Errorf("generation 2 is %s", h.linkText(systemProfile+"-2-link"))
	}
	root := h.Path("/nix/var/nix/gcroots/nixfleet-agent/target")
	got := h.nix("nix-store", "--realise", h.Path(next), "--add-root", root)
	got.want(t, 0)
	if got.stdout != root+"\n" || h.linkText("/nix/var/nix/gcroots/nixfleet-agent/target") != next {
		t.Errorf("printed %q", got.stdout)
	}
}

func TestRealise(t *testing.T) {
	t.Parallel()
	h := newHost(t, Options{Hostname: "web"})
	cached, err := h.AddToCache(newerKernel(NixOS("web", "2")))
	h.must(err)
	if h.exists(cached) {
		t.Fatal("what is in the cache only is in the store")
	}
	const gcRoot = "/nix/var/nix/gcroots/nixfleet-agent/target"
	for _, failing := range []struct {
		knob, wording string
		lines         []string
	}{
		{"unreachable", "", []string{"warning: unable to download 'http://cache.example.org/nix-cache-info': Couldn't connect to server (7)", "error: path '" + cached + "' is required, but there is no substituter that can build it"}},
		{"unsigned", "", []string{"warning: ignoring substitute for '" + cached + "' from 'http://cache.example.org', as it's not signed by any of the keys in 'trusted-public-keys'"}},
		{"unsigned", "2.8", []string{"warning: the substitute for '" + cached + "' from 'http://cache.example.org' is not signed by any of the keys in 'trusted-public-keys'", "error: build of '" + cached + "' failed"}},
		{"full", "", []string{"error: writing to file: No space left on device"}},
	} {
		h.must(h.Knob(KnobCache, failing.knob))
		h.must(h.Knob(KnobNixWording, failing.wording))
		h.nix("nix-store", "--realise", cached, "--add-root", gcRoot).want(t, 1, failing.lines...)
		if h.exists(cached) || h.exists(gcRoot) {
			t.Fatalf("a failed realise (%s) left something", failing.knob)
		}
		// What is in the store needs no cache.
		h.nix("nix-store", "--realise", h.Running(), "--add-root", "/nix/var/nix/gcroots/x").want(t, 0)
	}
	h.must(h.Knob(KnobCache, ""))
	h.must(h.Knob(KnobNixWording, ""))

	got := h.nix("nix-store", "--realise", cached, "--add-root", gcRoot)
	got.want(t, 0)
	if got.stdout != gcRoot+"\n" || h.linkText(gcRoot) != cached {
		t.Errorf("printed %q", got.stdout)
	}
	if _, err := h.Resolve(cached + "/kernel"); err != nil {
		t.Errorf("what the closure refers to did not come with it: %v", err)
	}
	h.stage(cached)
	h.doSwitch(cached, "switch").want(t, 0)
	h.wantRunning(cached)

	bare := h.nix("nix-store", "--realise", cached)
	bare.want(t, 0, "warning: you did not specify '--add-root'; the result might be removed by the garbage collector")
	if bare.stdout != cached+"\n" {
		t.Errorf("printed %q", bare.stdout)
	}
	requisites := h.nix("nix-store", "-q", "--requisites", cached).stdout
	for _, name := range []string{"-nixos-system-web-2\n", "-linux-6.12.9-modules\n", "-nix-simulated\n", "-systemd-257.3\n"} {
		if strings.Count(requisites, name) != 1 {
			t.Errorf("requisites lack %q or have it twice:\n%s", name, requisites)
		}
	}
}

func TestRealiseOfWhatIsNowhere(t *testing.T) {
	t.Parallel()
	h := newHost(t, Options{})
	const gone = "/nix/store/00000000000000000000000000000000-gone"
	h.nix("nix-store", "--realise", gone).want(t, 1, "error: path '"+gone+"' is required, but there is no substituter that can build it")
	h.must(h.Knob(KnobNixWording, "2.8"))
	h.nix("nix-store", "--realise", gone).want(t, 1, "don't know how to build these paths:", "  "+gone, "error: build of '"+gone+"' failed")
	h.nix("nix-store", "--realise", "/nix/store/zzz-nope").want(t, 1, "error: 'zzz-nope' is too short to be a valid store path")
	h.nix("nix-store", "--check-validity", gone).want(t, 1, "error: path '"+gone+"' is not valid")
	h.nix("nix-store", "--check-validity", h.Running()).want(t, 0)
}

func TestRootsElsewhereAreIndirect(t *testing.T) {
	t.Parallel()
	h := newHost(t, Options{})
	h.nix("nix-store", "--realise", h.Running(), "--add-root", "/var/lib/agent/result").want(t, 0)
	if h.linkText("/var/lib/agent/result") != h.Running() {
		t.Error("no link")
	}
	roots, err := filepath.Glob(filepath.Join(h.Path("/nix/var/nix/gcroots/auto"), "*"))
	h.must(err)
	if len(roots) != 1 {
		t.Fatalf("indirect roots: %v", roots)
	}
	if text, err := os.Readlink(roots[0]); err != nil || text != "/var/lib/agent/result" {
		t.Errorf("the indirect root leads to %s (%v)", text, err)
	}
}
