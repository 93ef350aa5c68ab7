package store

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"

	"go.etcd.io/bbolt"

	"github.com/nixfleet/nixfleet-agent/internal/checksum"
)

const (
	claimsBucket     = "claims"     // live, next → rollout id
	countersBucket   = "counters"   // name → last number given out
	recordsBucket    = "records"    // rollout id → order of its first put, record
	historyBucket    = "history"    // number → transition
	quarantineBucket = "quarantine" // store path → row
	bootsBucket      = "boots"      // number → boot
	settingsBucket   = "settings"   // name → bytes
	damagedBucket    = "damaged"    // number → damaged value
)

// buckets are those of this package. Every value in them is sealed, with its bucket and key as the place.
var buckets = []string{
	aboutBucket, claimsBucket, countersBucket, recordsBucket, historyBucket, quarantineBucket, bootsBucket, settingsBucket, damagedBucket,
}

// Tx is one transaction. It is valid only inside of the function that it was given to.
type Tx struct {
	tx       *bbolt.Tx
	store    *Store
	newEpoch string
}

// Bolt gives packages that keep buckets of their own in this file the transaction itself.
func (tx *Tx) Bolt() *bbolt.Tx { return tx.tx }

// Epoch is the epoch of what is written in this transaction.
func (tx *Tx) Epoch() string {
	if tx.newEpoch != "" {
		return tx.newEpoch
	}
	return tx.store.Epoch()
}

// RenewEpoch gives the file a new random id, for when its positions may have been given out before.
func (tx *Tx) RenewEpoch() (string, error) {
	a, err := tx.about()
	if err != nil {
		return "", err
	}
	if a.Epoch, err = newEpoch(tx.store.random); err != nil {
		return "", err
	}
	tx.newEpoch = a.Epoch
	return a.Epoch, putAbout(tx.tx, a)
}

func (tx *Tx) about() (about, error) {
	b, err := tx.bucket(aboutBucket)
	if err != nil {
		return about{}, err
	}
	a, err := decodeAbout(b.Get(aboutKey))
	if err != nil {
		return about{}, fmt.Errorf("read row about the store: %w", err)
	}
	return a, nil
}

// bucket gives a bucket. A file that an older agent made and that was opened to be read may lack one.
func (tx *Tx) bucket(name string) (*bbolt.Bucket, error) {
	b := tx.tx.Bucket([]byte(name))
	if b == nil {
		return nil, fmt.Errorf("read %s: the store has none", name)
	}
	return b, nil
}

// get gives the payload under a key, nil if there is none. It is valid during the transaction.
func (tx *Tx) get(bucket, key string) ([]byte, error) {
	b, err := tx.bucket(bucket)
	if err != nil {
		return nil, err
	}
	sealed := b.Get([]byte(key))
	if sealed == nil {
		return nil, nil
	}
	payload, err := checksum.Open(sealed, bucket, key)
	if err != nil {
		return nil, fmt.Errorf("read %s %q: %w", bucket, key, err)
	}
	return payload, nil
}

func (tx *Tx) put(bucket, key string, payload []byte) error {
	b, err := tx.bucket(bucket)
	if err != nil {
		return err
	}
	if err := b.Put([]byte(key), checksum.Seal(payload, bucket, key)); err != nil {
		return fmt.Errorf("put %s %q: %w", bucket, key, err)
	}
	return nil
}

func (tx *Tx) delete(bucket, key string) error {
	b, err := tx.bucket(bucket)
	if err != nil {
		return err
	}
	if err := b.Delete([]byte(key)); err != nil {
		return fmt.Errorf("delete %s %q: %w", bucket, key, err)
	}
	return nil
}

// numberKey is the key of a numbered row: eight bytes, big-endian, so that keys sort as numbers do.
func numberKey(n uint64) string { return string(binary.BigEndian.AppendUint64(nil, n)) }

func numberOf(key []byte) (uint64, bool) {
	if len(key) != 8 {
		return 0, false
	}
	return binary.BigEndian.Uint64(key), true
}

// appendRow adds a numbered row, and deletes the oldest ones when there are more than most by more than slack.
func (tx *Tx) appendRow(bucket string, row any, most, slack uint64) error {
	payload, err := json.Marshal(row)
	if err != nil {
		return fmt.Errorf("encode row of %s: %w", bucket, err)
	}
	b, err := tx.bucket(bucket)
	if err != nil {
		return err
	}
	n, err := nextNumber(b)
	if err != nil {
		return fmt.Errorf("number row of %s: %w", bucket, err)
	}
	if err := tx.put(bucket, numberKey(n), payload); err != nil {
		return err
	}
	first, ok := firstNumber(b)
	if !ok || n-first+1 <= most+slack {
		return nil
	}
	return trim(b, n-most, int(2*slack)+1)
}

// nextNumber gives the number after the last one. The bucket's sequence has no checksum: where the last row is above it, the
// row counts.
func nextNumber(b *bbolt.Bucket) (uint64, error) {
	if key, _ := b.Cursor().Last(); key != nil {
		if last, ok := numberOf(key); ok && last > b.Sequence() {
			if err := b.SetSequence(last); err != nil {
				return 0, err
			}
		}
	}
	return b.NextSequence()
}

func firstNumber(b *bbolt.Bucket) (uint64, bool) {
	key, _ := b.Cursor().First()
	return numberOf(key)
}

// trim deletes up to chunk rows from the first one to the one with the number upTo. The keys are collected first: deleting under
// a cursor is slow and skips rows.
func trim(b *bbolt.Bucket, upTo uint64, chunk int) error {
	var gone [][]byte
	c := b.Cursor()
	for key, _ := c.First(); key != nil && len(gone) < chunk; key, _ = c.Next() {
		if n, ok := numberOf(key); ok && n > upTo {
			break
		}
		gone = append(gone, append([]byte(nil), key...))
	}
	for _, key := range gone {
		if err := b.Delete(key); err != nil {
			return err
		}
	}
	return nil
}

// newestFirst calls use with the payload of each row of a numbered bucket until it returns false. Rows that do not verify are
// skipped: the next Open sets them aside and says so.
func (tx *Tx) newestFirst(bucket string, use func(payload []byte) (more bool)) error {
	b, err := tx.bucket(bucket)
	if err != nil {
		return err
	}
	c := b.Cursor()
	for key, sealed := c.Last(); key != nil; key, sealed = c.Prev() {
		payload, err := checksum.Open(sealed, bucket, string(key))
		if err != nil {
			continue
		}
		if !use(payload) {
			return nil
		}
	}
	return nil
}

const (
	liveKey = "live"
	nextKey = "next"
)

// Live is the id of the rollout that owns the host; empty: none.
func (tx *Tx) Live() string { return tx.claim(liveKey) }

// SetLive says which rollout owns the host; empty: none.
func (tx *Tx) SetLive(rollout string) error { return tx.setClaim(liveKey, rollout) }

// Next is the id of the rollout that waits; empty: none.
func (tx *Tx) Next() string { return tx.claim(nextKey) }

// SetNext says which rollout waits; empty: none.
func (tx *Tx) SetNext(rollout string) error { return tx.setClaim(nextKey, rollout) }

// claim reads a claim. One that does not verify counts as none: Open sets it aside and says so.
func (tx *Tx) claim(key string) string {
	payload, err := tx.get(claimsBucket, key)
	if err != nil {
		return ""
	}
	return string(payload)
}

func (tx *Tx) setClaim(key, rollout string) error {
	if rollout == "" {
		return tx.delete(claimsBucket, key)
	}
	return tx.put(claimsBucket, key, []byte(rollout))
}

const localRollouts = "local rollouts"

// NextLocalRollout gives out the id of the next local rollout, local@<epoch>-<n>. None is given out twice, but one of a
// transaction that was not committed.
func (tx *Tx) NextLocalRollout() (string, error) {
	n, err := tx.nextCount(localRollouts)
	if err != nil {
		return "", fmt.Errorf("number local rollout: %w", err)
	}
	return fmt.Sprintf("local@%s-%d", tx.Epoch(), n), nil
}

// nextCount raises a counter. The counters together raise the sequence of their bucket, which is never below any of them: it is
// the second witness for a counter that does not verify.
func (tx *Tx) nextCount(name string) (uint64, error) {
	b, err := tx.bucket(countersBucket)
	if err != nil {
		return 0, err
	}
	payload, err := tx.get(countersBucket, name)
	var last uint64
	switch {
	case err == nil && len(payload) == 8:
		last = binary.BigEndian.Uint64(payload)
	case err == nil && payload == nil, checksum.IsDamaged(err):
		last = b.Sequence()
	case err == nil:
		return 0, errors.New("the counter is not a number")
	default:
		return 0, err
	}
	if err := b.SetSequence(max(b.Sequence(), last+1)); err != nil {
		return 0, err
	}
	return last + 1, tx.put(countersBucket, name, []byte(numberKey(last+1)))
}

// Setting gives a small value of the host's own, such as a hold; nil if it was never put.
func (tx *Tx) Setting(key string) ([]byte, error) {
	payload, err := tx.get(settingsBucket, key)
	if payload == nil || err != nil {
		return nil, err
	}
	return append([]byte{}, payload...), nil
}

// PutSetting stores a small value of the host's own; nil removes it.
func (tx *Tx) PutSetting(key string, value []byte) error {
	if value == nil {
		return tx.delete(settingsBucket, key)
	}
	return tx.put(settingsBucket, key, value)
}

// OpeningReported is called in the transaction that reports what Open has found. Without it the next Open says it again.
func (tx *Tx) OpeningReported() error {
	a, err := tx.about()
	if err != nil {
		return err
	}
	if a.MovedAside != "" || a.LostCommit {
		a.MovedAside, a.Reason, a.LostCommit = "", "", false
		if err := putAbout(tx.tx, a); err != nil {
			return err
		}
	}
	return tx.reportDamaged()
}
