package store

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nixfleet/nixfleet-agent/internal/fsm"
)

func TestWhatCannotBeAStoreIsMovedAside(t *testing.T) {
	whole := wholeFile(t)
	random := make([]byte, 300_000)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(random)
	text := []byte(strings.Repeat("this is a log file\n", 5000))
	file := func(content []byte) func(path string) error {
		return func(path string) error { return os.WriteFile(path, content, 0o600) }
	}
	cases := map[string]struct {
		make   func(path string) error
		reason string
	}{
		"empty":         {file(nil), "empty"},
		"one byte":      {file([]byte{0}), "meta pages"},
		"zeros":         {file(make([]byte, 1<<20)), "meta pages"},
		"random":        {file(random), "meta pages"},
		"text":          {file(text), "meta pages"},
		"cut in half":   {file(whole[:8*4096]), "cut off"},
		"one page":      {file(whole[:4096]), "cut off"},
		"two pages":     {file(whole[:8192]), "cut off"},
		"no meta pages": {file(append(make([]byte, 8192), whole[8192:]...)), "meta pages"},
		"another db":    {func(path string) error { return emptyBolt(path) }, "not a store of this agent"},
		"directory":     {func(path string) error { return os.MkdirAll(filepath.Join(path, "with", "content"), 0o755) }, "directory"},
		"named pipe":    {func(path string) error { return syscall.Mkfifo(path, 0o600) }, "named pipe"},
		"link in a circle": {func(path string) error {
			return os.Symlink(filepath.Base(path), path)
		}, "symbolic link"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			path := storePath(t)
			if err := c.make(path); err != nil {
				t.Fatal(err)
			}
			before, _ := os.Lstat(path)

			s, opening := mustOpen(t, path)
			if !opening.Created || !strings.Contains(opening.Reason, c.reason) {
				t.Fatalf("opening = %+v, want the reason %q", opening, c.reason)
			}
			if want := path + ".unreadable-20260301T120000Z-1"; opening.MovedAside != want {
				t.Errorf("moved to %s, want %s", opening.MovedAside, want)
			}
			kept, err := os.Lstat(opening.MovedAside)
			if err != nil || kept.Mode() != before.Mode() || kept.Size() != before.Size() {
				t.Errorf("kept = %v, %v; it was %v", kept, err, before)
			}
			update(t, s, func(tx *Tx) error { return tx.PutRecord(record("a@1", fsm.Pending)) })
			mustClose(t, s)

			// It is said again until it was reported.
			s, opening = mustOpen(t, path)
			if opening.Created || opening.MovedAside == "" || opening.Reason == "" {
				t.Errorf("second opening = %+v", opening)
			}
			update(t, s, func(tx *Tx) error { return tx.OpeningReported() })
			mustClose(t, s)
			_, opening = mustOpen(t, path)
			if opening.MovedAside != "" || opening.Reason != "" {
				t.Errorf("third opening = %+v", opening)
			}
		})
	}
}

func TestALinkInThePlaceOfTheFileIsFollowed(t *testing.T) {
	for _, exists := range []bool{true, false} {
		t.Run(fmt.Sprintf("exists=%v", exists), func(t *testing.T) {
			link, target := storePath(t), storePath(t)
			if exists {
				s, _ := mustOpen(t, target)
				update(t, s, func(tx *Tx) error { return tx.SetLive("a@1") })
				mustClose(t, s)
			}
			if err := os.Symlink(target, link); err != nil {
				t.Fatal(err)
			}
			s, opening := mustOpen(t, link)
			if opening.Created == exists || s.Path() != target {
				t.Errorf("opening = %+v of %s", opening, s.Path())
			}
			view(t, s, func(tx *Tx) error {
				if (tx.Live() == "a@1") != exists {
					t.Errorf("live = %q", tx.Live())
				}
				return nil
			})
			if info, err := os.Lstat(link); err != nil || info.Mode()&fs.ModeSymlink == 0 {
				t.Errorf("the link is now %v, %v", info, err)
			}
		})
	}
}

func TestAMissingDirectoryIsMade(t *testing.T) {
	path := filepath.Join(t.TempDir(), "var", "lib", "agent.db")
	_, opening := mustOpen(t, path)
	if !opening.Created {
		t.Errorf("opening = %+v", opening)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("file = %v, %v", info, err)
	}
}

// Permission denied tells of the environment and not of the file.
func TestPermissionDeniedIsAnErrorAndMovesNothing(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "agent.db")
	s, _ := mustOpen(t, path)
	mustClose(t, s)
	if err := os.Chmod(path, 0); err != nil {
		t.Fatal(err)
	}
	// The child is another user than root, who may do everything.
	for d := dir; d != "/" && d != os.TempDir(); d = filepath.Dir(d) {
		if err := os.Chmod(d, 0o777); err != nil {
			t.Fatal(err)
		}
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	child := role(t, "open", path)
	if os.Geteuid() == 0 {
		child = asNobody(t, exe, child)
	}
	out, err := child.CombinedOutput()
	if err == nil || !strings.Contains(string(out), "permission denied") {
		t.Errorf("child: %v, %s", err, out)
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 {
		t.Errorf("there is %v, %v", entries, err)
	}
}

func TestUnreadableFilesAreKeptUpToABound(t *testing.T) {
	path := storePath(t)
	var dropped []string
	for i := range maxAside + 3 {
		content := fmt.Sprintf("garbage %d", i)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(path, testTime, testTime.Add(time.Duration(i)*time.Hour)); err != nil {
			t.Fatal(err)
		}
		s, opening := mustOpen(t, path)
		dropped = append(dropped, opening.Dropped...)
		mustClose(t, s)
	}
	if len(dropped) != 3 {
		t.Errorf("dropped %v", dropped)
	}
	var kept []string
	names, err := filepath.Glob(path + asideSuffix + "*")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		kept = append(kept, strings.TrimPrefix(string(b), "garbage "))
	}
	if want := "0 4 5 6 7"; strings.Join(sorted(kept), " ") != want {
		t.Errorf("kept %v, want %s", kept, want)
	}
}

func TestASecondAgentIsLockedOut(t *testing.T) {
	path := storePath(t)
	s, _ := mustOpen(t, path)
	update(t, s, func(tx *Tx) error { return tx.SetLive("a@1") })
	for _, how := range []string{"open", "read"} {
		out, err := role(t, how, path).CombinedOutput()
		if err == nil || !strings.Contains(string(out), ErrLocked.Error()) {
			t.Errorf("%s: %v, %s", how, err, out)
		}
	}
	names, err := filepath.Glob(filepath.Dir(path) + "/*")
	if err != nil || len(names) != 1 {
		t.Errorf("there is %v, %v", names, err)
	}
	mustClose(t, s)
	for _, how := range []string{"open", "read"} {
		if out, err := role(t, how, path).CombinedOutput(); err != nil {
			t.Errorf("%s after close: %v, %s", how, err, out)
		}
	}
}

// The lock dies with its process, however that ends.
func TestAKilledAgentLeavesNoLock(t *testing.T) {
	path := storePath(t)
	child := role(t, "hold", path)
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	ready := make([]byte, 1)
	if _, err := out.Read(ready); err != nil {
		t.Fatal(err)
	}
	short := testOptions()
	short.Timeout = 20 * time.Millisecond
	if _, _, err := Open(path, short); !errors.Is(err, ErrLocked) {
		t.Errorf("while it is held: %v", err)
	}
	if err := child.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = child.Wait()
	_, opening := mustOpen(t, path)
	if opening.Created || opening.MovedAside != "" {
		t.Errorf("opening = %+v", opening)
	}
}

func TestReadOnly(t *testing.T) {
	path := storePath(t)
	if _, err := OpenReadOnly(path, testOptions()); !errors.Is(err, ErrNotExist) {
		t.Errorf("absent: %v", err)
	}
	s, _ := mustOpen(t, path)
	update(t, s, func(tx *Tx) error { return tx.PutRecord(record("a@1", fsm.Soaking)) })
	mustClose(t, s)
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}

	r, err := OpenReadOnly(path, testOptions())
	if err != nil {
		t.Fatal(err)
	}
	another, err := OpenReadOnly(path, testOptions())
	if err != nil {
		t.Fatalf("two readers: %v", err)
	}
	mustClose(t, another)
	view(t, r, func(tx *Tx) error {
		if rec, err := tx.Record("a@1"); err != nil || rec.State != fsm.Soaking {
			t.Errorf("record = %+v, %v", rec, err)
		}
		return nil
	})
	if err := r.Update(func(*Tx) error { return nil }); !errors.Is(err, ErrReadOnly) {
		t.Errorf("update: %v", err)
	}
	mustClose(t, r)
	if after, err := os.ReadFile(path); err != nil || string(after) != string(before) {
		t.Errorf("the file was changed, %v", err)
	}

	if err := os.WriteFile(path, []byte("garbage"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenReadOnly(path, testOptions()); !errors.Is(err, ErrUnreadable) || !strings.Contains(err.Error(), "meta pages") {
		t.Errorf("garbage: %v", err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(path, 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenReadOnly(path, testOptions()); !errors.Is(err, ErrUnreadable) {
		t.Errorf("directory: %v", err)
	}
	names, err := filepath.Glob(path + "*")
	if err != nil || len(names) != 1 {
		t.Errorf("there is %v, %v", names, err)
	}
}

func TestOpeningIsLogged(t *testing.T) {
	path := storePath(t)
	if err := os.WriteFile(path, []byte("garbage"), 0o600); err != nil {
		t.Fatal(err)
	}
	opt := testOptions()
	log, text := logTo()
	opt.Logger = log
	s, opening, err := Open(path, opt)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if !strings.Contains(text.String(), opening.MovedAside) {
		t.Errorf("log: %s", text)
	}
}
