package outbox

import (
	"bytes"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"

	"go.etcd.io/bbolt"

	"github.com/nixfleet/nixfleet-agent/internal/checksum"
)

// Whatever bit of an entry flips: it is set aside with its bytes, said once, and blocks nothing.
func TestDamagedEntryIsSetAside(t *testing.T) {
	for _, at := range []int{0, 1, checksum.Overhead, -1} {
		h := newHarness(t)
		h.append(5, "")
		h.flip(entriesBucket, keyOf(3), at)
		var damaged []byte
		err := h.db.View(func(tx *bbolt.Tx) error {
			damaged = bytes.Clone(tx.Bucket([]byte(entriesBucket)).Get(keyOf(3)))
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if l := h.entries()[2]; l.Pos != 3 || l.Status != StatusDamaged || l.Reason == "" {
			t.Errorf("byte %d: listed as %+v", at, l)
		}
		h.reopen()
		for range 2 {
			if got := positions(h.pending(0, 0)); !slices.Equal(got, []uint64{1, 2, 4, 5}) {
				t.Errorf("byte %d: pending = %v", at, got)
			}
		}
		letters := h.letters()
		if len(letters) != 1 || letters[0].Pos != 3 || letters[0].Entry != nil || !bytes.Equal(letters[0].Raw, damaged) || letters[0].Reason == "" {
			t.Errorf("byte %d: dead letters = %+v", at, letters)
		}
		if said := h.log.String(); strings.Count(said, "level=WARN") != 1 || !strings.Contains(said, "pos=3") || !strings.Contains(said, "reason=") {
			t.Errorf("byte %d: log: %s", at, said)
		}
		h.recounted()
		h.ack(5)
		if got := h.stats(); got.Depth != 0 || got.AckedPos != 5 {
			t.Errorf("byte %d: %+v", at, got)
		}
	}
}

// An intact value in another place is damage, too: it would go out under the wrong position.
func TestMisplacedEntryIsSetAside(t *testing.T) {
	h := newHarness(t)
	h.append(3, "")
	h.update(func(tx *bbolt.Tx) error {
		b := tx.Bucket([]byte(entriesBucket))
		return b.Put(keyOf(2), bytes.Clone(b.Get(keyOf(3))))
	})
	if got := positions(h.pending(0, 0)); !slices.Equal(got, []uint64{1, 3}) {
		t.Errorf("pending = %v", got)
	}
}

func TestManyDamagedEntries(t *testing.T) {
	h := newHarness(t)
	h.append(maxChunk+500, "")
	h.update(func(tx *bbolt.Tx) error {
		b := tx.Bucket([]byte(entriesBucket))
		for pos := range uint64(maxChunk + 499) {
			if err := b.Put(keyOf(pos+1), make([]byte, len(b.Get(keyOf(pos+1))))); err != nil {
				return err
			}
		}
		return nil
	})
	if got := positions(h.pending(1, 0)); !slices.Equal(got, []uint64{maxChunk + 500}) {
		t.Errorf("pending = %v", got)
	}
	if got := h.stats(); got.DeadLetters != maxDead || got.DeadDropped != 499 || got.Depth != 1 {
		t.Errorf("stats = %+v", got)
	}
	h.recounted()
}

// unwritable is a database whose disk is full.
type unwritable struct{ *file }

func (unwritable) Update(func(*bbolt.Tx) error) error { return errors.New("no space left on device") }

func TestDamagedEntryIsSkippedWhereItCannotBeSetAside(t *testing.T) {
	h := newHarness(t)
	h.append(3, "")
	h.flip(entriesBucket, keyOf(1), -1)
	h.q = h.queue(unwritable{h.db})
	if got := positions(h.pending(0, 0)); !slices.Equal(got, upTo(2, 3)) {
		t.Errorf("pending = %v", got)
	}
	if said := h.log.String(); !strings.Contains(said, "no space") || strings.Contains(said, "event set aside") {
		t.Errorf("it says what it did not do: %s", said)
	}
	h.q = h.queue(h.db) // and once there is room
	h.pending(0, 0)
	if letters := h.letters(); len(letters) != 1 || letters[0].Pos != 1 {
		t.Errorf("dead letters = %+v", letters)
	}
	h.recounted()
}

// Damage among what was acknowledged is listed and moves no cursor; whoever looks the file over sets it aside.
func TestDamageAmongTheAcknowledged(t *testing.T) {
	h := newHarness(t)
	h.append(4, "")
	h.pending(0, 0)
	h.ack(3)
	h.flip(entriesBucket, keyOf(2), -1)
	if got := positions(h.pending(0, 0)); !slices.Equal(got, []uint64{4}) {
		t.Errorf("pending = %v", got)
	}
	if l := h.entries()[1]; l.Status != StatusDamaged {
		t.Errorf("listed as %+v", l)
	}
	for range 2 {
		h.update(func(tx *bbolt.Tx) error { return SetAside(tx, keyOf(2), "found by the survey", testTime) })
	}
	if letters := h.letters(); len(letters) != 1 || letters[0].Pos != 2 || letters[0].Reason != "found by the survey" {
		t.Errorf("dead letters = %+v", letters)
	}
	h.recounted()
}

// A flipped bit in a key moves an entry, and with it what it counts as. The counts are right again once all is settled.
func TestDamagedKey(t *testing.T) {
	for name, to := range map[string][]byte{"below": keyOf(2), "above": keyOf(1 << 20), "zero": keyOf(0), "short": {1}, "long": append(keyOf(9), 9)} {
		h := newHarness(t)
		h.append(10, "")
		h.pending(0, 0)
		h.ack(4)
		h.update(func(tx *bbolt.Tx) error { // the one at 2 is gone, so that its place is free
			b := tx.Bucket([]byte(entriesBucket))
			value := bytes.Clone(b.Get(keyOf(7)))
			return errors.Join(b.Delete(keyOf(2)), b.Delete(keyOf(7)), b.Put(to, value))
		})
		if got := positions(h.pending(0, 0)); !slices.Equal(got, []uint64{5, 6, 8, 9, 10}) {
			t.Errorf("%s: pending = %v", name, got)
		}
		for _, l := range h.entries() {
			if l.Pos == 0 {
				t.Errorf("%s: an entry without position is listed: readers would begin anew", name)
			}
		}
		h.update(func(tx *bbolt.Tx) error { return SetAside(tx, to, "its key", testTime) })
		next := h.append(1, "")[0]
		if next < 11 {
			t.Errorf("%s: next position = %d", name, next)
		}
		if got := h.stats(); got.LowestKept != 1 {
			t.Errorf("%s: lowest kept = %d", name, got.LowestKept)
		}
		h.pending(0, 0)
		h.ack(next)
		if got := h.stats(); got.Depth != 0 || got.DepthBytes != 0 || len(h.letters()) != 1 {
			t.Errorf("%s: %+v, %d dead letters", name, got, len(h.letters()))
		}
	}
}

// Without its state the queue does not know what was acknowledged: everything goes out again, nothing is lost.
func TestDamagedStateIsMadeAnew(t *testing.T) {
	h := newHarness(t)
	h.append(6, "")
	h.append(2, "probe")
	h.pending(0, 0)
	if err := h.q.Reject(5, "no"); err != nil {
		t.Fatal(err)
	}
	h.ack(4)
	for _, damage := range []func(){
		func() { h.flip(stateBucket, stateKey, -1) },
		func() {
			h.update(func(tx *bbolt.Tx) error {
				return tx.Bucket([]byte(stateBucket)).Put(stateKey, checksum.Seal([]byte(`{"acked":"x"}`), stateBucket, string(stateKey)))
			})
		},
	} {
		damage()
		h.reopen()
		if got := h.stats(); got.LastPos != 8 || got.AckedPos != 0 || got.Depth != 7 || got.DeadLetters != 1 {
			t.Errorf("stats = %+v", got)
		}
		if got := positions(h.pending(0, 0)); !slices.Equal(got, []uint64{1, 2, 3, 4, 6, 7, 8}) {
			t.Errorf("pending = %v", got)
		}
		h.ack(4) // makes it durable again
		h.recounted()
		h.reopen()
		if got := h.stats(); got.AckedPos != 4 || got.Depth != 3 {
			t.Errorf("stats = %+v", got)
		}
	}
	if got := h.append(1, ""); got[0] != 9 {
		t.Errorf("next position = %v", got)
	}
}

func TestDamagedDeadLetterIsShown(t *testing.T) {
	h := newHarness(t)
	h.append(3, "")
	h.pending(0, 0)
	for pos := range uint64(3) {
		if err := h.q.Reject(pos+1, "no"); err != nil {
			t.Fatal(err)
		}
	}
	h.flip(deadBucket, keyOf(2), -1)
	letters := h.letters()
	if len(letters) != 3 || letters[1].Pos != 0 || letters[1].Entry != nil || !strings.Contains(letters[1].Reason, "checksum") || len(letters[1].Raw) == 0 {
		t.Errorf("dead letters = %+v", letters)
	}
	if letters[0].Pos != 3 || letters[2].Pos != 1 {
		t.Errorf("the others: %+v", letters)
	}
	h.update(func(tx *bbolt.Tx) error { return tx.Bucket([]byte(deadBucket)).SetSequence(0) })
	h.append(1, "")
	h.pending(0, 0)
	if err := h.q.Reject(4, "no"); err != nil {
		t.Fatal(err)
	}
	if letters := h.letters(); len(letters) != 4 || letters[0].Pos != 4 {
		t.Errorf("the sequence was lost, and a dead letter was written over: %+v", letters)
	}
}

// Any single flipped bit in any value of the outbox: no method fails, no intact entry is lost, what goes out is what went in.
func TestAnyFlippedBit(t *testing.T) {
	base := newHarness(t)
	base.append(2, "")
	base.append(2, "probe")
	base.pending(0, 0)
	if err := base.q.Reject(2, "no"); err != nil {
		t.Fatal(err)
	}
	base.ack(1)
	type place struct {
		bucket     string
		key, value []byte
	}
	var places []place
	err := base.db.View(func(tx *bbolt.Tx) error {
		for _, name := range Buckets() {
			err := tx.Bucket([]byte(name)).ForEach(func(k, v []byte) error {
				places = append(places, place{name, bytes.Clone(k), bytes.Clone(v)})
				return nil
			})
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil || len(places) < 6 {
		t.Fatal(len(places), err)
	}
	rollback := errors.New("rollback")
	for _, p := range places {
		for bit := range len(p.value) * 8 {
			err := base.db.Update(func(tx *bbolt.Tx) error {
				value := bytes.Clone(p.value)
				value[bit/8] ^= 1 << (bit % 8)
				if err := tx.Bucket([]byte(p.bucket)).Put(p.key, value); err != nil {
					t.Fatal(err)
				}
				st, err := readState(tx)
				if err != nil {
					t.Fatalf("%s %x bit %d: %v", p.bucket, p.key, bit, err)
				}
				batch, damaged := collect(tx, 0, 0, 0)
				if st.Last != 4 || st.Acked > 1 || len(batch)+len(damaged) != 3 || (p.bucket == entriesBucket) != (len(damaged) == 1) {
					t.Fatalf("%s %x bit %d: %+v, batch %v, damaged %v", p.bucket, p.key, bit, st, positions(batch), damaged)
				}
				for _, e := range batch {
					if e.Kind != "K" || !bytes.Equal(e.Body, json.RawMessage(`{"kind":"K"}`)) {
						t.Fatalf("%s %x bit %d: goes out as %+v", p.bucket, p.key, bit, e)
					}
				}
				if pos, err := Append(tx, entry("e1", "probe")); err != nil || pos != 5 {
					t.Fatalf("%s %x bit %d: next position %d, %v", p.bucket, p.key, bit, pos, err)
				}
				return rollback
			})
			if !errors.Is(err, rollback) {
				t.Fatal(err)
			}
		}
	}
}
