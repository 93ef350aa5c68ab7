package testhost

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// lockSuffix names the file beside a work directory that the process which uses it holds a lock on. It is not in the directory,
// which a tmpfs is mounted on.
const lockSuffix = ".lock"

// newWorkDirectory makes a directory for one host, and first clears away those that nobody uses any more. It is this process's
// until release.
func newWorkDirectory(name string) (dir string, release func(), err error) {
	parent := filepath.Join(os.TempDir(), "nixfleet-testhost")
	if err := os.MkdirAll(parent, 0o755); err != nil {
		return "", nil, fmt.Errorf("make work directory: %w", err)
	}
	unlock, err := lock(filepath.Join(parent, "lock"))
	if err != nil {
		return "", nil, err
	}
	defer unlock()
	if err := sweep(parent); err != nil {
		return "", nil, err
	}
	if dir, err = os.MkdirTemp(parent, name+"-*"); err != nil {
		return "", nil, fmt.Errorf("make work directory: %w", err)
	}
	unlockDir, err := lock(dir + lockSuffix)
	if err != nil {
		return "", nil, err
	}
	return dir, func() {
		_ = os.Remove(dir + lockSuffix)
		unlockDir()
	}, nil
}

// sweep clears away what killed processes left behind: the lock of a directory that is in use is held.
func sweep(parent string) error {
	entries, err := os.ReadDir(parent)
	if err != nil {
		return fmt.Errorf("read work directories: %w", err)
	}
	for _, entry := range entries {
		if !entry.IsDir() {
			continue
		}
		dir := filepath.Join(parent, entry.Name())
		f, err := os.OpenFile(dir+lockSuffix, os.O_CREATE|os.O_RDWR, 0o600)
		if err != nil {
			return fmt.Errorf("open lock: %w", err)
		}
		if syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) == nil {
			err = errors.Join(killLeftovers(dir), clearAway(dir), os.Remove(dir+lockSuffix))
		}
		if err = errors.Join(err, f.Close()); err != nil {
			return err
		}
	}
	return nil
}

// clearAway takes a host's mounts and files away.
func clearAway(dir string) error {
	for _, at := range []string{filepath.Join(dir, "root"), dir} {
		err := syscall.Unmount(at, syscall.MNT_DETACH)
		if err != nil && !errors.Is(err, syscall.EINVAL) && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("unmount %s: %w", at, err)
		}
	}
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("remove work directory: %w", err)
	}
	return nil
}

// killLeftovers kills the machine with that work directory, and takes its control groups away.
func killLeftovers(dir string) error {
	groups, err := controlGroups(dir)
	if err != nil {
		return err
	}
	for _, group := range groups {
		killControlGroup(group)
		removeControlGroup(group)
	}
	return nil
}
