package outbox

import (
	"encoding/binary"
	"errors"
	"fmt"

	"go.etcd.io/bbolt"

	"github.com/nixfleet/nixfleet-agent/internal/checksum"
)

// Buckets names the buckets of the outbox, for whoever looks the file over. Every value in them is sealed with its bucket
// and key as the place.
func Buckets() []string { return []string{entriesBucket, deadBucket, keysBucket, stateBucket} }

// Init makes what is missing of the outbox. It may be called on a file that has it.
func Init(tx *bbolt.Tx) error {
	for _, name := range Buckets() {
		if _, err := tx.CreateBucketIfNotExists([]byte(name)); err != nil {
			return fmt.Errorf("create bucket %s: %w", name, err)
		}
	}
	if tx.Bucket([]byte(stateBucket)).Get(stateKey) != nil {
		return nil
	}
	st, err := recount(tx)
	if err != nil {
		return err
	}
	return writeState(tx, st)
}

// Append adds e at the end of the queue, in the caller's transaction, and returns its position. e.Pos is ignored.
//
// If e has a CoalesceKey and too many such entries wait, the last one of that key is dropped, unless it was handed out by
// Pending: what a sender holds does not vanish.
func Append(tx *bbolt.Tx, e Entry) (uint64, error) {
	if e.Epoch == "" {
		return 0, errors.New("append entry: it has no epoch")
	}
	st, err := readState(tx)
	if err != nil {
		return 0, fmt.Errorf("append entry: %w", err)
	}
	b := tx.Bucket([]byte(entriesBucket))
	if e.Pos, err = nextPos(b, st); err != nil {
		return 0, fmt.Errorf("append entry: %w", err)
	}
	sealed, err := encodeEntry(e)
	if err != nil {
		return 0, err
	}
	if e.CoalesceKey != "" {
		if err := coalesce(tx, &st, e); err != nil {
			return 0, fmt.Errorf("coalesce entries of %s: %w", e.CoalesceKey, err)
		}
		st.Coalescable++
	}
	key := keyOf(e.Pos)
	if err := b.Put(key, sealed); err != nil {
		return 0, fmt.Errorf("append entry: %w", err)
	}
	st.Epoch, st.Last = e.Epoch, e.Pos
	st.Pending++
	st.PendingBytes += size(key, sealed)
	return e.Pos, writeState(tx, st)
}

// nextPos gives out the next position. There are two witnesses of the last one: the bucket's sequence, which no checksum
// protects, and the sealed state. The state counts where it verifies; the last key keeps both from going back.
func nextPos(b *bbolt.Bucket, st state) (uint64, error) {
	last := st.Last
	if key, _ := b.Cursor().Last(); key != nil {
		if pos, ok := posOf(key); ok && pos > last {
			last = pos
		}
	}
	if b.Sequence() != last {
		if err := b.SetSequence(last); err != nil {
			return 0, err
		}
	}
	return b.NextSequence()
}

// coalesce notes that e is the last entry of its key, and drops the one before it where too many wait.
func coalesce(tx *bbolt.Tx, st *state, e Entry) error {
	keys := tx.Bucket([]byte(keysBucket))
	if st.Coalescable >= maxCoalescable {
		if prior := lastOf(keys, e.CoalesceKey); prior > st.Acked && prior > st.Sent {
			if err := drop(tx, st, prior, e.CoalesceKey); err != nil {
				return err
			}
		}
	}
	return keys.Put([]byte(e.CoalesceKey), checksum.Seal(keyOf(e.Pos), keysBucket, e.CoalesceKey))
}

// lastOf gives the position of the last entry of a coalesce key; 0 if it is not known.
func lastOf(keys *bbolt.Bucket, coalesceKey string) uint64 {
	payload, err := checksum.Open(keys.Get([]byte(coalesceKey)), keysBucket, coalesceKey)
	if err != nil || len(payload) != 8 {
		return 0
	}
	return binary.BigEndian.Uint64(payload)
}

func drop(tx *bbolt.Tx, st *state, pos uint64, coalesceKey string) error {
	b := tx.Bucket([]byte(entriesBucket))
	key := keyOf(pos)
	sealed := b.Get(key)
	if e, err := decodeEntry(key, sealed); err != nil || e.CoalesceKey != coalesceKey {
		return nil //nolint:nilerr // not the entry that the note meant: it stays
	}
	st.Pending--
	st.PendingBytes -= size(key, sealed)
	st.Coalescable--
	return b.Delete(key)
}
