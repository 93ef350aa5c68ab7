package store

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"go.etcd.io/bbolt"

	"github.com/nixfleet/nixfleet-agent/internal/checksum"
	"github.com/nixfleet/nixfleet-agent/internal/fsm"
)

// A stored record is the number that orders records by their first put, eight bytes, and the record as fsm encodes it.
const orderSize = 8

// Record gives the record of a rollout. Errors: ErrNotFound; a *checksum.Damaged where it does not verify.
func (tx *Tx) Record(rollout string) (fsm.Record, error) {
	payload, err := tx.get(recordsBucket, rollout)
	if err != nil {
		return fsm.Record{}, err
	}
	if payload == nil {
		return fsm.Record{}, fmt.Errorf("read record %s: %w", rollout, ErrNotFound)
	}
	rec, err := decodeRecordRow(rollout, payload)
	if err != nil {
		return fsm.Record{}, fmt.Errorf("read record %s: %w", rollout, err)
	}
	return rec, nil
}

// decodeRecordRow decodes a record that verifies. One that cannot be decoded counts as damaged.
func decodeRecordRow(rollout string, payload []byte) (fsm.Record, error) {
	if len(payload) < orderSize {
		return fsm.Record{}, &checksum.Damaged{Reason: "it verifies and is too short for a record"}
	}
	rec, err := fsm.DecodeRecord(payload[orderSize:])
	if err != nil {
		return fsm.Record{}, &checksum.Damaged{Reason: "it verifies and cannot be decoded: " + err.Error()}
	}
	if rec.RolloutID != rollout {
		return fsm.Record{}, &checksum.Damaged{Reason: fmt.Sprintf("it verifies and is the record of %q", rec.RolloutID)}
	}
	return rec, nil
}

// PutRecord stores a record whole. The first put of a rollout deletes the oldest records at rest where there are too many.
func (tx *Tx) PutRecord(rec fsm.Record) error {
	if rec.RolloutID == "" {
		return errors.New("put record: it has no rollout id")
	}
	b, err := tx.bucket(recordsBucket)
	if err != nil {
		return err
	}
	encoded, err := fsm.EncodeRecord(rec)
	if err != nil {
		return err
	}
	if len(encoded) > fsm.MaxEncoded {
		return fmt.Errorf("put record %s: %d bytes are more than the %d that can be read back", rec.RolloutID, len(encoded), fsm.MaxEncoded)
	}
	old, err := tx.get(recordsBucket, rec.RolloutID)
	if err != nil && !checksum.IsDamaged(err) {
		return err
	}
	isNew := len(old) < orderSize
	var order []byte
	if isNew {
		n, err := nextOrder(b)
		if err != nil {
			return fmt.Errorf("put record %s: %w", rec.RolloutID, err)
		}
		order = []byte(numberKey(n))
	} else {
		order = slices.Clone(old[:orderSize])
	}
	if err := tx.put(recordsBucket, rec.RolloutID, append(order, encoded...)); err != nil {
		return err
	}
	if !isNew {
		return nil
	}
	return tx.pruneRecords(rec.RolloutID)
}

func nextOrder(b *bbolt.Bucket) (uint64, error) { return b.NextSequence() }

// storedRecord is what pruning needs to know of a record.
type storedRecord struct {
	rollout string
	order   uint64
	size    int
}

// pruneRecords deletes the oldest records at rest beyond the bounds. What owns the host, waits or was just put stays, and so does
// what is not at rest or cannot be decoded.
func (tx *Tx) pruneRecords(justPut string) error {
	stored, bytes, err := tx.storedRecords()
	if err != nil {
		return err
	}
	excess := len(stored) - maxRecords
	for _, s := range stored {
		if excess <= 0 && bytes <= maxRecordBytes {
			return nil
		}
		if s.rollout == justPut || s.rollout == tx.Live() || s.rollout == tx.Next() {
			continue
		}
		rec, err := tx.Record(s.rollout)
		if err != nil || !atRest(rec) {
			continue
		}
		if err := tx.delete(recordsBucket, s.rollout); err != nil {
			return err
		}
		excess--
		bytes -= s.size
	}
	return nil
}

// atRest reports whether nothing is owed for a record. A state of a newer agent is never at rest.
func atRest(rec fsm.Record) bool {
	return rec.Work == nil && (rec.State.Terminal() || rec.State == fsm.Failed)
}

// storedRecords lists the records oldest first, without decoding them.
func (tx *Tx) storedRecords() (stored []storedRecord, bytes int, err error) {
	b, err := tx.bucket(recordsBucket)
	if err != nil {
		return nil, 0, err
	}
	err = b.ForEach(func(key, sealed []byte) error {
		s := storedRecord{rollout: string(key), size: len(key) + len(sealed)}
		if len(sealed) >= checksum.Overhead+orderSize {
			s.order = binary.BigEndian.Uint64(sealed[checksum.Overhead:])
		}
		bytes += s.size
		stored = append(stored, s)
		return nil
	})
	slices.SortFunc(stored, func(a, b storedRecord) int {
		if c := cmp.Compare(a.order, b.order); c != 0 {
			return c
		}
		return cmp.Compare(a.rollout, b.rollout)
	})
	return stored, bytes, err
}

// Records gives all records, in the order in which their rollouts came, and says which ones do not verify.
func (tx *Tx) Records() ([]fsm.Record, []DamagedRecord, error) {
	stored, _, err := tx.storedRecords()
	if err != nil {
		return nil, nil, err
	}
	var records []fsm.Record
	var damaged []DamagedRecord
	for _, s := range stored {
		rec, err := tx.Record(s.rollout)
		if err != nil {
			damaged = append(damaged, DamagedRecord{
				Bucket: recordsBucket, Key: s.rollout, Reason: err.Error(),
				WasLive: s.rollout == tx.Live(), WasNext: s.rollout == tx.Next(),
			})
			continue
		}
		records = append(records, rec)
	}
	return records, damaged, nil
}
