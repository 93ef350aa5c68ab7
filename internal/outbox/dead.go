package outbox

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"time"

	"go.etcd.io/bbolt"

	"github.com/nixfleet/nixfleet-agent/internal/checksum"
)

// DeadLetter is an entry that will not be sent: the receiver refuses it for good, or it does not verify.
type DeadLetter struct {
	Pos    uint64    // 0 where the key was not a position
	Reason string    // why it is here
	At     time.Time // when it was set aside; zero where no clock was at hand
	Entry  *Entry    // nil where it does not verify
	Raw    []byte    // its bytes as they were stored
}

// deadRow is the stored form of a dead letter. The key and the bytes of the entry are kept as they were.
type deadRow struct {
	Key    []byte    `json:"key"`
	Raw    []byte    `json:"raw"`
	Reason string    `json:"reason"`
	At     time.Time `json:"at,omitzero"`
}

// Reject moves the pending entry at pos to the dead letters, where it stays visible. It is for what the receiver will never
// take. Rejecting what is already there is not an error; anything else that is not pending is ErrNotPending, and so is what
// Pending has not handed out: a receiver cannot refuse what it has not seen.
func (q *Queue) Reject(pos uint64, reason string) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	err := q.db.Update(func(tx *bbolt.Tx) error {
		key := keyOf(pos)
		st, err := readState(tx)
		if err != nil {
			return err
		}
		if pos <= st.Acked || tx.Bucket([]byte(entriesBucket)).Get(key) == nil {
			if isDead(tx, key) {
				return errNothingToDo
			}
			return ErrNotPending
		}
		if pos > q.handedOut(st) {
			return fmt.Errorf("%w: sent up to %d", ErrNotPending, q.handedOut(st))
		}
		return setAside(tx, key, reason, q.now())
	})
	if err == nil {
		q.log.Warn("event set aside: the receiver refuses it", slog.Uint64("pos", pos), slog.String("reason", reason))
		return nil
	}
	if err == errNothingToDo { //nolint:errorlint // our own value, straight through a transaction
		return nil
	}
	return fmt.Errorf("reject event %d: %w", pos, err)
}

// SetAside moves what is stored under key in the bucket of entries to the dead letters, in the caller's transaction. It is
// for whoever looks the file over and finds that it does not verify. A key that is not there is ignored.
func SetAside(tx *bbolt.Tx, key []byte, reason string, at time.Time) error {
	if tx.Bucket([]byte(entriesBucket)).Get(key) == nil {
		return nil
	}
	return setAside(tx, key, reason, at)
}

// setAside moves the entries that do not verify to the dead letters, each chunk in a transaction, and says so.
func (q *Queue) setAside(damaged []uint64) error {
	for chunk := range slices.Chunk(damaged, maxChunk) {
		reasons := map[uint64]string{}
		err := q.db.Update(func(tx *bbolt.Tx) error {
			clear(reasons)
			for _, pos := range chunk {
				sealed := tx.Bucket([]byte(entriesBucket)).Get(keyOf(pos))
				_, damage := decodeEntry(keyOf(pos), sealed)
				if sealed == nil || damage == nil { // somebody else did it, or it verifies after all
					continue
				}
				if err := setAside(tx, keyOf(pos), damage.Error(), q.now()); err != nil {
					return err
				}
				reasons[pos] = damage.Error()
			}
			return nil
		})
		if err != nil {
			return err
		}
		for _, pos := range slices.Sorted(maps.Keys(reasons)) {
			q.log.Warn("event set aside: it does not verify", slog.Uint64("pos", pos), slog.String("reason", reasons[pos]))
		}
	}
	return nil
}

func setAside(tx *bbolt.Tx, key []byte, reason string, at time.Time) error {
	st, err := readState(tx)
	if err != nil {
		return err
	}
	b, dead := tx.Bucket([]byte(entriesBucket)), tx.Bucket([]byte(deadBucket))
	raw := bytes.Clone(b.Get(key))
	if pos, ok := posOf(key); ok && pos <= st.Acked {
		st.Kept--
		st.KeptBytes -= size(key, raw)
	} else {
		st.Pending--
		st.PendingBytes -= size(key, raw)
	}
	if e, err := decodeEntry(key, raw); err == nil && e.CoalesceKey != "" && e.Pos > st.Acked {
		st.Coalescable--
		if err := forget(tx.Bucket([]byte(keysBucket)), e); err != nil {
			return err
		}
	}
	if err := b.Delete(key); err != nil {
		return err
	}
	if err := putDead(dead, &st, deadRow{Key: key, Raw: raw, Reason: reason, At: at.UTC()}); err != nil {
		return err
	}
	return writeState(tx, st)
}

// putDead adds a dead letter, and drops the oldest ones beyond the bound.
func putDead(dead *bbolt.Bucket, st *state, row deadRow) error {
	payload, err := json.Marshal(row)
	if err != nil {
		return fmt.Errorf("encode dead letter: %w", err)
	}
	if last, _ := dead.Cursor().Last(); last != nil { // no checksum protects the sequence
		if n, ok := posOf(last); ok && n > dead.Sequence() {
			if err := dead.SetSequence(n); err != nil {
				return err
			}
		}
	}
	n, err := dead.NextSequence()
	if err != nil {
		return err
	}
	key := keyOf(n)
	sealed := checksum.Seal(payload, deadBucket, string(key))
	if err := dead.Put(key, sealed); err != nil {
		return err
	}
	st.Dead++
	st.DeadBytes += size(key, sealed)
	for st.Dead > maxDead || st.DeadBytes > maxDeadBytes {
		oldest, value := dead.Cursor().First()
		if oldest == nil || bytes.Equal(oldest, key) {
			break
		}
		st.Dead--
		st.DeadBytes -= size(oldest, value)
		st.DeadDropped++
		if err := dead.Delete(bytes.Clone(oldest)); err != nil {
			return err
		}
	}
	return nil
}

func isDead(tx *bbolt.Tx, key []byte) bool {
	c := tx.Bucket([]byte(deadBucket)).Cursor()
	for k, sealed := c.Last(); k != nil; k, sealed = c.Prev() {
		if row, err := decodeDead(k, sealed); err == nil && bytes.Equal(row.Key, key) {
			return true
		}
	}
	return false
}

func decodeDead(key, sealed []byte) (deadRow, error) {
	payload, err := checksum.Open(sealed, deadBucket, string(key))
	if err != nil {
		return deadRow{}, err
	}
	var row deadRow
	if err := json.Unmarshal(payload, &row); err != nil {
		return deadRow{}, &checksum.Damaged{Reason: "it verifies and is not a dead letter: " + err.Error()}
	}
	return row, nil
}

// DeadLetters gives up to limit dead letters, newest first. A limit of 0 or less is 100.
func (q *Queue) DeadLetters(limit int) ([]DeadLetter, error) {
	if limit <= 0 {
		limit = defaultBatch
	}
	var letters []DeadLetter
	err := q.db.View(func(tx *bbolt.Tx) error {
		dead := tx.Bucket([]byte(deadBucket))
		if dead == nil {
			return errNoBuckets
		}
		c := dead.Cursor()
		for k, sealed := c.Last(); k != nil && len(letters) < limit; k, sealed = c.Prev() {
			letters = append(letters, letterOf(k, sealed))
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read dead letters: %w", err)
	}
	return letters, nil
}

func letterOf(key, sealed []byte) DeadLetter {
	row, err := decodeDead(key, sealed)
	if err != nil {
		return DeadLetter{Reason: err.Error(), Raw: bytes.Clone(sealed)}
	}
	letter := DeadLetter{Reason: row.Reason, At: row.At, Raw: row.Raw}
	letter.Pos, _ = posOf(row.Key)
	if e, err := decodeEntry(row.Key, row.Raw); err == nil {
		letter.Entry = &e
	}
	return letter
}
