package outbox

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.etcd.io/bbolt"
	"pgregory.net/rapid"
)

// An act is what happens next in a life of a sender. All of it is drawn before the bubble begins.
type act struct {
	name string
	n    int
}

// walk is a receiver with a plan of misbehaviour. Whatever the plan says, it keeps to what a receiver may do: it takes rising
// positions of an epoch once, and what it says that it has stored, it has stored.
type walk struct {
	receiver
	plan    []act
	poison  map[uint64]bool // positions of what it will never take; true: it names them
	badTill time.Time       // until then a proxy answers 400 to everything
	sent    uint64          // highest position seen
	broken  string          // the first breach of the contract
}

func (w *walk) breach(format string, args ...any) {
	if w.broken == "" {
		w.broken = fmt.Sprintf(format, args...)
	}
}

func (w *walk) Deliver(_ context.Context, batch []Entry) (Receipt, error) {
	passed.Load()
	w.batches = append(w.batches, positions(batch))
	if !slices.IsSorted(positions(batch)) || slices.ContainsFunc(batch, func(e Entry) bool { return e.Epoch != batch[0].Epoch }) {
		w.breach("a batch is %v of %s", positions(batch), batch[0].Epoch)
	}
	for _, e := range batch {
		if string(e.Body) != strconv.FormatUint(e.Pos, 10) {
			w.breach("at %d the body is %s", e.Pos, e.Body)
		}
	}
	w.sent = max(w.sent, batch[len(batch)-1].Pos)
	if time.Now().Before(w.badTill) {
		return Receipt{}, &Rejected{Permanent: true, Reason: "400 of a bad proxy", Pos: w.sent + 1}
	}
	var now act
	if len(w.plan) > 0 {
		now, w.plan = w.plan[0], w.plan[1:]
	}
	switch now.name {
	case "unreachable":
		return Receipt{}, errGone
	case "5xx":
		return Receipt{}, &Rejected{Reason: "503", RetryAfter: time.Duration(now.n) * time.Second}
	case "bad proxy":
		w.badTill = time.Now().Add(time.Duration(1+now.n) * time.Minute)
		return Receipt{}, &Rejected{Permanent: true, Reason: "400 of a bad proxy"}
	case "too large":
		if len(batch) > 1+now.n {
			return Receipt{}, &Rejected{Permanent: true, TooLarge: true, Reason: "413"}
		}
	case "absurd":
		if now.n%2 == 0 {
			_, _ = w.take(batch)
		}
		return Receipt{Acked: w.sent + 1 + uint64(now.n)}, nil
	case "part":
		batch = batch[:min(len(batch), now.n)]
		if len(batch) == 0 {
			return Receipt{}, nil
		}
	}
	acked, err := w.take(batch)
	switch {
	case now.name == "answer lost":
		return Receipt{}, errGone
	case err != nil:
		return Receipt{}, err
	case now.name == "lower":
		return Receipt{Acked: acked - min(acked, uint64(now.n))}, nil
	case now.name == "whole":
		return Receipt{Whole: true}, nil
	}
	return Receipt{Acked: acked}, nil
}

// take stores a batch without poison.
func (w *walk) take(batch []Entry) (uint64, error) {
	for _, e := range batch {
		named, bad := w.poison[e.Pos]
		switch {
		case bad && named:
			return 0, &Rejected{Permanent: true, Reason: "poison", Pos: e.Pos}
		case bad:
			return 0, &Rejected{Permanent: true, Reason: "poison"}
		}
	}
	return w.store(batch), nil
}

// Whatever a receiver does, no entry is lost, none arrives out of order, only poison becomes a dead letter, and what arrives,
// taken once for each (epoch, position), is what was appended.
func TestNothingIsLostWhateverTheReceiverDoes(t *testing.T) {
	acts := rapid.Custom(func(rt *rapid.T) act {
		return act{
			rapid.SampledFrom([]string{"", "", "whole", "unreachable", "5xx", "bad proxy", "too large", "absurd", "part", "answer lost", "answer lost", "lower"}).Draw(rt, "answer"),
			rapid.IntRange(0, 30).Draw(rt, "n"),
		}
	})
	lives := rapid.Custom(func(rt *rapid.T) act {
		return act{rapid.SampledFrom([]string{"append", "append", "nudge", "retry", "wait", "restart", "new epoch"}).Draw(rt, "act"), rapid.IntRange(1, 60).Draw(rt, "n")}
	})
	rapid.Check(t, func(rt *rapid.T) {
		h := newHarness(t)
		defer func() { _ = h.db.Close() }()
		w := &walk{plan: rapid.SliceOfN(acts, 0, 60).Draw(rt, "answers"), poison: rapid.MapOfN(rapid.Uint64Range(1, 200), rapid.Bool(), 0, maxAccused).Draw(rt, "poison")}
		life := rapid.SliceOfN(lives, 1, 30).Draw(rt, "life")
		opt := SenderOptions{MaxEvents: rapid.SampledFrom([]int{1, 7, 50, 500}).Draw(rt, "batch"), Rand: rapid.SampledFrom([]func() float64{most, func() float64 { return 0.3 }}).Draw(rt, "rand")}
		var last uint64
		grow := func(n int) {
			h.update(func(tx *bbolt.Tx) error {
				for range n {
					last++
					pos, err := Append(tx, Entry{Epoch: h.db.epoch, Kind: "K", At: testTime, Body: json.RawMessage(strconv.FormatUint(last, 10))})
					if err != nil || pos != last {
						return fmt.Errorf("position %d, want %d: %w", pos, last, err)
					}
				}
				return nil
			})
		}
		grow(20)
		synctest.Test(t, func(t *testing.T) {
			epochs := 1
			for len(life) > 0 {
				h.runInside(t, w, opt, func(s *Sender) {
					for len(life) > 0 {
						now := life[0]
						life = life[1:]
						switch now.name {
						case "append":
							grow(now.n)
							s.Nudge()
						case "nudge":
							s.Nudge()
						case "retry":
							s.Retry()
						case "wait":
							after(time.Duration(now.n) * 20 * time.Second)
						case "new epoch":
							epochs++
							h.db.epoch = fmt.Sprintf("e%d", epochs)
						case "restart":
							return
						}
						synctest.Wait()
					}
				})
				epoch := h.db.epoch
				h.reopen()
				h.db.epoch = epoch
			}
			h.runInside(t, w, opt, func(s *Sender) {
				for range 400 {
					if h.stats().Depth == 0 {
						break
					}
					after(5 * time.Minute)
				}
				if st := s.State(); h.stats().Depth > 0 {
					w.breach("%d events are left: %+v", h.stats().Depth, st)
				}
			})
		})
		var bad, good []uint64
		for _, pos := range upTo(1, last) {
			if _, poison := w.poison[pos]; poison {
				bad = append(bad, pos)
			} else {
				good = append(good, pos)
			}
		}
		arrived := positions(w.log)
		if w.broken != "" || !slices.Equal(arrived, good) || !slices.Equal(dead(h.letters()), bad) {
			rt.Fatalf("%s\narrived %v\nwant    %v\ndead %v\nwant %v\nbatches %v\n%s", w.broken, arrived, good, dead(h.letters()), bad, w.batches, strings.TrimSpace(h.log.String()))
		}
		h.recounted()
	})
}
