package store

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"runtime/debug"
	"syscall"
	"time"

	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
)

// Options says how a store is opened. The zero value is usable.
type Options struct {
	Timeout time.Duration    // longest wait for a lock; 0: 5 s
	Logger  *slog.Logger     // nil: nothing is logged
	Now     func() time.Time // names what is moved aside; nil: the start of Unix time
	Rand    io.Reader        // of the epoch; nil: crypto/rand
	MaxSize int64            // hard cap of the file, in bytes; 0: 64 MiB
}

func (o Options) complete() Options {
	if o.Timeout <= 0 {
		o.Timeout = defaultTimeout
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = func() time.Time { return time.Unix(0, 0) }
	}
	if o.Rand == nil {
		o.Rand = rand.Reader
	}
	if o.MaxSize <= 0 {
		o.MaxSize = defaultMaxSize
	}
	return o
}

// Opening is what Open has found. MovedAside, Reason, LostCommit and Damaged are said again by every Open until
// Tx.OpeningReported was committed.
type Opening struct {
	Created    bool     // there was no file, or it was moved aside now
	MovedAside string   // where the unreadable file was kept; empty: there was none
	Reason     string   // why it was moved aside
	Dropped    []string // older unreadable files that were deleted now, for their number

	// ReadOnly is why this version may not write; empty: it may. Nothing is written to such a file.
	ReadOnly string

	// LostCommit: one of the two meta pages was not valid. A power cut in the middle of a commit leaves that and loses
	// nothing that was confirmed; damage to the page loses the last confirmed commit. It is not known which, so the
	// store has taken a new epoch: no position of the lost commit is used for another event.
	LostCommit bool

	Epoch   string
	Damaged []DamagedRecord // values that did not verify and were set aside
}

// Open opens the store at path for the agent, and makes it where there is none. The directory is made where it is missing;
// a symbolic link in the place of the file is followed.
//
// A file that cannot be read as a store, and anything else in its place, is moved aside: it is kept beside it as
// <name>.unreadable-<UTC time>-<n>, an empty store is begun, and Opening says so. At most five are kept; with one more, the
// oldest but one is deleted, which Opening and the log say. Directories are never deleted.
//
// Errors: ErrLocked if another process has it; else what the operating system says, such as permission denied or no space. A
// failed Open leaves everything where it was.
func Open(path string, opt Options) (*Store, Opening, error) {
	opt = opt.complete()
	s, opening, err := open(path, opt)
	if err != nil {
		return nil, Opening{}, fmt.Errorf("open store %s: %w", path, err)
	}
	opening.log(opt.Logger, path)
	return s, opening, nil
}

func open(path string, opt Options) (*Store, Opening, error) {
	path, err := resolve(path)
	if err != nil {
		return nil, Opening{}, err
	}
	if err := makeDir(filepath.Dir(path)); err != nil {
		return nil, Opening{}, err
	}
	dir, err := lockDir(filepath.Dir(path), opt.Timeout)
	if err != nil {
		return nil, Opening{}, err
	}
	defer unlock(dir)

	s, opening, err := openFile(path, opt)
	var bad *unreadable
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if err := create(path, opt); err != nil {
			return nil, Opening{}, err
		}
	case errors.As(err, &bad):
		if opening.Dropped, err = replace(path, bad.reason, opt); err != nil {
			return nil, Opening{}, err
		}
	default:
		return s, opening, err
	}
	dropped := opening.Dropped
	s, opening, err = openFile(path, opt)
	opening.Created, opening.Dropped = true, dropped
	return s, opening, err
}

func makeDir(dir string) error {
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	return syncDir(filepath.Dir(dir))
}

// openFile opens an existing store. The error is an *unreadable if the file cannot be used as one.
func openFile(path string, opt Options) (s *Store, opening Opening, err error) {
	f, err := openRegular(path, os.O_RDWR)
	if err != nil {
		return nil, Opening{}, err
	}
	defer func() {
		if err != nil {
			unlock(f)
		}
	}()
	if err := lock(f, syscall.LOCK_EX, opt.Timeout); err != nil {
		return nil, Opening{}, err
	}
	found, err := survey(f)
	if err != nil {
		return nil, Opening{}, err
	}
	s = &Store{path: path, file: f, log: opt.Logger, now: opt.Now, random: opt.Rand, maxSize: opt.MaxSize, pageSize: int64(found.pageSize)}
	s.readOnly = found.about.refusal()
	if s.db, err = openBolt(f, s.readOnly != "", opt); err != nil {
		return nil, Opening{}, err
	}
	s.update, s.epoch = s.db.Update, found.about.Epoch
	if s.readOnly != "" {
		return s, Opening{ReadOnly: s.readOnly, Epoch: s.epoch, Damaged: found.damaged}, nil
	}
	if err := s.mend(found); err != nil {
		_ = s.db.Close()
		return nil, Opening{}, err
	}
	s.commits.Store(0)
	s.keepRoom()
	opening, err = s.opening()
	if err != nil {
		_ = s.db.Close()
	}
	return s, opening, err
}

// openRegular opens a file that is one.
func openRegular(path string, how int) (*os.File, error) {
	info, err := os.Lstat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, &unreadable{fmt.Sprintf("it is not a file but a %s", kindOf(info.Mode()))}
	}
	return os.OpenFile(path, how|syscall.O_NOFOLLOW, 0)
}

func kindOf(mode fs.FileMode) string {
	switch mode.Type() {
	case fs.ModeDir:
		return "directory"
	case fs.ModeSymlink:
		return "symbolic link that leads nowhere"
	case fs.ModeSocket:
		return "socket"
	case fs.ModeNamedPipe:
		return "named pipe"
	default:
		return "device"
	}
}

// openBolt hands the locked file to bbolt. What bbolt finds wrong with a file that was looked over is an *unreadable.
func openBolt(f *os.File, readOnly bool, opt Options) (db *bbolt.DB, err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			db, err = nil, &unreadable{fmt.Sprintf("the database library fails on it: %v", p)}
		}
	}()
	db, err = bbolt.Open(f.Name(), 0o600, &bbolt.Options{
		Timeout:         opt.Timeout,
		ReadOnly:        readOnly,
		FreelistType:    bbolt.FreelistMapType,
		MaxSize:         int(opt.MaxSize),
		InitialMmapSize: int(opt.MaxSize), // mapped once: growing never waits for a reader
		OpenFile:        func(string, int, fs.FileMode) (*os.File, error) { return f, nil },
	})
	switch {
	case err == nil:
		db.AllocSize = growStep
		return db, nil
	case errors.Is(err, bolterrors.ErrTimeout):
		return nil, ErrLocked
	case errors.Is(err, bolterrors.ErrInvalid), errors.Is(err, bolterrors.ErrChecksum), errors.Is(err, bolterrors.ErrVersionMismatch):
		return nil, &unreadable{err.Error()}
	default:
		return nil, err
	}
}

// OpenReadOnly opens the store at path to be read while no agent has it open. It creates, changes and moves nothing. It keeps
// an agent from starting while it is open: the caller reads and closes it at once.
//
// Errors: ErrNotExist, ErrLocked, ErrUnreadable, or what the operating system says.
func OpenReadOnly(path string, opt Options) (*Store, error) {
	opt = opt.complete()
	s, err := openReadOnly(path, opt)
	if errors.Is(err, fs.ErrNotExist) {
		err = ErrNotExist
	}
	var bad *unreadable
	if errors.As(err, &bad) {
		err = fmt.Errorf("%w: %s", ErrUnreadable, bad.reason)
	}
	if err != nil {
		return nil, fmt.Errorf("read store %s: %w", path, err)
	}
	return s, nil
}

func openReadOnly(path string, opt Options) (s *Store, err error) {
	if path, err = resolve(path); err != nil {
		return nil, err
	}
	f, err := openRegular(path, os.O_RDONLY)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			unlock(f)
		}
	}()
	if err := lock(f, syscall.LOCK_SH, opt.Timeout); err != nil {
		return nil, err
	}
	found, err := survey(f)
	if err != nil {
		return nil, err
	}
	db, err := openBolt(f, true, opt)
	if err != nil {
		return nil, err
	}
	return &Store{
		path: path, file: f, db: db, log: opt.Logger, now: opt.Now, random: opt.Rand, maxSize: opt.MaxSize, pageSize: int64(found.pageSize),
		readOnly: "it was opened to be read", refusal: found.about.refusal(), epoch: found.about.Epoch,
	}, nil
}

func (o Opening) log(log *slog.Logger, path string) {
	if o.MovedAside != "" {
		log.Error("store could not be read; it is kept aside", slog.String("store", path), slog.String("kept_as", o.MovedAside), slog.String("reason", o.Reason))
	}
	for _, name := range o.Dropped {
		log.Warn("too many unreadable stores are kept; one was deleted", slog.String("deleted", name))
	}
	if o.LostCommit {
		log.Error("store has lost one of its two meta pages; its last commit may be lost", slog.String("store", path), slog.String("epoch", o.Epoch))
	}
	for _, d := range o.Damaged {
		log.Error("stored value does not verify; it is set aside", slog.String("value", d.String()))
	}
	if o.ReadOnly != "" {
		log.Error("store may only be read", slog.String("store", path), slog.String("reason", o.ReadOnly))
	}
}
