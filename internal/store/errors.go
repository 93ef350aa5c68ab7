package store

import "errors"

var (
	// ErrLocked: another process has the file open. For Open that is another agent, or a status that reads it; for
	// OpenReadOnly it is the agent.
	ErrLocked = errors.New("another process has it open")

	// ErrNotExist: there is no file. Only OpenReadOnly says so.
	ErrNotExist = errors.New("it does not exist")

	// ErrUnreadable: the file is damaged or is no store. Only OpenReadOnly says so; Open moves such a file aside.
	ErrUnreadable = errors.New("it cannot be read")

	// ErrReadOnly refuses a write: the file was opened to be read, or only a newer agent may write it.
	ErrReadOnly = errors.New("the store may only be read")

	// ErrUncertain: the disk refused to confirm a commit. It is visible now, and may be gone after a power cut.
	ErrUncertain = errors.New("the disk did not confirm the commit")

	// ErrNotFound: there is no such record.
	ErrNotFound = errors.New("there is none")
)

// unreadable says why a file cannot be used as a store.
type unreadable struct {
	reason string
}

func (u *unreadable) Error() string { return u.reason }

// Is lets errors.Is(err, ErrUnreadable) hold.
func (u *unreadable) Is(target error) bool { return target == ErrUnreadable }
