package outbox

import (
	"path/filepath"
	"testing"

	"go.etcd.io/bbolt"
)

// An append is a few writes into pages that the caller's commit writes anyway.
func BenchmarkCommit(b *testing.B) {
	for name, appends := range map[string]int{"empty": 0, "one-entry": 1} {
		b.Run(name, func(b *testing.B) {
			db, err := openFile(filepath.Join(b.TempDir(), "agent.db"), nil)
			if err != nil {
				b.Fatal(err)
			}
			defer db.Close()
			other := []byte("what the caller writes")
			for b.Loop() {
				err := db.Update(func(tx *bbolt.Tx) error {
					caller, err := tx.CreateBucketIfNotExists(other)
					if err != nil {
						return err
					}
					for range appends {
						if _, err := Append(tx, entry("e1", "")); err != nil {
							return err
						}
					}
					return caller.Put(other, other)
				})
				if err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkSettle(b *testing.B) {
	for b.Loop() {
		b.StopTimer()
		h := newHarness(b)
		h.append(10_000, "")
		h.pending(10_000, 0)
		h.db.NoSync = false
		b.StartTimer()
		h.ack(10_000)
	}
	b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N)/10_000, "µs/entry")
}
