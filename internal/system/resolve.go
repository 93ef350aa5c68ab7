package system

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	// maxLinks is how many symlinks one path may pass through: Linux's MAXSYMLINKS.
	maxLinks = 40
	// maxLinkText is the longest link text that Linux stores (PATH_MAX).
	maxLinkText = 4096
	// maxFile bounds ReadFile. The files read here (version labels, inhibitors,
	// loader entries) are a few KiB.
	maxFile = 1 << 20
	// maxDirEntries bounds a directory listing; a boot menu has some hundreds of entries.
	maxDirEntries = 4096
)

// ErrTooLarge is returned for a file or directory that is larger than anything
// that belongs in its place.
var ErrTooLarge = errors.New("larger than it can be")

var errNotRegular = errors.New("not a regular file")

// Resolve follows every symlink of a path as the host would, an absolute link
// text being taken below the root, and returns the logical path that it leads
// to. The path must exist: the error is fs.ErrNotExist otherwise (also for a
// dangling link), and unix.ELOOP after 40 links.
func (h *Host) Resolve(logical string) (string, error) {
	return newWalk(h).resolve(logical)
}

// ReadFile returns the content of the regular file that a path leads to. A file
// of more than 1 MiB is ErrTooLarge.
func (h *Host) ReadFile(logical string) ([]byte, error) {
	return newWalk(h).readFile(logical, maxFile)
}

// walk follows paths of one host and remembers which directories are no links,
// for the duration of one question: many paths share "/nix/store/<closure>".
type walk struct {
	host  *Host
	plain map[string]struct{}
	buf   [maxLinkText]byte
}

func newWalk(h *Host) *walk {
	return &walk{host: h, plain: make(map[string]struct{}, 16)}
}

func (w *walk) resolve(logical string) (string, error) {
	resolved, err := w.follow(logical)
	if err != nil {
		return "", err
	}
	return resolved, nil
}

// lead is where a path leads, whether or not something is there: a dangling link
// still names its target. Only a path whose own last element is missing is
// absent, "".
func (w *walk) lead(logical string) (string, error) {
	resolved, err := w.follow(logical)
	switch {
	case err == nil:
		return resolved, nil
	case !absent(err):
		return "", err
	}
	dir, err := w.follow(path.Dir(absolute(logical)))
	if err != nil {
		return "", ignoreAbsent(err)
	}
	if _, err := w.readlink(path.Join(dir, path.Base(logical))); err != nil {
		return "", ignoreAbsent(err)
	}
	return resolved, nil
}

// follow returns the logical path that a path leads to. With an error that is
// absent, it returns the path at which nothing was found.
func (w *walk) follow(logical string) (string, error) {
	at, rest, links := "/", strings.Split(absolute(logical), "/"), 0
	for len(rest) > 0 {
		name := rest[0]
		rest = rest[1:]
		switch name {
		case "", ".":
			continue
		case "..":
			at = path.Dir(at)
			continue
		}
		next := path.Join(at, name)
		if _, known := w.plain[next]; known {
			at = next
			continue
		}
		text, err := w.readlink(next)
		if errors.Is(err, unix.EINVAL) {
			w.plain[next] = struct{}{}
			at = next
			continue
		}
		if err != nil {
			return path.Join(append([]string{next}, rest...)...), &fs.PathError{Op: "resolve", Path: next, Err: err}
		}
		if links++; links > maxLinks {
			return "", &fs.PathError{Op: "resolve", Path: logical, Err: unix.ELOOP}
		}
		if strings.HasPrefix(text, "/") {
			at = "/"
		}
		rest = slices.Concat(strings.Split(text, "/"), rest)
	}
	return at, nil
}

// readlink returns the text of the link at a logical path whose directory holds
// no further link. unix.EINVAL means that something else than a link is there.
func (w *walk) readlink(logical string) (string, error) {
	for {
		n, err := unix.Readlink(w.host.Path(logical), w.buf[:])
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return "", err
		}
		return string(w.buf[:n]), nil
	}
}

// open opens the regular file that a path leads to, without blocking on a pipe
// or a device that stands in its place.
func (w *walk) open(logical string) (*os.File, error) {
	resolved, err := w.resolve(logical)
	if err != nil {
		return nil, err
	}
	f, err := os.OpenFile(w.host.Path(resolved), os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("read %s: %w", logical, errNotRegular)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

func (w *walk) readFile(logical string, limit int64) ([]byte, error) {
	f, err := w.open(logical)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(data)) > limit {
		return nil, fmt.Errorf("read %s: %w", logical, ErrTooLarge)
	}
	return data, nil
}

// readText is the content of a file without surrounding white space, "" if the
// file is absent.
func (w *walk) readText(logical string) (string, error) {
	data, err := w.readFile(logical, maxFile)
	if err != nil {
		return "", ignoreAbsent(err)
	}
	return strings.TrimSpace(string(data)), nil
}

// names lists a directory in the order of its names; an absent one is empty.
func (w *walk) names(logical string) ([]string, error) {
	resolved, err := w.resolve(logical)
	if err != nil {
		return nil, ignoreAbsent(err)
	}
	dir, err := os.OpenFile(w.host.Path(resolved), os.O_RDONLY|unix.O_NONBLOCK|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, ignoreAbsent(err)
	}
	defer dir.Close()
	names, err := dir.Readdirnames(maxDirEntries + 1)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("list %s: %w", logical, err)
	}
	if len(names) > maxDirEntries {
		return nil, fmt.Errorf("list %s: %w", logical, ErrTooLarge)
	}
	slices.Sort(names)
	return names, nil
}

func (w *walk) stat(logical string) (fs.FileInfo, error) {
	resolved, err := w.resolve(logical)
	if err != nil {
		return nil, err
	}
	return os.Lstat(w.host.Path(resolved))
}

func (w *walk) exists(logical string) bool {
	_, err := w.resolve(logical)
	return err == nil
}

// absent says that nothing is at a path, as opposed to: it cannot be read.
func absent(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR)
}

func ignoreAbsent(err error) error {
	if absent(err) {
		return nil
	}
	return err
}
