package fsm

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
)

// EncodeRecord writes a record as one JSON object, the fields of a newer agent among them.
func EncodeRecord(rec Record) ([]byte, error) {
	data, err := json.Marshal(rec)
	if err != nil {
		return nil, fmt.Errorf("encode record %s: %w", rec.RolloutID, err)
	}
	if unknown := rec.unknownToWrite(); len(unknown) > 0 {
		if data, err = recordShape.putUnknown(data, unknown); err != nil {
			return nil, fmt.Errorf("encode record %s: %w", rec.RolloutID, err)
		}
	}
	if err := checkSize(data); err != nil {
		return nil, fmt.Errorf("encode record %s: %w", rec.RolloutID, err)
	}
	return data, nil
}

// DecodeRecord reads what EncodeRecord wrote, also by a newer agent: a field that this version does not have is kept in
// Unknown, a state that it does not have is kept as it is.
func DecodeRecord(data []byte) (Record, error) {
	fields, err := objectOf(data)
	if err != nil {
		return Record{}, fmt.Errorf("decode record: %w", err)
	}
	unknown, err := recordShape.takeUnknown(fields)
	if err != nil {
		return Record{}, fmt.Errorf("decode record: %w", err)
	}
	known, err := json.Marshal(fields)
	if err != nil {
		return Record{}, fmt.Errorf("decode record: %w", err)
	}
	var rec Record
	if err := json.Unmarshal(known, &rec); err != nil {
		return Record{}, fmt.Errorf("decode record: %w", err)
	}
	if rec.RolloutID == "" || rec.State == "" {
		return Record{}, errors.New("decode record: it has no rollout_id or no state")
	}
	rec.Unknown = unknown
	return rec, nil
}

// unknownToWrite leaves out what was said about work that is no more.
func (r Record) unknownToWrite() map[string]json.RawMessage {
	if _, about := r.Unknown["work"]; !about || r.Work != nil {
		return r.Unknown
	}
	kept := maps.Clone(r.Unknown)
	delete(kept, "work")
	return kept
}
