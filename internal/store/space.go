package store

import (
	"errors"
	"log/slog"
	"os"
	"sync"
	"syscall"

	"go.etcd.io/bbolt"
)

// room is what is known of the space in the file and below it.
type room struct {
	mu          sync.Mutex
	closed      bool
	checkedSize int64 // up to here the file is known to have space on the disk
	diskFull    bool  // the disk had no space for the next step when it was last asked
	unsupported bool  // the file system cannot reserve space
}

// Size is the size of the file in bytes.
func (s *Store) Size() int64 {
	info, err := s.file.Stat()
	if err != nil {
		return 0
	}
	return info.Size()
}

// HighWater is the share of the available space that is in use, 0 to 1; free pages count as free. Available is the cap of the
// file; while the disk is full it is what the file has on the disk already.
func (s *Store) HighWater() float64 {
	used, _ := s.space()
	available := s.maxSize
	if s.readOnly == "" {
		s.keepRoom() // the disk may have space again
		s.room.mu.Lock()
		if s.room.diskFull {
			available = min(available, s.room.checkedSize)
		}
		s.room.mu.Unlock()
	}
	if available <= 0 {
		return 1
	}
	return min(1, float64(used)/float64(available))
}

// space gives the bytes in use and those up to the highest page in use.
func (s *Store) space() (used, high int64) {
	if err := s.db.View(func(tx *bbolt.Tx) error { high = tx.Size(); return nil }); err != nil {
		return 0, 0
	}
	stats := s.db.Stats()
	return max(high-int64(stats.FreePageN+stats.PendingPageN)*s.pageSize, 0), high
}

// keepRoom sees to it that the file has space on the disk for some hundred small commits more. The library makes a file longer
// without taking space, so that a commit inside of the file could still find the disk full. An unsuccessful attempt is no
// error: there is still what was reserved before.
func (s *Store) keepRoom() {
	s.room.mu.Lock()
	defer s.room.mu.Unlock()
	if s.room.closed || s.room.unsupported || s.readOnly != "" {
		return
	}
	used, _ := s.space()
	size := s.Size()
	want := size
	if size-used < wantedRoom {
		want = min(size+growStep, max(s.maxSize, size))
	}
	if want <= s.room.checkedSize {
		return
	}
	err := takeRoom(s.file, want)
	switch {
	case err == nil:
		if s.room.diskFull {
			s.log.Info("disk has space for the store again", slog.Int64("bytes", want))
		}
		s.room.checkedSize, s.room.diskFull = want, false
		if want > size {
			if err := s.file.Sync(); err != nil {
				s.log.Warn("sync reserved space of the store", slog.Any("err", err))
			}
		}
	case errors.Is(err, errors.ErrUnsupported):
		s.room.unsupported = true
	default:
		if !s.room.diskFull {
			s.log.Warn("disk has no space for the store to grow; it goes on in what it has", slog.Any("err", err), slog.Int64("bytes", size))
		}
		s.room.diskFull = true
	}
}

// takeRoom has the disk give space to all of the file up to size. The error is errors.ErrUnsupported where the file system
// cannot.
func takeRoom(f *os.File, size int64) error {
	for {
		err := syscall.Fallocate(int(f.Fd()), 0, 0, size)
		switch {
		case errors.Is(err, syscall.EINTR):
			continue
		case errors.Is(err, syscall.EOPNOTSUPP), errors.Is(err, syscall.ENOSYS), errors.Is(err, syscall.EINVAL):
			return errors.ErrUnsupported
		}
		return err
	}
}

func isNoSpace(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) || errors.Is(err, syscall.EFBIG)
}
