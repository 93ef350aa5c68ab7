package system

import (
	"context"
	"errors"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// booted lays out a host that booted and runs a closure which is generation 7 of
// its profile and the default of systemd-boot.
func booted(t testing.TB) (*tree, string) {
	tr := newTree(t)
	top := tr.closure("25.11")
	tr.file(bootIDFile, "355a3b2b-0d8f-4a3c-9a8e-1c2d3e4f5a6b\n").
		file("/proc/sys/kernel/hostname", "lab-1\n").
		link(bootedLink, top).link(runningLink, top).
		link("/nix/var/nix/profiles/system", "system-7-link").
		link("/nix/var/nix/profiles/system-7-link", top).
		file("/boot/loader/loader.conf", "timeout 5\ndefault nixos-generation-7.conf\n").
		entry("nixos-generation-7.conf", 7, top)
	return tr, top
}

func TestFactsOfABootedHost(t *testing.T) {
	tr, top := booted(t)
	activated, set := time.Unix(1_780_000_000, 0).UTC(), time.Unix(1_770_000_000, 0).UTC()
	made(t, tr.host().Path(runningLink), activated)
	made(t, tr.host().Path(DefaultProfile), set)
	got, err := tr.host().Facts(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := Facts{
		BootID: "355a3b2b-0d8f-4a3c-9a8e-1c2d3e4f5a6b", SoftRebootsKnown: true,
		Hostname: "lab-1", Machine: "x86_64-linux",
		Booted: top, Running: top, RunningSince: activated, Profile: top, ProfileGeneration: 7, ProfileSince: set,
		BootDefault: BootDefault{Loader: LoaderSystemdBoot, Closure: top, Entry: "nixos-generation-7.conf", Via: ViaDefault},
	}
	if got != want {
		t.Errorf("facts\n got %+v\nwant %+v", got, want)
	}
}

// made sets when a link itself was made.
func made(t *testing.T, link string, at time.Time) {
	t.Helper()
	spec := unix.NsecToTimespec(at.UnixNano())
	if err := unix.UtimesNanoAt(unix.AT_FDCWD, link, []unix.Timespec{spec, spec}, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		t.Fatal(err)
	}
}

func TestFactsOfAlmostNothing(t *testing.T) {
	tr := newTree(t)
	if _, err := tr.host().Facts(t.Context()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("without a boot id: %v", err)
	}
	tr.file(bootIDFile, "b\n")
	got, err := tr.host().Facts(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	reason := "no boot loader configuration in /boot, /efi, /boot/efi"
	want := Facts{BootID: "b", SoftRebootsKnown: true, Machine: "x86_64-linux", BootDefault: BootDefault{Loader: LoaderNone, Reason: reason}}
	if got != want {
		t.Errorf("facts\n got %+v\nwant %+v", got, want)
	}
	for _, bad := range []string{"", "\n", "two words", "caf\xc3\xa9"} {
		if _, err := tr.file(bootIDFile, bad).host().BootID(); err == nil {
			t.Errorf("%q was taken for a boot id", bad)
		}
	}
}

func TestRunningLinkThatIsBeingReplaced(t *testing.T) {
	tr, top := booted(t)
	next := tr.closure("26.05")
	tr.remove(runningLink)
	pauses := 0
	replaced := WithPause(func(_ context.Context, d time.Duration) error {
		if d <= 0 {
			t.Errorf("pause of %v", d)
		}
		if pauses++; pauses == 2 {
			tr.link(runningLink, next)
		}
		return nil
	})
	if f, err := tr.host(replaced).Facts(t.Context()); err != nil || f.Running != next || pauses != 2 {
		t.Errorf("running %q after %d pauses, %v; want %q after 2", f.Running, pauses, err, next)
	}

	tr.remove(runningLink)
	pauses = 0
	gone := WithPause(func(context.Context, time.Duration) error { pauses++; return nil })
	if f, err := tr.host(gone).Facts(t.Context()); err != nil || f.Running != "" || f.Booted != top || pauses != linkAttempts-1 {
		t.Errorf("a link that stays away: %q after %d pauses, %v", f.Running, pauses, err)
	}
	ended := WithPause(func(context.Context, time.Duration) error { return context.Canceled })
	if f, err := tr.host(ended).Facts(t.Context()); err != nil || f.Running != "" {
		t.Errorf("a reading that was cancelled: %q, %v", f.Running, err)
	}

	pauses = 0
	tr.remove(bootedLink).remove("/nix/var/nix/profiles/system")
	if _, err := tr.host(gone).Facts(t.Context()); err != nil || pauses != 0 {
		t.Errorf("a host that is not NixOS was waited for: %d pauses, %v", pauses, err)
	}
}

func TestDefaultPauseEndsWithTheContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := pauseOrDone(ctx, time.Hour); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if err := pauseOrDone(t.Context(), time.Nanosecond); err != nil {
		t.Error(err)
	}
}

func TestProfile(t *testing.T) {
	tr := newTree(t)
	top := tr.closure("25.11")
	gone := storePathOf("nixos-system-test-collected")
	dir := "/nix/var/nix/profiles/"
	tr.link(dir+"system", "system-12-link").link(dir+"system-12-link", top).
		link(dir+"other", "other-3-link").link(dir+"other-3-link", gone).
		link(dir+"direct", top).
		link(dir+"dangling", "dangling-4-link").
		link(dir+"odd", "system-x-link").link(dir+"system-x-link", top).
		link("/etc/profile-of-system", dir+"system")
	for _, c := range []struct {
		profile    string
		toplevel   string
		generation int
	}{
		{DefaultProfile, top, 12},
		{dir + "other", gone, 3},
		{dir + "direct", top, 0},
		{dir + "dangling", dir + "dangling-4-link", 4},
		{dir + "odd", top, 0},
		{dir + "missing", "", 0},
		{"/no/such/directory", "", 0},
		{"/etc/profile-of-system", top, 0},
	} {
		toplevel, generation := newWalk(tr.host(WithProfile(c.profile))).profile()
		if toplevel != c.toplevel || generation != c.generation {
			t.Errorf("%s: %q generation %d, want %q generation %d", c.profile, toplevel, generation, c.toplevel, c.generation)
		}
	}
}

func TestGenerationOf(t *testing.T) {
	for link, want := range map[string]int{
		"system-1-link": 1, "system-2147483647-link": 2147483647, "system-0012-link": 12,
		"system-2147483648-link": 0, "system--1-link": 0, "system-+1-link": 0, "system--link": 0,
		"system-1": 0, "systemd-1-link": 0, "": 0, "system-1-link-link": 0,
	} {
		if got := generationOf("system", link); got != want {
			t.Errorf("generationOf(%q) = %d, want %d", link, got, want)
		}
	}
}

func TestLinksToWhatIsNotThere(t *testing.T) {
	tr := newTree(t)
	gone := storePathOf("nixos-system-test-gone")
	tr.link(bootedLink, gone)
	if got := newWalk(tr.host()).systemLink(bootedLink); got != gone {
		t.Errorf("a link to a path that was collected: %q", got)
	}
	if got := newWalk(tr.host()).systemLink(runningLink); got != "" {
		t.Errorf("no link: %q", got)
	}
}

func TestMachine(t *testing.T) {
	for uname, want := range map[string]string{
		"x86_64": "x86_64-linux", "aarch64": "aarch64-linux", "i586": "i686-linux", "i686": "i686-linux",
		"armv7l": "armv7l-linux", "armv8l": "armv7l-linux", "ppc64le": "powerpc64le-linux", "riscv64": "riscv64-linux", "": "",
	} {
		if got := nixSystem(uname); got != want {
			t.Errorf("nixSystem(%q) = %q, want %q", uname, got, want)
		}
	}
	tr := newTree(t)
	h := tr.host()
	if got := h.machine(); got != "x86_64-linux" {
		t.Errorf("without a booted system: %q", got)
	}
	top := tr.closure("arm")
	tr.file(top+"/system", "aarch64-linux\n").link(bootedLink, top)
	if got := h.machine(); got != "aarch64-linux" {
		t.Errorf("of the booted system: %q", got)
	}
	thisHost := New("/")
	if thisHost.machine() != nixSystem(unameMachine()) || thisHost.machine() == "-linux" || thisHost.machine() == "" {
		t.Errorf("of this kernel: %q", thisHost.machine())
	}
}

func TestHostname(t *testing.T) {
	tr := newTree(t)
	h := tr.host()
	if got := h.readHostname(); got != "" {
		t.Errorf("no name: %q", got)
	}
	if got := tr.file("/etc/hostname", "from-etc\n").host().readHostname(); got != "from-etc" {
		t.Errorf("of /etc: %q", got)
	}
	thisHost := New("/")
	thisHost.hostname = func() (string, error) { return "this", nil }
	if got := thisHost.readHostname(); got != "this" {
		t.Errorf("of the real host: %q", got)
	}
	thisHost.hostname = func() (string, error) { return "", errors.New("none") }
	if got := thisHost.readHostname(); got != "" {
		t.Errorf("unreadable: %q", got)
	}
}
