package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nixfleet/nixfleet-agent/internal/operator"
)

const (
	// joinPatience, rolloutPatience bound what a fleet as a whole does. A machine that needs longer cannot measure.
	joinPatience    = 3 * time.Minute
	rolloutPatience = 4 * time.Minute
	singles         = 100
	quickSingles    = 40
	idleLook        = 15 * time.Second
	quickIdleLook   = 2 * time.Second
	poll            = 20 * time.Millisecond
)

// stage is what a fleet of one size costs. Latencies are in milliseconds, from the operator's request to the answer that says that
// the acknowledgement is stored.
type stage struct {
	Hosts          int     `json:"hosts"`
	JoinSeconds    float64 `json:"joinSeconds"`  // until every host has connected twice, been heard, and waits
	BytesPerHost   int64   `json:"bytesPerHost"` // resident, beyond what an empty control plane has, with all hosts waiting
	EmptyBytes     int64   `json:"emptyBytes"`   // resident, before there was a host
	PeakBytes      int64   `json:"peakBytes"`    // resident, at most
	IdleCores      float64 `json:"idleCores"`    // processor, with all hosts waiting and heartbeating
	OneP50         float64 `json:"oneP50"`       // dispatches to one host after the other
	OneP99         float64 `json:"oneP99"`
	AllP50         float64 `json:"allP50"` // one dispatch to all hosts
	AllP99         float64 `json:"allP99"`
	Events         int     `json:"events"` // reported by all hosts at once, each in a batch of its own
	EventsPerSec   float64 `json:"eventsPerSecond"`
	EventCPU       float64 `json:"eventCpuMs"`     // processor time per event
	RolloutSeconds float64 `json:"rolloutSeconds"` // from the dispatch to all until all have converged
	RolloutCPU     float64 `json:"rolloutCpuMs"`   // processor time per host of it
	ListSeconds    float64 `json:"listSeconds"`    // the list of all hosts
	Retried        int     `json:"retried"`        // requests that had to be made again: 503, or no answer
	RetriedWhy     string  `json:"retriedWhy,omitempty"`
}

// fleet is the agents of a stage.
type fleet struct {
	plane  *plane
	posts  chan struct{}
	cancel context.CancelFunc

	mu       sync.Mutex
	problem  error
	retried  int
	why      string
	joined   int
	rollouts map[string]*wave
}

// wave is one rollout: who has acknowledged it, and since when.
type wave struct {
	began      time.Time
	hosts      int
	took       []time.Duration
	done       int
	acked, all chan struct{} // closed when every host has acknowledged it, or come to its end
	release    chan struct{} // closed when hosts may go on after their acknowledgement
}

func (f *fleet) fail(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.problem == nil && !errors.Is(err, context.Canceled) {
		f.problem = err
		f.cancel()
	}
}

func (f *fleet) trouble(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.retried++
	f.why = err.Error()
}

func (f *fleet) newWave(rollout string, hosts int) *wave {
	w := &wave{hosts: hosts, acked: make(chan struct{}), all: make(chan struct{}), release: make(chan struct{})}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.rollouts[rollout] = w
	w.began = time.Now()
	return w
}

func (f *fleet) acknowledged(rollout string) <-chan struct{} {
	now := time.Now()
	f.mu.Lock()
	defer f.mu.Unlock()
	w := f.rollouts[rollout]
	w.took = append(w.took, now.Sub(w.began))
	if len(w.took) == w.hosts {
		close(w.acked)
	}
	return w.release
}

func (f *fleet) completed(rollout string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	w := f.rollouts[rollout]
	if w.done++; w.done == w.hosts {
		close(w.all)
	}
}

// wait waits for what a fleet does as a whole.
func (f *fleet) wait(ctx context.Context, end <-chan struct{}, most time.Duration, what string) error {
	timer := time.NewTimer(most)
	defer timer.Stop()
	select {
	case <-end:
		return nil
	case <-timer.C:
		f.mu.Lock()
		defer f.mu.Unlock()
		return fmt.Errorf("%s is not over after %s; %d requests were made again, the last for %s", what, most, f.retried, f.why)
	case <-ctx.Done():
		f.mu.Lock()
		defer f.mu.Unlock()
		return errors.Join(f.problem, ctx.Err())
	}
}

// stage measures a fleet of n hosts, with a control plane of its own.
func (b *bench) stage(ctx context.Context, n int) (s stage, err error) {
	b.say("%d hosts: issuing certificates", n)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	f := &fleet{posts: make(chan struct{}, posting), cancel: cancel, rollouts: map[string]*wave{}}
	agents := make([]*agent, n)
	names := make([]string, n)
	lone := lonely(b.files, n)
	for i := range agents {
		names[i] = fmt.Sprintf("host-%05d", i)
		config, err := b.certs.host(names[i])
		if err != nil {
			return s, err
		}
		agents[i] = f.newAgent(names[i], config, i < lone)
	}
	if f.plane, err = b.startPlane(ctx, fmt.Sprintf("plane-%d", n)); err != nil {
		return s, err
	}
	var living sync.WaitGroup
	defer func() {
		cancel()
		living.Wait()
		for _, a := range agents {
			a.transport.CloseIdleConnections()
		}
		f.mu.Lock()
		defer f.mu.Unlock()
		if err != nil && f.problem != nil && !errors.Is(err, f.problem) {
			err = errors.Join(f.problem, err)
		}
		if err != nil {
			err = fmt.Errorf("%w\n%s", err, f.plane.log)
		}
		err = errors.Join(err, f.plane.stop())
	}()
	s = stage{Hosts: n}
	empty, err := f.plane.usage()
	if err != nil {
		return s, err
	}
	s.EmptyBytes = empty.resident
	b.say("%d hosts: connecting", n)
	if s.JoinSeconds, err = f.join(ctx, agents, &living); err != nil {
		return s, err
	}
	if err := b.lookIdle(ctx, f, &s, empty); err != nil {
		return s, err
	}
	b.say("%d hosts: dispatching to one after the other", n)
	if err := b.one(ctx, f, names, &s); err != nil {
		return s, err
	}
	b.say("%d hosts: dispatching to all", n)
	if err := b.all(ctx, f, names, &s); err != nil {
		return s, err
	}
	if err := f.verify(ctx, n, &s); err != nil {
		return s, err
	}
	last, err := f.plane.usage()
	s.PeakBytes = last.peak
	f.mu.Lock()
	defer f.mu.Unlock()
	s.Retried, s.RetriedWhy = f.retried, f.why
	return s, err
}

// join starts the agents, some at a time, and returns when all have been heard and wait for a dispatch.
func (f *fleet) join(ctx context.Context, agents []*agent, living *sync.WaitGroup) (float64, error) {
	began := time.Now()
	joined := make(chan struct{})
	slots := make(chan struct{}, posting)
	living.Go(func() {
		for _, a := range agents {
			select {
			case slots <- struct{}{}:
			case <-ctx.Done():
				return
			}
			heard, asked := make(chan struct{}), make(chan struct{})
			hear, ask := sync.OnceFunc(func() { close(heard) }), sync.OnceFunc(func() { close(asked) })
			living.Go(func() { f.end(ctx, a.beat(ctx, hear)) })
			living.Go(func() { f.end(ctx, a.poll(ctx, ask)) })
			living.Go(func() {
				for _, told := range []chan struct{}{heard, asked} {
					select {
					case <-told:
					case <-ctx.Done():
						return
					}
				}
				<-slots
				f.mu.Lock()
				defer f.mu.Unlock()
				if f.joined++; f.joined == len(agents) {
					close(joined)
				}
			})
		}
	})
	err := f.wait(ctx, joined, joinPatience, "the start of the fleet")
	return time.Since(began).Seconds(), err
}

// end notes why an agent has ended, if it was not told to.
func (f *fleet) end(ctx context.Context, err error) {
	if ctx.Err() == nil {
		f.fail(err)
	}
}

// lookIdle measures a fleet that has nothing to do but to be there.
func (b *bench) lookIdle(ctx context.Context, f *fleet, s *stage, empty usage) error {
	before, err := f.plane.usage()
	if err != nil {
		return err
	}
	look := idleLook
	if b.quick {
		look = quickIdleLook
	}
	began := time.Now()
	if err := sleep(ctx, look); err != nil {
		return err
	}
	after, err := f.plane.usage()
	if err != nil {
		return err
	}
	s.IdleCores = (after.cpu - before.cpu).Seconds() / time.Since(began).Seconds()
	s.BytesPerHost = (after.resident - empty.resident) / int64(s.Hosts)
	if after.files < s.Hosts {
		return fmt.Errorf("the control plane has %d files open, and %d hosts should wait", after.files, s.Hosts)
	}
	return nil
}

func request(ref string, hosts ...string) operator.Request {
	return operator.Request{Hosts: hosts, Channel: "bench", Ref: ref, Target: "/nix/store/11111111111111111111111111111111-nixos-system-fleet-" + ref}
}

// dispatch asks hosts for a target, and gives the wave of it when the operator has the answer.
func (f *fleet) dispatch(ctx context.Context, req operator.Request, released bool) (*wave, error) {
	w := f.newWave(req.Channel+"@"+req.Ref, len(req.Hosts))
	if released {
		close(w.release)
	}
	reply, err := f.plane.operator.Dispatch(ctx, req)
	if err != nil {
		return w, fmt.Errorf("dispatch to %d hosts: %w", len(req.Hosts), err)
	}
	for _, d := range reply.Hosts {
		if d.Error != "" || !d.New {
			return w, broken("dispatch to %s: new %t, %s", d.Host, d.New, d.Error)
		}
	}
	return w, nil
}

// one dispatches to one host after the other.
func (b *bench) one(ctx context.Context, f *fleet, names []string, s *stage) error {
	rounds := singles
	if b.quick {
		rounds = quickSingles
	}
	var took []time.Duration
	for i := range rounds {
		host := names[i*len(names)/rounds]
		w, err := f.dispatch(ctx, request(fmt.Sprintf("one-%d", i), host), true)
		if err != nil {
			return err
		}
		if err := f.wait(ctx, w.all, rolloutPatience, "a rollout of "+host); err != nil {
			return err
		}
		took = append(took, w.took...)
	}
	s.OneP50, s.OneP99 = ms(percentile(took, 50)), ms(percentile(took, 99))
	return nil
}

// all dispatches to all hosts at once. They go on when the last has acknowledged, so that what they report then can be measured
// by itself.
func (b *bench) all(ctx context.Context, f *fleet, names []string, s *stage) error {
	start, err := f.plane.usage()
	if err != nil {
		return err
	}
	w, err := f.dispatch(ctx, request("all", names...), false)
	if err != nil {
		return err
	}
	if err := f.wait(ctx, w.acked, rolloutPatience, "the acknowledgement by all"); err != nil {
		return err
	}
	s.AllP50, s.AllP99 = ms(percentile(w.took, 50)), ms(percentile(w.took, 99))
	acknowledged := time.Since(w.began)
	before, err := f.plane.usage()
	if err != nil {
		return err
	}
	b.say("%d hosts: reporting", s.Hosts)
	began := time.Now()
	close(w.release)
	if err := f.wait(ctx, w.all, rolloutPatience, "the report of all"); err != nil {
		return err
	}
	reported := time.Since(began)
	after, err := f.plane.usage()
	if err != nil {
		return err
	}
	s.Events = (len(rollout("", "", began)) - 1) * s.Hosts
	s.EventsPerSec = float64(s.Events) / reported.Seconds()
	s.EventCPU = ms(after.cpu-before.cpu) / float64(s.Events)
	s.RolloutSeconds = (acknowledged + reported).Seconds()
	s.RolloutCPU = ms(after.cpu-start.cpu) / float64(s.Hosts)
	return nil
}

// verify holds what the control plane knows against what the fleet did.
func (f *fleet) verify(ctx context.Context, n int, s *stage) error {
	began := time.Now()
	listed, err := f.plane.operator.Hosts(ctx)
	if err != nil {
		return fmt.Errorf("list the hosts: %w", err)
	}
	s.ListSeconds = time.Since(began).Seconds()
	if len(listed.Hosts) != n {
		return broken("%d hosts are listed, there are %d", len(listed.Hosts), n)
	}
	for _, h := range listed.Hosts {
		if h.Rollout == nil || h.Rollout.RolloutID != "bench@all" || h.Rollout.State != "Converged" || h.Rollout.Inferred || h.Refusals != 0 || h.SeenAt.IsZero() {
			return broken("%s has converged, and is listed as %+v with %+v", h.Host, h, h.Rollout)
		}
	}
	return nil
}
