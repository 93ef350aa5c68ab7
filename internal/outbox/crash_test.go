package outbox

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"path/filepath"
	"strconv"
	"testing"

	"go.etcd.io/bbolt"
)

func init() {
	// Appends for ever, a few at a time, and says each position once its transaction is committed.
	roles["append"] = func(args []string) error {
		db, err := openFile(args[0], nil)
		if err != nil {
			return err
		}
		for i := 0; ; i++ {
			var last uint64
			err := db.Update(func(tx *bbolt.Tx) error {
				for range 1 + i%3 {
					last, err = appendNumbered(tx)
					if err != nil {
						return err
					}
				}
				return nil
			})
			if err != nil {
				return err
			}
			fmt.Println(last)
		}
	}
	// Appends, delivers and settles for ever, and says how far it has settled.
	roles["settle"] = func(args []string) error {
		db, err := openFile(args[0], nil)
		if err != nil {
			return err
		}
		q := New(db)
		for {
			err := db.Update(func(tx *bbolt.Tx) error {
				for range 7 {
					if _, err := appendNumbered(tx); err != nil {
						return err
					}
				}
				return nil
			})
			if err != nil {
				return err
			}
			batch, err := q.Pending(5, 0)
			if err != nil {
				return err
			}
			if err := q.Ack(batch[len(batch)-1].Pos); err != nil {
				return err
			}
			fmt.Println(batch[len(batch)-1].Pos)
		}
	}
}

// appendNumbered appends an entry whose body says its position.
func appendNumbered(tx *bbolt.Tx) (uint64, error) {
	st, err := readState(tx)
	if err != nil {
		return 0, err
	}
	body := json.RawMessage(strconv.FormatUint(st.Last+1, 10))
	return Append(tx, Entry{Epoch: "e1", Kind: "K", At: testTime, Body: body})
}

// lives is how often each child is killed.
const lives = 12

// killed runs a role until it has said lines numbers, kills it, and gives the last number that it has said, also with its last
// breath.
func killed(t *testing.T, lines int, args ...string) uint64 {
	t.Helper()
	child := role(t, args...)
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	said := uint64(0)
	reader := bufio.NewReader(out)
	for n := 0; ; n++ {
		line, err := reader.ReadString('\n')
		if err != nil {
			if err != io.EOF { //nolint:errorlint // as bufio returns it
				t.Fatal(err)
			}
			break
		}
		if n == lines {
			if err := child.Process.Kill(); err != nil {
				t.Fatal(err)
			}
		}
		if said, err = strconv.ParseUint(line[:len(line)-1], 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	if err := child.Wait(); err == nil || child.ProcessState.Exited() {
		t.Fatalf("the child was not killed: %v", err)
	}
	return said
}

func TestNoAppendIsLostWhenKilled(t *testing.T) {
	h := newHarness(t)
	path := filepath.Join(t.TempDir(), "agent.db")
	h.path = path
	h.reopen()
	for life := range lives {
		if err := h.db.Close(); err != nil {
			t.Fatal(err)
		}
		said := killed(t, 1+life*5, "append", path)
		h.open()
		listed := h.entries()
		for i, l := range listed {
			if pos := uint64(i + 1); l.Pos != pos || l.Status != StatusPending || string(l.Body) != strconv.FormatUint(pos, 10) {
				t.Fatalf("life %d: entry %d is %+v", life, pos, l)
			}
		}
		if n := uint64(len(listed)); n < said || n > said+3 {
			t.Errorf("life %d: %d entries; %d were confirmed, and at most one commit is not said", life, n, said)
		}
		if stats := h.stats(); stats.LastPos != uint64(len(listed)) {
			t.Errorf("life %d: stats = %+v", life, stats)
		}
		h.recounted()
	}
}

func TestNoSettledEntryComesBackWhenKilled(t *testing.T) {
	h := newHarness(t)
	for life := range lives {
		if err := h.db.Close(); err != nil {
			t.Fatal(err)
		}
		said := killed(t, 1+life*3, "settle", h.path)
		h.open()
		stats := h.stats()
		if stats.AckedPos < said || stats.AckedPos > said+5 {
			t.Errorf("life %d: settled up to %d, said %d", life, stats.AckedPos, said)
		}
		next := stats.AckedPos
		for _, e := range h.pending(1<<20, 0) {
			if next++; e.Pos != next || string(e.Body) != strconv.FormatUint(next, 10) {
				t.Fatalf("life %d: pending %+v, want %d", life, e, next)
			}
		}
		if next != stats.LastPos {
			t.Errorf("life %d: pending up to %d of %d", life, next, stats.LastPos)
		}
		if n := uint64(len(h.entries())); n != stats.LastPos {
			t.Errorf("life %d: %d entries of %d", life, n, stats.LastPos)
		}
		h.recounted()
	}
}
