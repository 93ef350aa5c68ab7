package agent

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/nixfleet/nixfleet-agent/internal/activate"
	"github.com/nixfleet/nixfleet-agent/internal/control"
	"github.com/nixfleet/nixfleet-agent/internal/fsm"
	"github.com/nixfleet/nixfleet-agent/internal/outbox"
	"github.com/nixfleet/nixfleet-agent/internal/store"
	"github.com/nixfleet/nixfleet-agent/internal/system"
)

// recoveryInterval is the slow tick on which the host is held against the records again. It finds what another hand did; an
// operator who waits for that looks at status, which reads the host itself.
const recoveryInterval = 30 * time.Second

// loop owns the state. Its fields are its goroutine's alone, but for what is safe for all: the store, the queue, the host, the
// runner and the board.
type loop struct {
	opt     Options
	log     *slog.Logger
	store   *store.Store
	opening store.Opening
	host    *system.Host
	boot    fsm.BootStamp
	queue   *outbox.Queue
	sender  *outbox.Sender
	plane   *control.Client // nil without a control plane
	runner  *activate.Runner
	rules   activate.Rules

	startedAt time.Time
	asks      chan ask
	commits   chan commitCall
	ends      chan workEnd

	hostname string

	workers map[string]*worker // by rollout
	owed    map[string]bool    // rollouts that owe work and wait for a worker
	said    string             // the last STATUS=
	wg      sync.WaitGroup
	ctx     context.Context //nolint:containedctx // of the workers, which turns start and calls do not

	soakTimer <-chan time.Time // nil while nothing soaks
	holdTimer <-chan time.Time // the end of the hold that a rollout waits for; nil if there is none
	board     board
}

// ask is a request of a peer, done by the loop's own goroutine.
type ask struct {
	do   func(ctx context.Context)
	done chan struct{}
}

// serve recovers and then takes one message at a time until ctx ends.
func (l *loop) serve(ctx context.Context, facts system.Facts) error {
	workCtx, stopWork := context.WithCancel(ctx)
	l.ctx = workCtx
	defer func() {
		stopWork()
		l.wg.Wait()
	}()

	l.start(ctx, facts)
	recovery := time.NewTicker(recoveryInterval)
	defer recovery.Stop()
	watchdog := l.watchdog()
	defer watchdog.Stop()

	for {
		select {
		case <-ctx.Done():
			return nil
		case a := <-l.asks:
			a.do(ctx)
			close(a.done)
		case call := <-l.commits:
			rec, err := l.commit(call)
			call.reply <- commitAnswer{rec: rec, err: err}
		case end := <-l.ends:
			l.ended(end)
		case <-l.soakTimer:
			l.soak(ctx)
		case <-l.holdTimer: // advance starts what waits
		case <-recovery.C:
			l.recover(ctx, onTick)
		case <-watchdog.C:
			l.opt.Notify("WATCHDOG=1")
		}
		l.advance(ctx)
	}
}

// watchdog ticks three times in the interval that the service manager allows, so that one late turn is not a dead loop.
func (l *loop) watchdog() *time.Ticker {
	if l.opt.Watchdog > 0 {
		return time.NewTicker(l.opt.Watchdog / 3)
	}
	never := time.NewTicker(time.Hour)
	never.Stop()
	return never
}

func (l *loop) now() fsm.Now {
	return fsm.Now{Wall: l.opt.Wall().UTC(), Up: l.opt.Up(), BootID: l.boot.BootID, SoftReboots: l.boot.SoftReboots}
}

// act carries out the effects of a committed turn.
func (l *loop) act(effects []fsm.Effect) {
	for _, eff := range effects {
		switch eff := eff.(type) {
		case fsm.LocalFireSwitch:
			l.startWorker(eff.RolloutID)
		case fsm.LocalFireRollbackTo:
			l.startWorker(eff.RolloutID)
		case fsm.LocalFireUnstage:
			l.startWorker(eff.RolloutID)
		case fsm.LocalResetProbeCache:
			l.watchSoak()
		default:
			l.log.Error("effect is not one of this host's", slog.Any("effect", eff))
		}
	}
}

// storeHealth publishes whether the last write succeeded: a full disk is said, and ends by itself.
func (l *loop) storeHealth(err error) {
	switch {
	case err == nil:
		l.board.degrade(degradedStore, "")
	case decided(err):
	default:
		l.log.Error("write to the store", slog.Any("err", err))
		l.board.degrade(degradedStore, "the store cannot be written: "+err.Error())
	}
}
