package store

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// lock takes an advisory lock on an open file or directory, and waits for it at most as long as timeout. The lock ends with
// unlock, or with the process.
func lock(f *os.File, how int, timeout time.Duration) error {
	for waited := time.Duration(0); ; waited += lockRetry {
		err := syscall.Flock(int(f.Fd()), how|syscall.LOCK_NB)
		switch {
		case err == nil:
			return nil
		case errors.Is(err, syscall.EINTR):
			continue
		case !errors.Is(err, syscall.EWOULDBLOCK):
			return fmt.Errorf("lock %s: %w", f.Name(), err)
		case waited >= timeout:
			return fmt.Errorf("lock %s: %w", f.Name(), ErrLocked)
		}
		<-time.After(lockRetry)
	}
}

// unlock gives up the lock and closes the file. A mapping of the file would otherwise hold the lock after the close.
func unlock(f *os.File) {
	_ = syscall.Flock(int(f.Fd()), syscall.LOCK_UN)
	_ = f.Close()
}

// lockDir keeps every other Open away from the directory: creating, moving aside and renaming are several steps.
func lockDir(dir string, timeout time.Duration) (*os.File, error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	if err := lock(f, syscall.LOCK_EX, timeout); err != nil {
		_ = f.Close()
		return nil, err
	}
	return f, nil
}

// maxLinks bounds a chain of symbolic links, as the kernel does.
const maxLinks = 40

// resolve follows symbolic links in the place of the file, so that what is created and renamed is the file and not the link.
// A link in a circle is given back as it is: it will be found not to be a file.
func resolve(path string) (string, error) {
	at := filepath.Clean(path)
	for range maxLinks {
		info, err := os.Lstat(at)
		if errors.Is(err, fs.ErrNotExist) {
			return at, nil
		}
		if err != nil {
			return "", err
		}
		if info.Mode()&fs.ModeSymlink == 0 {
			return at, nil
		}
		to, err := os.Readlink(at)
		if err != nil {
			return "", err
		}
		if !filepath.IsAbs(to) {
			to = filepath.Join(filepath.Dir(at), to)
		}
		at = to
	}
	return filepath.Clean(path), nil
}

func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Sync(); err != nil && !errors.Is(err, syscall.EINVAL) { // a file system without it has nothing to sync
		return fmt.Errorf("sync %s: %w", dir, err)
	}
	return nil
}
