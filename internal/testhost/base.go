package testhost

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// baseTimeout bounds the making of the base tree: some 150 MB are fetched, and unpacked on two cores in a minute.
const baseTimeout = 15 * time.Minute

// The recipe of the base tree. Its text is part of the tree's name, so that a change of it makes another tree.
const (
	suite = "trixie" // systemd 257, Nix 2.26
	// bootstrapped is what debootstrap brings beside the minimal variant.
	bootstrapped = "ca-certificates,dbus,kmod,procps,systemd,systemd-sysv,util-linux"
	// finish runs in the tree. Nothing in it starts by itself that a test would have to wait for.
	//nolint:misspell // substituters is the name of a setting of Nix
	finish = `set -e
export DEBIAN_FRONTEND=noninteractive LC_ALL=C
apt-get -qq update
apt-get -qq install --yes --no-install-recommends nix-bin
apt-get clean
rm -rf /var/lib/apt/lists/*
rm -f /etc/machine-id /var/lib/dbus/machine-id /etc/hostname /etc/resolv.conf
mkdir -p /etc/nix /nix/store /nix/var/nix/profiles /nix/var/nix/gcroots
cat >/etc/nix/nix.conf <<END
# Without a network every miss would wait for one.
substituters =
experimental-features = nix-command
build-users-group =
sandbox = false
END
cat >/etc/fstab </dev/null
for unit in apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer fstrim.timer \
	systemd-tmpfiles-clean.timer console-getty.service getty@.service systemd-firstboot.service nix-daemon.service nix-daemon.socket
do
	ln -sf /dev/null "/etc/systemd/system/$unit"
done
mkdir -p /etc/systemd/journald.conf.d
printf '[Journal]\nStorage=persistent\nRateLimitIntervalSec=0\n' >/etc/systemd/journald.conf.d/testhost.conf
`
)

// tools are the programs of this machine that the package needs, and the Debian packages that bring them.
var tools = []struct{ program, pkg string }{
	{"debootstrap", "debootstrap"},
	{"systemd-nspawn", "systemd-container"},
	{"ip", "iproute2"},
	{"nsenter", "util-linux"},
	{"unshare", "util-linux"},
}

// Require reports, in one line, what this machine lacks to boot hosts.
func Require() error {
	const needs = "the end-to-end suite needs root on Debian, to boot hosts with systemd-nspawn"
	if os.Geteuid() != 0 {
		return fmt.Errorf("%s: this is user %d", needs, os.Geteuid())
	}
	if _, err := os.Stat("/etc/debian_version"); err != nil {
		return fmt.Errorf("%s: this machine has no /etc/debian_version", needs)
	}
	return nil
}

// Base is the directory of the base tree. It is made, with the tools for it, if it is not there; two processes do not make it
// twice. What is done is told on progress.
func Base(ctx context.Context, progress io.Writer) (string, error) {
	if err := Require(); err != nil {
		return "", err
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("find cache directory: %w", err)
	}
	dir := filepath.Join(cache, "nixfleet-agent", "testhost")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("make cache directory: %w", err)
	}
	unlock, err := lock(filepath.Join(dir, "lock"))
	if err != nil {
		return "", err
	}
	defer unlock()
	if err := installTools(ctx, progress); err != nil {
		return "", err
	}
	base := filepath.Join(dir, suite+"-"+recipeHash())
	if _, err := os.Stat(base); err == nil {
		return base, nil
	}
	return base, makeBase(ctx, base, progress)
}

func recipeHash() string {
	sum := sha256.Sum256([]byte(suite + "\n" + bootstrapped + "\n" + finish))
	return hex.EncodeToString(sum[:6])
}

// lock waits for the lock on a file. The kernel gives it back when the process ends.
func lock(at string) (unlock func(), err error) {
	f, err := os.OpenFile(at, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open lock: %w", err)
	}
	for {
		err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX)
		if !errors.Is(err, syscall.EINTR) {
			break
		}
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("lock %s: %w", at, err), f.Close())
	}
	return func() { _ = f.Close() }, nil
}

func installTools(ctx context.Context, progress io.Writer) error {
	var missing []string
	for _, tool := range tools {
		if _, err := exec.LookPath(tool.program); err != nil {
			missing = append(missing, tool.pkg)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	fmt.Fprintf(progress, "testhost: installing %s\n", strings.Join(missing, ", "))
	ctx, cancel := context.WithTimeout(ctx, baseTimeout)
	defer cancel()
	if err := runTool(ctx, "apt-get", "-qq", "update"); err != nil {
		return err
	}
	return runTool(ctx, "apt-get", append([]string{"-qq", "install", "--yes", "--no-install-recommends"}, missing...)...)
}

// makeBase makes the tree under another name, so that a tree that has its name is whole.
func makeBase(ctx context.Context, base string, progress io.Writer) error {
	fmt.Fprintf(progress, "testhost: making the base tree %s; this happens once\n", base)
	ctx, cancel := context.WithTimeout(ctx, baseTimeout)
	defer cancel()
	scratch := base + ".new"
	if err := os.RemoveAll(scratch); err != nil {
		return fmt.Errorf("clear base tree: %w", err)
	}
	if err := runTool(ctx, "debootstrap", "--variant=minbase", "--include="+bootstrapped, suite, scratch); err != nil {
		return err
	}
	if err := runTool(ctx, "chroot", scratch, "/bin/sh", "-c", finish); err != nil {
		return err
	}
	if err := os.Rename(scratch, base); err != nil {
		return fmt.Errorf("name base tree: %w", err)
	}
	return nil
}

// runTool runs a program of this machine. The end of what it wrote is in the error if it fails.
func runTool(ctx context.Context, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive", "LC_ALL=C")
	output, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("run %s: %w: %s", name, err, lastPart(output))
	}
	return nil
}

// lastPart is the end of an output, enough to see what went wrong.
func lastPart(output []byte) string {
	const most = 2000
	if len(output) > most {
		output = output[len(output)-most:]
	}
	return strings.TrimSpace(string(output))
}
