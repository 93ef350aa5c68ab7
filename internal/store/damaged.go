package store

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/nixfleet/nixfleet-agent/internal/checksum"
	"github.com/nixfleet/nixfleet-agent/internal/outbox"
)

// DamagedRecord is a value that does not verify. It was taken out of its bucket and is kept as it was found.
type DamagedRecord struct {
	Bucket  string
	Key     string // may itself be what is damaged
	Reason  string
	At      time.Time // when it was set aside
	Raw     []byte    // as it was found; of an event of the outbox, which keeps it itself: none
	WasLive bool      // it is the record of the rollout that owned the host; that claim was cleared
	WasNext bool      // it is the record of the rollout that waited; that claim was cleared
}

// String says what is damaged, why, and what that means.
func (d DamagedRecord) String() string {
	key := d.Key
	if n, ok := numberOf([]byte(key)); ok && !isText(key) {
		key = fmt.Sprint(n)
	} else if !isText(key) {
		key = fmt.Sprintf("%q", key)
	}
	s := fmt.Sprintf("%s %s: %s", d.Bucket, key, d.Reason)
	if d.WasLive {
		s += "; its rollout owned the host"
	}
	if d.WasNext {
		s += "; its rollout was waiting"
	}
	return s
}

func isText(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f })
}

type damagedRow struct {
	Bucket   string    `json:"bucket"`
	Key      []byte    `json:"key"`
	Raw      []byte    `json:"raw,omitempty"`
	Reason   string    `json:"reason"`
	At       time.Time `json:"at"`
	WasLive  bool      `json:"was_live,omitempty"`
	WasNext  bool      `json:"was_next,omitempty"`
	Reported bool      `json:"reported,omitempty"`
}

// mend makes what the survey has found usable, in one commit, and in none if there is nothing to do: buckets that are missing,
// values that do not verify, and a meta page that is not valid.
func (s *Store) mend(found surveyed) error {
	missing := slices.DeleteFunc(allBuckets(), func(name string) bool { return slices.Contains(found.buckets, name) })
	if len(found.damaged) == 0 && !found.tornMeta && len(missing) == 0 {
		return nil
	}
	return s.Update(func(tx *Tx) error {
		if err := makeBuckets(tx.tx); err != nil {
			return err
		}
		a := found.about
		a.Buckets = append(a.Buckets, missing...)
		if err := putAbout(tx.tx, a); err != nil {
			return err
		}
		for _, d := range found.damaged {
			if err := tx.setAside(d); err != nil {
				return fmt.Errorf("set damaged value aside: %w", err)
			}
		}
		if len(found.damaged) > 0 {
			if err := tx.dropClaims(); err != nil {
				return err
			}
		}
		if err := outbox.Init(tx.tx); err != nil { // its state may have been among the damage
			return err
		}
		if !found.tornMeta {
			return nil
		}
		if _, err := tx.RenewEpoch(); err != nil {
			return err
		}
		a, err := tx.about() // as it is now
		if err != nil {
			return err
		}
		a.LostCommit = true
		return putAbout(tx.tx, a)
	})
}

// setAside takes a damaged value out of its bucket and keeps it among the damaged ones.
func (tx *Tx) setAside(d DamagedRecord) error {
	at := tx.store.now().UTC()
	row := damagedRow{Bucket: d.Bucket, Key: []byte(d.Key), Raw: d.Raw, Reason: d.Reason, At: at}
	switch d.Bucket {
	case recordsBucket:
		row.WasLive, row.WasNext = d.Key == tx.Live(), d.Key == tx.Next()
		if err := tx.dropClaimsOn(d.Key); err != nil {
			return err
		}
	case outbox.Buckets()[0]:
		if err := outbox.SetAside(tx.tx, []byte(d.Key), d.Reason, at); err != nil {
			return err
		}
		row.Raw = nil
		return tx.keepDamaged(row)
	}
	if err := tx.delete(d.Bucket, d.Key); err != nil {
		return err
	}
	if d.Bucket == quarantineBucket && isText(d.Key) {
		// That there is a row says that the closure was not to be activated again. It stays so until an operator clears it.
		err := tx.PutQuarantine(QuarantineRow{Closure: d.Key, Attempts: 1, Reason: "unknown: the row that said why is damaged", At: at})
		if err != nil {
			return err
		}
	}
	return tx.keepDamaged(row)
}

// dropClaimsOn clears the claims of a rollout.
func (tx *Tx) dropClaimsOn(rollout string) error {
	for _, key := range []string{liveKey, nextKey} {
		if tx.claim(key) != rollout {
			continue
		}
		if err := tx.setClaim(key, ""); err != nil {
			return err
		}
	}
	return nil
}

// dropClaims clears a claim whose record is gone under another name: a flipped bit in a key is damage to that key.
func (tx *Tx) dropClaims() error {
	for _, key := range []string{liveKey, nextKey} {
		rollout := tx.claim(key)
		if rollout == "" {
			continue
		}
		payload, err := tx.get(recordsBucket, rollout)
		if err != nil {
			return err
		}
		if payload != nil {
			continue
		}
		if err := tx.setClaim(key, ""); err != nil {
			return err
		}
		row := damagedRow{Bucket: claimsBucket, Key: []byte(key), Raw: []byte(rollout), At: tx.store.now().UTC(),
			Reason: fmt.Sprintf("the record of %s, which it names, is damaged or gone", rollout)}
		if err := tx.keepDamaged(row); err != nil {
			return err
		}
	}
	return nil
}

// keepDamaged adds a row, and deletes the oldest ones beyond the bounds.
func (tx *Tx) keepDamaged(row damagedRow) error {
	if err := tx.appendRow(damagedBucket, row, maxDamaged, 0); err != nil {
		return err
	}
	b, err := tx.bucket(damagedBucket)
	if err != nil {
		return err
	}
	total := 0
	var gone [][]byte
	c := b.Cursor()
	for key, sealed := c.Last(); key != nil; key, sealed = c.Prev() {
		total += len(sealed)
		if total > maxDamagedBytes && total > len(sealed) { // the newest one stays, whatever its size
			gone = append(gone, bytes.Clone(key))
		}
	}
	for _, key := range gone {
		if err := b.Delete(key); err != nil {
			return err
		}
	}
	return nil
}

// damagedRows gives the damaged values, oldest first, with their keys.
func (tx *Tx) damagedRows() (keys []string, rows []damagedRow, err error) {
	b, err := tx.bucket(damagedBucket)
	if err != nil {
		return nil, nil, err
	}
	err = b.ForEach(func(key, sealed []byte) error {
		payload, err := checksum.Open(sealed, damagedBucket, string(key))
		if err != nil {
			return nil //nolint:nilerr // damaged once more; the next Open sets it aside
		}
		var row damagedRow
		if err := json.Unmarshal(payload, &row); err != nil {
			return nil //nolint:nilerr // a newer agent's
		}
		keys, rows = append(keys, string(key)), append(rows, row)
		return nil
	})
	return keys, rows, err
}

// Damaged gives all values that were ever set aside and are still kept, oldest first.
func (tx *Tx) Damaged() ([]DamagedRecord, error) {
	_, rows, err := tx.damagedRows()
	damaged := make([]DamagedRecord, 0, len(rows))
	for _, row := range rows {
		damaged = append(damaged, row.public())
	}
	return damaged, err
}

func (r damagedRow) public() DamagedRecord {
	return DamagedRecord{Bucket: r.Bucket, Key: string(r.Key), Reason: r.Reason, At: r.At, Raw: r.Raw, WasLive: r.WasLive, WasNext: r.WasNext}
}

func (tx *Tx) reportDamaged() error {
	keys, rows, err := tx.damagedRows()
	if err != nil {
		return err
	}
	for i, row := range rows {
		if row.Reported {
			continue
		}
		row.Reported = true
		payload, err := json.Marshal(row)
		if err != nil {
			return fmt.Errorf("encode damaged value: %w", err)
		}
		if err := tx.put(damagedBucket, keys[i], payload); err != nil {
			return err
		}
	}
	return nil
}

// opening reads what Open has to say.
func (s *Store) opening() (Opening, error) {
	var o Opening
	err := s.View(func(tx *Tx) error {
		a, err := tx.about()
		if err != nil {
			return err
		}
		o = Opening{MovedAside: a.MovedAside, Reason: a.Reason, LostCommit: a.LostCommit, Epoch: a.Epoch}
		_, rows, err := tx.damagedRows()
		for _, row := range rows {
			if !row.Reported {
				o.Damaged = append(o.Damaged, row.public())
			}
		}
		return err
	})
	return o, err
}
