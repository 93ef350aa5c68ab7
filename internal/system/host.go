package system

import (
	"context"
	"os"
	"path"
	"path/filepath"
	"time"
)

// DefaultProfile is the profile that NixOS boots from and lists in the boot menu.
const DefaultProfile = "/nix/var/nix/profiles/system"

// defaultBootPaths are the mount points that NixOS uses for the EFI system
// partition and for the extended boot loader partition.
var defaultBootPaths = []string{"/boot", "/efi", "/boot/efi"}

// Host reads the facts of the host below one root directory.
type Host struct {
	root      string
	profile   string
	bootPaths []string

	// pause waits between two readings of a link that is being replaced.
	pause func(context.Context, time.Duration) error
	// managers are the D-Bus addresses at which PID 1 of the real host is asked.
	managers []managerAddress
	uname    func() string
	hostname func() (string, error)
}

// Option changes where a Host looks.
type Option func(*Host)

// WithProfile names another system profile than DefaultProfile.
func WithProfile(logical string) Option {
	return func(h *Host) { h.profile = absolute(logical) }
}

// WithBootPaths names the mount points in which the boot loader's
// configuration is looked for, in order of preference, in place of /boot, /efi
// and /boot/efi.
func WithBootPaths(logical ...string) Option {
	return func(h *Host) {
		h.bootPaths = nil
		for _, p := range logical {
			h.bootPaths = append(h.bootPaths, absolute(p))
		}
	}
}

// WithPause replaces the wait between two readings of a link that is just being
// replaced. It returns early, with an error, when the context ends.
func WithPause(pause func(context.Context, time.Duration) error) Option {
	return func(h *Host) { h.pause = pause }
}

// New returns a reader of the host below root. The root "/" (or "") is the host
// that this process runs on; any other directory is one that looks like a host,
// and then nothing outside of it is consulted but the machine type of the
// kernel.
func New(root string, opts ...Option) *Host {
	if root == "" {
		root = "/"
	}
	if abs, err := filepath.Abs(root); err == nil {
		root = abs
	}
	h := &Host{
		root:      root,
		profile:   DefaultProfile,
		bootPaths: defaultBootPaths,
		pause:     pauseOrDone,
		managers:  managerAddresses,
		uname:     unameMachine,
		hostname:  os.Hostname,
	}
	for _, opt := range opts {
		opt(h)
	}
	return h
}

// Root is the directory below which every path of the host is read.
func (h *Host) Root() string { return h.root }

// ProfilePath is the logical path of the system profile.
func (h *Host) ProfilePath() string { return h.profile }

// Path turns a path of the host into a path of this process's file system. It
// only joins: symlinks are not followed, and ".." does not lead above the root.
func (h *Host) Path(logical string) string {
	logical = absolute(logical)
	if h.real() {
		return logical
	}
	return h.root + logical
}

func (h *Host) real() bool { return h.root == "/" }

func absolute(logical string) string { return path.Clean("/" + logical) }

func pauseOrDone(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}
