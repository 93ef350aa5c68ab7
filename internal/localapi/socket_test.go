package localapi

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

func TestSocketModeAndGroup(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "run", "nixfleet-agent")
	path := filepath.Join(dir, "agent.sock")
	old := syscall.Umask(0o077)
	defer syscall.Umask(old)
	group := os.Getgid()
	if os.Geteuid() == 0 {
		group = 65534 // root may give it to anybody
	}
	serveAt(t, path, strconv.Itoa(group), newHost(), nil)
	info, err := os.Lstat(path)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode() != fs.ModeSocket|socketMode || int(info.Sys().(*syscall.Stat_t).Gid) != group {
		t.Errorf("socket has mode %s and group %d", info.Mode(), info.Sys().(*syscall.Stat_t).Gid)
	}
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != socketDirMode {
		t.Errorf("directory has mode %s, %v", info.Mode(), err)
	}
	onlyThese(t, dir, "agent.sock")
}

func onlyThese(t *testing.T, dir string, want ...string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != len(want) {
		t.Fatalf("in %s are %v, %v; want %v", dir, entries, err, want)
	}
	for i, e := range entries {
		if e.Name() != want[i] {
			t.Errorf("in %s are %v, want %v", dir, entries, want)
		}
	}
}

// stale leaves a socket behind as an agent does that was killed.
func stale(t *testing.T, path string) {
	t.Helper()
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	listener.SetUnlinkOnClose(false)
	if err := listener.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestStaleSocketIsTakenOver(t *testing.T) {
	path := filepath.Join(t.TempDir(), "agent.sock")
	stale(t, path)
	stale(t, path+newSuffix) // killed between bind and rename
	s := serveAt(t, path, "", newHost(), nil)
	if _, err := s.Status(t.Context()); err != nil {
		t.Error(err)
	}
	onlyThese(t, filepath.Dir(path), "agent.sock")
	if err := s.stop(); err != nil {
		t.Fatal(err)
	}
	next := serveAt(t, path, "", newHost(), nil)
	if _, err := next.Status(t.Context()); err != nil {
		t.Errorf("the next agent: %v", err)
	}
}

func TestOccupiedSocketPath(t *testing.T) {
	for name, c := range map[string]struct {
		occupy func(t *testing.T, path string)
		by     string
	}{
		"a file": {func(t *testing.T, path string) {
			if err := os.WriteFile(path, []byte("the operator's data"), 0o600); err != nil {
				t.Fatal(err)
			}
		}, "a file"},
		"a directory": {func(t *testing.T, path string) {
			if err := os.Mkdir(path, 0o700); err != nil {
				t.Fatal(err)
			}
		}, "a directory"},
		"a symbolic link": {func(t *testing.T, path string) {
			if err := os.Symlink("elsewhere", path); err != nil {
				t.Fatal(err)
			}
		}, "a symbolic link"},
		"a pipe": {func(t *testing.T, path string) {
			if err := syscall.Mkfifo(path, 0o600); err != nil {
				t.Fatal(err)
			}
		}, "something that is no socket"},
		"another agent": {func(t *testing.T, path string) { serveAt(t, path, "", newHost(), nil) }, "a socket that somebody listens on"},
		"another agent that is stuck": {func(t *testing.T, path string) {
			fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = unix.Close(fd) })
			if err := errors.Join(unix.Bind(fd, &unix.SockaddrUnix{Name: path}), unix.Listen(fd, 0)); err != nil {
				t.Fatal(err)
			}
			dial(t, path) // its queue is full, and it accepts nobody
		}, "a socket that somebody listens on"},
		"a datagram socket": {func(t *testing.T, path string) {
			conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = conn.Close() })
		}, "a socket that somebody listens on"},
	} {
		for _, suffix := range []string{"", newSuffix} {
			path := filepath.Join(t.TempDir(), "agent.sock")
			c.occupy(t, path+suffix)
			before, err := os.Lstat(path + suffix)
			if err != nil {
				t.Fatal(err)
			}
			_, err = Listen(path, "")
			var occupied *Occupied
			if !errors.As(err, &occupied) || occupied.Path != path+suffix || occupied.By != c.by || occupied.Hints() == "" || strings.Contains(err.Error(), "\n") {
				t.Errorf("%s%s: %v", name, suffix, err)
				continue
			}
			after, err := os.Lstat(path + suffix)
			if err != nil || !os.SameFile(before, after) || after.Size() != before.Size() {
				t.Errorf("%s%s: it was changed: %v", name, suffix, err)
			}
			onlyThese(t, filepath.Dir(path), "agent.sock"+suffix)
		}
	}
}

func TestSocketThatCannotBe(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct{ path, group, says string }{
		"too long":         {filepath.Join(dir, strings.Repeat("x", maxSocketPath)), "", "shorter socketPath"},
		"below a file":     {filepath.Join(file, "agent.sock"), "", "not a directory"},
		"no such group":    {filepath.Join(dir, "agent.sock"), "no-such-group-here", "socketGroup"},
		"group not number": {filepath.Join(dir, "agent.sock"), "-1", "socketGroup"},
	} {
		_, err := Listen(c.path, c.group)
		if err == nil || !strings.Contains(err.Error(), c.says) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v", name, err)
		}
	}
	onlyThese(t, dir, "file")
	longest := filepath.Join(dir, "s")
	longest += strings.Repeat("x", maxSocketPath-len(newSuffix)-len(longest))
	s := serveAt(t, longest, "", newHost(), nil)
	if _, err := s.Status(t.Context()); err != nil {
		t.Errorf("the longest path: %v", err)
	}
}

func TestServeEndsWithItsListener(t *testing.T) {
	server, err := Listen(filepath.Join(t.TempDir(), "agent.sock"), "")
	if err != nil {
		t.Fatal(err)
	}
	if err := server.listener.Close(); err != nil {
		t.Fatal(err)
	}
	if err := server.Serve(context.Background(), newHost(), slog.New(slog.DiscardHandler)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("serve = %v", err)
	}
	until(t, "nothing is left", func() bool { return running("localapi.(*Server).Serve") == 0 })
}

// behind answers each connection at a path with bytes, and ends it.
func behind(t *testing.T, answer string) *Client {
	t.Helper()
	path := filepath.Join(t.TempDir(), "agent.sock")
	listener, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			buf := make([]byte, 4096)
			_, _ = conn.Read(buf)
			_, _ = io.WriteString(conn, answer)
			_ = conn.Close()
		}
	}()
	return NewClient(path)
}

func TestClientWithoutAnAgent(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	left := filepath.Join(dir, "left")
	stale(t, left)
	for name, client := range map[string]*Client{
		"no socket":            NewClient(filepath.Join(dir, "none")),
		"no directory":         NewClient(filepath.Join(dir, "none", "none")),
		"below a file":         NewClient(filepath.Join(file, "none")),
		"refused":              NewClient(left),
		"a file":               NewClient(file),
		"dies before it says":  behind(t, ""),
		"dies within headers":  behind(t, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"),
		"dies before the body": behind(t, "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n"),
		"dies within the body": behind(t, "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{\"source\":"),
		"dies within a chunk":  behind(t, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n20\r\n{"),
	} {
		ctx := t.Context()
		_, status := client.Status(ctx)
		_, activate := client.Activate(ctx, ActivateRequest{Target: "x"})
		for what, err := range map[string]error{
			"status": status, "activate": activate,
			"watch":  client.Watch(ctx, func(Status) error { return nil }),
			"follow": client.Follow(ctx, 0, func(Event) error { return nil }),
		} {
			if !errors.Is(err, ErrNoAgent) || !strings.Contains(err.Error(), client.path) {
				t.Errorf("%s: %s = %v", name, what, err)
			}
		}
	}
}

func TestClientAndWhatIsNoAgent(t *testing.T) {
	for name, answer := range map[string]string{
		"no HTTP":   "hello\r\n\r\n",
		"no JSON":   "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
		"no reason": "HTTP/1.1 500 No\r\nContent-Length: 2\r\n\r\n{}",
		"no words":  "HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n",
	} {
		if _, err := behind(t, answer).Status(t.Context()); err == nil || errors.Is(err, ErrNoAgent) {
			t.Errorf("%s: %v", name, err)
		}
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := behind(t, "").Status(ended); !errors.Is(err, context.Canceled) {
		t.Errorf("a context that has ended: %v", err)
	}
}
