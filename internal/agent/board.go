package agent

import "sync"

// board is what the loop and its workers show to readers besides the store: progress and degraded conditions. Everything on
// it is for people; nothing is decided by it.
type board struct {
	mu       sync.Mutex
	next     chan struct{} // closed at the next change
	ready    bool
	progress map[string]string // by rollout
	degraded map[degradation]string
}

// degradation is something that keeps the agent from its full work.
type degradation string

const (
	degradedStore  degradation = "store"
	degradedHost   degradation = "host"
	degradedRecord degradation = "record"

	degradedPlane    degradation = "plane"
	degradedIdentity degradation = "identity"
	degradedDelivery degradation = "delivery"
	degradedRefused  degradation = "refused"
)

// degradations lists them in the order in which they are shown.
var degradations = []degradation{degradedStore, degradedHost, degradedRecord, degradedIdentity, degradedPlane, degradedDelivery, degradedRefused}

func (b *board) init() {
	b.next = make(chan struct{})
	b.progress = map[string]string{}
	b.degraded = map[degradation]string{}
}

// watch gives a channel that is closed at the next change.
func (b *board) watch() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.next
}

func (b *board) announce() {
	b.mu.Lock()
	defer b.mu.Unlock()
	close(b.next)
	b.next = make(chan struct{})
}

// say sets the progress of a rollout in words; empty when there is none.
func (b *board) say(rollout, text string) {
	b.mu.Lock()
	same := b.progress[rollout] == text
	if text == "" {
		delete(b.progress, rollout)
	} else {
		b.progress[rollout] = text
	}
	b.mu.Unlock()
	if !same {
		b.announce()
	}
}

// forget drops the words about a phase that ends; the commit that ends it announces the change.
func (b *board) forget(rollout string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.progress, rollout)
}

// degrade sets or, with an empty text, clears a degraded condition.
func (b *board) degrade(d degradation, text string) {
	b.mu.Lock()
	same := b.degraded[d] == text
	if text == "" {
		delete(b.degraded, d)
	} else {
		b.degraded[d] = text
	}
	b.mu.Unlock()
	if !same {
		b.announce()
	}
}

func (b *board) markReady() {
	b.mu.Lock()
	b.ready = true
	b.mu.Unlock()
	b.announce()
}

// shown is a copy of the board.
type shown struct {
	ready    bool
	progress map[string]string
	degraded []string
}

func (b *board) copy() shown {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := shown{ready: b.ready, progress: make(map[string]string, len(b.progress))}
	for k, v := range b.progress {
		s.progress[k] = v
	}
	for _, d := range degradations {
		if text := b.degraded[d]; text != "" {
			s.degraded = append(s.degraded, text)
		}
	}
	return s
}
