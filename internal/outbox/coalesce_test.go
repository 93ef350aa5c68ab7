package outbox

import (
	"fmt"
	"slices"
	"testing"

	"go.etcd.io/bbolt"
)

func TestProbeResultsAreCoalescedBeyondTheBound(t *testing.T) {
	h := newHarness(t)
	for range maxCoalescable / 2 {
		h.append(1, "a")
		h.append(1, "b")
	}
	transitions := h.append(1, "")
	if got := h.stats().Depth; got != maxCoalescable+1 {
		t.Fatalf("up to the bound each is kept: %d wait", got)
	}
	var last uint64
	for range 50 {
		last = h.append(1, "a")[0]
		transitions = append(transitions, h.append(1, "")...)
	}
	if got := h.stats(); got.Depth != maxCoalescable+51 || got.LastPos != last+1 {
		t.Errorf("%d wait, last is %d", got.Depth, got.LastPos)
	}
	var kept []uint64
	var lastOfA uint64
	batch := h.pending(1<<20, 0)
	for _, e := range batch {
		switch e.CoalesceKey {
		case "":
			kept = append(kept, e.Pos)
		case "a":
			lastOfA = e.Pos
		}
	}
	if !slices.Equal(kept, transitions) {
		t.Errorf("transitions: %d of %d are there", len(kept), len(transitions))
	}
	if lastOfA != last || !slices.IsSorted(positions(batch)) {
		t.Errorf("the last word of probe a is %d, not %d", lastOfA, last)
	}
	h.recounted()
}

func TestTransitionsAreNeverDropped(t *testing.T) {
	h := newHarness(t)
	h.append(maxCoalescable, "a")
	want := h.append(3*maxCoalescable, "")
	h.append(100, "a")
	got := slices.DeleteFunc(h.pending(1<<20, 0), func(e Entry) bool { return e.CoalesceKey != "" })
	if !slices.Equal(positions(got), want) {
		t.Errorf("%d of %d transitions are there", len(got), len(want))
	}
}

// What a sender holds must not vanish: the receiver is told of it again and acknowledges it.
func TestWhatWasHandedOutIsNotCoalesced(t *testing.T) {
	for _, restart := range []bool{false, true} {
		h := newHarness(t)
		h.append(maxCoalescable+1, "a")
		batch := h.pending(1<<20, 0)
		if restart {
			h.reopen()
		}
		h.append(1, "a")
		h.append(1, "a")
		got := h.pending(1<<20, 0)
		if len(got) != len(batch)+1 || !slices.Equal(positions(got[:len(batch)]), positions(batch)) {
			t.Errorf("restart %v: %d were handed out, then %d", restart, len(batch), len(got))
		}
		h.ack(batch[len(batch)-1].Pos)
		h.recounted()
	}
}

// An entry that another goroutine coalesces away between reading and marking is not handed out.
func TestMarkLeavesOutWhatIsGone(t *testing.T) {
	h := newHarness(t)
	h.append(maxCoalescable, "a")
	racing := &intruder{file: h.db, before: func() { h.append(1, "a") }}
	h.q = h.queue(racing)
	got := positions(h.pending(1<<20, 0))
	if !slices.Equal(got, upTo(1, maxCoalescable-1)) {
		t.Errorf("%d entries up to %d", len(got), got[len(got)-1])
	}
	if got := positions(h.pending(1<<20, 0)); got[len(got)-1] != maxCoalescable+1 {
		t.Errorf("then up to %d", got[len(got)-1])
	}
	h.recounted()
}

// intruder is a database in which somebody writes before the first write of the queue.
type intruder struct {
	*file
	before func()
}

func (i *intruder) Update(fn func(*bbolt.Tx) error) error {
	if before := i.before; before != nil {
		i.before = nil
		before()
	}
	return i.file.Update(fn)
}

func TestPendingWritesOnlyForWhatCouldVanish(t *testing.T) {
	h := newHarness(t)
	h.append(10, "")
	before := h.commits()
	h.pending(0, 0)
	h.pending(0, 0)
	if got := h.commits() - before; got != 0 {
		t.Errorf("%d commits for transitions", got)
	}
	h.append(1, "a")
	before = h.commits()
	h.pending(0, 0)
	h.pending(0, 0)
	if got := h.commits() - before; got != 1 {
		t.Errorf("%d commits for one result of a probe, sent twice", got)
	}
	h.append(2, "")
	h.append(1, "a")
	h.q = h.queue(unwritable{h.db})
	if got := positions(h.pending(0, 0)); !slices.Equal(got, upTo(1, 13)) {
		t.Errorf("on a full disk, up to what cannot be marked: %v", got)
	}
	h.q = h.queue(h.db)
	h.pending(0, 0)
	h.ack(14)
	h.append(1, "a")
	h.q = h.queue(unwritable{h.db})
	if got, err := h.q.Pending(0, 0); err == nil {
		t.Errorf("only what cannot be marked waits: %v", got)
	}
}

// The notes of coalesce keys go with their entries: rollouts come and go, and each has keys of its own.
func TestNotesOfKeysAreForgotten(t *testing.T) {
	h := newHarness(t)
	for i := range 300 {
		h.append(2, fmt.Sprintf("stable@%d/http", i))
	}
	h.pending(1<<20, 0)
	if err := h.q.Reject(600, "no"); err != nil {
		t.Fatal(err)
	}
	h.ack(599)
	err := h.db.View(func(tx *bbolt.Tx) error {
		if n := tx.Bucket([]byte(keysBucket)).Stats().KeyN; n != 0 {
			t.Errorf("%d notes are left", n)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	h.recounted()
}
