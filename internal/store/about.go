package store

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"time"

	"go.etcd.io/bbolt"

	"github.com/nixfleet/nixfleet-agent/internal/checksum"
)

// schema is the version of what this agent writes. It rises when something is added; minReader rises when an agent below
// that schema would do harm by writing to the file.
const (
	schema    = 1
	minReader = 1
)

const aboutBucket = "about"

var aboutKey = []byte("store")

// about is the row that makes a file a store. Its form, its bucket and its key never change: every version reads it before
// anything else.
type about struct {
	Schema    int       `json:"schema"`
	MinReader int       `json:"min_reader"`
	Epoch     string    `json:"epoch"`
	CreatedAt time.Time `json:"created_at"`

	// Buckets are those that are there. A flipped bit in the name of one would otherwise pass for its absence.
	Buckets []string `json:"buckets"`

	// What Open has found and nobody has reported yet.
	MovedAside string `json:"moved_aside,omitempty"`
	Reason     string `json:"reason,omitempty"`
	LostCommit bool   `json:"lost_commit,omitempty"`

	unknown map[string]json.RawMessage
}

var aboutFields = []string{"schema", "min_reader", "epoch", "created_at", "buckets", "moved_aside", "reason", "lost_commit"}

// refusal is why this version may not write the file; empty: it may.
func (a about) refusal() string {
	if a.MinReader <= schema {
		return ""
	}
	return fmt.Sprintf("it was written by a newer agent, and agents below schema %d may not write it; this one has schema %d", a.MinReader, schema)
}

func decodeAbout(sealed []byte) (about, error) {
	payload, err := checksum.Open(sealed, aboutBucket, string(aboutKey))
	if err != nil {
		return about{}, err
	}
	var a about
	if a.unknown, err = decodeRow(payload, &a, aboutFields); err != nil {
		return about{}, &checksum.Damaged{Reason: "it verifies and cannot be decoded: " + err.Error()}
	}
	if a.Schema < 1 || a.Epoch == "" {
		return about{}, &checksum.Damaged{Reason: "it has no schema or no epoch"}
	}
	return a, nil
}

func putAbout(tx *bbolt.Tx, a about) error {
	payload, err := encodeRow(a, a.unknown)
	if err != nil {
		return fmt.Errorf("encode row about the store: %w", err)
	}
	return tx.Bucket([]byte(aboutBucket)).Put(aboutKey, checksum.Seal(payload, aboutBucket, string(aboutKey)))
}

// newEpoch makes the random id of a file: events of two files are never taken for each other.
func newEpoch(random io.Reader) (string, error) {
	var id [8]byte
	if _, err := io.ReadFull(random, id[:]); err != nil {
		return "", fmt.Errorf("make epoch: %w", err)
	}
	return hex.EncodeToString(id[:]), nil
}

// decodeRow reads a JSON object into known, and returns the fields that this version does not have.
func decodeRow(payload []byte, known any, fields []string) (map[string]json.RawMessage, error) {
	if err := json.Unmarshal(payload, known); err != nil {
		return nil, err
	}
	var unknown map[string]json.RawMessage
	if err := json.Unmarshal(payload, &unknown); err != nil {
		return nil, err
	}
	for _, field := range fields {
		delete(unknown, field)
	}
	return unknown, nil
}

// encodeRow is the way back of decodeRow.
func encodeRow(known any, unknown map[string]json.RawMessage) ([]byte, error) {
	payload, err := json.Marshal(known)
	if err != nil || len(unknown) == 0 {
		return payload, err
	}
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(payload, &fields); err != nil {
		return nil, err
	}
	maps.Copy(fields, unknown)
	return json.Marshal(fields)
}
