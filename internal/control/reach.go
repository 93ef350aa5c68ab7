package control

import (
	"sync"
	"time"
)

// Reach says whether the control plane can be reached. An answer counts, whatever it says: name, route, TLS and certificates were right.
type Reach struct {
	Known     bool      // there was an answer or a failure since the start
	Reachable bool      // the last attempt was answered
	Since     time.Time // of the last change
	Answered  time.Time // the last answer; zero: none since the start
	Problem   error     // why the last attempt was not answered, an *Error
}

// reachability keeps a Reach, and tells of its changes in their order.
type reachability struct {
	onChange func(Reach)
	telling  *sync.Mutex // held from a change until it is told, so that the last word told is the last one known

	mu      *sync.Mutex
	is      *Reach
	changed *chan struct{} // closed and replaced at every change
}

func newReachability(onChange func(Reach)) reachability {
	changed := make(chan struct{})
	return reachability{onChange: onChange, telling: &sync.Mutex{}, mu: &sync.Mutex{}, is: &Reach{}, changed: &changed}
}

func (r reachability) get() (Reach, <-chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return *r.is, *r.changed
}

// note takes note of an attempt: problem is nil if it was answered.
func (r reachability) note(now time.Time, problem *Error) {
	r.telling.Lock()
	defer r.telling.Unlock()
	is, changes := r.update(now, problem)
	if changes && r.onChange != nil {
		r.onChange(is)
	}
}

func (r reachability) update(now time.Time, problem *Error) (Reach, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	changes := !r.is.Known || r.is.Reachable != (problem == nil)
	r.is.Known, r.is.Reachable, r.is.Problem = true, problem == nil, nil
	if problem != nil {
		r.is.Problem = problem
	} else {
		r.is.Answered = now
	}
	if changes {
		r.is.Since = now
		close(*r.changed)
		*r.changed = make(chan struct{})
	}
	return *r.is, changes
}

// Reachable says whether the control plane can be reached.
func (c *Client) Reachable() Reach {
	is, _ := c.reach.get()
	return is
}
