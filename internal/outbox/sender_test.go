package outbox

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.etcd.io/bbolt"
)

// receiver is a receiver that stores what it takes, each (epoch, position) once and in order, and answers by script: each
// answer serves one batch, and when there is none left, every batch is stored and acknowledged.
type receiver struct {
	script  []answer
	cursor  map[string]uint64
	log     []Entry
	batches [][]uint64
	at      []time.Time // of each batch
}

type answer func(r *receiver, batch []Entry) (Receipt, error)

func (r *receiver) Deliver(ctx context.Context, batch []Entry) (Receipt, error) {
	if err := ctx.Err(); err != nil {
		return Receipt{}, err
	}
	passed.Load()
	r.batches, r.at = append(r.batches, positions(batch)), append(r.at, time.Now())
	if len(r.script) == 0 {
		return stores(r, batch)
	}
	a := r.script[0]
	r.script = r.script[1:]
	return a(r, batch)
}

// store stores the batch, but for what it has.
func (r *receiver) store(batch []Entry) uint64 {
	if r.cursor == nil {
		r.cursor = map[string]uint64{}
	}
	for _, e := range batch {
		if e.Pos > r.cursor[e.Epoch] {
			r.cursor[e.Epoch] = e.Pos
			r.log = append(r.log, e)
		}
	}
	return r.cursor[batch[0].Epoch]
}

func stores(r *receiver, batch []Entry) (Receipt, error) { return Receipt{Acked: r.store(batch)}, nil }

// always gives n times the same answer.
func always(n int, a answer) []answer { return slices.Repeat([]answer{a}, n) }

func fails(err error) answer {
	return func(*receiver, []Entry) (Receipt, error) { return Receipt{}, err }
}

// poisoned rejects a batch that holds one of the positions, without naming it.
func poisoned(bad ...uint64) answer {
	return func(r *receiver, batch []Entry) (Receipt, error) {
		for _, e := range batch {
			if slices.Contains(bad, e.Pos) {
				return Receipt{}, &Rejected{Permanent: true, Reason: "400 no"}
			}
		}
		return stores(r, batch)
	}
}

var errGone = errors.New("connection refused")

// run runs a sender in a bubble until fn returns.
func (h *harness) run(r Receiver, opt SenderOptions, fn func(s *Sender)) {
	h.Helper()
	synctest.Test(h.TB.(*testing.T), func(t *testing.T) { h.runInside(t, r, opt, fn) })
}

func (h *harness) runInside(t *testing.T, r Receiver, opt SenderOptions, fn func(s *Sender)) {
	opt.Now = time.Now
	if opt.Name == "" {
		opt.Name = "control.example"
	}
	if opt.Log == nil {
		opt.Log = slog.New(slog.NewTextHandler(&h.log, nil))
	}
	s := NewSender(h.q, r, opt)
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	fn(s)
	stop()
	if err := <-ended; err != nil {
		t.Errorf("Run = %v", err)
	}
}

// passed tells the race detector that a receiver is called after what the test did before it let time pass: a bubble's clock
// does not.
var passed atomic.Int64

// after lets a time pass in the bubble.
func after(d time.Duration) {
	passed.Add(1)
	time.Sleep(d) // of the bubble's clock
	synctest.Wait()
}

func most() float64 { return 0.999999 }

func TestSenderDeliversInOrder(t *testing.T) {
	h := newHarness(t)
	h.append(1200, "")
	r := &receiver{}
	h.run(r, SenderOptions{}, func(s *Sender) {
		synctest.Wait()
		if got := positions(r.log); !slices.Equal(got, upTo(1, 1200)) || len(r.batches) != 3 {
			t.Errorf("%d events in %d batches", len(got), len(r.batches))
		}
		h.append(2, "")
		after(time.Hour)
		if len(r.log) != 1200 {
			t.Error("it polls")
		}
		s.Nudge()
		synctest.Wait()
		if got := positions(r.log); !slices.Equal(got, upTo(1, 1202)) {
			t.Errorf("after a nudge: %d events", len(got))
		}
		if st := s.State(); st.LastSuccess != time.Now() || st.Failures != 0 || st.Receiver != "control.example" {
			t.Errorf("state = %+v", st)
		}
	})
	if got := h.stats(); got.Depth != 0 || got.AckedPos != 1202 {
		t.Errorf("stats = %+v", got)
	}
}

func TestBatchesAreBounded(t *testing.T) {
	h := newHarness(t)
	h.append(20, "")
	one := int(h.stats().DepthBytes / 20)
	for _, tt := range []struct {
		opt  SenderOptions
		want []int
	}{
		{SenderOptions{MaxEvents: 7}, []int{7, 7, 6}},
		{SenderOptions{MaxBytes: 8*one + 1}, []int{8, 8, 4}},
		{SenderOptions{MaxBytes: 1}, slices.Repeat([]int{1}, 20)},
	} {
		h := newHarness(t)
		h.append(20, "")
		r := &receiver{}
		h.run(r, tt.opt, func(*Sender) { synctest.Wait() })
		got := []int{}
		for _, b := range r.batches {
			got = append(got, len(b))
		}
		if !slices.Equal(got, tt.want) {
			t.Errorf("%+v: %v, want %v", tt.opt, got, tt.want)
		}
	}
}

func TestAPlain2xxAcknowledgesTheBatch(t *testing.T) {
	h := newHarness(t)
	h.append(3, "")
	r := &receiver{script: []answer{func(*receiver, []Entry) (Receipt, error) { return Receipt{Whole: true}, nil }}}
	h.run(r, SenderOptions{}, func(*Sender) { synctest.Wait() })
	if got := h.stats(); got.Depth != 0 || len(r.batches) != 1 {
		t.Errorf("stats = %+v, batches %v", got, r.batches)
	}
}

func TestAloneFor30DaysKeepsAllThenDeliversAll(t *testing.T) {
	h := newHarness(t)
	r := &receiver{script: always(1<<20, fails(errGone))}
	const days = 30
	h.run(r, SenderOptions{MaxEvents: 20}, func(s *Sender) {
		began := time.Now()
		for range days * 24 {
			h.append(1, "")
			s.Nudge()
			after(time.Hour)
		}
		st := s.State()
		if want := began; st.Failures != len(r.batches) || st.FailingSince != want || !st.LastSuccess.IsZero() || st.LastError != errGone.Error() {
			t.Errorf("state = %+v, want failing since %v", st, want)
		}
		if n := len(r.batches); n < days*24*60/5 || n > days*24*60 {
			t.Errorf("%d attempts in %d days", n, days)
		}
		if got := h.stats(); got.Depth != days*24 || got.DeadLetters != 0 {
			t.Errorf("stats = %+v", got)
		}
		r.script = nil
		after(maxBackoff)
		if got := positions(r.log); !slices.Equal(got, upTo(1, days*24)) {
			t.Errorf("%d events arrived", len(got))
		}
		if st := s.State(); st.Failures != 0 || st.LastError != "" || !st.FailingSince.IsZero() || !st.NextAttempt.IsZero() {
			t.Errorf("state = %+v", st)
		}
	})
	if n := strings.Count(h.log.String(), "events are not delivered"); n != 1 {
		t.Errorf("the same failure was said %d times", n)
	}
}

func TestBackoffGrowsWithFullJitter(t *testing.T) {
	for name, tt := range map[string]struct {
		rand func() float64
		want []int // seconds
	}{
		"most": {most, []int{1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300}},
		"half": {func() float64 { return 0.5 }, []int{1, 1, 2, 4, 8, 16, 32, 64, 128, 150, 150}},
	} {
		h := newHarness(t)
		h.append(1, "")
		r := &receiver{script: always(len(tt.want), fails(errGone))}
		h.run(r, SenderOptions{Rand: tt.rand}, func(*Sender) { after(2 * time.Hour) })
		for i, want := range tt.want {
			if got := int(r.at[i+1].Sub(r.at[i]).Round(time.Second).Seconds()); got != want {
				t.Errorf("%s: wait %d is %d s, want %d", name, i, got, want)
			}
		}
	}
	h := newHarness(t)
	h.append(1, "")
	r := &receiver{script: always(1<<10, fails(errGone))}
	h.run(r, SenderOptions{Rand: func() float64 { return 0 }}, func(*Sender) { after(10 * time.Second) })
	if len(r.batches) > 101 {
		t.Errorf("with the smallest draws it sent %d times in ten seconds", len(r.batches))
	}
}

func TestRetryAfterIsHonoured(t *testing.T) {
	for asked, least := range map[time.Duration]time.Duration{
		time.Minute: time.Minute, 90 * 24 * time.Hour: maxRetryAfter, 1<<63 - 1: maxRetryAfter, -time.Hour: 0,
	} {
		h := newHarness(t)
		h.append(1, "")
		r := &receiver{script: []answer{fails(&Rejected{RetryAfter: asked, Reason: "429"})}}
		h.run(r, SenderOptions{Rand: most}, func(s *Sender) {
			synctest.Wait()
			if got := time.Until(s.State().NextAttempt); got < least || got > least+firstBackoff {
				t.Errorf("asked for %v: next attempt in %v", asked, got)
			}
			s.Retry() // whatever the network does: the receiver itself has asked
			s.Nudge()
			after(least - time.Nanosecond)
			if least > 0 && len(r.batches) != 1 {
				t.Errorf("asked for %v: it did not wait", asked)
			}
			after(firstBackoff)
			if len(r.batches) != 2 || len(r.log) != 1 {
				t.Errorf("asked for %v: after that, batches %v", asked, r.batches)
			}
		})
	}
}

func TestNudgeAndRetryInAWait(t *testing.T) {
	h := newHarness(t)
	h.append(1, "")
	r := &receiver{script: always(1<<10, fails(errGone))}
	h.run(r, SenderOptions{Rand: most}, func(s *Sender) {
		after(20 * time.Minute) // the wait is five minutes long now
		n := len(r.batches)
		for range 10 {
			s.Nudge()
			synctest.Wait()
		}
		if len(r.batches) != n {
			t.Errorf("a nudge ends a wait: %d attempts, then %d", n, len(r.batches))
		}
		s.Retry()
		s.Retry()
		synctest.Wait()
		if len(r.batches) != n+1 {
			t.Errorf("a retry does not end a wait, or two end two: %d attempts, then %d", n, len(r.batches))
		}
		if next := time.Until(s.State().NextAttempt); next > firstBackoff {
			t.Errorf("after a retry the waits begin small again, not with %v", next)
		}
		if st := s.State(); st.Failures != n+1 {
			t.Errorf("a retry is no success: %+v", st)
		}
		r.script = nil
		s.Retry()
		synctest.Wait()
		if len(r.log) != 1 {
			t.Error("it did not arrive")
		}
	})
}

func TestALostAnswerCostsADuplicate(t *testing.T) {
	h := newHarness(t)
	h.append(5, "")
	r := &receiver{script: []answer{func(r *receiver, batch []Entry) (Receipt, error) {
		r.store(batch)
		return Receipt{}, errGone
	}}}
	h.run(r, SenderOptions{}, func(*Sender) { after(firstBackoff) })
	if got := positions(r.log); !slices.Equal(got, upTo(1, 5)) || len(r.batches) != 2 || !slices.Equal(r.batches[0], r.batches[1]) {
		t.Errorf("log %v, batches %v", got, r.batches)
	}
}

func TestABatchInFlightIsAbandoned(t *testing.T) {
	h := newHarness(t)
	h.append(5, "")
	hang := hanging{}
	h.run(hang, SenderOptions{}, func(*Sender) { after(24 * time.Hour) })
	if got := h.stats(); got.Depth != 5 {
		t.Errorf("stats = %+v", got)
	}
	r := &receiver{}
	h.run(r, SenderOptions{}, func(*Sender) { synctest.Wait() })
	if got := positions(r.log); !slices.Equal(got, upTo(1, 5)) {
		t.Errorf("after a restart: %v", got)
	}
}

// hanging is a receiver that never answers.
type hanging struct{}

func (hanging) Deliver(ctx context.Context, _ []Entry) (Receipt, error) {
	<-ctx.Done()
	return Receipt{}, ctx.Err()
}

func TestAcksOfAllSorts(t *testing.T) {
	acks := func(upTo uint64) answer {
		return func(*receiver, []Entry) (Receipt, error) { return Receipt{Acked: upTo}, nil }
	}
	t.Run("beyond", func(t *testing.T) {
		h := newHarness(t)
		h.append(20, "")
		r := &receiver{script: []answer{acks(11), acks(1<<64 - 1), acks(20)}}
		h.run(r, SenderOptions{MaxEvents: 10, Rand: most}, func(s *Sender) {
			synctest.Wait()
			if st := s.State(); st.Beyond != 11 || st.Epoch != "e1" || st.Failures != 1 || !strings.Contains(st.LastError, ErrAckBeyond.Error()) {
				t.Errorf("state = %+v", st)
			}
			after(4 * time.Second)
			if got := h.stats(); got.Depth != 20 || len(r.batches) != 3 {
				t.Errorf("%+v settled by %v", got, r.batches)
			}
			after(time.Minute)
			if st := s.State(); st.Beyond != 0 || len(r.log) != 20 {
				t.Errorf("state = %+v, log %v", st, positions(r.log))
			}
		})
	})
	t.Run("lower", func(t *testing.T) {
		h := newHarness(t)
		h.append(20, "")
		r := &receiver{script: []answer{acks(5), acks(3), acks(0), acks(5)}}
		h.run(r, SenderOptions{MaxEvents: 10, Rand: most}, func(s *Sender) {
			synctest.Wait()
			if got := h.stats(); got.AckedPos != 5 || !slices.Equal(r.batches[1], upTo(6, 15)) || s.State().Failures != 1 {
				t.Errorf("%+v, batches %v", got, r.batches)
			}
			after(time.Minute)
			if got := h.stats(); got.Depth != 0 || !slices.Equal(positions(r.log), upTo(6, 20)) {
				t.Errorf("%+v, %v", got, positions(r.log))
			}
		})
	})
	t.Run("of a larger batch before", func(t *testing.T) {
		h := newHarness(t)
		h.append(20, "")
		r := &receiver{script: []answer{
			func(r *receiver, batch []Entry) (Receipt, error) { r.store(batch); return Receipt{}, errGone },
			fails(&Rejected{TooLarge: true, Reason: "413"}),
		}}
		h.run(r, SenderOptions{}, func(*Sender) { after(time.Minute) })
		if got := h.stats(); got.Depth != 0 || !slices.Equal(positions(r.log), upTo(1, 20)) || !slices.Equal(r.batches[2], upTo(1, 10)) || !slices.Equal(r.batches[3], upTo(11, 20)) {
			t.Errorf("%+v, batches %v", got, r.batches)
		}
	})
}

func TestRefusedEventsAreShown(t *testing.T) {
	h := newHarness(t)
	h.append(3, "")
	r := &receiver{script: []answer{func(r *receiver, batch []Entry) (Receipt, error) {
		r.store(batch)
		return Receipt{Acked: 2, Refused: []Refusal{{2, "IllegalForState"}, {3, "not yet"}, {9, "what?"}}}, nil
	}}}
	var shown []string
	opt := SenderOptions{OnRefused: func(e Entry, reason string) { shown = append(shown, fmt.Sprintf("%d %s: %s", e.Pos, e.Kind, reason)) }}
	h.run(r, opt, func(*Sender) { synctest.Wait() })
	if want := []string{"2 K: IllegalForState"}; !slices.Equal(shown, want) || !strings.Contains(h.log.String(), "IllegalForState") {
		t.Errorf("shown: %v", shown)
	}
	if got := h.stats(); got.Depth != 0 || got.DeadLetters != 0 {
		t.Errorf("stats = %+v", got)
	}
}

func TestTooLargeABatchIsSplit(t *testing.T) {
	h := newHarness(t)
	h.append(1000, "")
	const bound = 60
	r := &receiver{script: always(1<<10, func(r *receiver, batch []Entry) (Receipt, error) {
		if len(batch) > bound {
			return Receipt{}, &Rejected{TooLarge: true, Permanent: true, Reason: "413"}
		}
		return stores(r, batch)
	})}
	h.run(r, SenderOptions{}, func(s *Sender) {
		synctest.Wait()
		if st := s.State(); st.Failures != 0 {
			t.Errorf("state = %+v", st)
		}
	})
	if got := positions(r.log); !slices.Equal(got, upTo(1, 1000)) || len(h.letters()) != 0 {
		t.Errorf("%d events, dead letters %v", len(got), h.letters())
	}
	if n := len(r.batches); n > 2*1000/bound {
		t.Errorf("%d requests for 1000 events, of which %d go into one", n, bound)
	}
}

func TestA413ThatNamesATimeIsOfTheMoment(t *testing.T) {
	h := newHarness(t)
	h.append(4, "")
	r := &receiver{script: always(5, fails(&Rejected{TooLarge: true, Permanent: true, RetryAfter: time.Minute, Reason: "413"}))}
	h.run(r, SenderOptions{}, func(*Sender) { after(time.Hour) })
	if got := positions(r.log); !slices.Equal(got, upTo(1, 4)) || r.at[1].Sub(r.at[0]) < time.Minute || len(r.batches[2]) != 1 || len(h.letters()) != 0 {
		t.Errorf("log %v, batches %v", got, r.batches)
	}
}

func dead(letters []DeadLetter) []uint64 {
	out := []uint64{}
	for _, l := range letters {
		out = append(out, l.Pos)
	}
	slices.Sort(out)
	return out
}

func without(all []uint64, bad ...uint64) []uint64 {
	return slices.DeleteFunc(slices.Clone(all), func(pos uint64) bool { return slices.Contains(bad, pos) })
}

func TestPoisonIsFoundByBisection(t *testing.T) {
	for _, bad := range [][]uint64{{1}, {2}, {777}, {500}, {501}, {1000}, {1, 2}, {499, 500, 501}, {3, 250, 251, 900}} {
		for name, reject := range map[string]answer{
			"400": poisoned(bad...),
			"413": func(r *receiver, batch []Entry) (Receipt, error) {
				receipt, err := poisoned(bad...)(r, batch)
				if err != nil {
					err = &Rejected{TooLarge: true, Reason: "413 no"}
				}
				return receipt, err
			},
		} {
			h := newHarness(t)
			h.append(1000, "")
			r := &receiver{script: always(1<<20, reject)}
			h.run(r, SenderOptions{}, func(*Sender) { after(time.Hour) })
			if got := dead(h.letters()); !slices.Equal(got, bad) {
				t.Errorf("%s %v: dead letters %v", name, bad, got)
			}
			if got := positions(r.log); !slices.Equal(got, without(upTo(1, 1000), bad...)) {
				t.Errorf("%s %v: %d events arrived", name, bad, len(got))
			}
			if n := len(r.batches); name == "400" && n > 40+25*len(bad) {
				t.Errorf("%s %v: %d requests", name, bad, n)
			}
			h.recounted()
		}
	}
}

func TestANamedEntryIsSetAsideAtOnce(t *testing.T) {
	h := newHarness(t)
	h.append(10, "")
	r := &receiver{script: []answer{fails(&Rejected{Permanent: true, Pos: 4, Reason: "unknown kind K"})}}
	h.run(r, SenderOptions{}, func(*Sender) { synctest.Wait() })
	if got := h.letters(); len(got) != 1 || got[0].Pos != 4 || got[0].Reason != "unknown kind K" {
		t.Errorf("dead letters %+v", got)
	}
	if got := positions(r.log); !slices.Equal(got, without(upTo(1, 10), 4)) || len(r.batches) != 2 {
		t.Errorf("log %v, batches %v", got, r.batches)
	}
}

func TestABadProxyDoesNotEmptyTheQueue(t *testing.T) {
	for name, why := range map[string]*Rejected{
		"400":                 {Permanent: true, Reason: "400 bad request"},
		"413":                 {TooLarge: true, Permanent: true, Reason: "413"},
		"400, names nonsense": {Permanent: true, Pos: 1 << 40, Reason: "400 that one"},
		"401":                 {Reason: "401"},
		"503":                 {Reason: "503"},
		"503, names an entry": {Pos: 3, Reason: "503"},
	} {
		for _, delivered := range []int{0, 30} {
			h := newHarness(t)
			r := &receiver{}
			h.append(delivered, "")
			h.run(r, SenderOptions{MaxEvents: 100}, func(s *Sender) {
				synctest.Wait()
				r.script = always(1<<20, fails(why))
				n := len(r.batches)
				h.append(200, "")
				s.Nudge()
				after(8 * time.Hour)
				if got := h.stats(); got.Depth != 200 || got.DeadLetters != 0 {
					t.Errorf("%s: stats = %+v", name, got)
				}
				if st := s.State(); st.Failures < 50 || !strings.Contains(st.LastError, why.Reason) {
					t.Errorf("%s: state = %+v", name, st)
				}
				if requests := len(r.batches) - n; requests > s.State().Failures*20 {
					t.Errorf("%s: %d requests in %d attempts", name, requests, s.State().Failures)
				}
				r.script = nil
				after(maxBackoff)
			})
			if got := positions(r.log); !slices.Equal(got, upTo(1, uint64(200+delivered))) {
				t.Errorf("%s: then %d events arrive", name, len(got))
			}
		}
	}
}

// An outage may end between any two requests, also between those that accuse an entry and those that show that others pass.
func TestAProxyThatRecoversInTheMiddleAccusesNobody(t *testing.T) {
	for outage := range 60 {
		h := newHarness(t)
		h.append(40, "")
		r := &receiver{}
		h.run(r, SenderOptions{}, func(s *Sender) {
			synctest.Wait()
			r.script = always(outage, fails(&Rejected{Permanent: true, Reason: "400"}))
			h.append(40, "")
			s.Nudge()
			after(24 * time.Hour)
		})
		if got := positions(r.log); !slices.Equal(got, upTo(1, 80)) || len(h.letters()) != 0 {
			t.Errorf("%d requests long: %d events, dead letters %v", outage, len(got), dead(h.letters()))
		}
	}
}

func TestNothingGoesOutOfTurnBeforeThreeWaits(t *testing.T) {
	h := newHarness(t)
	h.append(40, "")
	r := &receiver{script: always(1<<20, poisoned(1))}
	h.run(r, SenderOptions{Rand: most}, func(*Sender) { after(time.Hour) })
	for i, b := range r.batches {
		if waited := r.at[i].Sub(r.at[0]); b[0] > 1 && waited.Round(time.Second) < 7*time.Second {
			t.Fatalf("request %d, after %v, is %v", i, waited, b)
		}
	}
	if got := dead(h.letters()); !slices.Equal(got, []uint64{1}) {
		t.Errorf("dead letters %v", got)
	}
}

// The first event of a new epoch may be poison, and alone: what was acknowledged in the epoch before shows that others pass.
func TestPoisonAloneInANewEpoch(t *testing.T) {
	h := newHarness(t)
	h.append(5, "")
	r := &receiver{script: always(1<<20, poisoned(6))}
	h.run(r, SenderOptions{}, func(s *Sender) {
		synctest.Wait()
		h.db.epoch = "e2"
		h.append(1, "")
		s.Nudge()
		synctest.Wait()
		if got := dead(h.letters()); !slices.Equal(got, []uint64{6}) || s.State().Failures != 0 {
			t.Errorf("dead letters %v, state %+v", got, s.State())
		}
	})
}

// A receiver may want positions without gaps. Then a later one that it does not store shows nothing about an earlier one.
func TestWhatIsNotStoredAccusesNobody(t *testing.T) {
	h := newHarness(t)
	h.append(40, "")
	r := &receiver{script: always(1<<20, func(r *receiver, batch []Entry) (Receipt, error) {
		if batch[0].Pos == 1 {
			return Receipt{}, &Rejected{Permanent: true, Reason: "400 not 1"}
		}
		return Receipt{Acked: 0}, nil
	})}
	h.run(r, SenderOptions{}, func(s *Sender) {
		after(time.Hour)
		if st := s.State(); st.Failures < patience || st.LastError == "" {
			t.Errorf("state = %+v", st)
		}
	})
	if got := h.stats(); got.Depth != 40 || got.DeadLetters != 0 {
		t.Errorf("stats = %+v", got)
	}
}

func TestTheWaitsBeginSmallAfterASuccess(t *testing.T) {
	h := newHarness(t)
	h.append(2, "")
	r := &receiver{script: slices.Concat(always(6, fails(errGone)), []answer{stores, fails(errGone)})}
	h.run(r, SenderOptions{MaxEvents: 1, Rand: most}, func(*Sender) { after(time.Hour) })
	if n := len(r.at); n != 9 || r.at[8].Sub(r.at[7]) > firstBackoff {
		t.Errorf("%d requests, at %v", n, r.at)
	}
}

// A batch is of one epoch: what is acknowledged is a position of it.
func TestBatchesAreOfOneEpoch(t *testing.T) {
	h := newHarness(t)
	h.append(10, "")
	h.db.epoch = "e2"
	h.append(10, "")
	r := &receiver{script: []answer{func(r *receiver, batch []Entry) (Receipt, error) {
		r.store(batch)
		return Receipt{Acked: 15}, nil // of e1 there is no 15
	}}}
	h.run(r, SenderOptions{}, func(*Sender) {
		synctest.Wait()
		if got := h.stats(); got.Depth != 20 {
			t.Errorf("stats = %+v", got)
		}
		after(time.Minute)
	})
	if got := r.batches; len(got) != 3 || !slices.Equal(got[0], upTo(1, 10)) || !slices.Equal(got[1], upTo(1, 10)) || !slices.Equal(got[2], upTo(11, 20)) {
		t.Errorf("batches %v", got)
	}
}

func TestAQueueThatCannotBeReadOrWritten(t *testing.T) {
	h := newHarness(t)
	h.append(3, "")
	full := &broken{file: h.db}
	full.is.Store(true)
	h.q = h.queue(full)
	r := &receiver{}
	h.run(r, SenderOptions{}, func(s *Sender) {
		after(time.Hour)
		if st := s.State(); st.Failures < 10 || !strings.Contains(st.LastError, "no space left") || !st.LastSuccess.IsZero() {
			t.Errorf("state = %+v", st)
		}
		full.is.Store(false)
		after(maxBackoff)
		if st := s.State(); st.Failures != 0 {
			t.Errorf("state = %+v", st)
		}
	})
	if got := h.stats(); got.Depth != 0 || len(r.log) != 3 {
		t.Errorf("stats = %+v", got)
	}
}

// broken is a database that cannot be written while it is broken.
type broken struct {
	*file
	is atomic.Bool
}

func (b *broken) Update(fn func(*bbolt.Tx) error) error {
	if b.is.Load() {
		return errors.New("no space left on device")
	}
	return b.file.Update(fn)
}

func TestChangesAreTold(t *testing.T) {
	h := newHarness(t)
	h.append(1, "")
	r := &receiver{script: always(2, fails(errGone))}
	var told []string
	opt := SenderOptions{Rand: most, OnChange: func(st SenderState) {
		told = append(told, fmt.Sprintf("%d %q wait %v success %v", st.Failures, st.LastError, !st.NextAttempt.IsZero(), !st.LastSuccess.IsZero()))
	}}
	h.run(r, opt, func(s *Sender) {
		after(time.Minute)
		s.Nudge()
		after(time.Minute)
	})
	want := []string{
		`1 "connection refused" wait true success false`,
		`1 "connection refused" wait false success false`,
		`2 "connection refused" wait true success false`,
		`2 "connection refused" wait false success false`,
		`0 "" wait false success true`,
	}
	if !slices.Equal(told, want) {
		t.Errorf("told:\n%s", strings.Join(told, "\n"))
	}
}

func TestWithoutAReceiverEverythingIsKept(t *testing.T) {
	h := newHarness(t)
	h.append(3, "")
	before := h.commits()
	for _, s := range []*Sender{{}, NewSender(h.q, nil, SenderOptions{})} {
		synctest.Test(t, func(t *testing.T) {
			ctx, stop := context.WithCancel(t.Context())
			ended := make(chan error, 1)
			go func() { ended <- s.Run(ctx) }()
			s.Nudge()
			s.Retry()
			after(24 * time.Hour)
			select {
			case err := <-ended:
				t.Fatalf("it ended by itself: %v", err)
			default:
			}
			if st := s.State(); st != (SenderState{}) {
				t.Errorf("state = %+v", st)
			}
			stop()
			if err := <-ended; err != nil {
				t.Errorf("Run = %v", err)
			}
		})
	}
	if got := positions(h.pending(0, 0)); !slices.Equal(got, upTo(1, 3)) || h.commits() != before {
		t.Errorf("pending = %v, %d commits", got, h.commits()-before)
	}
}
