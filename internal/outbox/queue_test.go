package outbox

import (
	"encoding/json"
	"errors"
	"math"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"go.etcd.io/bbolt"
)

func TestAppendSharesTheFateOfItsTransaction(t *testing.T) {
	h := newHarness(t)
	h.append(2, "")
	cause := errors.New("the transition failed")
	err := h.db.Update(func(tx *bbolt.Tx) error {
		if pos, err := Append(tx, entry("e1", "")); err != nil || pos != 3 {
			t.Errorf("position = %d, %v", pos, err)
		}
		return cause
	})
	if !errors.Is(err, cause) {
		t.Fatal(err)
	}
	if got := positions(h.pending(0, 0)); !slices.Equal(got, upTo(1, 2)) {
		t.Errorf("pending = %v", got)
	}
	if got := h.append(1, ""); !slices.Equal(got, []uint64{3}) {
		t.Errorf("next position = %v; what was rolled back must not leave a gap", got)
	}
	h.recounted()
}

func TestAppendRefuses(t *testing.T) {
	h := newHarness(t)
	for name, e := range map[string]Entry{
		"no epoch":       {Kind: "K", Body: json.RawMessage(`{}`)},
		"no kind":        {Epoch: "e1", Body: json.RawMessage(`{}`)},
		"no body":        {Epoch: "e1", Kind: "K"},
		"body no JSON":   {Epoch: "e1", Kind: "K", Body: json.RawMessage(`{`)},
		"body two JSONs": {Epoch: "e1", Kind: "K", Body: json.RawMessage(`{}{}`)},
	} {
		err := h.db.Update(func(tx *bbolt.Tx) error { _, err := Append(tx, e); return err })
		if err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if got := h.stats(); got.LastPos != 0 || got.Depth != 0 {
		t.Errorf("stats = %+v", got)
	}
}

func TestWithoutInit(t *testing.T) {
	h := newHarness(t)
	for _, name := range Buckets() {
		h.update(func(tx *bbolt.Tx) error { return tx.DeleteBucket([]byte(name)) })
		_, pending := h.q.Pending(0, 0)
		_, stats := h.q.Stats()
		_, entries := h.q.Entries(0, 0)
		for what, err := range map[string]error{
			"Append":  h.db.Update(func(tx *bbolt.Tx) error { _, err := Append(tx, entry("e1", "")); return err }),
			"Pending": pending, "Stats": stats, "Entries": entries, "Ack": h.q.Ack(1), "Reject": h.q.Reject(1, "no"),
		} {
			if !errors.Is(err, errNoBuckets) {
				t.Errorf("without %s: %s says %v", name, what, err)
			}
		}
		h.update(Init)
	}
}

func TestEntrySurvivesAsItIs(t *testing.T) {
	h := newHarness(t)
	want := Entry{
		Pos: 77, Epoch: "e1", Kind: "KindOfANewerAgent", RolloutID: "stable@abc", CoalesceKey: "stable@abc/http",
		At:   time.Date(2026, 3, 1, 14, 0, 0, 123456789, time.FixedZone("CET", 3600)),
		Body: json.RawMessage(`{"kind":"KindOfANewerAgent","n":18446744073709551615,"text":"\u003cä\u0000","unknown":[1,null]}`),
	}
	h.update(func(tx *bbolt.Tx) error { _, err := Append(tx, want); return err })
	h.reopen()
	want.Pos, want.At = 1, want.At.UTC()
	for range 2 {
		if got := h.pending(0, 0); len(got) != 1 || !reflect.DeepEqual(got[0], want) {
			t.Errorf("pending = %+v\nwant %+v", got, want)
		}
	}
	if got := h.entries(); len(got) != 1 || !reflect.DeepEqual(got[0], Listed{Entry: want, Status: StatusPending}) {
		t.Errorf("entries = %+v", got)
	}
	if got := h.stats(); !reflect.DeepEqual(got.Last, &want) || !got.OldestAt.Equal(want.At) {
		t.Errorf("stats = %+v", got)
	}
}

func TestPendingTakesNothingAway(t *testing.T) {
	h := newHarness(t)
	h.append(250, "")
	if got := positions(h.pending(0, 0)); !slices.Equal(got, upTo(1, 100)) {
		t.Errorf("without a limit: %v", got)
	}
	if got := positions(h.pending(7, 0)); !slices.Equal(got, upTo(1, 7)) {
		t.Errorf("again: %v", got)
	}
	one := h.stats().DepthBytes / 250
	if got := positions(h.pending(0, int(3*one))); !slices.Equal(got, upTo(1, 3)) {
		t.Errorf("three entries of %d bytes: %v", one, got)
	}
	if got := positions(h.pending(0, 1)); !slices.Equal(got, upTo(1, 1)) {
		t.Errorf("less than one entry: %v", got)
	}
	h.reopen()
	if got := positions(h.pending(1000, 0)); !slices.Equal(got, upTo(1, 250)) {
		t.Errorf("after a restart: %v", got)
	}
}

func TestAck(t *testing.T) {
	h := newHarness(t)
	h.append(20, "")
	if err := h.q.Ack(1); !errors.Is(err, ErrAckBeyond) {
		t.Errorf("nothing was sent: %v", err)
	}
	h.pending(10, 0)
	for _, pos := range []uint64{11, 20, 21, math.MaxUint64} {
		if err := h.q.Ack(pos); !errors.Is(err, ErrAckBeyond) {
			t.Errorf("ack %d: %v", pos, err)
		}
	}
	if got := h.stats(); got.AckedPos != 0 || got.Depth != 20 {
		t.Errorf("a refused ack has changed something: %+v", got)
	}
	h.ack(6)
	before := h.commits()
	for _, pos := range []uint64{6, 3, 0} {
		h.ack(pos)
	}
	if got := h.stats(); got.AckedPos != 6 || got.Depth != 14 || h.commits() != before {
		t.Errorf("a lower ack has changed something: %+v, %d commits", got, h.commits()-before)
	}
	h.reopen()
	if got := h.stats(); got.AckedPos != 6 || got.Depth != 14 || got.LowestKept != 1 || got.LastPos != 20 {
		t.Errorf("after a restart: %+v", got)
	}
	if got := positions(h.pending(0, 0)); !slices.Equal(got, upTo(7, 20)) {
		t.Errorf("pending = %v", got)
	}
	for _, l := range h.entries() {
		if want := map[bool]Status{true: StatusAcked, false: StatusPending}[l.Pos <= 6]; l.Status != want {
			t.Errorf("entry %d is %s", l.Pos, l.Status)
		}
	}
	h.ack(20)
	if got := h.stats(); got.Depth != 0 || got.DepthBytes != 0 || !got.OldestAt.IsZero() || got.Last == nil || got.Last.Pos != 20 {
		t.Errorf("all acknowledged: %+v", got)
	}
	if got := h.pending(0, 0); len(got) != 0 {
		t.Errorf("pending = %v", got)
	}
	h.recounted()
}

// commits is the number of write transactions that were ever committed.
func (h *harness) commits() (n int) {
	h.Helper()
	if err := h.db.View(func(tx *bbolt.Tx) error { n = tx.ID(); return nil }); err != nil {
		h.Fatal(err)
	}
	return n
}

// counting is a database that counts and may refuse writes.
type counting struct {
	*file
	largest int // entries of one transaction that may change
	refused int
	total   int
}

func (c *counting) Update(fn func(*bbolt.Tx) error) error {
	refuse := errors.New("no space left on device")
	err := c.file.Update(func(tx *bbolt.Tx) error {
		before := acked(tx)
		if err := fn(tx); err != nil {
			return err
		}
		if acked(tx)-before > uint64(c.largest) {
			return refuse
		}
		return nil
	})
	if errors.Is(err, refuse) {
		c.refused++
	} else if err == nil {
		c.total++
	}
	return err
}

func acked(tx *bbolt.Tx) uint64 {
	st, err := readState(tx)
	if err != nil {
		panic(err)
	}
	return st.Acked
}

func TestAckWorksInChunks(t *testing.T) {
	for _, c := range []struct{ largest, refused, total int }{{maxChunk, 0, 3}, {maxChunk - 1, 1, 25}, {5, 3, 2500}} {
		h := newHarness(t)
		h.append(2500, "")
		db := &counting{file: h.db, largest: c.largest}
		h.q = h.queue(db)
		h.pending(2500, 0)
		h.ack(2500)
		if got := h.stats(); got.AckedPos != 2500 || db.total != c.total || db.refused != c.refused {
			t.Errorf("largest %d: acked %d in %d commits, %d refused", c.largest, got.AckedPos, db.total, db.refused)
		}
		h.recounted()
	}
	h := newHarness(t)
	h.append(2500, "")
	db := &counting{file: h.db}
	h.q = h.queue(db)
	h.pending(2500, 0)
	if err := h.q.Ack(2500); err == nil || !strings.Contains(err.Error(), "no space") {
		t.Errorf("nothing can be written: %v", err)
	}
	db.largest = maxChunk
	h.ack(2500)
	if got := h.stats(); got.AckedPos != 2500 || got.Depth != 0 {
		t.Errorf("when there is room again: %+v", got)
	}
}

// The file is at its cap: nothing can be appended, and what was delivered can still be settled until there is room again.
func TestAckOnAFullFile(t *testing.T) {
	h := newHarness(t)
	if err := h.db.Close(); err != nil {
		t.Fatal(err)
	}
	h.opt = &bbolt.Options{NoSync: true, FreelistType: bbolt.FreelistMapType, MaxSize: 16 << 20}
	h.open()
	h.db.AllocSize = 1 << 20
	body := json.RawMessage(`"` + strings.Repeat("x", 2000) + `"`)
	appendOne := func() error {
		return h.db.Update(func(tx *bbolt.Tx) error {
			_, err := Append(tx, Entry{Epoch: "e1", Kind: "K", At: testTime, Body: body})
			return err
		})
	}
	for appendOne() == nil {
	}
	last := h.stats().LastPos
	if last < 1000 {
		t.Fatalf("full after %d entries", last)
	}
	h.pending(1<<20, 0)
	h.ack(last)
	if got := h.stats(); got.AckedPos != last || got.Depth != 0 || got.LastPos != last {
		t.Errorf("stats = %+v", got)
	}
	if kept := uint64(len(h.entries())); kept == last {
		t.Fatal("nothing was deleted for the bound of what is kept")
	}
	if err := appendOne(); err != nil {
		t.Errorf("there is room again: %v", err)
	}
	if got := positions(h.pending(0, 0)); !slices.Equal(got, []uint64{last + 1}) {
		t.Errorf("pending = %v", got)
	}
	h.recounted()
}

func TestKeptEntriesAreBounded(t *testing.T) {
	h := newHarness(t)
	h.append(maxKept+1500, "")
	h.pending(maxKept+1500, 0)
	h.ack(maxKept)
	if got := h.stats().LowestKept; got != 1 {
		t.Errorf("at the bound: lowest kept = %d", got)
	}
	h.ack(maxKept + 1500)
	if got := h.stats(); got.LowestKept != 1501 || got.LastPos != maxKept+1500 {
		t.Errorf("over the bound: %+v", got)
	}
	if got, err := h.q.Entries(0, 2); err != nil || len(got) != 2 || got[0].Pos != 1501 || got[0].Status != StatusAcked {
		t.Errorf("entries = %+v, %v", got, err)
	}
	h.recounted()

	h = newHarness(t) // by bytes
	body := json.RawMessage(`"` + strings.Repeat("x", maxKeptBytes/8) + `"`)
	for range 10 {
		h.update(func(tx *bbolt.Tx) error {
			_, err := Append(tx, Entry{Epoch: "e1", Kind: "K", At: testTime, Body: body})
			return err
		})
	}
	h.pending(10, 0)
	h.ack(10)
	if got := h.stats().LowestKept; got != 4 {
		t.Errorf("ten eighths of the bound, and a little: lowest kept = %d", got)
	}
	h.recounted()
}

func TestPositionsNeverGoBack(t *testing.T) {
	h := newHarness(t)
	h.append(maxKept+10, "")
	h.pending(maxKept+10, 0)
	h.ack(maxKept + 10)
	h.update(func(tx *bbolt.Tx) error { // whatever deletes them
		b := tx.Bucket([]byte(entriesBucket))
		return b.ForEach(func(key, _ []byte) error { return b.Delete(key) })
	})
	next := uint64(maxKept + 11)
	check := func(what string) {
		t.Helper()
		h.reopen()
		if got := h.append(1, ""); !slices.Equal(got, []uint64{next}) {
			t.Errorf("%s: position %v, want %d", what, got, next)
		}
		next++
		h.pending(0, 0)
		h.ack(next - 1)
	}
	check("all deleted")
	h.update(func(tx *bbolt.Tx) error { return tx.Bucket([]byte(entriesBucket)).SetSequence(0) })
	check("the bucket's sequence is lost")
	h.update(func(tx *bbolt.Tx) error { return tx.Bucket([]byte(stateBucket)).Delete(stateKey) })
	check("the state is lost")
	h.flip(stateBucket, stateKey, -1)
	check("the state is damaged")
	h.update(func(tx *bbolt.Tx) error {
		return errors.Join(tx.Bucket([]byte(stateBucket)).Delete(stateKey), tx.Bucket([]byte(entriesBucket)).SetSequence(3))
	})
	check("both witnesses are lost, an entry is there")
}

func TestEpochs(t *testing.T) {
	h := newHarness(t)
	h.append(2, "")
	h.db.epoch = "e2"
	h.append(1, "")
	var got []string
	for _, e := range h.pending(0, 0) {
		got = append(got, e.Epoch)
	}
	if !slices.Equal(got, []string{"e1", "e1", "e2"}) {
		t.Errorf("epochs = %v: an event keeps the name under which it may have been sent", got)
	}
	want := Cursor{Epoch: "e2", LastPos: 3, AckedPos: 0, LowestKept: 1}
	if got, err := h.q.Cursor(); err != nil || got != want {
		t.Errorf("cursor = %+v, %v", got, err)
	}
}

func TestEntries(t *testing.T) {
	h := newHarness(t)
	if got := h.stats(); got.LowestKept != 1 || got.Last != nil {
		t.Errorf("empty: %+v", got)
	}
	h.append(150, "")
	for _, c := range []struct {
		after       uint64
		limit       int
		first, last uint64
	}{{0, 0, 1, 100}, {0, 3, 1, 3}, {148, 10, 149, 150}, {150, 10, 1, 0}, {1 << 60, 0, 1, 0}, {math.MaxUint64, 0, 1, 0}} {
		listed, err := h.q.Entries(c.after, c.limit)
		var got []uint64
		for _, l := range listed {
			got = append(got, l.Pos)
		}
		if err != nil || !slices.Equal(got, upTo(c.first, c.last)) {
			t.Errorf("after %d, limit %d: %v, %v", c.after, c.limit, got, err)
		}
	}
}

func TestReject(t *testing.T) {
	h := newHarness(t)
	h.append(5, "")
	for _, pos := range []uint64{0, 3, 6, math.MaxUint64} {
		if err := h.q.Reject(pos, "no"); !errors.Is(err, ErrNotPending) {
			t.Errorf("reject %d, which was not handed out: %v", pos, err)
		}
	}
	h.pending(4, 0)
	for range 2 { // also again after an answer that was lost
		if err := h.q.Reject(3, "unknown kind"); err != nil {
			t.Fatal(err)
		}
	}
	if got := positions(h.pending(0, 0)); !slices.Equal(got, []uint64{1, 2, 4, 5}) {
		t.Errorf("pending = %v", got)
	}
	h.ack(2)
	for _, pos := range []uint64{0, 1, 2, 6} {
		if err := h.q.Reject(pos, "no"); !errors.Is(err, ErrNotPending) {
			t.Errorf("reject %d: %v", pos, err)
		}
	}
	h.ack(5)
	h.reopen()
	if err := h.q.Reject(3, "unknown kind"); err != nil {
		t.Errorf("after a restart: %v", err)
	}
	letters := h.letters()
	if len(letters) != 1 || letters[0].Pos != 3 || letters[0].Reason != "unknown kind" || !letters[0].At.Equal(testTime) ||
		letters[0].Entry == nil || letters[0].Entry.Kind != "K" || len(letters[0].Raw) == 0 {
		t.Errorf("dead letters = %+v", letters)
	}
	if got := h.stats(); got.DeadLetters != 1 || got.Depth != 0 || got.AckedPos != 5 {
		t.Errorf("stats = %+v", got)
	}
	if said := h.log.String(); strings.Count(said, "level=WARN") != 1 || !strings.Contains(said, "pos=3") || !strings.Contains(said, "unknown kind") {
		t.Errorf("log: %s", said)
	}
	h.recounted()
}

func TestDeadLettersAreBounded(t *testing.T) {
	h := newHarness(t)
	h.append(maxDead+20, "")
	h.pending(maxDead+20, 0)
	for pos := range uint64(maxDead + 20) {
		if err := h.q.Reject(pos+1, "no"); err != nil {
			t.Fatal(err)
		}
	}
	letters := h.letters()
	if got := h.stats(); len(letters) != maxDead || got.DeadLetters != maxDead || got.DeadDropped != 20 {
		t.Errorf("%d dead letters, %+v", len(letters), got)
	}
	if letters[0].Pos != maxDead+20 || letters[maxDead-1].Pos != 21 {
		t.Errorf("newest is %d, oldest %d", letters[0].Pos, letters[maxDead-1].Pos)
	}
	h.recounted()

	h = newHarness(t) // by bytes: one that is larger than the bound is kept all the same
	for _, n := range []int{10, maxDeadBytes / 2, maxDeadBytes} {
		h.update(func(tx *bbolt.Tx) error {
			body := json.RawMessage(`"` + strings.Repeat("x", n) + `"`)
			_, err := Append(tx, Entry{Epoch: "e1", Kind: "K", At: testTime, Body: body})
			return err
		})
		for _, e := range h.pending(1, 0) {
			if err := h.q.Reject(e.Pos, "too large"); err != nil {
				t.Fatal(err)
			}
		}
	}
	if letters := h.letters(); len(letters) != 1 || letters[0].Pos != 3 || h.stats().DeadDropped != 2 {
		t.Errorf("dead letters: %d, %+v", len(letters), h.stats())
	}
	h.recounted()
}

func TestFieldsOfANewerAgentAreKept(t *testing.T) {
	h := newHarness(t)
	h.append(1, "")
	h.update(func(tx *bbolt.Tx) error {
		st, err := readState(tx)
		if err != nil {
			return err
		}
		st.unknown = map[string]json.RawMessage{"from_the_future": json.RawMessage(`{"a":1}`)}
		return writeState(tx, st)
	})
	h.append(1, "")
	h.pending(0, 0)
	h.ack(2)
	h.reopen()
	err := h.db.View(func(tx *bbolt.Tx) error {
		st, err := readState(tx)
		if got := string(st.unknown["from_the_future"]); got != `{"a":1}` || len(st.unknown) != 1 || st.Acked != 2 {
			t.Errorf("state = %+v", st)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestStateFieldsAreAllNamed(t *testing.T) {
	var names []string
	for f := range reflect.TypeFor[state]().Fields() {
		if name := f.Tag.Get("json"); name != "" {
			names = append(names, name)
		}
	}
	if !slices.Equal(names, stateFields) {
		t.Errorf("stateFields = %v, the fields are %v", stateFields, names)
	}
}
