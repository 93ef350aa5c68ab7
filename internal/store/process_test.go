package store

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	"github.com/nixfleet/nixfleet-agent/internal/fsm"
)

func init() {
	roles["open"] = func(args []string) error {
		s, _, err := Open(args[0], Options{Timeout: 50 * time.Millisecond})
		if err != nil {
			return err
		}
		return s.Close()
	}
	roles["read"] = func(args []string) error {
		s, err := OpenReadOnly(args[0], Options{Timeout: 50 * time.Millisecond})
		if err != nil {
			return err
		}
		return s.Close()
	}
	roles["hold"] = func(args []string) error {
		s, _, err := Open(args[0], testOptions())
		if err != nil {
			return err
		}
		defer s.Close()
		fmt.Print("+")
		select {}
	}
	roles["die at"] = func(args []string) error {
		reached = func(step string) {
			if step == args[1] {
				_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
				select {}
			}
		}
		_, _, err := Open(args[0], testOptions())
		return errors.Join(err, errors.New("the step was not reached"))
	}
}

// asNobody has a child run as an unprivileged user, from a copy of the binary that such a user may execute.
func asNobody(t *testing.T, exe string, child *exec.Cmd) *exec.Cmd {
	t.Helper()
	dir, err := os.MkdirTemp("", "store-test")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	from, err := os.Open(exe)
	if err != nil {
		t.Fatal(err)
	}
	defer from.Close()
	copied := filepath.Join(dir, "child")
	to, err := os.OpenFile(copied, os.O_CREATE|os.O_WRONLY, 0o755)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(to, from); err != nil {
		t.Fatal(err)
	}
	if err := to.Close(); err != nil {
		t.Fatal(err)
	}
	child.Path, child.Args[0], child.Dir = copied, copied, dir
	child.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	return child
}

func sorted(s []string) []string {
	slices.Sort(s)
	return s
}

func emptyBolt(path string) error {
	db, err := bbolt.Open(path, 0o600, nil)
	if err != nil {
		return err
	}
	return db.Close()
}

// wholeFile is the content of a store with something in every bucket and with trees that have branches.
func wholeFile(t testing.TB) []byte {
	t.Helper()
	path := storePath(t)
	s, _ := mustOpen(t, path)
	fill(t, s)
	mustClose(t, s)
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return content
}

// fillRecords is the number of records that fill makes; there is one event to each.
const fillRecords = 60

func fill(t testing.TB, s *Store) {
	t.Helper()
	for i := range fillRecords {
		update(t, s, func(tx *Tx) error {
			rec := record(fmt.Sprintf("stable@%d", i), fsm.Converged)
			return errors.Join(
				tx.PutRecord(rec), tx.SetLive(rec.RolloutID), tx.SetNext("stable@0"),
				tx.AppendHistory(HistoryRow{At: testTime, RolloutID: rec.RolloutID, From: fsm.Pending, To: fsm.Activating, Seq: uint64(i)}),
				tx.AppendBoot(Boot{BootID: fmt.Sprint(i), At: testTime}),
				tx.PutQuarantine(QuarantineRow{Closure: fmt.Sprintf("/nix/store/bad-%d", i), Attempts: 1, At: testTime}),
				tx.PutSetting("generation", []byte(fmt.Sprint(i))),
				appendEvent(tx, i),
				func() error { _, err := tx.NextLocalRollout(); return err }(),
			)
		})
	}
}
