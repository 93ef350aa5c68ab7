package outbox

import "context"

// Sender carries pending entries to a receiver.
type Sender interface {
	// Nudge says that there may be something new to send. It never blocks.
	Nudge()
	// Run sends until ctx ends, and returns nil then.
	Run(ctx context.Context) error
}

// Keep is the sender of a host that has no receiver: everything stays in the queue until there is one.
type Keep struct{}

// Nudge does nothing: there is nobody to send to.
func (Keep) Nudge() {}

// Run waits for the end of ctx.
func (Keep) Run(ctx context.Context) error {
	<-ctx.Done()
	return nil
}
