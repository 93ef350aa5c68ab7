package fleetstore

import "errors"

var (
	// ErrUnavailable says that JetStream did not take or give something in time. Nothing is known of a change: it may have been
	// appended. Trying again is right, since what was appended is recognised.
	ErrUnavailable = errors.New("the fleet's log is not available")
	// ErrTooLarge says that an entry does not fit into a message.
	ErrTooLarge = errors.New("the entry is larger than a message of the log may be")
	// ErrNotAccused says that nothing speaks against a target on a channel.
	ErrNotAccused = errors.New("nothing speaks against it")
	// ErrUnknownHost says that nothing was ever heard of or asked from a host.
	ErrUnknownHost = errors.New("no such host")
)
