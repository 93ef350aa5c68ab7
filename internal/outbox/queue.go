package outbox

import (
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"go.etcd.io/bbolt"
)

// DB is the database that holds the queue.
type DB interface {
	Update(fn func(*bbolt.Tx) error) error
	View(fn func(*bbolt.Tx) error) error
	// Epoch is the epoch of what is appended now.
	Epoch() string
}

// Queue reads and settles what Append wrote.
type Queue struct {
	db  DB
	log *slog.Logger
	now func() time.Time

	mu   sync.Mutex
	sent uint64 // highest position that Pending has handed out in this process
}

// Option changes how a Queue works.
type Option func(*Queue)

// WithLogger has the queue log what it sets aside. Without it nothing is logged.
func WithLogger(log *slog.Logger) Option { return func(q *Queue) { q.log = log } }

// WithClock has dead letters carry the time at which they were set aside. Without it they carry none.
func WithClock(now func() time.Time) Option { return func(q *Queue) { q.now = now } }

// New gives access to the queue in db, in which Init was called. It writes nothing.
func New(db DB, options ...Option) *Queue {
	q := &Queue{db: db, log: slog.New(slog.DiscardHandler), now: func() time.Time { return time.Time{} }}
	for _, o := range options {
		o(q)
	}
	return q
}

// Pending gives up to limit entries that are not acknowledged, oldest first, of together at most maxBytes as they are stored.
// The first one is given whatever its size, so that the queue does not stop at it. A limit of 0 or less is 100; a maxBytes of
// 0 or less is no bound.
//
// It takes nothing away: called again it gives the same entries, until they are acknowledged or rejected. What it gives is
// marked as sent. That costs a write only if something among it could be coalesced away; if that write fails, Pending gives
// what comes before it, or the error. Entries that do not verify are moved to the dead letters and skipped.
func (q *Queue) Pending(limit, maxBytes int) ([]Entry, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	var batch []Entry
	var damaged []uint64
	var marked uint64
	err := q.db.View(func(tx *bbolt.Tx) error {
		st, err := readState(tx)
		if err != nil {
			return err
		}
		batch, damaged = collect(tx, st.Acked, limit, maxBytes)
		marked = st.Sent
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read pending events: %w", err)
	}
	if len(damaged) > 0 {
		if err := q.setAside(damaged); err != nil {
			q.log.Warn("set damaged events aside", slog.Any("err", err))
		}
	}
	if batch, err = q.markSent(batch, marked); err != nil {
		return nil, err
	}
	if len(batch) > 0 {
		q.sent = max(q.sent, batch[len(batch)-1].Pos)
	}
	return batch, nil
}

// collect reads entries after a position, and the positions of those that do not verify.
func collect(tx *bbolt.Tx, after uint64, limit, maxBytes int) (batch []Entry, damaged []uint64) {
	if limit <= 0 {
		limit = defaultBatch
	}
	total := int64(0)
	c := tx.Bucket([]byte(entriesBucket)).Cursor()
	for key, sealed := c.Seek(keyOf(after + 1)); key != nil && len(batch) < limit; key, sealed = c.Next() {
		e, err := decodeEntry(key, sealed)
		if err != nil {
			if e.Pos != 0 {
				damaged = append(damaged, e.Pos)
			}
			continue
		}
		total += size(key, sealed)
		if maxBytes > 0 && total > int64(maxBytes) && len(batch) > 0 {
			break
		}
		batch = append(batch, e)
	}
	return batch, damaged
}

// markSent stores that the batch is handed out, where it matters: a coalescable entry that is not marked may be dropped by
// the next Append. The mark and the check that the batch is still whole are one transaction.
func (q *Queue) markSent(batch []Entry, marked uint64) ([]Entry, error) {
	firstUnmarked := -1
	for i, e := range batch {
		if e.CoalesceKey != "" && e.Pos > marked {
			firstUnmarked = i
			break
		}
	}
	if firstUnmarked < 0 {
		return batch, nil
	}
	var whole []Entry
	err := q.db.Update(func(tx *bbolt.Tx) error {
		st, err := readState(tx)
		if err != nil {
			return err
		}
		whole = nil
		b := tx.Bucket([]byte(entriesBucket))
		for _, e := range batch {
			if b.Get(keyOf(e.Pos)) != nil {
				whole = append(whole, e)
			}
		}
		st.Sent = max(st.Sent, batch[len(batch)-1].Pos)
		return writeState(tx, st)
	})
	if err == nil {
		return whole, nil
	}
	if firstUnmarked == 0 {
		return nil, fmt.Errorf("mark events as sent: %w", err)
	}
	return batch[:firstUnmarked], nil
}

// Ack settles everything up to upTo, which the receiver has stored. A position that is already settled is ignored; one that
// was never handed out is refused with ErrAckBeyond.
//
// It works in chunks of at most 1,000 entries, each a transaction. After a crash or an error in the middle, what was settled
// stays settled, and the rest is sent and acknowledged again. Settled entries are kept for readers up to a bound.
func (q *Queue) Ack(upTo uint64) error {
	return q.ackIf(upTo, func(*bbolt.Tx) error { return nil })
}

// ackSent settles a batch that a receiver has stored, unless the queue was given a new epoch since it was read: then the answer
// is about events that this file does not have any more, and it is errRenewed.
func (q *Queue) ackSent(batch []Entry) error {
	last := batch[len(batch)-1]
	return q.ackIf(last.Pos, func(tx *bbolt.Tx) error {
		key := keyOf(last.Pos)
		if e, err := decodeEntry(key, tx.Bucket([]byte(entriesBucket)).Get(key)); err == nil && e.Epoch != last.Epoch {
			return errRenewed
		}
		return nil
	})
}

// ackIf is Ack with a condition, which is asked in each of its transactions. Its error ends it.
func (q *Queue) ackIf(upTo uint64, condition func(*bbolt.Tx) error) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	chunk := maxChunk
	for {
		done := false
		err := q.db.Update(func(tx *bbolt.Tx) error {
			if err := condition(tx); err != nil {
				return err
			}
			var err error
			done, err = q.ackChunk(tx, upTo, chunk)
			return err
		})
		switch {
		case errors.Is(err, errNothingToDo):
			return nil
		case err != nil && chunk > 1 && !errors.Is(err, ErrAckBeyond) && !errors.Is(err, errRenewed): // a full disk may have room for a smaller one
			chunk = max(chunk/shrink, 1)
		case err != nil:
			return fmt.Errorf("acknowledge events up to %d: %w", upTo, err)
		case done:
			return nil
		}
	}
}

// lastAcked gives the last acknowledged entry that can be read, if there is one.
func (q *Queue) lastAcked() (last Entry, ok bool, err error) {
	err = q.db.View(func(tx *bbolt.Tx) error {
		st, err := readState(tx)
		if err != nil {
			return err
		}
		c := tx.Bucket([]byte(entriesBucket)).Cursor()
		key, sealed := c.Seek(keyOf(st.Acked + 1))
		if key == nil {
			key, sealed = c.Last()
		}
		for ; key != nil; key, sealed = c.Prev() {
			if e, err := decodeEntry(key, sealed); err == nil && e.Pos <= st.Acked {
				last, ok = e, true
				return nil
			}
		}
		return nil
	})
	if err != nil {
		return Entry{}, false, fmt.Errorf("read last acknowledged event: %w", err)
	}
	return last, ok, nil
}

// handedOut is the highest position that a receiver may have seen.
func (q *Queue) handedOut(st state) uint64 { return max(q.sent, st.Sent, st.Acked) }

// errNothingToDo rolls a transaction back that would change nothing, which saves a commit.
var errNothingToDo = errors.New("nothing to do")

// ackChunk settles up to chunk entries and deletes up to chunk of the oldest settled ones where there are too many. It
// reports whether all is settled and within the bounds.
func (q *Queue) ackChunk(tx *bbolt.Tx, upTo uint64, chunk int) (done bool, err error) {
	st, err := readState(tx)
	if err != nil {
		return false, err
	}
	if upTo > q.handedOut(st) {
		return false, fmt.Errorf("%w: %d, sent up to %d", ErrAckBeyond, upTo, q.handedOut(st))
	}
	if upTo <= st.Acked && !st.overKept() {
		return false, errNothingToDo
	}
	settled, err := settle(tx, &st, upTo, chunk)
	if err != nil {
		return false, err
	}
	if err := prune(tx, &st, chunk); err != nil {
		return false, err
	}
	return settled && !st.overKept(), writeState(tx, st)
}

// settle moves the cursor over up to chunk entries. It reports whether it has reached upTo.
func settle(tx *bbolt.Tx, st *state, upTo uint64, chunk int) (bool, error) {
	if upTo <= st.Acked {
		return true, nil
	}
	keys := tx.Bucket([]byte(keysBucket))
	c := tx.Bucket([]byte(entriesBucket)).Cursor()
	n := 0
	key, sealed := c.Seek(keyOf(st.Acked + 1))
	for ; key != nil; key, sealed = c.Next() {
		pos, ok := posOf(key)
		if !ok {
			continue
		}
		if pos > upTo {
			break
		}
		if n == chunk {
			return false, nil
		}
		n++
		st.Acked = pos
		st.Pending--
		st.PendingBytes -= size(key, sealed)
		st.Kept++
		st.KeptBytes += size(key, sealed)
		if e, err := decodeEntry(key, sealed); err == nil && e.CoalesceKey != "" {
			st.Coalescable--
			if err := forget(keys, e); err != nil {
				return false, err
			}
		}
	}
	st.Acked = upTo
	if key == nil { // nothing waits: whatever damage did to the counts ends here
		st.Pending, st.PendingBytes, st.Coalescable = 0, 0, 0
	}
	return true, nil
}

// forget drops the note of e's coalesce key if e is the entry that it means.
func forget(keys *bbolt.Bucket, e Entry) error {
	if e.CoalesceKey == "" || lastOf(keys, e.CoalesceKey) != e.Pos {
		return nil
	}
	return keys.Delete([]byte(e.CoalesceKey))
}

func (st state) overKept() bool { return st.Kept > maxKept || st.KeptBytes > maxKeptBytes }

// prune deletes up to chunk of the oldest settled entries while there are too many. The keys are collected first: deleting
// under a cursor is slow and skips entries.
func prune(tx *bbolt.Tx, st *state, chunk int) error {
	b := tx.Bucket([]byte(entriesBucket))
	var gone [][]byte
	c := b.Cursor()
	for key, sealed := c.First(); key != nil && len(gone) < chunk && st.overKept(); key, sealed = c.Next() {
		pos, ok := posOf(key)
		if !ok {
			continue
		}
		if pos > st.Acked { // the count is wrong: nothing settled is left
			st.Kept, st.KeptBytes = 0, 0
			break
		}
		gone = append(gone, append([]byte(nil), key...))
		st.Kept--
		st.KeptBytes -= size(key, sealed)
	}
	for _, key := range gone {
		if err := b.Delete(key); err != nil {
			return fmt.Errorf("delete settled event: %w", err)
		}
	}
	return nil
}
