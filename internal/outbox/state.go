package outbox

import (
	"encoding/json"
	"fmt"
	"maps"

	"go.etcd.io/bbolt"

	"github.com/nixfleet/nixfleet-agent/internal/checksum"
)

const (
	entriesBucket = "outbox"          // position → entry, pending and acknowledged; its sequence is the last position
	deadBucket    = "outbox.dead"     // position of the dead letter → dead letter
	keysBucket    = "outbox.coalesce" // coalesce key → position of its last entry
	stateBucket   = "outbox.state"    // one row
)

var stateKey = []byte("state")

// state is the queue in numbers. It is written in every transaction that changes the queue.
type state struct {
	Epoch string `json:"epoch"` // of the last entry appended
	Last  uint64 `json:"last"`  // position of the last entry ever appended
	Acked uint64 `json:"acked"` // everything up to here is settled
	Sent  uint64 `json:"sent"`  // everything up to here may be in the receiver's hands; only advanced where it matters

	Pending      int   `json:"pending"` // entries above Acked
	PendingBytes int64 `json:"pending_bytes"`
	Coalescable  int   `json:"coalescable"` // of the pending ones
	Kept         int   `json:"kept"`        // entries up to Acked
	KeptBytes    int64 `json:"kept_bytes"`
	Dead         int   `json:"dead"`
	DeadBytes    int64 `json:"dead_bytes"`
	DeadDropped  int   `json:"dead_dropped"` // dead letters that were dropped for the bound

	unknown map[string]json.RawMessage // fields of a newer agent
}

// stateFields are the keys of state; what else is there belongs to a newer agent.
var stateFields = []string{
	"epoch", "last", "acked", "sent", "pending", "pending_bytes", "coalescable", "kept", "kept_bytes", "dead", "dead_bytes", "dead_dropped",
}

// readState reads the row. A row that does not verify is made anew from the entries: then everything that is kept counts as
// not acknowledged, and goes out again.
func readState(tx *bbolt.Tx) (state, error) {
	for _, name := range Buckets() {
		if tx.Bucket([]byte(name)) == nil {
			return state{}, errNoBuckets
		}
	}
	payload, err := checksum.Open(tx.Bucket([]byte(stateBucket)).Get(stateKey), stateBucket, string(stateKey))
	if err != nil {
		return recount(tx)
	}
	var st state
	if err := json.Unmarshal(payload, &st); err != nil {
		return recount(tx)
	}
	if err := json.Unmarshal(payload, &st.unknown); err != nil {
		return recount(tx)
	}
	for _, field := range stateFields {
		delete(st.unknown, field)
	}
	return st, nil
}

func writeState(tx *bbolt.Tx, st state) error {
	// An entry whose key was damaged may be counted in the wrong place.
	for _, n := range []*int{&st.Pending, &st.Coalescable, &st.Kept, &st.Dead} {
		*n = max(*n, 0)
	}
	for _, n := range []*int64{&st.PendingBytes, &st.KeptBytes, &st.DeadBytes} {
		*n = max(*n, 0)
	}
	payload, err := json.Marshal(st)
	if err != nil {
		return fmt.Errorf("encode state of the outbox: %w", err)
	}
	if len(st.unknown) > 0 {
		var fields map[string]json.RawMessage
		if err := json.Unmarshal(payload, &fields); err != nil {
			return fmt.Errorf("encode state of the outbox: %w", err)
		}
		maps.Copy(fields, st.unknown)
		if payload, err = json.Marshal(fields); err != nil {
			return fmt.Errorf("encode state of the outbox: %w", err)
		}
	}
	return tx.Bucket([]byte(stateBucket)).Put(stateKey, checksum.Seal(payload, stateBucket, string(stateKey)))
}

// recount makes the state from what is in the buckets.
func recount(tx *bbolt.Tx) (state, error) {
	var st state
	b := tx.Bucket([]byte(entriesBucket))
	st.Last = b.Sequence()
	err := b.ForEach(func(key, sealed []byte) error {
		st.Pending++
		st.PendingBytes += size(key, sealed)
		e, err := decodeEntry(key, sealed)
		if err != nil {
			return nil //nolint:nilerr // a damaged entry counts as an entry; its position may be the damage
		}
		st.Last, st.Sent, st.Epoch = max(st.Last, e.Pos), e.Pos, e.Epoch
		if e.CoalesceKey != "" {
			st.Coalescable++
		}
		return nil
	})
	if err != nil {
		return state{}, err
	}
	err = tx.Bucket([]byte(deadBucket)).ForEach(func(key, sealed []byte) error {
		st.Dead++
		st.DeadBytes += size(key, sealed)
		return nil
	})
	return st, err
}

func size(key, sealed []byte) int64 { return int64(len(key) + len(sealed)) }
