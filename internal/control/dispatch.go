package control

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"strconv"
	"time"

	"github.com/nixfleet/nixfleet-agent/internal/outbox"
	"github.com/nixfleet/nixfleet-agent/internal/wire"
)

// Ignored is a dispatch that is not for this host, or not a newer one.
type Ignored struct {
	Dispatch wire.Dispatch
	Why      string
}

func (e *Ignored) Error() string { return "ignore dispatch: " + e.Why }

// Poll asks for a dispatch of a generation above have, and waits for it as long as the control plane may hold the request. There
// may be none. One for another host, or of no higher generation, is an error that wraps an *Ignored; whether the others can be carried out is
// the agent's to judge and to answer.
func (c *Client) Poll(ctx context.Context, have uint64) (wire.Dispatch, bool, error) {
	to := *c.dispatchURL
	query := to.Query()
	query.Set("wait", strconv.FormatInt(int64((c.wait+time.Second-1)/time.Second), 10))
	query.Set("have", strconv.FormatUint(have, 10))
	to.RawQuery = query.Encode()
	q := &question{op: "ask for a dispatch from", method: http.MethodGet, to: &to, wait: c.wait, most: wire.MaxDispatch}
	r, err := c.ask(ctx, q)
	switch {
	case err != nil:
		return wire.Dispatch{}, false, err
	case r.status == http.StatusNoContent:
		return wire.Dispatch{}, false, nil
	case r.status != http.StatusOK:
		return wire.Dispatch{}, false, c.refused(q, r)
	case r.broken != nil:
		return wire.Dispatch{}, false, r.broken
	}
	var d wire.Dispatch
	if err := c.decode(q, r, &d); err != nil {
		return wire.Dispatch{}, false, err
	}
	var why string
	switch {
	case d.Host != c.host:
		why = fmt.Sprintf("it is for %q, and this host is %q", clip(d.Host), c.host)
	case d.Generation <= have:
		why = fmt.Sprintf("its generation %d is not above %d", d.Generation, have)
	default:
		return d, true, nil
	}
	ignored := &Ignored{Dispatch: d, Why: why}
	return wire.Dispatch{}, false, &Error{Op: q.name(), What: ignored.Error(), Hint: "the control plane answers for another host, or went back to an old state", Err: ignored}
}

// Watch asks for dispatches until ctx ends, and hands each to use; also one that is for another host or not a newer one, which use must
// not carry out but answer, and which counts as a failure of the control plane. have gives the generation of the last one that was taken; until it
// rises, the same one may come again.
//
// After a failure it pauses, longer each time, or as long as it was told to; at once when the control plane can be reached again. The
// first failure of a kind is logged, and that it is over.
func (c *Client) Watch(ctx context.Context, have func() uint64, use func(wire.Dispatch)) {
	w := watch{poll: c.Poll, reach: c.reach.get, log: c.log, jitter: rand.Int64N}
	w.run(ctx, have, use)
}

// watch is Watch with its surroundings.
type watch struct {
	poll   func(context.Context, uint64) (wire.Dispatch, bool, error)
	reach  func() (Reach, <-chan struct{})
	log    *slog.Logger
	jitter func(int64) int64
}

func (w *watch) run(ctx context.Context, have func() uint64, use func(wire.Dispatch)) {
	bound, said := backoffMin, ""
	for {
		paced := time.NewTimer(pace)
		d, found, err := w.poll(ctx, have())
		if ctx.Err() != nil {
			paced.Stop()
			return
		}
		var pause time.Duration
		if err == nil {
			if said != "" {
				w.log.Info("control plane answers again")
			}
			bound, said = backoffMin, ""
			if found {
				use(d)
			}
		} else {
			if err.Error() != said {
				said = err.Error()
				w.log.Warn("no dispatches", slog.Any("err", err), slog.String("hint", hintOf(err)))
			}
			var ignored *Ignored
			if errors.As(err, &ignored) {
				use(ignored.Dispatch) // it is answered, too: that it is not for this host, or not a newer one
			}
			pause = w.pauseAfter(err, bound)
			bound = min(2*bound, backoffMax)
		}
		if !w.rest(ctx, paced, pause, err) {
			return
		}
	}
}

// unreached says whether the other side was not even reached.
func unreached(err error) bool {
	var known *Error
	return errors.As(err, &known) && known.unreached
}

func hintOf(err error) string {
	var known *Error
	if errors.As(err, &known) {
		return known.Hint
	}
	return ""
}

// pauseAfter is a random part of bound (full jitter), and not less than the other side asks for.
func (w *watch) pauseAfter(err error, bound time.Duration) time.Duration {
	pause := time.Duration(w.jitter(int64(bound)))
	var rejected *outbox.Rejected
	if errors.As(err, &rejected) {
		pause = max(pause, rejected.RetryAfter)
	}
	return pause
}

// rest waits for both, the pace and the pause. A control plane that was away and is back cuts the pause short.
func (w *watch) rest(ctx context.Context, paced *time.Timer, pause time.Duration, err error) bool {
	defer paced.Stop()
	over := time.NewTimer(pause)
	defer over.Stop()
	for waits := err != nil; waits; {
		is, changed := w.reach()
		if is.Reachable && unreached(err) {
			break
		}
		select {
		case <-over.C:
			waits = false
		case <-changed:
		case <-ctx.Done():
			return false
		}
	}
	select {
	case <-paced.C:
		return true
	case <-ctx.Done():
		return false
	}
}
