package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptrace"
	"strconv"
	"sync"
	"time"

	"github.com/nixfleet/nixfleet-agent/internal/fsm"
	"github.com/nixfleet/nixfleet-agent/internal/wire"
)

const (
	// beatEvery is the pause between two heartbeats of a host.
	beatEvery = time.Minute
	// requestTimeout bounds a request and its answer, as in the agent, beside what a long poll waits.
	requestTimeout = 30 * time.Second
	// firstPause is the longest pause before a request that failed is made again, unless the control plane names one.
	firstPause = 2 * time.Second
	// posting is how many agents connect at once, and how many of those that do not keep their second connection have one.
	posting = 64

	running = "/nix/store/00000000000000000000000000000000-nixos-system-fleet-1"
	epoch   = "3f0e8a7c5b1d4c2f9a6e7d8c5b4a3f21"
	bootID  = "6d0f4b0e-5f0c-4b52-9a55-0f2b7b3c1a10"
)

// agent is one simulated host.
type agent struct {
	name      string
	fleet     *fleet
	transport *http.Transport
	closes    bool // its second connection, after each use

	reporting sync.Mutex // held by whoever delivers: one batch is in flight at a time

	mu         sync.Mutex
	last       uint64 // position of the last event
	acked      uint64
	generation uint64
	runs       string
	record     *fsm.Record // of the rollout that was last worked on
}

func (f *fleet) newAgent(name string, config *tls.Config, closes bool) *agent {
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	return &agent{name: name, fleet: f, closes: closes, runs: running, transport: &http.Transport{
		TLSClientConfig: config, Protocols: &protocols, DisableCompression: true,
		MaxIdleConnsPerHost: 2, TLSHandshakeTimeout: requestTimeout,
		MaxConnsPerHost: 2,                                 // the agent would take a third when heartbeat and events go out at the same time; that does not fit
		ReadBufferSize:  2 << 10, WriteBufferSize: 2 << 10, // there are thousands of them here
	}}
}

// answer is what came back, whatever its status.
type answer struct {
	status int
	after  string // Retry-After
	body   []byte
}

func (a *agent) once(ctx context.Context, method, path, kind string, body []byte, wait time.Duration) (answer, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout+wait)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, a.fleet.plane.url+path, bytes.NewReader(body))
	if err != nil {
		return answer{}, err
	}
	if kind != "" {
		req.Header.Set("Content-Type", kind)
	}
	req.Header["Idempotency-Key"] = []string{} // not sent: net/http may repeat it on another connection
	if a.closes && method == http.MethodPost {
		req.Close = true
		select {
		case a.fleet.posts <- struct{}{}:
			defer func() { <-a.fleet.posts }()
		case <-ctx.Done():
			return answer{}, ctx.Err()
		}
	}
	resp, err := a.transport.RoundTrip(req)
	if err != nil {
		return answer{}, err
	}
	data, err := io.ReadAll(io.LimitReader(resp.Body, wire.MaxHeartbeatReply))
	return answer{status: resp.StatusCode, after: resp.Header.Get("Retry-After"), body: data}, errors.Join(err, resp.Body.Close())
}

// ask makes a request until it is answered with a success. What the protocol says to try again is tried again, and counted;
// everything else ends the run.
func (a *agent) ask(ctx context.Context, method, path, kind string, body []byte, wait time.Duration) (got answer, tries int, err error) {
	for tries = 1; ; tries++ {
		got, err = a.once(ctx, method, path, kind, body, wait)
		pause := rand.N(firstPause)
		switch {
		case ctx.Err() != nil:
			return got, tries, ctx.Err()
		case err != nil:
			a.fleet.trouble(err)
		case got.status == http.StatusOK || got.status == http.StatusNoContent:
			return got, tries, nil
		case got.status == http.StatusServiceUnavailable:
			a.fleet.trouble(errors.New("503"))
			seconds, err := strconv.Atoi(got.after)
			if err != nil {
				return got, tries, broken("%s %s: 503 without a Retry-After", method, path)
			}
			pause += time.Duration(seconds) * time.Second
		default:
			return got, tries, broken("%s %s: %d %s", method, path, got.status, got.body)
		}
		if err := sleep(ctx, pause); err != nil {
			return got, tries, err
		}
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// beat sends heartbeats until ctx ends, the first at once.
func (a *agent) beat(ctx context.Context, said func()) error {
	next := rand.N(beatEvery) // the fleet was not started in one moment
	for {
		body, err := a.heartbeat()
		if err != nil {
			return err
		}
		if _, _, err := a.ask(ctx, http.MethodPost, wire.HeartbeatPath, wire.JSON, body, 0); err != nil {
			return err
		}
		said()
		if err := sleep(ctx, next); err != nil {
			return err
		}
		next = beatEvery
	}
}

func (a *agent) heartbeat() ([]byte, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	hb := wire.Heartbeat{
		Host: a.name, At: time.Now().UTC(), AgentVersion: "bench", Records: []json.RawMessage{}, Degraded: []string{}, Generation: a.generation,
		Facts:  wire.Facts{BootID: bootID, Booted: running, Running: a.runs, Profile: a.runs, NextBoot: a.runs, Loader: "systemd-boot"},
		Cursor: wire.Cursor{Epoch: epoch, Highest: a.last, Acked: a.acked, LowestKept: 1},
		Outbox: wire.Outbox{Depth: int(a.last - a.acked)}, //nolint:gosec // a handful
	}
	if a.record != nil {
		record, err := fsm.EncodeRecord(*a.record)
		if err != nil {
			return nil, err
		}
		hb.Records = append(hb.Records, record)
	}
	return json.Marshal(hb)
}

// poll asks for dispatches until ctx ends, and works on each while it goes on asking. Asked is told of the first request.
func (a *agent) poll(ctx context.Context, asked func()) (err error) {
	var working sync.WaitGroup
	defer working.Wait()
	first := httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{WroteRequest: func(httptrace.WroteRequestInfo) { asked() }})
	have := uint64(0)
	for {
		path := fmt.Sprintf("%s?wait=%d&have=%d", wire.DispatchPath, int(wire.MaxWait/time.Second), have)
		got, _, err := a.ask(first, http.MethodGet, path, "", nil, wire.MaxWait)
		if err != nil {
			return err
		}
		first = ctx
		if got.status == http.StatusNoContent {
			continue
		}
		var d wire.Dispatch
		if err := json.Unmarshal(got.body, &d); err != nil {
			return broken("%s: a dispatch that is none: %v", a.name, err)
		}
		if d.Host != a.name || d.Generation <= have {
			return broken("%s has generation %d and is handed %d for %s", a.name, have, d.Generation, d.Host)
		}
		have = d.Generation
		working.Go(func() {
			if err := a.work(ctx, d); err != nil {
				a.fleet.fail(err)
			}
		})
	}
}

// work answers a dispatch and then goes through it as a host does whose switch succeeds, when the fleet may.
func (a *agent) work(ctx context.Context, d wire.Dispatch) error {
	a.mu.Lock()
	a.generation = max(a.generation, d.Generation)
	a.record = &fsm.Record{Hostname: a.name, RolloutID: d.RolloutID, Channel: d.Channel, Generation: d.Generation, TargetClosure: d.Target,
		State: fsm.Pending, Policy: fsm.Policy(d.Policy), Soak: fsm.Millis(d.SoakMS), CreatedAt: time.Now().UTC()}
	a.mu.Unlock()
	now := time.Now().UTC()
	way := rollout(running, d.Target, now)
	if err := a.report(ctx, d.RolloutID, way[0]); err != nil {
		return err
	}
	mayGo := a.fleet.acknowledged(d.RolloutID)
	select {
	case <-mayGo:
	case <-ctx.Done():
		return ctx.Err()
	}
	for _, p := range way[1:] {
		if err := a.report(ctx, d.RolloutID, p); err != nil {
			return err
		}
	}
	a.mu.Lock()
	a.runs = d.Target
	a.mu.Unlock()
	a.fleet.completed(d.RolloutID)
	return nil
}

// rollout is what a host reports of a rollout that goes well.
func rollout(before, target string, at time.Time) []fsm.Payload {
	return []fsm.Payload{
		fsm.DispatchAck{TargetClosure: target, CurrentClosureAtDispatch: before, Prior: fsm.Prior{Running: before, Profile: before, BootDefault: before}, ReceivedAt: at, Seq: 1},
		fsm.ActivationStarted{StartedAt: at, SwitchMethod: "switch", Attempt: 1, Seq: 2},
		fsm.ActivationCompleted{ObservedCurrentClosure: target, BootID: bootID, CompletedAt: at, Seq: 3},
		fsm.ConvergedReached{CurrentClosure: target, ConvergedAt: at, Seq: 4},
	}
}

// report delivers one event, in a batch of its own: the most expensive way. It must come out as applied or, after a try whose answer
// did not come, as a duplicate.
func (a *agent) report(ctx context.Context, rollout string, p fsm.Payload) error {
	a.reporting.Lock()
	defer a.reporting.Unlock()
	data, err := fsm.EncodePayload(p)
	if err != nil {
		return err
	}
	a.mu.Lock()
	a.last++
	pos := a.last
	a.mu.Unlock()
	kind := string(p.PayloadKind())
	body, err := json.Marshal([]wire.Event{{SpecVersion: wire.SpecVersion, ID: wire.EventID(epoch, pos), Source: wire.SourceOf(a.name), Type: wire.TypeOf(kind),
		Subject: rollout, Time: time.Now().UTC(), DataContentType: wire.JSON, Data: data}})
	if err != nil {
		return err
	}
	got, tries, err := a.ask(ctx, http.MethodPost, wire.EventsPath, wire.Batch, body, 0)
	if err != nil {
		return err
	}
	var says wire.Answer
	if err := json.Unmarshal(got.body, &says); err != nil || says.Acked != pos || len(says.Results) != 1 {
		return broken("%s: event %d is answered with %s", a.name, pos, got.body)
	}
	if r := says.Results[0]; r.Result != wire.Applied && (r.Result != wire.Duplicate || tries == 1) {
		return broken("%s: event %d, %s of %s, is %s: %s", a.name, pos, kind, rollout, r.Result, r.Reason)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.acked = pos
	next, _, err := fsm.Step(*a.record, fsm.RemoteOf(p), fsm.Now{}, "")
	if err != nil {
		return fmt.Errorf("%s: %w", a.name, err)
	}
	a.record = &next
	return nil
}
