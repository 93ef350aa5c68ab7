package store

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"testing"

	"go.etcd.io/bbolt"

	"github.com/nixfleet/nixfleet-agent/internal/checksum"
	"github.com/nixfleet/nixfleet-agent/internal/fsm"
	"github.com/nixfleet/nixfleet-agent/internal/outbox"
)

// contents is everything that a reader can get out of a store, as text.
func contents(t testing.TB, s *Store) string {
	t.Helper()
	var b strings.Builder
	write := func(v any, err error) {
		text, jsonErr := json.Marshal(v)
		fmt.Fprintf(&b, "%s %v\n", text, errors.Join(err, jsonErr))
	}
	view(t, s, func(tx *Tx) error {
		records, damaged, err := tx.Records()
		write(records, err)
		write(damaged, nil)
		write(tx.History(1<<20, ""))
		write(tx.Boots(1 << 20))
		write(tx.QuarantineRows())
		write(tx.Setting("generation"))
		fmt.Fprintln(&b, tx.Live(), tx.Next(), tx.Epoch())
		return nil
	})
	queue := outbox.New(s.DB())
	write(queue.Entries(0, 1<<20))
	write(queue.DeadLetters(1 << 20))
	stats, err := queue.Stats()
	write(stats, err)
	return b.String()
}

// One flipped bit, anywhere: Open gives a working store, and either says what is lost or nothing is. What it does not say must
// not have changed anything, now or in what is written next.
func TestOneFlippedBitIsNeverSilent(t *testing.T) {
	whole := wholeFile(t)
	original := func() string {
		path := storePath(t)
		if err := os.WriteFile(path, whole, 0o600); err != nil {
			t.Fatal(err)
		}
		s, _ := mustOpen(t, path)
		defer s.Close()
		return contents(t, s)
	}()
	found, err := surveyBytes(bytes.NewReader(whole), int64(len(whole)))
	if err != nil {
		t.Fatal(err)
	}
	stride := 120 // of the bytes that are no page's head; STORE_TEST_FLIP_STRIDE=1 takes some minutes
	if testing.Short() {
		stride = 1200
	}
	if given, err := strconv.Atoi(os.Getenv("STORE_TEST_FLIP_STRIDE")); err == nil {
		stride = given
	}
	dir := t.TempDir()
	random := rand.New(rand.NewPCG(7, 7))
	said := map[string]int{}
	opened := 0
	for at := 0; at < int(found.used); at++ {
		if at%found.pageSize > 2*pageHeader && random.IntN(stride) != 0 {
			continue
		}
		flipped := bytes.Clone(whole)
		bit := random.IntN(8)
		flipped[at] ^= 1 << bit
		seen, err := surveyBytes(bytes.NewReader(flipped), int64(len(flipped)))
		switch {
		case err != nil:
			said["unreadable"]++
		case seen.tornMeta:
			said["lost commit"]++
		case len(seen.damaged) > 0:
			said["damaged value"]++
		default:
			said["nothing"]++
		}
		// What is said needs no opening each time; what is not said does, and it costs little: nothing is written.
		silent := err == nil && !seen.tornMeta && len(seen.damaged) == 0
		if !silent && random.IntN(60) != 0 || silent && random.IntN(4) != 0 {
			continue
		}
		opened++
		path := fmt.Sprintf("%s/%d", dir, at)
		if err := os.WriteFile(path, flipped, 0o600); err != nil {
			t.Fatal(err)
		}
		checkOpened(t, path, fmt.Sprintf("byte %d bit %d", at, bit), original, silent)
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("%d bytes in use; %v; %d opened", found.used, said, opened)
	for _, what := range []string{"unreadable", "lost commit", "damaged value", "nothing"} {
		if said[what] == 0 {
			t.Errorf("no flip was one of: %s", what)
		}
	}
}

func checkOpened(t *testing.T, path, where, original string, silent bool) {
	t.Helper()
	s, opening, err := Open(path, testOptions())
	if err != nil {
		t.Fatalf("%s: %v", where, err)
	}
	defer s.Close()
	says := opening.MovedAside != "" || opening.LostCommit || len(opening.Damaged) > 0
	if says == silent {
		t.Fatalf("%s: opening = %+v", where, opening)
	}
	if silent {
		if got := contents(t, s); got != original {
			t.Fatalf("%s: unsaid, the store is not what it was: %s", where, difference(got, original))
		}
	}
	var pos uint64
	err = s.Update(func(tx *Tx) error {
		id, err := tx.NextLocalRollout()
		if err != nil {
			return err
		}
		if n := 0; silent {
			if _, err := fmt.Sscanf(strings.TrimPrefix(id, "local@"+tx.Epoch()+"-"), "%d", &n); err != nil || n <= fillRecords {
				return fmt.Errorf("the local rollout %s was given out before", id)
			}
		}
		pos, err = outbox.Append(tx.Bolt(), outbox.Entry{Epoch: tx.Epoch(), Kind: "K", Body: json.RawMessage(`{}`)})
		if err != nil {
			return err
		}
		return errors.Join(tx.PutRecord(record("after@1", fsm.Pending)), tx.AppendHistory(HistoryRow{RolloutID: "after@1"}))
	})
	if err != nil {
		t.Fatalf("%s: %v", where, err)
	}
	if !says && pos != fillRecords+1 || says && pos <= fillRecords && opening.MovedAside == "" && !opening.LostCommit {
		t.Fatalf("%s: position %d after %d events, opening %+v", where, pos, fillRecords, opening)
	}
	view(t, s, func(tx *Tx) error {
		rows, err := tx.History(1, "")
		if err != nil || len(rows) != 1 || rows[0].RolloutID != "after@1" {
			t.Fatalf("%s: last of history is %+v, %v", where, rows, err)
		}
		return nil
	})
}

// difference gives the first line in which two texts differ.
func difference(got, want string) string {
	g, w := strings.Split(got, "\n"), strings.Split(want, "\n")
	for i := range min(len(g), len(w)) {
		if g[i] != w[i] {
			return fmt.Sprintf("line %d has %d bytes, and had %d", i, len(g[i]), len(w[i]))
		}
	}
	return fmt.Sprintf("%d lines, and had %d", len(g), len(w))
}

// A run of damaged bytes, as a bad sector leaves it.
func TestADamagedStretchIsNeverFatal(t *testing.T) {
	whole := wholeFile(t)
	random := rand.New(rand.NewPCG(3, 3))
	rounds := 200
	if testing.Short() {
		rounds = 30
	}
	dir := t.TempDir()
	for i := range rounds {
		damaged := bytes.Clone(whole)
		at := random.IntN(len(whole) / 4)
		size := 1 << random.IntN(14)
		for j := at; j < min(at+size, len(whole)); j++ {
			if i%2 == 0 {
				damaged[j] = 0
			} else {
				damaged[j] = byte(random.Uint32())
			}
		}
		path := fmt.Sprintf("%s/%d", dir, i)
		if err := os.WriteFile(path, damaged[:len(damaged)-random.IntN(2)*random.IntN(len(damaged))], 0o600); err != nil {
			t.Fatal(err)
		}
		s, opening, err := Open(path, testOptions())
		if err != nil {
			t.Fatalf("%d bytes at %d: %v", size, at, err)
		}
		if err := s.Update(func(tx *Tx) error { return tx.PutRecord(record("after@1", fsm.Pending)) }); err != nil {
			t.Fatalf("%d bytes at %d: %+v: %v", size, at, opening, err)
		}
		mustClose(t, s)
	}
}

// Pages that lead the library into what cannot be recovered from are found before it sees them.
func TestPagesThatWouldEndTheProcess(t *testing.T) {
	whole := wholeFile(t)
	m, found, err := readMetas(bytes.NewReader(whole), int64(len(whole)))
	if err != nil {
		t.Fatal(err)
	}
	const pageSize = 4096
	if found.pageSize != pageSize {
		t.Skipf("the offsets below are for pages of 4096 bytes; here they have %d", found.pageSize)
	}
	branch := -1
	for at := 2; at < int(m.high); at++ {
		if whole[at*pageSize+8] == branchFlag && whole[at*pageSize] == byte(at) {
			branch = at
		}
	}
	if branch < 0 {
		t.Fatal("the file has no branch page")
	}
	cases := map[string]func(b []byte){
		"branch that leads to itself": func(b []byte) {
			page := b[branch*pageSize:]
			copy(page[pageHeader+8:pageHeader+16], page[:8])
		},
		"endless list of free pages": func(b []byte) {
			page := b[int(m.freelist)*pageSize:]
			page[10], page[11] = 0xff, 0xff
			copy(page[pageHeader:], []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x0f})
		},
		"page in use that is free": func(b []byte) {
			page := b[int(m.freelist)*pageSize:]
			page[10] = 1
			page[11] = 0
			page[pageHeader] = byte(m.root)
			copy(page[pageHeader+1:pageHeader+8], make([]byte, 7))
		},
		"bucket far outside": func(b []byte) {
			page := b[int(m.root)*pageSize:]
			copy(page[pageHeader+4:], []byte{0xff, 0xff, 0xff, 0x7f})
		},
	}
	for name, damage := range cases {
		t.Run(name, func(t *testing.T) {
			damaged := bytes.Clone(whole)
			damage(damaged)
			path := storePath(t)
			if err := os.WriteFile(path, damaged, 0o600); err != nil {
				t.Fatal(err)
			}
			if _, opening := mustOpen(t, path); opening.MovedAside == "" || !strings.Contains(opening.Reason, "page ") {
				t.Errorf("opening = %+v", opening)
			}
		})
	}
}

func TestADamagedRecordIsSetAsideAndTheRestGoesOn(t *testing.T) {
	path := storePath(t)
	s, _ := mustOpen(t, path)
	fill(t, s) // stable@59 is live, stable@0 is next
	mustClose(t, s)
	spoil := func(bucket, key string) {
		edit(t, path, func(tx *bbolt.Tx) error {
			b := tx.Bucket([]byte(bucket))
			value := bytes.Clone(b.Get([]byte(key)))
			if value == nil {
				return fmt.Errorf("%s %q is not there", bucket, key)
			}
			value[len(value)-1] ^= 1
			return b.Put([]byte(key), value)
		})
	}
	spoil(recordsBucket, "stable@59")
	spoil(recordsBucket, "stable@7")
	spoil(quarantineBucket, "/nix/store/bad-3")
	spoil(historyBucket, numberKey(5))
	spoil(settingsBucket, "generation")
	spoil("outbox", numberKey(10))
	edit(t, path, func(tx *bbolt.Tx) error { // verifies, and is no record
		return tx.Bucket([]byte(recordsBucket)).Put([]byte("stable@8"), checksum.Seal([]byte("01234567[]"), recordsBucket, "stable@8"))
	})

	for round := range 2 {
		s, opening := mustOpen(t, path)
		if opening.MovedAside != "" || len(opening.Damaged) != 7 {
			t.Fatalf("round %d: opening = %+v", round, opening)
		}
		for _, d := range opening.Damaged {
			if d.WasLive != (d.Key == "stable@59") || d.WasNext || d.Reason == "" || !d.At.Equal(testTime) {
				t.Errorf("damaged = %+v", d)
			}
			if d.Bucket != "outbox" && len(d.Raw) == 0 {
				t.Errorf("%s: its bytes are not kept", d)
			}
		}
		view(t, s, func(tx *Tx) error {
			if tx.Live() != "" || tx.Next() != "stable@0" {
				t.Errorf("live %q, next %q", tx.Live(), tx.Next())
			}
			for _, gone := range []string{"stable@59", "stable@7", "stable@8"} {
				if _, err := tx.Record(gone); !errors.Is(err, ErrNotFound) {
					t.Errorf("%s: %v", gone, err)
				}
			}
			records, damaged, err := tx.Records()
			if err != nil || len(records) != fillRecords-3 || len(damaged) != 0 {
				t.Errorf("%d records, %v, %v", len(records), damaged, err)
			}
			row, found, err := tx.Quarantine("/nix/store/bad-3")
			if err != nil || !found || !strings.Contains(row.Reason, "damaged") {
				t.Errorf("a closure that was in quarantine is not: %+v, %v, %v", row, found, err)
			}
			return nil
		})
		queue := outbox.New(s.DB())
		letters, err := queue.DeadLetters(0)
		if err != nil || len(letters) != 1 || letters[0].Pos != 10 || letters[0].Entry != nil || len(letters[0].Raw) == 0 {
			t.Errorf("dead letters = %+v, %v", letters, err)
		}
		if stats, err := queue.Stats(); err != nil || stats.Depth != fillRecords-1 {
			t.Errorf("stats = %+v, %v", stats, err)
		}
		mustClose(t, s)
	}

	s, _ = mustOpen(t, path)
	update(t, s, func(tx *Tx) error { return tx.OpeningReported() })
	mustClose(t, s)
	s, opening := mustOpen(t, path)
	if len(opening.Damaged) > 0 || s.Commits() != 0 {
		t.Errorf("said again after the report: %v", opening.Damaged)
	}
	view(t, s, func(tx *Tx) error {
		if all, err := tx.Damaged(); err != nil || len(all) != 7 {
			t.Errorf("%d damaged values are kept, %v", len(all), err)
		}
		return nil
	})
}

// Where one meta page is gone, the last commit may be: what it numbered must not be numbered again.
func TestALostCommitRenewsTheEpoch(t *testing.T) {
	for index := range 2 {
		path := storePath(t)
		s, before := mustOpen(t, path)
		fill(t, s)
		mustClose(t, s)
		content, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		content[index*4096+pageHeader+40] ^= 1
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		s, opening := mustOpen(t, path)
		if !opening.LostCommit || opening.Epoch == before.Epoch || s.Epoch() != opening.Epoch {
			t.Errorf("meta page %d: opening = %+v", index, opening)
		}
		update(t, s, func(tx *Tx) error { return tx.OpeningReported() })
		mustClose(t, s)
		if _, again := mustOpen(t, path); again.LostCommit || again.Epoch != opening.Epoch {
			t.Errorf("meta page %d: second opening = %+v", index, again)
		}
	}
}
