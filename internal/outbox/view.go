package outbox

import (
	"fmt"
	"math"
	"time"

	"go.etcd.io/bbolt"
)

// Cursor says what the queue holds, in positions.
type Cursor struct {
	Epoch      string // of what is appended now
	LastPos    uint64 // of the last entry ever appended; 0: none
	AckedPos   uint64 // everything up to here is settled
	LowestKept uint64 // lowest position that can still be read; LastPos+1 if none can
}

// Stats is the queue at a glance.
type Stats struct {
	Cursor
	Depth       int       // entries that wait
	DepthBytes  int64     // their size as stored
	OldestAt    time.Time // of the oldest entry that waits; zero: none
	Last        *Entry    // last entry that can still be read
	DeadLetters int
	DeadDropped int // dead letters that were dropped for their bound
}

// Status says where an entry stands.
type Status string

// The states of an entry.
const (
	StatusPending Status = "pending"
	StatusAcked   Status = "acked"
	StatusDamaged Status = "damaged" // does not verify; becomes a dead letter
)

// Listed is an entry with where it stands. Of a damaged one only Pos is known.
type Listed struct {
	Entry
	Status Status
	Reason string // why it counts as damaged
}

// Cursor gives the positions.
func (q *Queue) Cursor() (Cursor, error) {
	stats, err := q.Stats()
	return stats.Cursor, err
}

// Stats gives the queue at a glance.
func (q *Queue) Stats() (Stats, error) {
	var stats Stats
	err := q.db.View(func(tx *bbolt.Tx) error {
		st, err := readState(tx)
		if err != nil {
			return err
		}
		stats = Stats{
			Cursor: Cursor{Epoch: q.db.Epoch(), LastPos: st.Last, AckedPos: st.Acked, LowestKept: st.Last + 1},
			Depth:  st.Pending, DepthBytes: st.PendingBytes, DeadLetters: st.Dead, DeadDropped: st.DeadDropped,
		}
		c := tx.Bucket([]byte(entriesBucket)).Cursor()
		for key, _ := c.First(); key != nil; key, _ = c.Next() {
			if pos, ok := posOf(key); ok {
				stats.LowestKept = pos
				break
			}
		}
		if oldest, _ := collect(tx, st.Acked, 1, 0); len(oldest) > 0 {
			stats.OldestAt = oldest[0].At
		}
		for key, sealed := c.Last(); key != nil && stats.Last == nil; key, sealed = c.Prev() {
			if e, err := decodeEntry(key, sealed); err == nil {
				stats.Last = &e
			}
		}
		return nil
	})
	if err != nil {
		return Stats{}, fmt.Errorf("read state of the outbox: %w", err)
	}
	return stats, nil
}

// Entries gives up to limit entries after a position, oldest first, settled and pending ones. A limit of 0 or less is 100.
func (q *Queue) Entries(after uint64, limit int) ([]Listed, error) {
	if limit <= 0 {
		limit = defaultBatch
	}
	if after == math.MaxUint64 {
		return nil, nil
	}
	var listed []Listed
	err := q.db.View(func(tx *bbolt.Tx) error {
		st, err := readState(tx)
		if err != nil {
			return err
		}
		c := tx.Bucket([]byte(entriesBucket)).Cursor()
		for key, sealed := c.Seek(keyOf(after + 1)); key != nil && len(listed) < limit; key, sealed = c.Next() {
			if _, ok := posOf(key); !ok {
				continue // no position leads on from it
			}
			e, err := decodeEntry(key, sealed)
			l := Listed{Entry: e, Status: StatusPending}
			switch {
			case err != nil:
				l.Status, l.Reason = StatusDamaged, err.Error()
			case e.Pos <= st.Acked:
				l.Status = StatusAcked
			}
			listed = append(listed, l)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read events: %w", err)
	}
	return listed, nil
}
