package outbox

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"go.etcd.io/bbolt"

	"github.com/nixfleet/nixfleet-agent/internal/checksum"
)

// renew gives the file and what waits in it a new epoch, as a turn of the loop does.
func (h *harness) renew(epoch string) {
	h.Helper()
	h.update(func(tx *bbolt.Tx) error { return Renew(tx, epoch) })
	h.db.epoch = epoch
}

func TestRenewTouchesWhatIsPending(t *testing.T) {
	h := newHarness(t)
	h.append(3, "")
	h.append(2*maxChunk+5, "a")
	h.pending(2, 0)
	h.ack(2)
	before := h.entries()
	h.renew("the-second-epoch")
	h.reopen()
	h.db.epoch = "the-second-epoch"
	got := h.entries()
	if len(got) != len(before) {
		t.Fatalf("%d entries of %d", len(got), len(before))
	}
	for i, l := range got {
		want := before[i]
		if want.Status == StatusPending {
			want.Epoch = "the-second-epoch"
		}
		if l.Pos != want.Pos || l.Epoch != want.Epoch || l.Status != want.Status || !bytes.Equal(l.Body, want.Body) || l.CoalesceKey != want.CoalesceKey || !l.At.Equal(want.At) {
			t.Fatalf("entry %+v, want %+v", l, want)
		}
	}
	h.recounted()
	next := got[len(got)-1].Pos + 1
	if pos := h.append(1, ""); pos[0] != next {
		t.Errorf("next position %v, want %d", pos, next)
	}
	if err := h.db.Update(func(tx *bbolt.Tx) error { return Renew(tx, "") }); err == nil {
		t.Error("an empty epoch is taken")
	}
}

func TestRenewSharesTheFateOfItsTransaction(t *testing.T) {
	h := newHarness(t)
	h.append(3, "")
	undo := errors.New("undo")
	if err := h.db.Update(func(tx *bbolt.Tx) error { return errors.Join(Renew(tx, "e2"), undo) }); !errors.Is(err, undo) {
		t.Fatal(err)
	}
	for _, e := range h.pending(0, 0) {
		if e.Epoch != "e1" {
			t.Errorf("entry %+v", e)
		}
	}
}

func TestRenewKeepsFieldsOfANewerAgentAndLeavesDamage(t *testing.T) {
	h := newHarness(t)
	h.append(3, "")
	h.update(func(tx *bbolt.Tx) error {
		b, key := tx.Bucket([]byte(entriesBucket)), keyOf(1)
		payload, err := checksum.Open(b.Get(key), entriesBucket, string(key))
		if err != nil {
			return err
		}
		sealed := checksum.Seal(bytes.Replace(payload, []byte("{"), []byte(`{"priority":7,`), 1), entriesBucket, string(key))
		st, err := readState(tx)
		if err != nil {
			return err
		}
		st.PendingBytes += size(key, sealed) - size(key, b.Get(key))
		return errors.Join(b.Put(key, sealed), writeState(tx, st))
	})
	h.flip(entriesBucket, keyOf(2), -1)
	h.renew("e2")
	err := h.db.View(func(tx *bbolt.Tx) error {
		payload, err := checksum.Open(tx.Bucket([]byte(entriesBucket)).Get(keyOf(1)), entriesBucket, string(keyOf(1)))
		if err != nil {
			return err
		}
		var fields map[string]any
		if err := json.Unmarshal(payload, &fields); err != nil || fields["priority"] != 7.0 || fields["epoch"] != "e2" {
			t.Errorf("fields = %v, %v", fields, err)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if got := positions(h.pending(0, 0)); !slices.Equal(got, []uint64{1, 3}) {
		t.Errorf("pending = %v", got)
	}
	if got := dead(h.letters()); !slices.Equal(got, []uint64{2}) {
		t.Errorf("dead letters %v", got)
	}
	h.recounted()
}

// A backup of the file comes back: it gives out positions that the receiver knows as other events. Without a new epoch the
// receiver drops them; with one, each arrives.
func TestARestoredFileUnderANewEpochLosesNothing(t *testing.T) {
	h := newHarness(t)
	r := &receiver{cursor: map[string]uint64{"e1": 50}} // known from before
	h.append(10, "")
	h.run(r, SenderOptions{Rand: most}, func(s *Sender) {
		synctest.Wait()
		st := s.State()
		if st.Beyond != 50 || st.Epoch != "e1" || h.stats().Depth != 10 {
			t.Fatalf("state = %+v, stats %+v", st, h.stats())
		}
		h.renew("e2")
		h.append(2, "")
		s.Retry()
		synctest.Wait()
		if st := s.State(); st.Failures != 0 || st.Beyond != 0 {
			t.Errorf("state = %+v", st)
		}
	})
	if got := positions(r.log); !slices.Equal(got, upTo(1, 12)) || r.log[0].Epoch != "e2" || h.stats().Depth != 0 {
		t.Errorf("arrived: %v", r.log)
	}
}

// An answer that was under way when the epoch changed is about events of the old epoch, and settles none of the new one.
func TestAnAnswerOfTheOldEpochSettlesNothing(t *testing.T) {
	h := newHarness(t)
	h.append(10, "")
	r := &receiver{script: []answer{func(r *receiver, batch []Entry) (Receipt, error) {
		h.renew("e2")
		return Receipt{Acked: 10}, nil // it has dropped them as duplicates
	}}}
	h.run(r, SenderOptions{}, func(s *Sender) {
		synctest.Wait()
		if st := s.State(); st.Failures != 0 {
			t.Errorf("state = %+v", st)
		}
	})
	if got := positions(r.log); !slices.Equal(got, upTo(1, 10)) || r.log[0].Epoch != "e2" {
		t.Errorf("arrived: %v", r.log)
	}
}

// What was sent under the old epoch was not sent under the new one.
func TestAnAckOfTheOldEpochIsBeyondTheNewOne(t *testing.T) {
	h := newHarness(t)
	h.append(10, "")
	r := &receiver{script: []answer{
		func(*receiver, []Entry) (Receipt, error) {
			h.renew("e2")
			return Receipt{}, &Rejected{TooLarge: true, Reason: "413"}
		},
		func(*receiver, []Entry) (Receipt, error) { return Receipt{Acked: 10}, nil },
	}}
	h.run(r, SenderOptions{}, func(s *Sender) {
		synctest.Wait()
		if st := s.State(); st.Beyond != 10 || st.Epoch != "e2" || h.stats().Depth != 10 {
			t.Errorf("state = %+v, stats %+v", st, h.stats())
		}
		after(time.Minute)
	})
	if got := positions(r.log); !slices.Equal(got, upTo(1, 10)) {
		t.Errorf("arrived: %v", got)
	}
}

// The whole of a renewal may be killed anywhere: it is one transaction.
func TestRenewIsNeverHalfDone(t *testing.T) {
	h := newHarness(t)
	h.append(5*maxChunk, "")
	if err := h.db.Close(); err != nil {
		t.Fatal(err)
	}
	for range 6 {
		killed(t, 2, "renew", h.path)
		h.open()
		epochs := map[string]int{}
		for _, l := range h.entries() {
			epochs[l.Epoch]++
		}
		if len(epochs) != 1 {
			t.Errorf("epochs %v", epochs)
		}
		h.recounted()
		if err := h.db.Close(); err != nil {
			t.Fatal(err)
		}
	}
	h.open()
}

func init() {
	// Renews for ever, and says how often.
	roles["renew"] = func(args []string) error {
		db, err := openFile(args[0], nil)
		if err != nil {
			return err
		}
		for n := 1; ; n++ {
			err := db.Update(func(tx *bbolt.Tx) error {
				return Renew(tx, fmt.Sprintf("e-%d-%d", os.Getpid(), n))
			})
			if err != nil {
				return err
			}
			fmt.Println(n)
		}
	}
}

// A sender and the turns of a loop share the file; run it with the race detector.
func TestRenewWhileSending(t *testing.T) {
	h := newHarness(t)
	r := &receiver{}
	s := NewSender(h.q, r, SenderOptions{MaxEvents: 7})
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	for i := range 40 {
		h.append(30, "")
		epoch := "e" + string(rune('A'+i))
		h.update(func(tx *bbolt.Tx) error { return Renew(tx, epoch) })
		s.Nudge()
	}
	for deadline := time.Now().Add(time.Minute); h.stats().Depth > 0; s.Retry() {
		if time.Now().After(deadline) {
			t.Fatal("it does not drain")
		}
	}
	stop()
	if err := <-ended; err != nil {
		t.Errorf("Run = %v", err)
	}
	seen := map[uint64]bool{}
	for _, e := range r.log {
		seen[e.Pos] = true
	}
	if len(seen) != 1200 {
		t.Errorf("%d of 1200 events arrived", len(seen))
	}
}
