package store

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nixfleet/nixfleet-agent/internal/fsm"
)

// roleVariable makes the test binary play another process: it names the role, and its arguments follow.
const roleVariable = "STORE_TEST_ROLE"

var roles = map[string]func(args []string) error{}

func TestMain(m *testing.M) {
	if line := os.Getenv(roleVariable); line != "" {
		args := strings.Split(line, "\x1f")
		if err := roles[args[0]](args[1:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// role is a process of this test binary in a role.
func role(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), roleVariable+"="+strings.Join(args, "\x1f"))
	return cmd
}

var testTime = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func testOptions() Options {
	return Options{Timeout: 20 * time.Second, Now: func() time.Time { return testTime }}
}

func mustOpen(t testing.TB, path string) (*Store, Opening) {
	t.Helper()
	s, opening, err := Open(path, testOptions())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s, opening
}

func mustClose(t testing.TB, s *Store) {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

func update(t testing.TB, s *Store, fn func(tx *Tx) error) {
	t.Helper()
	if err := s.Update(fn); err != nil {
		t.Fatal(err)
	}
}

func view(t testing.TB, s *Store, fn func(tx *Tx) error) {
	t.Helper()
	if err := s.View(fn); err != nil {
		t.Fatal(err)
	}
}

func storePath(t testing.TB) string { return filepath.Join(t.TempDir(), "agent.db") }

func record(rollout string, state fsm.State) fsm.Record {
	return fsm.Record{
		Hostname: "web1", RolloutID: rollout, Channel: "stable", State: state, Policy: fsm.RollbackAndHalt,
		TargetClosure: "/nix/store/0c000000000000000000000000000000-nixos-system-web1", CreatedAt: testTime, LastEventSeq: 3,
	}
}

// logTo is a logger into a buffer.
func logTo() (*slog.Logger, *bytes.Buffer) {
	var b bytes.Buffer
	return slog.New(slog.NewTextHandler(io.Writer(&b), nil)), &b
}
