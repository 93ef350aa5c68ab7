package agent

import (
	"encoding/json"
	"time"

	"github.com/nixfleet/nixfleet-agent/internal/outbox"
	"github.com/nixfleet/nixfleet-agent/internal/store"
)

// Host notices that are not recovery's: what happened to the host and not to a rollout.
const (
	noticeStateReset        = "AgentStateReset"
	noticeCommitLost        = "StoreCommitLost"
	noticeDamagedRecord     = "RecordDamaged"
	noticeFrozenRecord      = "RecordFrozen"
	noticeDispatchRefused   = "DispatchRefused"
	noticeEpochRenewed      = "EpochRenewed"
	noticeHeld              = "HostHeld"
	noticeResumed           = "HostResumed"
	noticeQuarantineCleared = "QuarantineCleared"
	settingNoticePrefix     = "notice/"
)

// notice is the body of a host notice in the outbox.
type notice struct {
	Kind string    `json:"kind"`
	Text string    `json:"text"`
	At   time.Time `json:"at"`
	Host string    `json:"host"`
	Seen *hostSeen `json:"host_facts,omitempty"`
}

// hostSeen is what the host ran when the notice was given.
type hostSeen struct {
	BootID      string `json:"boot_id"`
	Booted      string `json:"booted,omitempty"`
	Running     string `json:"running,omitempty"`
	Profile     string `json:"profile,omitempty"`
	BootDefault string `json:"boot_default,omitempty"`
}

// notify puts a host notice into the outbox. It has no sequence number and does not go through the rules.
func (t *turn) notify(n notice) error {
	n.At = t.now.Wall
	body, err := json.Marshal(n)
	if err != nil {
		return err
	}
	_, err = outbox.Append(t.tx.Bolt(), outbox.Entry{Epoch: t.tx.Epoch(), Kind: n.Kind, At: t.now.Wall, Body: body})
	return err
}

// notifyOnce puts a host notice into the outbox unless the last notice of its kind had the same key. It reports whether it did.
func (t *turn) notifyOnce(key string, n notice) (bool, error) {
	last, err := t.tx.Setting(settingNoticePrefix + n.Kind)
	if err != nil {
		return false, err
	}
	if string(last) == key {
		return false, nil
	}
	if err := t.tx.PutSetting(settingNoticePrefix+n.Kind, []byte(key)); err != nil {
		return false, err
	}
	return true, t.notify(n)
}

// saidBefore reports whether the last notice of that kind had that key.
func (l *loop) saidBefore(kind, key string) (bool, error) {
	said := false
	err := l.store.View(func(tx *store.Tx) error {
		last, err := tx.Setting(settingNoticePrefix + kind)
		said = err == nil && string(last) == key
		return err
	})
	return said, err
}
