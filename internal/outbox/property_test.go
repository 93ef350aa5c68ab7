package outbox

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"testing"

	"go.etcd.io/bbolt"
	"pgregory.net/rapid"
)

// modelEntry is an entry as the model has it.
type modelEntry struct {
	pos        uint64
	epoch, key string
	body       string
}

// model is the queue as its contract tells it, in the simplest form: slices that are searched.
type model struct {
	last, acked, sent, marked uint64
	pending, kept             []modelEntry
	dead                      []uint64
}

func (m *model) find(pos uint64) int {
	return slices.IndexFunc(m.pending, func(e modelEntry) bool { return e.pos == pos })
}

func (m *model) append(epoch, key string) modelEntry {
	m.last++
	e := modelEntry{m.last, epoch, key, strconv.FormatUint(m.last, 10)}
	if key != "" {
		waiting, prior := 0, -1
		for i, p := range m.pending {
			if p.key != "" {
				waiting++
			}
			if p.key == key {
				prior = i
			}
		}
		if waiting >= maxCoalescable && prior >= 0 && m.pending[prior].pos > m.marked {
			m.pending = slices.Delete(m.pending, prior, prior+1)
		}
	}
	m.pending = append(m.pending, e)
	return e
}

func (m *model) hand(limit int) []modelEntry {
	batch := m.pending[:min(limit, len(m.pending))]
	for _, e := range batch {
		if e.key != "" && e.pos > m.marked {
			m.marked = batch[len(batch)-1].pos
			break
		}
	}
	if len(batch) > 0 {
		m.sent = max(m.sent, batch[len(batch)-1].pos)
	}
	return batch
}

func (m *model) handedOut() uint64 { return max(m.sent, m.marked, m.acked) }

func (m *model) ack(upTo uint64) {
	if upTo <= m.acked {
		return
	}
	m.acked = upTo
	for len(m.pending) > 0 && m.pending[0].pos <= upTo {
		m.kept, m.pending = append(m.kept, m.pending[0]), m.pending[1:]
	}
	if over := len(m.kept) - maxKept; over > 0 {
		m.kept = m.kept[over:]
	}
}

// A random walk of appends, deliveries, answers and restarts does to the file what it does to the model.
func TestWalksAgreeWithTheModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		h := newHarness(t)
		defer func() { _ = h.db.Close() }()
		var m model
		epochs := 1
		grow := func(n int, keys ...string) {
			err := h.db.Update(func(tx *bbolt.Tx) error {
				for i := range n {
					want := m.append(h.db.epoch, keys[i%len(keys)])
					pos, err := Append(tx, Entry{Epoch: want.epoch, Kind: "K", At: testTime, Body: json.RawMessage(want.body), CoalesceKey: want.key})
					if err != nil || pos != want.pos {
						return fmt.Errorf("position %d, want %d: %w", pos, want.pos, err)
					}
				}
				return nil
			})
			if err != nil {
				rt.Fatal(err)
			}
		}
		key := rapid.SampledFrom([]string{"", "", "a", "b", "c"})
		pos := func(rt *rapid.T) uint64 { return rapid.Uint64Range(0, m.last+2).Draw(rt, "pos") }
		rt.Repeat(map[string]func(*rapid.T){
			"append":   func(rt *rapid.T) { grow(1, key.Draw(rt, "key")) },
			"several":  func(rt *rapid.T) { grow(rapid.IntRange(2, 40).Draw(rt, "n"), key.Draw(rt, "key"), key.Draw(rt, "key")) },
			"flapping": func(rt *rapid.T) { grow(rapid.IntRange(1, 350).Draw(rt, "n"), "a", "b", "") },
			"flood": func(rt *rapid.T) {
				if m.last < 4500 && rapid.IntRange(0, 3).Draw(rt, "rarely") == 0 {
					grow(rapid.IntRange(1000, 2500).Draw(rt, "n"), "")
				}
			},
			"roll back": func(rt *rapid.T) {
				undo := errors.New("undo")
				err := h.db.Update(func(tx *bbolt.Tx) error {
					_, err := Append(tx, entry(h.db.epoch, key.Draw(rt, "key")))
					return errors.Join(err, undo)
				})
				if !errors.Is(err, undo) {
					rt.Fatal(err)
				}
			},
			"deliver": func(rt *rapid.T) {
				limit := rapid.SampledFrom([]int{1, 5, 100, 5000}).Draw(rt, "limit")
				want := m.hand(limit)
				batch, err := h.q.Pending(limit, 0)
				if err != nil || !slices.EqualFunc(batch, want, same) {
					rt.Fatalf("pending = %v, %v; want %v", batch, err, want)
				}
			},
			"ack": func(rt *rapid.T) {
				upTo := pos(rt)
				err := h.q.Ack(upTo)
				if beyond := upTo > m.handedOut(); errors.Is(err, ErrAckBeyond) != beyond || (err != nil) != beyond {
					rt.Fatalf("ack %d of %+v: %v", upTo, m.handedOut(), err)
				} else if !beyond {
					m.ack(upTo)
				}
			},
			"ack all that was sent": func(rt *rapid.T) {
				if err := h.q.Ack(m.handedOut()); err != nil {
					rt.Fatal(err)
				}
				m.ack(m.handedOut())
			},
			"reject": func(rt *rapid.T) {
				p := pos(rt)
				if len(m.pending) > 0 && rapid.Bool().Draw(rt, "near") {
					p = m.pending[rapid.IntRange(0, min(5, len(m.pending)-1)).Draw(rt, "i")].pos
				}
				err := h.q.Reject(p, "no")
				i := m.find(p)
				switch {
				case i >= 0 && p <= m.handedOut():
					if err != nil {
						rt.Fatal(err)
					}
					m.dead = append(m.dead, p)
					m.pending = slices.Delete(m.pending, i, i+1)
				case slices.Contains(m.dead, p):
					if err != nil {
						rt.Fatal(err)
					}
				case !errors.Is(err, ErrNotPending):
					rt.Fatalf("reject %d: %v", p, err)
				}
			},
			"restart": func(*rapid.T) {
				epoch := h.db.epoch
				h.reopen()
				h.db.epoch, m.sent = epoch, 0
			},
			"new epoch": func(*rapid.T) { epochs++; h.db.epoch = fmt.Sprintf("e%d", epochs) },
			"": func(rt *rapid.T) {
				stats, err := h.q.Stats()
				want := Cursor{Epoch: h.db.epoch, LastPos: m.last, AckedPos: m.acked, LowestKept: m.lowest()}
				if err != nil || stats.Cursor != want || stats.Depth != len(m.pending) || stats.DeadLetters != len(m.dead) {
					rt.Fatalf("stats = %+v, %v; want %+v, %d, %d", stats, err, want, len(m.pending), len(m.dead))
				}
			},
		})
		h.reopen()
		all := slices.Concat(m.kept, m.pending)
		got := h.entries()
		if len(got) != len(all) {
			rt.Fatalf("%d entries, want %d", len(got), len(all))
		}
		for i, l := range got {
			if !same(l.Entry, all[i]) || (l.Status == StatusAcked) != (l.Pos <= m.acked) {
				rt.Fatalf("entry %+v, want %+v", l, all[i])
			}
		}
		letters := h.letters()
		for i, letter := range letters {
			if letter.Pos != m.dead[len(m.dead)-1-i] {
				rt.Fatalf("dead letters %v, want %v", letters, m.dead)
			}
		}
		h.recounted()
	})
}

func (m *model) lowest() uint64 {
	switch {
	case len(m.kept) > 0:
		return m.kept[0].pos
	case len(m.pending) > 0:
		return m.pending[0].pos
	default:
		return m.last + 1
	}
}

func same(e Entry, want modelEntry) bool {
	return e.Pos == want.pos && e.Epoch == want.epoch && e.CoalesceKey == want.key && string(e.Body) == want.body
}
