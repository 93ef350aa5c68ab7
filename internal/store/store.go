package store

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
)

// Store is the open database file.
type Store struct {
	path     string
	db       *bbolt.DB
	file     *os.File // the one that db has open and locked
	log      *slog.Logger
	now      func() time.Time
	random   io.Reader
	maxSize  int64
	pageSize int64
	readOnly string // why nothing may be written; empty: it may
	refusal  string // why an agent of this version could not write it; set by OpenReadOnly

	writing sync.Mutex                        // held from the beginning of a write to the verdict on its commit
	update  func(func(*bbolt.Tx) error) error // db.Update, but for tests
	commits atomic.Uint64

	mu    sync.Mutex
	epoch string

	room room
}

// Update runs fn in one write transaction and commits it: one durable commit if fn returns nil, nothing at all otherwise.
// Errors of fn are returned as they are.
//
// A commit that the disk does not confirm is tried to be confirmed by another one; if that succeeds, so has Update. Else the
// error is ErrUncertain: what fn wrote can be read, and may be gone after a power cut.
func (s *Store) Update(fn func(tx *Tx) error) error {
	if s.readOnly != "" {
		return fmt.Errorf("%w: %s", ErrReadOnly, s.readOnly)
	}
	s.writing.Lock()
	defer s.writing.Unlock()
	var fnErr error
	var id int
	var epoch string
	err := s.update(func(btx *bbolt.Tx) error {
		id = btx.ID()
		tx := &Tx{tx: btx, store: s}
		fnErr = fn(tx)
		epoch = tx.newEpoch
		return fnErr
	})
	if err != nil && fnErr == nil {
		err = s.settle(id, err)
	}
	if err != nil {
		if fnErr == nil {
			err = fmt.Errorf("commit: %w", err)
		}
		return err
	}
	if epoch != "" {
		s.mu.Lock()
		s.epoch = epoch
		s.mu.Unlock()
	}
	s.commits.Add(1)
	s.keepRoom()
	return nil
}

// settle finds out what became of a commit that failed. Its pages are synced before the meta page that makes them count is
// written. So if its meta page is there, only the sync of that page has failed, and any later commit that succeeds makes both
// durable: it writes the other meta page, with a tree that contains this one.
func (s *Store) settle(id int, failed error) error {
	visible := false
	err := s.db.View(func(tx *bbolt.Tx) error {
		visible = tx.ID() >= id
		return nil
	})
	if err != nil || !visible {
		return failed
	}
	if err := s.update(func(*bbolt.Tx) error { return nil }); err != nil {
		return fmt.Errorf("%w: %w", ErrUncertain, failed)
	}
	s.log.Warn("disk confirmed a commit only at the second attempt", slog.Any("err", failed))
	return nil
}

// View runs fn in a read transaction, which sees the state of the last commit. What fn takes from it must be copied or decoded;
// all methods of Tx return copies.
func (s *Store) View(fn func(tx *Tx) error) error {
	return s.db.View(func(btx *bbolt.Tx) error { return fn(&Tx{tx: btx, store: s}) })
}

// Close waits for transactions and closes the file.
func (s *Store) Close() error {
	s.room.mu.Lock()
	s.room.closed = true
	s.room.mu.Unlock()
	err := s.db.Close()
	_ = s.file.Close()
	if err != nil {
		return fmt.Errorf("close store %s: %w", s.path, err)
	}
	return nil
}

// Refusal is why an agent of this version could not write a store that was opened to be read; empty: it could.
func (s *Store) Refusal() string { return s.refusal }

// Path is where the file is, symbolic links in its place followed.
func (s *Store) Path() string { return s.path }

// Epoch is the random id of the file. It changes only by Tx.RenewEpoch.
func (s *Store) Epoch() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.epoch
}

// Commits is the number of write transactions that were committed since Open.
func (s *Store) Commits() uint64 { return s.commits.Load() }

// DB gives packages that keep buckets of their own in this file access to it. Its commits count as the store's.
func (s *Store) DB() DB { return DB{s} }

// DB is a Store as bbolt shows it.
type DB struct{ store *Store }

// Update is Store.Update.
func (d DB) Update(fn func(*bbolt.Tx) error) error {
	return d.store.Update(func(tx *Tx) error { return fn(tx.tx) })
}

// View is Store.View.
func (d DB) View(fn func(*bbolt.Tx) error) error { return d.store.db.View(fn) }

// Epoch is Store.Epoch.
func (d DB) Epoch() string { return d.store.Epoch() }

// IsFull reports whether a write failed for want of space, in the file or on its disk.
func IsFull(err error) bool { return isNoSpace(err) || errors.Is(err, bolterrors.ErrMaxSizeReached) }
