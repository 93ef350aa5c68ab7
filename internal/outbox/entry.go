package outbox

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nixfleet/nixfleet-agent/internal/checksum"
)

// Entry is one event that is owed to the control plane.
type Entry struct {
	Pos       uint64          `json:"-"`     // given by Append; the key
	Epoch     string          `json:"epoch"` // of the database in which it was appended
	Kind      string          `json:"kind"`
	RolloutID string          `json:"rollout_id,omitempty"` // empty: a notice of the host
	At        time.Time       `json:"at"`                   // when it was observed, UTC
	Body      json.RawMessage `json:"body"`                 // as it goes out: the same bytes at every attempt

	// CoalesceKey names what this entry supersedes when too many wait: an older one of the same key that was not handed out
	// may be dropped. Empty: it is never dropped.
	CoalesceKey string `json:"coalesce_key,omitempty"`
}

// keyOf is the key of a position: eight bytes, big-endian, so that keys sort as positions do.
func keyOf(pos uint64) []byte { return binary.BigEndian.AppendUint64(nil, pos) }

// posOf reads a key. A key of another length was not written by us.
func posOf(key []byte) (uint64, bool) {
	if len(key) != 8 {
		return 0, false
	}
	return binary.BigEndian.Uint64(key), true
}

func encodeEntry(e Entry) ([]byte, error) {
	if e.Kind == "" {
		return nil, errors.New("encode entry: it has no kind")
	}
	if !json.Valid(e.Body) {
		return nil, fmt.Errorf("encode entry %s: its body is not JSON", e.Kind)
	}
	e.At = e.At.UTC()
	payload, err := json.Marshal(e)
	if err != nil {
		return nil, fmt.Errorf("encode entry %s: %w", e.Kind, err)
	}
	return checksum.Seal(payload, entriesBucket, string(keyOf(e.Pos))), nil
}

// decodeEntry reads what encodeEntry wrote. Every error is a *checksum.Damaged: the entry cannot be sent.
func decodeEntry(key, sealed []byte) (Entry, error) {
	pos, ok := posOf(key)
	if !ok {
		return Entry{}, &checksum.Damaged{Reason: fmt.Sprintf("its key %x is not a position", key)}
	}
	payload, err := checksum.Open(sealed, entriesBucket, string(key))
	if err != nil {
		return Entry{Pos: pos}, err
	}
	e := Entry{}
	if err := json.Unmarshal(payload, &e); err != nil {
		return Entry{Pos: pos}, &checksum.Damaged{Reason: "it verifies and is not an entry: " + err.Error()}
	}
	e.Pos = pos
	return e, nil
}
