package outbox

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"time"
)

// Sender carries pending entries to a receiver, for as long as it takes.
//
// One batch is in flight at a time, and what goes out is always the head of the queue: a receiver sees rising positions,
// and some of them twice. An entry leaves the queue when the receiver has acknowledged it, or when it is shown that the
// receiver will never take this entry although it takes others; then it is a dead letter. No age, no number of failures and
// no other answer takes an entry away.
//
// A failure is followed by a wait: exponential, with full jitter, never less than the receiver asks for. What the receiver
// answers can neither end Run nor make it spin: what is not followed by a wait has settled an entry, has set one aside, or has
// halved what the next request carries.
type Sender struct {
	queue    *Queue
	receiver Receiver
	opt      SenderOptions

	nudged  chan struct{}
	retried chan struct{}

	// These belong to the goroutine of Run.
	epoch   string // of what was last sent
	sent    uint64 // highest position that was sent of it
	limit   int    // entries of a batch; less than the maximum after a 413
	bisect  int    // the receiver rejects the first so many entries together and has named none; 0: nothing is known
	backoff int    // waits since the last success, or since the last Retry

	mu    sync.Mutex
	state SenderState
}

// SenderOptions are what a Sender is handed. Zero values are replaced by what the comments say.
type SenderOptions struct {
	Name      string           // of the receiver, for people
	MaxEvents int              // entries of a batch; 0: 500
	MaxBytes  int              // bytes of a batch as stored, but for a single entry; 0: 1 MiB less what the wire adds
	Now       func() time.Time // for SenderState; nil: its times are zero
	Rand      func() float64   // of [0, 1), for the jitter; nil: math/rand
	Log       *slog.Logger     // nil: nothing is logged

	// OnRefused is told, once they are acknowledged, of events that the receiver has stored and refused. OnChange is told of
	// every change of the state. Both are called by Run, one call at a time, and hold it up.
	OnRefused func(e Entry, reason string)
	OnChange  func(SenderState)
}

// SenderState is how delivery goes, in this life of the process.
type SenderState struct {
	Receiver     string    // its name; empty: there is none
	LastSuccess  time.Time // when the receiver last acknowledged something; zero: not yet
	LastError    string    // why the last attempt failed; empty: it did not
	Failures     int       // failed attempts since the last success
	FailingSince time.Time // the first of them; zero: there is none
	NextAttempt  time.Time // when the present wait is over; zero: there is none

	// Beyond is a position of Epoch that the receiver claims to have and that was not sent to it; 0: none. If it says so again
	// and again, this file is older than what the receiver knows, as after a backup was restored: see Renew.
	Beyond uint64
	Epoch  string
}

// NewSender makes a sender of what is in queue. Without a receiver everything is kept.
func NewSender(queue *Queue, receiver Receiver, opt SenderOptions) *Sender {
	if opt.MaxEvents <= 0 {
		opt.MaxEvents = maxBatch
	}
	if opt.MaxBytes <= 0 {
		opt.MaxBytes = maxBatchBytes
	}
	if opt.Now == nil {
		opt.Now = func() time.Time { return time.Time{} }
	}
	if opt.Rand == nil {
		opt.Rand = rand.Float64
	}
	if opt.Log == nil {
		opt.Log = slog.New(slog.DiscardHandler)
	}
	return &Sender{
		queue: queue, receiver: receiver, opt: opt, limit: opt.MaxEvents, state: SenderState{Receiver: opt.Name},
		nudged: make(chan struct{}, 1), retried: make(chan struct{}, 1),
	}
}

// Nudge says that there may be something new to send. It never blocks, and does not cut a wait short: ten thousand hosts that
// have news must not be what keeps a receiver down.
func (s *Sender) Nudge() { signal(s.nudged) }

// Retry says that the way to the receiver may have changed, and that it is worth trying at once. It ends a wait, but for the
// part that the receiver asked for, and has the next waits begin small again. It never blocks.
func (s *Sender) Retry() { signal(s.retried) }

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// State gives a copy of how delivery goes.
func (s *Sender) State() SenderState {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state
}

// Run sends until ctx ends, and returns nil then. It starts at once with what is there. A batch in flight when ctx ends goes
// out again in the next life, unless its answer came.
func (s *Sender) Run(ctx context.Context) error {
	if s.receiver == nil {
		<-ctx.Done()
		return nil
	}
	for ctx.Err() == nil {
		batch, err := s.next()
		switch {
		case err != nil:
			s.fail(ctx, err)
		case len(batch) == 0:
			s.idle(ctx)
		default:
			if err := s.send(ctx, batch); err != nil && ctx.Err() == nil {
				s.fail(ctx, err)
			}
		}
	}
	return nil
}

// next reads the batch to send.
func (s *Sender) next() ([]Entry, error) {
	size := s.limit
	if s.bisect > 0 {
		size = min(size, max(1, s.bisect/2))
	}
	batch, err := s.queue.Pending(size, s.opt.MaxBytes)
	if err != nil {
		return nil, err
	}
	return ofOneEpoch(batch), nil
}

// ofOneEpoch cuts a batch where the epoch changes: an answer is about positions of one.
func ofOneEpoch(batch []Entry) []Entry {
	other := slices.IndexFunc(batch, func(e Entry) bool { return e.Epoch != batch[0].Epoch })
	if other < 0 {
		return batch
	}
	return batch[:other]
}

// send delivers a batch and does what the answer says. An error asks for a wait; without one the next batch may follow.
func (s *Sender) send(ctx context.Context, batch []Entry) error {
	receipt, err := s.deliver(ctx, batch)
	var rejected *Rejected
	switch {
	case err == nil:
		return s.settle(batch, receipt)
	case !errors.As(err, &rejected):
		return err
	case !rejected.forGood():
		if rejected.TooLarge {
			s.limit = max(1, len(batch)/2)
		}
		return err
	}
	if i := slices.IndexFunc(batch, func(e Entry) bool { return e.Pos == rejected.Pos }); i >= 0 {
		return s.setAside(batch[i], rejected)
	}
	switch {
	case len(batch) == 1:
		return s.accuse(ctx, batch[0], rejected)
	case rejected.TooLarge:
		s.limit = len(batch) / 2
	default:
		s.bisect = len(batch)
	}
	return nil
}

// forGood reports whether waiting will not help. A 413 that names a time to wait is of the moment (RFC 9110, 15.5.14).
func (r *Rejected) forGood() bool {
	return r.Permanent && !r.TooLarge || r.TooLarge && r.RetryAfter <= 0
}

func (s *Sender) deliver(ctx context.Context, batch []Entry) (Receipt, error) {
	select { // what changed before this attempt does not cut short the wait after it
	case <-s.retried:
	default:
	}
	last := batch[len(batch)-1]
	if s.epoch != last.Epoch {
		s.epoch, s.sent = last.Epoch, 0
	}
	s.sent = max(s.sent, last.Pos)
	return s.receiver.Deliver(ctx, batch)
}

// settle takes from the queue what the receiver has stored of a batch.
func (s *Sender) settle(batch []Entry, receipt Receipt) error {
	n, err := s.stored(batch, receipt)
	if err != nil {
		return err
	}
	if n == 0 {
		return fmt.Errorf("the receiver has stored nothing of a batch: it acknowledges up to %d, sent was from %d", receipt.Acked, batch[0].Pos)
	}
	if err := s.queue.ackSent(batch[:n]); errors.Is(err, errRenewed) {
		return nil // it goes out anew, as what it is now
	} else if err != nil {
		return err
	}
	s.bisect = max(0, s.bisect-n)
	s.limit = min(s.limit+1+s.limit/growth, s.opt.MaxEvents)
	s.succeeded()
	s.report(batch[:n], receipt.Refused)
	return nil
}

// stored counts the entries of a batch that a receipt acknowledges.
func (s *Sender) stored(batch []Entry, receipt Receipt) (int, error) {
	if receipt.Whole {
		return len(batch), nil
	}
	if receipt.Acked > s.sent {
		return 0, &beyondError{acked: receipt.Acked, sent: s.sent}
	}
	n := slices.IndexFunc(batch, func(e Entry) bool { return e.Pos > receipt.Acked })
	if n < 0 { // above the batch is what an earlier, larger one carried: it goes out again, too
		n = len(batch)
	}
	return n, nil
}

type beyondError struct{ acked, sent uint64 }

func (e *beyondError) Error() string {
	return fmt.Sprintf("%s: %d, sent up to %d", ErrAckBeyond, e.acked, e.sent)
}

func (e *beyondError) Unwrap() error { return ErrAckBeyond }

// report shows what the receiver has stored and refused.
func (s *Sender) report(settled []Entry, refused []Refusal) {
	for _, r := range refused {
		i := slices.IndexFunc(settled, func(e Entry) bool { return e.Pos == r.Pos })
		if i < 0 {
			continue // not of this batch, or it will be sent and refused again
		}
		e := settled[i]
		s.opt.Log.Warn("event refused by the receiver's rules", slog.Uint64("pos", e.Pos), slog.String("kind", e.Kind),
			slog.String("rollout", e.RolloutID), slog.String("reason", r.Reason))
		if s.opt.OnRefused != nil {
			s.opt.OnRefused(e, r.Reason)
		}
	}
}

// setAside moves an entry to the dead letters.
func (s *Sender) setAside(e Entry, why *Rejected) error {
	if err := s.queue.Reject(e.Pos, why.Reason); err != nil {
		return err
	}
	s.bisect = max(0, s.bisect-1)
	return nil
}

// accuse is called when the receiver will not take an entry, alone, and does not say that the entry is the cause. A proxy that
// answers so to everything must not empty the queue: the entry is set aside only if the receiver takes another one now.
//
// The other one is the last that it acknowledged. It knows that one: nothing is sent out of turn. After it the accused is
// sent once more, so that an outage that ends right here accuses nobody.
func (s *Sender) accuse(ctx context.Context, accused Entry, why *Rejected) error {
	known, ok, err := s.queue.lastAcked()
	if err != nil {
		return err
	}
	if !ok {
		return s.accuseFirst(ctx, accused, why)
	}
	if _, err := s.receiver.Deliver(ctx, []Entry{known}); err != nil { // not s.deliver: its epoch may be an older one
		return fmt.Errorf("%w (event %d, and also event %d, which it took before)", err, accused.Pos, known.Pos)
	}
	receipt, err := s.deliver(ctx, []Entry{accused})
	var again *Rejected
	switch {
	case err == nil:
		return s.settle([]Entry{accused}, receipt)
	case errors.As(err, &again) && again.forGood():
		return s.setAside(accused, again)
	}
	return err
}

// accuseFirst is accuse where nothing was ever acknowledged: there is no entry that the receiver is known to take. So
// those behind the accused are tried, each alone. That is out of turn, and a receiver that stores one of them takes no earlier
// one any more: it is done late, and only past entries that were rejected alone, which are all set aside once one is taken.
func (s *Sender) accuseFirst(ctx context.Context, accused Entry, why *Rejected) error {
	if s.State().Failures < patience {
		return fmt.Errorf("%w (event %d; the receiver has not taken any other yet)", why, accused.Pos)
	}
	queue, err := s.queue.Pending(maxAccused+1, 0)
	if err != nil {
		return err
	}
	if len(queue) == 0 || queue[0].Pos != accused.Pos {
		return nil // it was set aside as damaged
	}
	reasons := []*Rejected{why}
	for _, e := range ofOneEpoch(queue)[1:] {
		receipt, err := s.deliver(ctx, []Entry{e})
		var rejected *Rejected
		if errors.As(err, &rejected) && rejected.forGood() {
			reasons = append(reasons, rejected)
			continue
		}
		if err != nil {
			return err
		}
		if n, err := s.stored([]Entry{e}, receipt); err != nil || n == 0 {
			return errors.Join(why, err)
		}
		for i, reason := range reasons {
			if err := s.setAside(queue[i], reason); err != nil {
				return err
			}
		}
		return s.settle([]Entry{e}, receipt)
	}
	return fmt.Errorf("%w (event %d and %d behind it; the receiver has not taken any other yet)", why, accused.Pos, len(reasons)-1)
}

// idle waits until there may be something to send.
func (s *Sender) idle(ctx context.Context) {
	s.limit, s.bisect, s.backoff = s.opt.MaxEvents, 0, 0
	s.recovered(func(*SenderState) {}) // what failed, as a disk, does so no more
	select {
	case <-ctx.Done():
	case <-s.nudged:
	case <-s.retried:
	}
}

func (s *Sender) succeeded() {
	s.backoff = 0
	s.recovered(func(st *SenderState) { st.LastSuccess = s.opt.Now() })
}

func (s *Sender) recovered(also func(*SenderState)) {
	failures := s.State().Failures
	s.change(func(st *SenderState) {
		*st = SenderState{Receiver: st.Receiver, LastSuccess: st.LastSuccess}
		also(st)
	})
	if failures > 0 {
		s.opt.Log.Info("events are delivered again", slog.String("receiver", s.opt.Name), slog.Int("failures", failures))
	}
}

// fail notes why an attempt failed, and waits.
func (s *Sender) fail(ctx context.Context, cause error) {
	s.bisect = 0 // what was true of the receiver may not be so after the wait
	var rejected *Rejected
	asked := time.Duration(0)
	if errors.As(cause, &rejected) {
		asked = min(max(rejected.RetryAfter, 0), maxRetryAfter)
	}
	own := s.delay()
	now := s.opt.Now()
	last := s.State()
	s.change(func(st *SenderState) {
		st.Failures++
		if st.Failures == 1 {
			st.FailingSince = now
		}
		st.LastError, st.NextAttempt = cause.Error(), now.Add(asked+own)
		st.Beyond, st.Epoch = 0, ""
		var beyond *beyondError
		if errors.As(cause, &beyond) {
			st.Beyond, st.Epoch = beyond.acked, s.epoch
		}
	})
	level := slog.LevelDebug
	if last.LastError != cause.Error() { // said once, not at each of ten thousand attempts
		level = slog.LevelWarn
	}
	s.opt.Log.Log(ctx, level, "events are not delivered", slog.String("receiver", s.opt.Name), slog.Any("err", cause), slog.Duration("wait", asked+own))
	if s.wait(ctx, asked, nil); s.wait(ctx, own, s.retried) {
		s.backoff = 0
	}
	s.change(func(st *SenderState) { st.NextAttempt = time.Time{} })
}

// delay draws the next wait.
func (s *Sender) delay() time.Duration {
	ceiling := maxBackoff
	if shifted := firstBackoff << min(s.backoff, 30); shifted < maxBackoff {
		ceiling = shifted
	}
	s.backoff++
	return max(leastBackoff, time.Duration(s.opt.Rand()*float64(ceiling)))
}

// wait waits for a time, for ctx or for cut, and reports whether it was cut short by that.
func (s *Sender) wait(ctx context.Context, d time.Duration, cut <-chan struct{}) bool {
	if d <= 0 {
		return false
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	case <-cut:
		return true
	}
	return false
}

// change changes the state, and tells of it if it is another one then.
func (s *Sender) change(fn func(*SenderState)) {
	s.mu.Lock()
	before := s.state
	fn(&s.state)
	now := s.state
	s.mu.Unlock()
	if now != before && s.opt.OnChange != nil {
		s.opt.OnChange(now)
	}
}
