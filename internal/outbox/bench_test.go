package outbox

import (
	"context"
	"encoding/json"
	"path/filepath"
	"strings"
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

// instant is a receiver that answers at once.
type instant struct{ drained chan<- struct{} }

func (i instant) Deliver(_ context.Context, batch []Entry) (Receipt, error) {
	last := batch[len(batch)-1].Pos
	if last == drainedEvents {
		close(i.drained)
	}
	return Receipt{Acked: last}, nil
}

const drainedEvents = 10_000

// What a host owes after a long time alone is read, settled and deleted at this cost; the wire comes on top of it.
func BenchmarkDrain(b *testing.B) {
	for b.Loop() {
		b.StopTimer()
		h := newHarness(b)
		h.update(func(tx *bbolt.Tx) error {
			e := entry("e1", "")
			e.Body = json.RawMessage(`"` + strings.Repeat("x", 1<<10) + `"`)
			for range drainedEvents {
				if _, err := Append(tx, e); err != nil {
					return err
				}
			}
			return nil
		})
		h.db.NoSync = false
		drained := make(chan struct{})
		s := NewSender(h.q, instant{drained}, SenderOptions{})
		ctx, stop := context.WithCancel(b.Context())
		ended := make(chan error, 1)
		b.StartTimer()
		go func() { ended <- s.Run(ctx) }()
		<-drained
		stop()
		if err := <-ended; err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		if depth := h.stats().Depth; depth != 0 {
			b.Fatalf("%d events are left", depth)
		}
		b.StartTimer()
	}
	b.ReportMetric(float64(b.Elapsed().Milliseconds())/float64(b.N), "ms/drain")
}
