package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"go.etcd.io/bbolt"

	"github.com/nixfleet/nixfleet-agent/internal/control"
	"github.com/nixfleet/nixfleet-agent/internal/fsm"
	"github.com/nixfleet/nixfleet-agent/internal/mirror"
	"github.com/nixfleet/nixfleet-agent/internal/outbox"
	"github.com/nixfleet/nixfleet-agent/internal/pki"
)

const (
	queuedEvents = 10_000
	// maxDrain is promised of the queue of one agent that was alone for long.
	maxDrain = 2 * time.Second
	// drainTries is how often a drain is measured before it counts as too slow: a disk that was busy for a second is no regression.
	drainTries = 3
	// drainPatience bounds one drain.
	drainPatience = time.Minute
)

// drained is how long it took to drain the queue of one agent.
type drained struct {
	Events  int       `json:"events"`
	Seconds []float64 `json:"seconds"` // of every try
	Bound   float64   `json:"bound"`
	Verdict verdict   `json:"verdict"`
}

func (d *drained) judge() {
	d.Verdict = failed
	for _, took := range d.Seconds {
		if took <= d.Bound {
			d.Verdict = passed
		}
	}
}

// drainAlone drains the queue of an agent with the real sender and the real client to a control plane of its own, again if it took
// too long.
func (b *bench) drainAlone(ctx context.Context) (d drained, err error) {
	b.say("draining %d events", queuedEvents)
	p, err := b.startPlane(ctx, "plane-drain")
	if err != nil {
		return d, err
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("drain: %w\n%s", err, p.log)
		}
		err = errors.Join(err, p.stop())
	}()
	d = drained{Events: queuedEvents, Bound: maxDrain.Seconds()}
	for try := range drainTries {
		took, err := b.drain(ctx, p, fmt.Sprintf("drain-%d", try))
		if err != nil {
			return d, err
		}
		d.Seconds = append(d.Seconds, took.Seconds())
		if d.judge(); d.Verdict == passed {
			break
		}
	}
	return d, nil
}

// queueFile is the database of an outbox.
type queueFile struct{ *bbolt.DB }

func (queueFile) Epoch() string { return epoch }

// fill queues what an agent that was alone has to tell: rollout after rollout, each from its acknowledgement to its end.
func fill(path string) (queueFile, error) {
	db, err := bbolt.Open(path, 0o600, nil)
	if err != nil {
		return queueFile{}, err
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		if err := outbox.Init(tx); err != nil {
			return err
		}
		at := time.Now().UTC().Add(-30 * 24 * time.Hour)
		for n := 0; n < queuedEvents; {
			before, target := closure(n), closure(n+1)
			id := fmt.Sprintf("local@%d", n)
			for _, p := range rollout(before, target, at) {
				body, err := fsm.EncodePayload(p)
				if err != nil {
					return err
				}
				if _, err := outbox.Append(tx, outbox.Entry{Epoch: epoch, Kind: string(p.PayloadKind()), RolloutID: id, At: at, Body: body}); err != nil {
					return err
				}
				n++
				at = at.Add(time.Minute)
			}
		}
		return nil
	})
	if err != nil {
		return queueFile{}, errors.Join(err, db.Close())
	}
	return queueFile{db}, nil
}

func closure(n int) string { return fmt.Sprintf("/nix/store/%032d-nixos-system-alone-26.05.%d", n, n) }

// drain gives the time from the start of the sender until its queue is empty, and makes sure that all of it has arrived.
func (b *bench) drain(ctx context.Context, p *plane, host string) (took time.Duration, err error) {
	issued, err := b.certs.issuer.Issue(pki.Host, host, nil, time.Now(), false)
	if err != nil {
		return 0, err
	}
	client, err := control.New(control.Options{URL: p.url, Host: host, Version: "bench", Certificate: issued.Cert, Key: issued.Key, CA: b.certs.path("ca.crt"),
		Now: time.Now, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		return 0, err
	}
	defer client.Close()
	path := filepath.Join(b.dir, host+".db")
	db, err := fill(path)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, db.Close(), os.Remove(path)) }()
	queue := outbox.New(db)

	ctx, cancel := context.WithTimeout(ctx, drainPatience)
	defer cancel()
	var mu sync.Mutex
	var refused []string
	var lastError string
	empty := make(chan struct{})
	done := sync.OnceFunc(func() { close(empty) })
	sender := outbox.NewSender(queue, client, outbox.SenderOptions{
		Now: time.Now,
		OnRefused: func(e outbox.Entry, reason string) {
			mu.Lock()
			defer mu.Unlock()
			refused = append(refused, fmt.Sprintf("%d: %s", e.Pos, reason))
		},
		OnChange: func(state outbox.SenderState) {
			mu.Lock()
			defer mu.Unlock()
			if state.LastError != "" {
				lastError = state.LastError
			}
			if cursor, err := queue.Cursor(); err == nil && cursor.AckedPos == queuedEvents {
				done()
			}
		},
	})
	ended := make(chan error, 1)
	began := time.Now()
	go func() { ended <- sender.Run(ctx) }()
	select {
	case <-empty:
		took = time.Since(began)
	case <-ctx.Done():
	}
	cancel()
	if err := <-ended; err != nil {
		return took, err
	}
	mu.Lock()
	defer mu.Unlock()
	switch {
	case took == 0:
		return 0, fmt.Errorf("the queue is not empty after %s; the last error was %q", drainPatience, lastError)
	case len(refused) > 0:
		return took, broken("%d events were refused, the first is %s", len(refused), refused[0])
	}
	return took, arrived(p, host)
}

// arrived makes sure that the control plane has the whole queue, up to its last rollout.
func arrived(p *plane, host string) error {
	ctx, cancel := context.WithTimeout(context.Background(), drainPatience)
	defer cancel()
	detail, err := p.operator.Show(ctx, host)
	if err != nil {
		return err
	}
	state, err := mirror.Decode(detail.Mirror)
	if err != nil {
		return fmt.Errorf("read mirror: %w", err)
	}
	last := fmt.Sprintf("local@%d", queuedEvents-len(rollout("", "", time.Time{})))
	r := detail.Summary.Rollout
	if cursor := state.Cursor(); cursor == nil || cursor.Acked != queuedEvents || detail.Summary.Refusals != 0 || r == nil || r.RolloutID != last || r.State != "Converged" {
		return broken("the queue was acknowledged, and the control plane shows %+v with %+v", detail.Summary, r)
	}
	return nil
}
