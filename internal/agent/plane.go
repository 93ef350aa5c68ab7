package agent

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/nixfleet/nixfleet-agent/internal/control"
	"github.com/nixfleet/nixfleet-agent/internal/outbox"
	"github.com/nixfleet/nixfleet-agent/internal/wire"
)

// dispatchAgain is the pause before a dispatch that could not be stored is taken again.
const dispatchAgain = 5 * time.Second

// connect makes the client of the control plane, where one is configured, and has events go there. Nothing is asked of the
// network.
func (l *loop) connect() error {
	cfg := l.opt.Config.ControlPlane
	if cfg.URL == "" {
		return nil
	}
	cfg, err := cfg.WithCredentials(os.Getenv("CREDENTIALS_DIRECTORY"))
	if err != nil {
		return err
	}
	client, err := control.New(control.Options{
		URL: cfg.URL, EventsURL: cfg.EventsURL, Host: l.hostname, Version: l.opt.Version,
		Certificate: cfg.Certificate, Key: cfg.Key, CA: cfg.CA, Now: l.opt.Wall, Log: l.log, OnReach: l.reach,
	})
	if err != nil {
		return err
	}
	if err := client.Check(); err != nil { // it may yet appear, or be renewed: what is said by it ends then
		l.log.Warn("speak with the control plane", slog.Any("err", err))
		l.board.degrade(degradedIdentity, err.Error())
	}
	l.plane, l.sender = client, outbox.NewSender(l.queue, client, l.senderOptions(receiverName(cfg.URL, cfg.EventsURL)))
	return nil
}

func (l *loop) senderOptions(receiver string) outbox.SenderOptions {
	return outbox.SenderOptions{Name: receiver, Now: l.opt.Wall, Log: l.log, OnRefused: l.refused, OnChange: l.delivery}
}

// receiverName is where events go, as status says it.
func receiverName(planeURL, eventsURL string) string {
	to := planeURL
	if eventsURL != "" {
		to = eventsURL
	}
	if to == "" {
		return "none"
	}
	u, err := url.Parse(to)
	if err != nil {
		return to
	}
	return u.Host
}

// converse keeps up the conversation with the control plane until ctx ends: events out, dispatches in, and what the host is.
//
// What the control plane knows of this host comes first. A host that lost its state must not start anew what it has done, and one
// whose store was restored from a backup must not give its new events positions that the control plane knows: it would take them
// for duplicates. Another receiver of events knows nothing of this, and is not kept waiting.
func (l *loop) converse(ctx context.Context, servers *sync.WaitGroup) {
	deliver := func() {
		if err := l.sender.Run(ctx); err != nil {
			l.log.Error("send events", slog.Any("err", err))
		}
	}
	elsewhere := l.plane == nil || l.opt.Config.ControlPlane.EventsURL != ""
	if elsewhere {
		servers.Go(deliver)
	}
	if l.plane == nil {
		return
	}
	servers.Go(func() {
		defer l.plane.Close()
		l.introduce(ctx)
		var all sync.WaitGroup
		if !elsewhere {
			all.Go(deliver)
		}
		all.Go(func() { l.beatOn(ctx) })
		all.Go(func() { l.plane.Watch(ctx, l.generation, func(d wire.Dispatch) { l.hand(ctx, d) }) })
		all.Wait()
	})
}

const (
	// introduceAgain and introduceAgainMax bound the pause between two attempts to send the first heartbeat.
	introduceAgain    = time.Second
	introduceAgainMax = time.Minute
	// introductions is after how many first heartbeats that were answered, and not taken, the conversation begins without: a
	// control plane that cannot do heartbeats still gets its events.
	introductions = 5
)

// introduce sends the first heartbeat, until it was taken.
func (l *loop) introduce(ctx context.Context) {
	answered := 0
	for pause := introduceAgain; !l.beat(ctx) && answered < introductions; pause = min(2*pause, introduceAgainMax) {
		if l.plane.Reachable().Reachable {
			answered++
		}
		if !rest(ctx, pause/2+rand.N(pause)) {
			return
		}
	}
}

// rest lets d pass. It reports false if ctx ended before.
func rest(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// hand gives a dispatch to the loop. What cannot be stored comes again.
func (l *loop) hand(ctx context.Context, d wire.Dispatch) {
	_, err := onLoop(ctx, l, func(ctx context.Context) (struct{}, error) { return struct{}{}, l.dispatched(ctx, d) })
	if err == nil || ctx.Err() != nil {
		return
	}
	l.log.Error("take dispatch", slog.Uint64("generation", d.Generation), slog.String("rollout", d.RolloutID), slog.Any("err", err))
	rest(ctx, dispatchAgain)
}

// beatOn sends heartbeats, a little apart from the interval so that a fleet that was started together does not stay so.
func (l *loop) beatOn(ctx context.Context) {
	interval := l.opt.Config.ControlPlane.HeartbeatInterval.Std()
	for rest(ctx, interval-interval/10+rand.N(interval/5+1)) {
		l.beat(ctx)
	}
}

// beat sends a heartbeat and takes the reply. It reports whether both were done.
func (l *loop) beat(ctx context.Context) bool {
	hb, err := l.heartbeat(ctx)
	if err != nil {
		l.log.Error("make heartbeat", slog.Any("err", err))
		return false
	}
	reply, err := l.plane.Heartbeat(ctx, hb)
	l.board.degrade(degradedIdentity, strings.Join(l.plane.Degraded(), "; "))
	if err != nil {
		l.log.Debug("heartbeat", slog.Any("err", err)) // that nobody answers is said once, by reach
		return false
	}
	_, err = onLoop(ctx, l, func(ctx context.Context) (struct{}, error) { return struct{}{}, l.learned(ctx, reply) })
	if err != nil && ctx.Err() == nil {
		l.log.Error("learn from the control plane", slog.Any("err", err))
	}
	return err == nil
}

// reach takes note that the control plane can be reached, or cannot any more. It is no failure of the host.
func (l *loop) reach(is control.Reach) {
	if is.Reachable {
		l.log.Info("control plane reached")
		l.board.degrade(degradedPlane, "")
		l.sender.Retry()
		return
	}
	l.log.Warn("control plane cannot be reached", slog.Any("err", is.Problem))
	l.board.degrade(degradedPlane, fmt.Sprintf("the control plane cannot be reached: %v", is.Problem))
}

// failuresToSay is after how many failed deliveries in a row the operator is told: one or two are a network's everyday.
const failuresToSay = 3

// delivery shows how the delivery of events goes.
func (l *loop) delivery(s outbox.SenderState) {
	text := ""
	if s.Failures >= failuresToSay {
		text = fmt.Sprintf("events are not delivered since %s: %s", s.FailingSince.UTC().Format(time.RFC3339), s.LastError)
	}
	l.board.degrade(degradedDelivery, text)
}

// refused shows that the receiver has stored an event that its rules refuse.
func (l *loop) refused(e outbox.Entry, reason string) {
	l.log.Warn("event refused by the control plane", slog.Uint64("pos", e.Pos), slog.String("kind", e.Kind), slog.String("rollout", e.RolloutID), slog.String("reason", reason))
	l.board.degrade(degradedRefused, fmt.Sprintf("the control plane refused event #%d %s: %s", e.Pos, e.Kind, reason))
}
