package localapi

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
	"time"
)

const (
	// socketMode lets root and one group connect.
	socketMode fs.FileMode = 0o660
	// socketDirMode lets the group reach the socket; everything else in the directory has modes of its own.
	socketDirMode fs.FileMode = 0o755
	// newSuffix is added to the name of the socket until it has its mode.
	newSuffix = ".new"
	// maxSocketPath is the longest path of a unix socket (sun_path in unix(7), without the byte that ends it).
	maxSocketPath = 107
	// dialAttempts and dialPause bound how long a socket is given to be left by a process that is just being started.
	dialAttempts = 20
	dialPause    = 50 * time.Millisecond
	// answerPatience is how long a socket that is found in place is asked whether somebody is behind it.
	answerPatience = time.Second
)

// Occupied says that something else is at the path of the socket. It was left as it is.
type Occupied struct {
	Path string
	By   string
	Hint string
}

func (e *Occupied) Error() string { return fmt.Sprintf("listen on %s: %s is there", e.Path, e.By) }

// Hints says what to do about it.
func (e *Occupied) Hints() string { return e.Hint }

// Listen makes the socket, open to root and, unless it is empty, to the members of group. A socket that a dead agent left is
// replaced; anything else at the path is an *Occupied error. The socket never exists under its name with another mode.
func Listen(path, group string) (*Server, error) {
	temporary := path + newSuffix
	if len(temporary) > maxSocketPath {
		return nil, fmt.Errorf("listen on %.20s…: the path of the socket is %d bytes long, and unix sockets allow %d here; set a shorter socketPath",
			path, len(path), maxSocketPath-len(newSuffix))
	}
	if err := makeDir(filepath.Dir(path)); err != nil {
		return nil, fmt.Errorf("make directory of the local socket: %w", err)
	}
	gid, err := groupID(group)
	if err != nil {
		return nil, err
	}
	for _, at := range []string{path, temporary} {
		if err := mayReplace(at); err != nil {
			return nil, err
		}
	}
	if err := os.Remove(temporary); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: temporary, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	listener.SetUnlinkOnClose(false)
	if err := place(temporary, path, gid); err != nil {
		_ = listener.Close()
		_ = os.Remove(temporary)
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	return &Server{listener: listener, path: path, bounds: usualBounds}, nil
}

// makeDir makes a directory where there is none; its mode does not depend on the umask.
func makeDir(dir string) error {
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.MkdirAll(dir, socketDirMode); err != nil {
		return err
	}
	return os.Chmod(dir, socketDirMode)
}

func place(temporary, path string, gid int) error {
	if gid >= 0 {
		if err := os.Chown(temporary, -1, gid); err != nil {
			return err
		}
	}
	if err := os.Chmod(temporary, socketMode); err != nil {
		return err
	}
	return os.Rename(temporary, path)
}

// mayReplace reports what stands in the way of a new socket. A process that an agent was just starting when it died holds its
// socket until it has become another program, so somebody who listens is asked for a moment whether he is still there.
func mayReplace(path string) error {
	for attempt := 1; ; attempt++ {
		err := occupied(path)
		var by *Occupied
		if attempt == dialAttempts || !errors.As(err, &by) || by.By != somebodyListens {
			return err
		}
		<-time.After(dialPause)
	}
}

// somebodyListens is who is behind a socket that takes connections.
const somebodyListens = "a socket that somebody listens on"

func occupied(path string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("listen on %s: %w", path, err)
	case info.Mode().Type() != fs.ModeSocket:
		return &Occupied{Path: path, By: kindOf(info.Mode()), Hint: "move it away, or set another socketPath"}
	}
	conn, err := net.DialTimeout("unix", path, answerPatience)
	switch {
	case errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, fs.ErrNotExist): // only these say that nobody listens
		return nil
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("listen on %s: the socket that is there may not be asked: %w", path, fs.ErrPermission)
	case err == nil:
		_ = conn.Close()
	}
	return &Occupied{Path: path, By: somebodyListens, Hint: "another agent runs; stop it, or set another socketPath"}
}

func kindOf(mode fs.FileMode) string {
	switch mode.Type() {
	case 0:
		return "a file"
	case fs.ModeDir:
		return "a directory"
	case fs.ModeSymlink:
		return "a symbolic link"
	default:
		return "something that is no socket"
	}
}

// groupID looks a group up by name or number; -1 for none.
func groupID(group string) (int, error) {
	if group == "" {
		return -1, nil
	}
	if n, err := strconv.Atoi(group); err == nil && n >= 0 {
		return n, nil
	}
	found, err := user.LookupGroup(group)
	if err != nil {
		return 0, fmt.Errorf("look up socketGroup: %w", err)
	}
	return strconv.Atoi(found.Gid)
}
