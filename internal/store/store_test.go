package store

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"reflect"
	"strings"
	"testing"

	"go.etcd.io/bbolt"

	"github.com/nixfleet/nixfleet-agent/internal/checksum"
	"github.com/nixfleet/nixfleet-agent/internal/fsm"
	"github.com/nixfleet/nixfleet-agent/internal/outbox"
)

func TestOneUpdateIsOneCommitOfEverything(t *testing.T) {
	path := storePath(t)
	s, opening := mustOpen(t, path)
	if !opening.Created || opening.Epoch == "" || opening.Epoch != s.Epoch() {
		t.Fatalf("opening = %+v", opening)
	}
	want := record("stable@41", fsm.Activating)
	update(t, s, func(tx *Tx) error {
		if err := tx.PutRecord(want); err != nil {
			return err
		}
		if err := tx.SetLive(want.RolloutID); err != nil {
			return err
		}
		if err := tx.AppendHistory(HistoryRow{At: testTime, RolloutID: want.RolloutID, From: fsm.Pending, To: fsm.Activating, Seq: 3, Kind: "Activate"}); err != nil {
			return err
		}
		_, err := outbox.Append(tx.Bolt(), outbox.Entry{Epoch: tx.Epoch(), Kind: "DispatchAck", RolloutID: want.RolloutID, At: testTime, Body: json.RawMessage(`{}`)})
		return err
	})
	if got := s.Commits(); got != 1 {
		t.Errorf("%d commits, want 1", got)
	}
	mustClose(t, s)

	s, opening = mustOpen(t, path)
	if opening.Created || opening.MovedAside != "" || opening.LostCommit || len(opening.Damaged) > 0 {
		t.Errorf("opening = %+v", opening)
	}
	if got := s.Commits(); got != 0 {
		t.Errorf("opening a whole file made %d commits", got)
	}
	view(t, s, func(tx *Tx) error {
		got, err := tx.Record("stable@41")
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("record = %+v, %v", got, err)
		}
		if tx.Live() != "stable@41" || tx.Next() != "" {
			t.Errorf("live %q, next %q", tx.Live(), tx.Next())
		}
		rows, err := tx.History(0, "")
		if err != nil || len(rows) != 1 || rows[0].To != fsm.Activating {
			t.Errorf("history = %+v, %v", rows, err)
		}
		return nil
	})
	pending, err := outbox.New(s.DB()).Pending(0, 0)
	if err != nil || len(pending) != 1 || pending[0].Pos != 1 || pending[0].Epoch != opening.Epoch {
		t.Errorf("pending = %+v, %v", pending, err)
	}
}

func TestAFailedUpdateLeavesNothing(t *testing.T) {
	s, _ := mustOpen(t, storePath(t))
	boom := errors.New("boom")
	err := s.Update(func(tx *Tx) error {
		if err := tx.PutRecord(record("stable@1", fsm.Pending)); err != nil {
			return err
		}
		if _, err := tx.NextLocalRollout(); err != nil {
			return err
		}
		return boom
	})
	if !errors.Is(err, boom) || s.Commits() != 0 {
		t.Fatalf("err = %v, commits = %d", err, s.Commits())
	}
	view(t, s, func(tx *Tx) error {
		if _, err := tx.Record("stable@1"); !errors.Is(err, ErrNotFound) {
			t.Errorf("record: %v", err)
		}
		return nil
	})
}

func TestLocalRolloutIDsAreNeverGivenOutTwice(t *testing.T) {
	path := storePath(t)
	seen := map[string]bool{}
	for range 3 {
		s, _ := mustOpen(t, path)
		for range 3 {
			update(t, s, func(tx *Tx) error {
				id, err := tx.NextLocalRollout()
				if err != nil {
					return err
				}
				if seen[id] || !strings.HasPrefix(id, "local@"+tx.Epoch()+"-") {
					t.Errorf("id %q after %v", id, seen)
				}
				seen[id] = true
				return nil
			})
		}
		mustClose(t, s)
	}
	// The counter is damaged and set aside: the sequence of its bucket goes on.
	edit(t, path, func(tx *bbolt.Tx) error {
		return tx.Bucket([]byte(countersBucket)).Put([]byte(localRollouts), []byte("garbage"))
	})
	s, opening := mustOpen(t, path)
	if len(opening.Damaged) != 1 {
		t.Errorf("damaged = %v", opening.Damaged)
	}
	update(t, s, func(tx *Tx) error {
		id, err := tx.NextLocalRollout()
		if seen[id] {
			t.Errorf("%q was given out before", id)
		}
		return err
	})
}

func TestRecordsAtRestArePrunedOldestFirst(t *testing.T) {
	s, _ := mustOpen(t, storePath(t))
	owing := record("owing@1", fsm.Failed)
	owing.Work = &fsm.Work{}
	const total = maxRecords + 40
	update(t, s, func(tx *Tx) error {
		for _, rec := range []fsm.Record{record("live@1", fsm.Converged), record("next@1", fsm.Superseded), record("soaking@1", fsm.Soaking), owing, record("newer@1", "Levitating")} {
			if err := tx.PutRecord(rec); err != nil {
				return err
			}
		}
		if err := tx.SetLive("live@1"); err != nil {
			return err
		}
		return tx.SetNext("next@1")
	})
	update(t, s, func(tx *Tx) error {
		for i := range total {
			if err := tx.PutRecord(record(fmt.Sprintf("r@%d", total-i), fsm.Converged)); err != nil {
				return err
			}
		}
		return nil
	})
	view(t, s, func(tx *Tx) error {
		records, damaged, err := tx.Records()
		if err != nil || len(damaged) > 0 || len(records) != maxRecords {
			t.Fatalf("%d records, damaged %v, %v", len(records), damaged, err)
		}
		var first []string
		for _, rec := range records[:5] {
			first = append(first, rec.RolloutID)
		}
		if want := []string{"live@1", "next@1", "soaking@1", "owing@1", "newer@1"}; !reflect.DeepEqual(first, want) {
			t.Errorf("first = %v, want %v", first, want)
		}
		// They came with falling names: their order is that of their coming.
		if records[5].RolloutID != fmt.Sprintf("r@%d", maxRecords-5) || records[maxRecords-1].RolloutID != "r@1" {
			t.Errorf("kept %s to %s", records[5].RolloutID, records[maxRecords-1].RolloutID)
		}
		return nil
	})
}

func TestRecordsAtRestAreBoundedInBytes(t *testing.T) {
	s, _ := mustOpen(t, storePath(t))
	for i := range 40 {
		rec := record(fmt.Sprintf("big@%02d", i), fsm.Failed)
		rec.FailureDetail = strings.Repeat("x", 1<<19)
		update(t, s, func(tx *Tx) error { return tx.PutRecord(rec) })
	}
	view(t, s, func(tx *Tx) error {
		stored, bytes, err := tx.storedRecords()
		if err != nil || bytes > maxRecordBytes || len(stored) < 30 || stored[len(stored)-1].rollout != "big@39" {
			t.Errorf("%d records of %d bytes, last %v, %v", len(stored), bytes, stored[len(stored)-1], err)
		}
		return nil
	})
	if s.Size() > defaultMaxSize/2 {
		t.Errorf("file has %d bytes", s.Size())
	}
}

func TestARecordThatCouldNotBeReadBackIsRefused(t *testing.T) {
	s, _ := mustOpen(t, storePath(t))
	rec := record("big@1", fsm.Failed)
	rec.FailureDetail = strings.Repeat("x", fsm.MaxEncoded)
	if err := s.Update(func(tx *Tx) error { return tx.PutRecord(rec) }); err == nil {
		t.Error("it was stored")
	}
}

func TestHistoryAndBootsAreBounded(t *testing.T) {
	s, _ := mustOpen(t, storePath(t))
	const rows = maxHistory + 3*historySlack + 7
	for i := 0; i < rows; i += 500 {
		update(t, s, func(tx *Tx) error {
			for n := i; n < min(i+500, rows); n++ {
				if err := tx.AppendHistory(HistoryRow{RolloutID: fmt.Sprintf("r@%d", n%2), Seq: uint64(n)}); err != nil {
					return err
				}
				if err := tx.AppendBoot(Boot{BootID: fmt.Sprint(n)}); err != nil {
					return err
				}
			}
			return nil
		})
	}
	view(t, s, func(tx *Tx) error {
		all, err := tx.History(rows, "")
		if err != nil || len(all) < maxHistory || len(all) > maxHistory+historySlack {
			t.Errorf("%d rows kept, %v", len(all), err)
		}
		for i, row := range all {
			if row.Seq != uint64(rows-1-i) {
				t.Fatalf("row %d has seq %d", i, row.Seq)
			}
		}
		one, err := tx.History(3, "r@1")
		if err != nil || len(one) != 3 || one[0].RolloutID != "r@1" || one[2].Seq != one[0].Seq-4 {
			t.Errorf("history of one rollout = %+v, %v", one, err)
		}
		boots, err := tx.Boots(rows)
		if err != nil || len(boots) != maxBoots || boots[0].BootID != fmt.Sprint(rows-1) {
			t.Errorf("%d boots, %v", len(boots), err)
		}
		return nil
	})
}

func TestQuarantineAndSettings(t *testing.T) {
	s, _ := mustOpen(t, storePath(t))
	row := QuarantineRow{Closure: "/nix/store/x", Attempts: 2, Reason: "switch-failed", At: testTime, RolloutID: "stable@1"}
	update(t, s, func(tx *Tx) error {
		if err := tx.PutSetting("hold", []byte("until friday")); err != nil {
			return err
		}
		if err := tx.PutSetting("empty", []byte{}); err != nil {
			return err
		}
		return tx.PutQuarantine(row)
	})
	view(t, s, func(tx *Tx) error {
		got, found, err := tx.Quarantine(row.Closure)
		if err != nil || !found || got != row {
			t.Errorf("quarantine = %+v, %v, %v", got, found, err)
		}
		if _, found, err := tx.Quarantine("/nix/store/y"); found || err != nil {
			t.Errorf("another closure: %v, %v", found, err)
		}
		rows, err := tx.QuarantineRows()
		if err != nil || len(rows) != 1 || rows[0] != row {
			t.Errorf("rows = %+v, %v", rows, err)
		}
		hold, err := tx.Setting("hold")
		if err != nil || string(hold) != "until friday" {
			t.Errorf("hold = %q, %v", hold, err)
		}
		empty, err := tx.Setting("empty")
		if err != nil || empty == nil || len(empty) != 0 {
			t.Errorf("empty = %v, %v", empty, err)
		}
		none, err := tx.Setting("none")
		if err != nil || none != nil {
			t.Errorf("none = %v, %v", none, err)
		}
		return nil
	})
	update(t, s, func(tx *Tx) error {
		if err := tx.PutSetting("hold", nil); err != nil {
			return err
		}
		return tx.ClearQuarantine(row.Closure)
	})
	view(t, s, func(tx *Tx) error {
		if _, found, _ := tx.Quarantine(row.Closure); found {
			t.Error("still in quarantine")
		}
		if hold, _ := tx.Setting("hold"); hold != nil {
			t.Errorf("hold = %q", hold)
		}
		return nil
	})
}

// What a newer agent wrote beside what this one knows survives this one's writes.
func TestUnknownFieldsAndBucketsAreKept(t *testing.T) {
	path := storePath(t)
	s, _ := mustOpen(t, path)
	update(t, s, func(tx *Tx) error {
		if err := tx.PutQuarantine(QuarantineRow{Closure: "/nix/store/x", Attempts: 1}); err != nil {
			return err
		}
		return tx.PutRecord(record("stable@1", fsm.Soaking))
	})
	mustClose(t, s)
	add := func(tx *bbolt.Tx, bucket, key string) error {
		b := tx.Bucket([]byte(bucket))
		payload, err := checksum.Open(b.Get([]byte(key)), bucket, key)
		if err != nil {
			return err
		}
		changed := append(append([]byte{}, payload[:len(payload)-1]...), `,"from_the_future":{"a":[1]}}`...)
		return b.Put([]byte(key), checksum.Seal(changed, bucket, key))
	}
	edit(t, path, func(tx *bbolt.Tx) error {
		for _, at := range [][2]string{{recordsBucket, "stable@1"}, {quarantineBucket, "/nix/store/x"}, {aboutBucket, string(aboutKey)}, {"outbox.state", "state"}} {
			if err := add(tx, at[0], at[1]); err != nil {
				return fmt.Errorf("%v: %w", at, err)
			}
		}
		b, err := tx.CreateBucket([]byte("leases"))
		if err != nil {
			return err
		}
		if err := b.Put([]byte("k"), []byte("in no form of ours")); err != nil {
			return err
		}
		_, err = b.CreateBucket([]byte("nested"))
		return err
	})

	s, opening := mustOpen(t, path)
	if opening.ReadOnly != "" || opening.MovedAside != "" || len(opening.Damaged) > 0 {
		t.Fatalf("opening = %+v", opening)
	}
	update(t, s, func(tx *Tx) error {
		rec, err := tx.Record("stable@1")
		if err != nil {
			return err
		}
		rec.State = fsm.Converged
		if err := tx.PutRecord(rec); err != nil {
			return err
		}
		if err := tx.PutQuarantine(QuarantineRow{Closure: "/nix/store/x", Attempts: 2}); err != nil {
			return err
		}
		if _, err := tx.RenewEpoch(); err != nil {
			return err
		}
		_, err = outbox.Append(tx.Bolt(), outbox.Entry{Epoch: tx.Epoch(), Kind: "K", Body: json.RawMessage(`{}`)})
		return err
	})
	mustClose(t, s)
	edit(t, path, func(tx *bbolt.Tx) error {
		for _, at := range [][2]string{{recordsBucket, "stable@1"}, {quarantineBucket, "/nix/store/x"}, {aboutBucket, string(aboutKey)}, {"outbox.state", "state"}} {
			payload, err := checksum.Open(tx.Bucket([]byte(at[0])).Get([]byte(at[1])), at[0], at[1])
			if err != nil || !strings.Contains(string(payload), `"from_the_future":{"a":[1]}`) {
				t.Errorf("%v = %s, %v", at, payload, err)
			}
		}
		if b := tx.Bucket([]byte("leases")); b == nil || string(b.Get([]byte("k"))) != "in no form of ours" || b.Bucket([]byte("nested")) == nil {
			t.Error("the unknown bucket is not what it was")
		}
		return nil
	})
}

func TestOnlyANewerAgentMayWrite(t *testing.T) {
	path := storePath(t)
	s, _ := mustOpen(t, path)
	update(t, s, func(tx *Tx) error {
		a, err := tx.about()
		if err != nil {
			return err
		}
		a.Schema, a.MinReader = schema+2, schema+1
		if err := putAbout(tx.tx, a); err != nil {
			return err
		}
		return tx.PutRecord(record("stable@1", fsm.Soaking))
	})
	mustClose(t, s)
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}

	s, opening := mustOpen(t, path)
	if opening.ReadOnly == "" || opening.MovedAside != "" {
		t.Fatalf("opening = %+v", opening)
	}
	err = s.Update(func(tx *Tx) error { return tx.SetLive("stable@1") })
	if !errors.Is(err, ErrReadOnly) || !strings.Contains(err.Error(), "newer agent") {
		t.Errorf("update: %v", err)
	}
	if err := s.DB().Update(func(*bbolt.Tx) error { return nil }); !errors.Is(err, ErrReadOnly) {
		t.Errorf("update of the outbox: %v", err)
	}
	view(t, s, func(tx *Tx) error {
		if rec, err := tx.Record("stable@1"); err != nil || rec.State != fsm.Soaking {
			t.Errorf("record = %+v, %v", rec, err)
		}
		return nil
	})
	if _, err := outbox.New(s.DB()).Stats(); err != nil {
		t.Errorf("outbox: %v", err)
	}
	if hw := s.HighWater(); hw <= 0 || hw >= 1 {
		t.Errorf("high water = %v", hw)
	}
	mustClose(t, s)
	after, err := os.ReadFile(path)
	if err != nil || string(after) != string(before) {
		t.Errorf("the file was changed, %v", err)
	}
}

func TestANewerSchemaThatAllowsThisReaderIsWritten(t *testing.T) {
	path := storePath(t)
	s, _ := mustOpen(t, path)
	update(t, s, func(tx *Tx) error {
		a, err := tx.about()
		a.Schema = schema + 5
		return errors.Join(err, putAbout(tx.tx, a))
	})
	mustClose(t, s)
	s, opening := mustOpen(t, path)
	if opening.ReadOnly != "" {
		t.Fatalf("opening = %+v", opening)
	}
	update(t, s, func(tx *Tx) error { _, err := tx.RenewEpoch(); return err })
	view(t, s, func(tx *Tx) error {
		if a, err := tx.about(); err != nil || a.Schema != schema+5 {
			t.Errorf("about = %+v, %v", a, err)
		}
		return nil
	})
}

func TestAnUnconfirmedCommitIsConfirmedOrUncertain(t *testing.T) {
	s, _ := mustOpen(t, storePath(t))
	update := s.update
	ioError := errors.New("input/output error")
	failures := 0
	s.update = func(fn func(*bbolt.Tx) error) error {
		if err := update(fn); err != nil {
			return err
		}
		if failures > 0 { // the meta page is written, its sync has failed
			failures--
			return ioError
		}
		return nil
	}
	failures = 1
	if err := s.Update(func(tx *Tx) error { return tx.SetLive("a@1") }); err != nil {
		t.Errorf("confirmed at the second attempt: %v", err)
	}
	failures = 2
	err := s.Update(func(tx *Tx) error { return tx.SetLive("a@2") })
	if !errors.Is(err, ErrUncertain) || !errors.Is(err, ioError) {
		t.Errorf("never confirmed: %v", err)
	}
	s.update = func(fn func(*bbolt.Tx) error) error { // fails before the meta page
		return update(func(tx *bbolt.Tx) error { return errors.Join(fn(tx), ioError) })
	}
	err = s.Update(func(tx *Tx) error { return tx.SetLive("a@3") })
	if errors.Is(err, ErrUncertain) || !errors.Is(err, ioError) {
		t.Errorf("not committed: %v", err)
	}
	view(t, s, func(tx *Tx) error {
		if tx.Live() != "a@2" {
			t.Errorf("live = %q", tx.Live())
		}
		return nil
	})
}

// edit changes a closed file behind the store's back.
func edit(t testing.TB, path string, fn func(tx *bbolt.Tx) error) {
	t.Helper()
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{Timeout: testOptions().Timeout})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if err := db.Update(fn); err != nil {
		t.Fatal(err)
	}
}
