package store

import (
	"encoding/json"
	"time"

	"github.com/nixfleet/nixfleet-agent/internal/fsm"
)

// HistoryRow is one transition of one rollout.
type HistoryRow struct {
	At        time.Time `json:"at"`
	RolloutID string    `json:"rollout_id"`
	From      fsm.State `json:"from"`
	To        fsm.State `json:"to"`
	Seq       uint64    `json:"seq"`
	Kind      string    `json:"kind"` // of the event that caused it
	Reason    string    `json:"reason,omitempty"`
}

// AppendHistory adds a transition. The last 10,000 are kept, and for a while some more.
func (tx *Tx) AppendHistory(row HistoryRow) error {
	row.At = row.At.UTC()
	return tx.appendRow(historyBucket, row, maxHistory, historySlack)
}

// History gives up to limit transitions, newest first, of one rollout or, with an empty id, of all. A limit of 0 or less is 100.
func (tx *Tx) History(limit int, rollout string) ([]HistoryRow, error) {
	if limit <= 0 {
		limit = defaultRows
	}
	var rows []HistoryRow
	err := tx.newestFirst(historyBucket, func(payload []byte) bool {
		var row HistoryRow
		if json.Unmarshal(payload, &row) == nil && (rollout == "" || row.RolloutID == rollout) {
			rows = append(rows, row)
		}
		return len(rows) < limit
	})
	return rows, err
}

// Boot is one boot of the host, as the agent found it.
type Boot struct {
	BootID      string    `json:"boot_id"`
	At          time.Time `json:"at"`     // when the agent saw it first
	Booted      string    `json:"booted"` // closure; empty where it could not be read
	SoftReboots uint32    `json:"soft_reboots"`
}

// AppendBoot adds a boot. The last 500 are kept.
func (tx *Tx) AppendBoot(boot Boot) error {
	boot.At = boot.At.UTC()
	return tx.appendRow(bootsBucket, boot, maxBoots, 0)
}

// Boots gives up to limit boots, newest first. A limit of 0 or less is 100.
func (tx *Tx) Boots(limit int) ([]Boot, error) {
	if limit <= 0 {
		limit = defaultRows
	}
	var boots []Boot
	err := tx.newestFirst(bootsBucket, func(payload []byte) bool {
		var boot Boot
		if json.Unmarshal(payload, &boot) == nil {
			boots = append(boots, boot)
		}
		return len(boots) < limit
	})
	return boots, err
}
