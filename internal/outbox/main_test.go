package outbox

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.etcd.io/bbolt"
)

// roleVariable makes the test binary play another process: it names the role, and its arguments follow.
const roleVariable = "OUTBOX_TEST_ROLE"

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

// file is a database with an epoch.
type file struct {
	*bbolt.DB
	epoch string
}

func (f *file) Epoch() string { return f.epoch }

func openFile(path string, opt *bbolt.Options) (*file, error) {
	db, err := bbolt.Open(path, 0o600, opt)
	if err != nil {
		return nil, err
	}
	return &file{DB: db, epoch: "e1"}, db.Update(Init)
}

// harness is a queue on a file that can be closed and opened again.
type harness struct {
	testing.TB
	path string
	opt  *bbolt.Options
	db   *file
	q    *Queue
	log  bytes.Buffer
}

// newHarness makes a queue on a new file. Its commits are not synced: what is tested is what a reader of the file sees.
func newHarness(t testing.TB) *harness {
	t.Helper()
	h := &harness{TB: t, path: filepath.Join(t.TempDir(), "agent.db"), opt: &bbolt.Options{NoSync: true, FreelistType: bbolt.FreelistMapType}}
	h.open()
	t.Cleanup(func() { _ = h.db.Close() })
	return h
}

func (h *harness) open() {
	h.Helper()
	db, err := openFile(h.path, h.opt)
	if err != nil {
		h.Fatal(err)
	}
	h.db, h.q = db, h.queue(db)
}

func (h *harness) queue(db DB) *Queue {
	return New(db, WithLogger(slog.New(slog.NewTextHandler(&h.log, nil))), WithClock(func() time.Time { return testTime }))
}

func (h *harness) reopen() {
	h.Helper()
	if err := h.db.Close(); err != nil {
		h.Fatal(err)
	}
	h.open()
}

func (h *harness) update(fn func(tx *bbolt.Tx) error) {
	h.Helper()
	if err := h.db.Update(fn); err != nil {
		h.Fatal(err)
	}
}

// append appends n entries in one transaction and returns their positions.
func (h *harness) append(n int, key string) []uint64 {
	h.Helper()
	var all []uint64
	h.update(func(tx *bbolt.Tx) error {
		all = nil
		for range n {
			pos, err := Append(tx, entry(h.db.epoch, key))
			if err != nil {
				return err
			}
			all = append(all, pos)
		}
		return nil
	})
	return all
}

func entry(epoch, key string) Entry {
	return Entry{Epoch: epoch, Kind: "K", RolloutID: "stable@1", At: testTime, Body: json.RawMessage(`{"kind":"K"}`), CoalesceKey: key}
}

func (h *harness) pending(limit, maxBytes int) []Entry {
	h.Helper()
	batch, err := h.q.Pending(limit, maxBytes)
	if err != nil {
		h.Fatal(err)
	}
	return batch
}

func (h *harness) ack(upTo uint64) {
	h.Helper()
	if err := h.q.Ack(upTo); err != nil {
		h.Fatal(err)
	}
}

func (h *harness) entries() []Listed {
	h.Helper()
	listed, err := h.q.Entries(0, 1<<30)
	if err != nil {
		h.Fatal(err)
	}
	return listed
}

func (h *harness) stats() Stats {
	h.Helper()
	stats, err := h.q.Stats()
	if err != nil {
		h.Fatal(err)
	}
	return stats
}

func (h *harness) letters() []DeadLetter {
	h.Helper()
	letters, err := h.q.DeadLetters(1 << 30)
	if err != nil {
		h.Fatal(err)
	}
	return letters
}

// flip turns one bit of a stored value over.
func (h *harness) flip(bucket string, key []byte, at int) {
	h.Helper()
	h.update(func(tx *bbolt.Tx) error {
		b := tx.Bucket([]byte(bucket))
		value := bytes.Clone(b.Get(key))
		if len(value) == 0 {
			return errors.New("nothing is there")
		}
		value[(at+len(value))%len(value)] ^= 0x10
		return b.Put(key, value)
	})
}

// recounted holds the counts against what is in the buckets.
func (h *harness) recounted() {
	h.Helper()
	err := h.db.View(func(tx *bbolt.Tx) error {
		st, err := readState(tx)
		if err != nil {
			return err
		}
		want := state{Epoch: st.Epoch, Last: st.Last, Acked: st.Acked, Sent: st.Sent, DeadDropped: st.DeadDropped}
		c := tx.Bucket([]byte(entriesBucket)).Cursor()
		for key, sealed := c.First(); key != nil; key, sealed = c.Next() {
			pos, _ := posOf(key)
			if pos <= st.Acked {
				want.Kept++
				want.KeptBytes += size(key, sealed)
				continue
			}
			want.Pending++
			want.PendingBytes += size(key, sealed)
			if e, err := decodeEntry(key, sealed); err == nil && e.CoalesceKey != "" {
				want.Coalescable++
			}
		}
		c = tx.Bucket([]byte(deadBucket)).Cursor()
		for key, sealed := c.First(); key != nil; key, sealed = c.Next() {
			want.Dead++
			want.DeadBytes += size(key, sealed)
		}
		st.unknown = nil
		if fmt.Sprint(st) != fmt.Sprint(want) {
			h.Errorf("state is\n%+v and the buckets say\n%+v", st, want)
		}
		return nil
	})
	if err != nil {
		h.Fatal(err)
	}
}

func positions(batch []Entry) []uint64 {
	out := []uint64{}
	for _, e := range batch {
		out = append(out, e.Pos)
	}
	return out
}

// upTo gives the positions from a first to a last one.
func upTo(first, last uint64) []uint64 {
	out := []uint64{}
	for pos := first; pos <= last; pos++ {
		out = append(out, pos)
	}
	return out
}
