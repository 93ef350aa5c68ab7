package outbox

import (
	"encoding/json"
	"errors"
	"fmt"

	"go.etcd.io/bbolt"

	"github.com/nixfleet/nixfleet-agent/internal/checksum"
)

// Renew gives every pending entry a new epoch, in the caller's transaction, in which the file itself must take it as well.
//
// It is for a file that is older than what the receiver knows, as after a backup was restored: positions that this file gives
// out now were used before, for other events, and a receiver takes the new events for those and drops them. Under a new
// epoch it takes them all. Positions stay; what is acknowledged keeps its epoch, for it is known under that one. What was
// delivered and not acknowledged is delivered once more, as an event of the new epoch: the receiver's rules refuse what
// they have seen.
//
// A batch that is in flight meanwhile settles nothing: its answer is about the old epoch. Entries that do not verify are left
// as they are; they become dead letters. The fields of a newer agent survive.
func Renew(tx *bbolt.Tx, epoch string) error {
	if epoch == "" {
		return errors.New("renew epoch of events: it is empty")
	}
	st, err := readState(tx)
	if err != nil {
		return fmt.Errorf("renew epoch of events: %w", err)
	}
	for at := st.Acked; ; {
		n, last, err := renewChunk(tx, &st, at, epoch)
		if err != nil {
			return fmt.Errorf("renew epoch of events: %w", err)
		}
		if n < maxChunk {
			break
		}
		at = last
	}
	st.Epoch = epoch
	return writeState(tx, st)
}

// renewChunk rewrites up to maxChunk entries after a position, and says how many it has looked at, and the last position.
// They are collected before they are written: a cursor is not followed while its bucket changes.
func renewChunk(tx *bbolt.Tx, st *state, after uint64, epoch string) (n int, last uint64, err error) {
	type row struct{ key, sealed []byte }
	var rows []row
	b := tx.Bucket([]byte(entriesBucket))
	c := b.Cursor()
	for key, sealed := c.Seek(keyOf(after + 1)); key != nil && n < maxChunk; key, sealed = c.Next() {
		pos, ok := posOf(key)
		if !ok {
			continue
		}
		n, last = n+1, pos
		renewed, err := withEpoch(key, sealed, epoch)
		if err != nil {
			continue // it does not verify: what reads it next sets it aside
		}
		st.PendingBytes += size(key, renewed) - size(key, sealed)
		rows = append(rows, row{keyOf(pos), renewed})
	}
	for _, r := range rows {
		if err := b.Put(r.key, r.sealed); err != nil {
			return 0, 0, err
		}
	}
	return n, last, nil
}

func withEpoch(key, sealed []byte, epoch string) ([]byte, error) {
	if _, err := decodeEntry(key, sealed); err != nil {
		return nil, err
	}
	payload, err := checksum.Open(sealed, entriesBucket, string(key))
	if err != nil {
		return nil, err
	}
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(payload, &fields); err != nil {
		return nil, err
	}
	if fields["epoch"], err = json.Marshal(epoch); err != nil {
		return nil, err
	}
	if payload, err = json.Marshal(fields); err != nil {
		return nil, err
	}
	return checksum.Seal(payload, entriesBucket, string(key)), nil
}
