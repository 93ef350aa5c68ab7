package agent

import (
	"context"
	"fmt"

	"github.com/nixfleet/nixfleet-agent/internal/localapi"
	"github.com/nixfleet/nixfleet-agent/internal/outbox"
	"github.com/nixfleet/nixfleet-agent/internal/store"
)

// backend answers the local API. What only reads is read from the store and the host by the caller's goroutine; what changes
// is sent to the loop.
type backend struct{ l *loop }

func (b backend) Changed() <-chan struct{} { return b.l.board.watch() }

func (b backend) Status(ctx context.Context) (localapi.Status, error) {
	return b.l.status(ctx)
}

func (b backend) Activate(ctx context.Context, req localapi.ActivateRequest, by localapi.Peer) (localapi.ActivateReply, error) {
	return onLoop(ctx, b.l, func(ctx context.Context) (localapi.ActivateReply, error) { return b.l.activate(ctx, req, by) })
}

func (b backend) Cancel(ctx context.Context, req localapi.CancelRequest, by localapi.Peer) (localapi.CancelReply, error) {
	return onLoop(ctx, b.l, func(ctx context.Context) (localapi.CancelReply, error) { return b.l.cancel(ctx, req, by) })
}

func (b backend) Hold(ctx context.Context, req localapi.HoldRequest, by localapi.Peer) (localapi.Hold, error) {
	return onLoop(ctx, b.l, func(ctx context.Context) (localapi.Hold, error) { return b.l.hold(ctx, req, by) })
}

func (b backend) Resume(ctx context.Context, _ localapi.ResumeRequest, by localapi.Peer) (localapi.Hold, error) {
	return onLoop(ctx, b.l, func(ctx context.Context) (localapi.Hold, error) { return b.l.resume(ctx, by) })
}

func (b backend) ClearQuarantine(ctx context.Context, req localapi.QuarantineClearRequest, by localapi.Peer) (localapi.QuarantineClearReply, error) {
	return onLoop(ctx, b.l, func(ctx context.Context) (localapi.QuarantineClearReply, error) {
		return b.l.clearQuarantine(ctx, req, by)
	})
}

// onLoop has the loop's goroutine do something and waits for its answer. A peer that goes away ends the waiting only: what was
// begun is done.
func onLoop[T any](ctx context.Context, l *loop, do func(ctx context.Context) (T, error)) (T, error) {
	var none, answer T
	var err error
	a := ask{done: make(chan struct{}), do: func(ctx context.Context) { answer, err = do(ctx) }}
	select {
	case l.asks <- a:
	case <-ctx.Done():
		return none, ctx.Err()
	}
	select {
	case <-a.done:
		return answer, err
	case <-ctx.Done():
		return none, ctx.Err()
	}
}

func (b backend) Quarantine(context.Context) ([]localapi.QuarantineRow, error) {
	return quarantineRows(b.l.store)
}

func (b backend) Events(_ context.Context, after uint64, limit int) ([]localapi.Event, error) {
	return readEvents(b.l.queue, after, limit)
}

func (b backend) History(_ context.Context, rollout string, limit int) ([]localapi.HistoryRow, error) {
	return readHistory(b.l.store, rollout, limit)
}

func (l *loop) status(ctx context.Context) (localapi.Status, error) {
	board := l.board.copy()
	s := snapshot{
		at: l.opt.Wall().UTC(), source: localapi.FromAgent, hostname: l.hostname,
		agent: localapi.Agent{Version: l.opt.Version, Running: true, Ready: board.ready, ReadOnly: l.opening.ReadOnly,
			StartedAt: l.startedAt.UTC(), Epoch: l.store.Epoch()},
		receiver: l.sender.State().Receiver, progress: board.progress, notes: board.degraded, label: l.label, now: l.now(), specialises: specialisesOf(l.host),
	}
	s.facts, s.factsErr = l.host.Facts(ctx)
	if l.opening.MovedAside != "" {
		s.notes = append(s.notes, fmt.Sprintf("the store could not be read at the last start (%s); it was kept as %s", l.opening.Reason, l.opening.MovedAside))
	}
	if err := s.read(l.store, l.queue); err != nil {
		s.notes = append(s.notes, "the store cannot be read: "+err.Error())
	}
	return s.status(), nil
}

func (l *loop) label(closure string) string { return labelOf(l.host, closure) }

// changed announces a change to whoever watches.
func (l *loop) changed() { l.board.announce() }

// say tells the service manager the status in one line, when it has changed.
func (l *loop) say() {
	live, _, err := l.claims()
	if err != nil {
		return
	}
	s := snapshot{source: localapi.FromAgent, live: live, progress: l.board.copy().progress, label: func(string) string { return "" }, now: l.now()}
	st := localapi.Status{Agent: localapi.Agent{ReadOnly: l.opening.ReadOnly}}
	if live != nil {
		st.Rollout = s.rollout(*live)
	}
	s.explain(&st)
	if line := oneline(st); line != l.said {
		l.said = line
		l.opt.Notify("STATUS=" + line)
	}
}

func readEvents(queue *outbox.Queue, after uint64, limit int) ([]localapi.Event, error) {
	entries, err := queue.Entries(after, limit)
	if err != nil {
		return nil, err
	}
	out := make([]localapi.Event, 0, len(entries))
	for _, e := range entries {
		id := ""
		if e.Epoch != "" {
			id = fmt.Sprintf("%s:%d", e.Epoch, e.Pos)
		}
		out = append(out, localapi.Event{
			Pos: e.Pos, ID: id, Kind: e.Kind, RolloutID: e.RolloutID, At: e.At,
			State: string(e.Status), Reason: e.Reason, Body: e.Body,
		})
	}
	return out, nil
}

func readHistory(st *store.Store, rollout string, limit int) ([]localapi.HistoryRow, error) {
	var out []localapi.HistoryRow
	err := st.View(func(tx *store.Tx) error {
		rows, err := tx.History(limit, rollout)
		for _, r := range rows {
			out = append(out, localapi.HistoryRow{At: r.At, RolloutID: r.RolloutID, From: string(r.From), To: string(r.To),
				Kind: r.Kind, Reason: r.Reason, Seq: r.Seq})
		}
		return err
	})
	return out, err
}

var _ localapi.Backend = backend{}
