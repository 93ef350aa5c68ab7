package system

import (
	"context"
	"fmt"
	"os"
	"path"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	bootedLink  = "/run/booted-system"
	runningLink = "/run/current-system"
	bootIDFile  = "/proc/sys/kernel/random/boot_id"

	// linkAttempts and linkPause cover the moment in which activation replaces
	// the running link: "ln -sfn" unlinks it and makes it anew, some
	// microseconds later. 100 ms allow for a machine that is busy switching.
	linkAttempts = 6
	linkPause    = 20 * time.Millisecond

	// maxBootID bounds the boot id, which is a UUID of 36 characters.
	maxBootID = 128
)

// Facts is what a host is, read at one moment. Every store path is logical; ""
// means absent.
type Facts struct {
	// BootID changes with every boot of a kernel, and not with a soft reboot.
	BootID string
	// SoftReboots counts the restarts of user space since the kernel was booted.
	// SoftRebootsKnown is false where PID 1 cannot be asked or is too old to
	// count (before systemd 256).
	SoftReboots      uint32
	SoftRebootsKnown bool

	Hostname string
	// Machine is the Nix system of this host, such as "x86_64-linux".
	Machine string

	// Booted and Running are the toplevels (specialisation children included)
	// behind /run/booted-system and /run/current-system. Running changes inside
	// an activation, after the old units were stopped and before the new ones
	// are started: it does not say that a switch has ended.
	Booted  string
	Running string
	// RunningSince is when the running link was made: by the boot, or by the last
	// activation. Zero where there is none.
	RunningSince time.Time
	// Profile is the toplevel that the system profile names, and
	// ProfileGeneration the number in its generation link, 0 if there is none.
	Profile           string
	ProfileGeneration int
	ProfileSince      time.Time // when the profile was last set; zero where there is none

	BootDefault BootDefault
}

// Facts reads the host. It fails only where the boot id cannot be read: without
// it no reboot could be proven.
func (h *Host) Facts(ctx context.Context) (Facts, error) {
	var f Facts
	var err error
	if f.BootID, err = h.BootID(); err != nil {
		return Facts{}, err
	}
	f.SoftReboots, f.SoftRebootsKnown = h.softReboots(ctx)
	f.Hostname = h.readHostname()
	f.Machine = h.machine()
	f.Booted = newWalk(h).systemLink(bootedLink)
	f.Profile, f.ProfileGeneration = newWalk(h).profile()
	f.ProfileSince = newWalk(h).linkMade(h.profile)
	f.Running = h.running(ctx, f.Booted != "" || f.Profile != "")
	f.RunningSince = newWalk(h).linkMade(runningLink)
	f.BootDefault = h.BootDefault()
	return f, nil
}

// BootID reads the id that the kernel gave this boot.
func (h *Host) BootID() (string, error) {
	data, err := h.ReadFile(bootIDFile)
	if err != nil {
		return "", fmt.Errorf("read boot id: %w", err)
	}
	id := strings.TrimSpace(string(data))
	if id == "" || len(id) > maxBootID || strings.ContainsFunc(id, notGraphicASCII) {
		return "", fmt.Errorf("read boot id: %s does not hold one", bootIDFile)
	}
	return id, nil
}

func notGraphicASCII(r rune) bool { return r <= ' ' || r > '~' }

// running reads the running link, again if it is missing although the host
// looks like NixOS: then an activation is just replacing it.
func (h *Host) running(ctx context.Context, expected bool) string {
	for attempt := 1; ; attempt++ {
		if running := newWalk(h).systemLink(runningLink); running != "" || !expected || attempt == linkAttempts {
			return running
		}
		if h.pause(ctx, linkPause) != nil {
			return ""
		}
	}
}

// systemLink is the toplevel behind a link. A link to a store path that is not
// there any more still names it.
func (w *walk) systemLink(link string) string {
	target, err := w.lead(link)
	if err != nil {
		return ""
	}
	return target
}

// linkMade is when the link itself was made, not what it leads to: store paths
// all have the same time.
func (w *walk) linkMade(link string) time.Time {
	dir, err := w.resolve(path.Dir(link))
	if err != nil {
		return time.Time{}
	}
	info, err := os.Lstat(w.host.Path(path.Join(dir, path.Base(link))))
	if err != nil {
		return time.Time{}
	}
	return info.ModTime().UTC()
}

// profile follows the two steps of a profile: the profile is a relative link to
// "<name>-<generation>-link", and that one a link to the store path.
func (w *walk) profile() (toplevel string, generation int) {
	profile := w.host.profile
	toplevel = w.systemLink(profile)
	if toplevel == "" {
		return "", 0
	}
	dir, err := w.resolve(path.Dir(profile))
	if err != nil {
		return toplevel, 0
	}
	text, err := w.readlink(path.Join(dir, path.Base(profile)))
	if err != nil {
		return toplevel, 0
	}
	return toplevel, generationOf(path.Base(profile), path.Base(text))
}

// generationOf is the number in the name of a generation link, 0 if it is none.
func generationOf(profile, link string) int {
	number, ok := strings.CutPrefix(link, profile+"-")
	if !ok {
		return 0
	}
	if number, ok = strings.CutSuffix(number, "-link"); !ok {
		return 0
	}
	n, err := strconv.ParseUint(number, 10, 31)
	if err != nil {
		return 0
	}
	return int(n)
}

func (h *Host) readHostname() string {
	if h.real() {
		name, err := h.hostname()
		if err != nil {
			return ""
		}
		return name
	}
	w := newWalk(h)
	for _, file := range []string{"/proc/sys/kernel/hostname", "/etc/hostname"} {
		if name, err := w.readText(file); err == nil && name != "" {
			return name
		}
	}
	return ""
}

// machine is the Nix system of the host: of the kernel, or of the booted system
// where the root is only a directory.
func (h *Host) machine() string {
	if !h.real() {
		if system, err := newWalk(h).readText(path.Join(bootedLink, "system")); err == nil && system != "" {
			return system
		}
	}
	return nixSystem(h.uname())
}

// nixSystem names a machine type of uname(2) as Nix does (lib/systems/parse.nix).
func nixSystem(machine string) string {
	switch machine {
	case "":
		return ""
	case "i386", "i486", "i586":
		machine = "i686"
	case "ppc64le":
		machine = "powerpc64le"
	case "ppc64":
		machine = "powerpc64"
	case "armv8l":
		machine = "armv7l"
	}
	return machine + "-linux"
}

func unameMachine() string {
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return ""
	}
	return unix.ByteSliceToString(u.Machine[:])
}
