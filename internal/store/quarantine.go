package store

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nixfleet/nixfleet-agent/internal/checksum"
)

// QuarantineRow is a closure that failed on this host and is not activated again by itself.
type QuarantineRow struct {
	Closure   string    `json:"closure"`
	Attempts  int       `json:"attempts"`
	Reason    string    `json:"reason"`
	At        time.Time `json:"at"`
	RolloutID string    `json:"rollout_id"`
}

var quarantineFields = []string{"closure", "attempts", "reason", "at", "rollout_id"}

// Quarantine gives the row of a closure, if it is in quarantine.
func (tx *Tx) Quarantine(closure string) (row QuarantineRow, found bool, err error) {
	payload, err := tx.get(quarantineBucket, closure)
	if err != nil || payload == nil {
		return QuarantineRow{}, false, err
	}
	if err := json.Unmarshal(payload, &row); err != nil {
		return QuarantineRow{}, false, fmt.Errorf("read quarantine of %s: %w", closure, err)
	}
	return row, true, nil
}

// PutQuarantine puts a closure in quarantine, or changes why it is there.
func (tx *Tx) PutQuarantine(row QuarantineRow) error {
	if row.Closure == "" {
		return errors.New("put quarantine: it names no closure")
	}
	row.At = row.At.UTC()
	old, err := tx.get(quarantineBucket, row.Closure)
	if err != nil && !checksum.IsDamaged(err) {
		return err
	}
	var unknown map[string]json.RawMessage
	if old != nil {
		var before QuarantineRow
		if unknown, err = decodeRow(old, &before, quarantineFields); err != nil {
			unknown = nil
		}
	}
	payload, err := encodeRow(row, unknown)
	if err != nil {
		return fmt.Errorf("put quarantine of %s: %w", row.Closure, err)
	}
	return tx.put(quarantineBucket, row.Closure, payload)
}

// ClearQuarantine lets a closure be activated again. One that is not in quarantine is not an error.
func (tx *Tx) ClearQuarantine(closure string) error { return tx.delete(quarantineBucket, closure) }

// QuarantineRows gives all closures in quarantine, by path.
func (tx *Tx) QuarantineRows() ([]QuarantineRow, error) {
	b, err := tx.bucket(quarantineBucket)
	if err != nil {
		return nil, err
	}
	var rows []QuarantineRow
	err = b.ForEach(func(key, _ []byte) error {
		row, _, err := tx.Quarantine(string(key))
		if err != nil {
			row = QuarantineRow{Closure: string(key), Reason: err.Error()}
		}
		rows = append(rows, row)
		return nil
	})
	return rows, err
}
