package store

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"go.etcd.io/bbolt"

	"github.com/nixfleet/nixfleet-agent/internal/outbox"
)

const (
	newSuffix   = ".new"
	asideSuffix = ".unreadable-"
	asideTime   = "20060102T150405Z"
)

// reached is called between the steps of creating and replacing a file. Tests end the process in it.
var reached = func(step string) {}

// create makes an empty store at path, where nothing is. A bare creation is not crash safe: a power cut can leave a file that
// is neither absent nor whole. So it is made under another name, and gets its own when all of it is on disk.
//
// A whole one under the other name that is to replace something was left by a crash after that was moved aside: it is the one.
func create(path string, opt Options) error {
	if !replaces(path + newSuffix) {
		if err := prepare(path+newSuffix, about{}, opt); err != nil {
			return fmt.Errorf("create: %w", err)
		}
	}
	reached("prepared")
	if err := os.Rename(path+newSuffix, path); err != nil {
		return err
	}
	reached("renamed")
	return syncDir(filepath.Dir(path))
}

// replaces reports whether there is a whole store under name that was made in place of something that is there.
func replaces(name string) bool {
	f, err := openRegular(name, os.O_RDONLY)
	if err != nil {
		return false
	}
	defer f.Close()
	found, err := survey(f)
	if err != nil || found.about.MovedAside == "" {
		return false
	}
	_, err = os.Lstat(found.about.MovedAside)
	return err == nil
}

// prepare makes a whole, synced, empty store under a name where a crash may have left a part of one.
func prepare(name string, a about, opt Options) (err error) {
	if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(name)
		}
	}()
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	reached("opened")
	if a.Epoch, err = newEpoch(opt.Rand); err != nil {
		_ = f.Close()
		return err
	}
	a.Schema, a.MinReader, a.CreatedAt = schema, minReader, opt.Now().UTC()
	db, err := openBolt(f, false, opt)
	if err != nil {
		_ = f.Close()
		return err
	}
	reached("laid out")
	if err := db.Update(func(tx *bbolt.Tx) error { return initialise(tx, a) }); err != nil {
		_ = db.Close()
		return err
	}
	reached("initialised")
	if err := takeRoom(f, min(growStep, opt.MaxSize)); err != nil {
		_ = db.Close()
		return err
	}
	if err := f.Sync(); err != nil {
		_ = db.Close()
		return err
	}
	return db.Close()
}

func initialise(tx *bbolt.Tx, a about) error {
	if err := makeBuckets(tx); err != nil {
		return err
	}
	a.Buckets = allBuckets()
	return putAbout(tx, a)
}

// allBuckets are the buckets of this version, in a new slice.
func allBuckets() []string { return append(slices.Clone(buckets), outbox.Buckets()...) }

func makeBuckets(tx *bbolt.Tx) error {
	for _, name := range buckets {
		if _, err := tx.CreateBucketIfNotExists([]byte(name)); err != nil {
			return fmt.Errorf("create bucket %s: %w", name, err)
		}
	}
	return outbox.Init(tx)
}

// replace keeps what is at path under another name and puts an empty store in its place, which knows where the other one is.
// At no moment of it, also under a power cut, is the old file lost or half of a new one in its place.
func replace(path, reason string, opt Options) (dropped []string, err error) {
	aside, err := asideName(path, opt.Now())
	if err != nil {
		return nil, err
	}
	if err := prepare(path+newSuffix, about{MovedAside: aside, Reason: reason}, opt); err != nil {
		return nil, fmt.Errorf("begin an empty one in place of the unreadable one (%s): %w", reason, err)
	}
	reached("prepared")
	if err := keep(path, aside); err != nil {
		_ = os.Remove(path + newSuffix)
		return nil, fmt.Errorf("move the unreadable one aside (%s): %w", reason, err)
	}
	reached("kept")
	if err := os.Rename(path+newSuffix, path); err != nil {
		return nil, err
	}
	reached("renamed")
	if err := syncDir(filepath.Dir(path)); err != nil {
		return nil, err
	}
	return dropAside(path), nil
}

// keep gives what is at path a second name, so that its place is never empty. What cannot have two names is renamed.
func keep(path, aside string) error {
	info, err := os.Lstat(path)
	if err != nil {
		return err
	}
	if info.Mode().IsRegular() {
		err := os.Link(path, aside)
		if err == nil {
			return syncDir(filepath.Dir(path))
		}
		if !errors.Is(err, syscall.EPERM) && !errors.Is(err, syscall.EOPNOTSUPP) && !errors.Is(err, syscall.EMLINK) {
			return err
		}
	}
	return os.Rename(path, aside)
}

// asideName gives a free name. Its number tells apart what is moved aside within a second, or under a clock that stands.
func asideName(path string, now time.Time) (string, error) {
	for n := 1; ; n++ {
		name := fmt.Sprintf("%s%s%s-%d", path, asideSuffix, now.UTC().Format(asideTime), n)
		_, err := os.Lstat(name)
		if errors.Is(err, fs.ErrNotExist) {
			return name, nil
		}
		if err != nil {
			return "", err
		}
	}
}

// dropAside deletes the oldest but one of the unreadable files while there are too many. What cannot be deleted stays.
func dropAside(path string) (dropped []string) {
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil {
		return nil
	}
	type old struct {
		name  string
		mtime time.Time
	}
	var kept []old
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), filepath.Base(path)+asideSuffix) || !e.Type().IsRegular() {
			continue
		}
		info, err := e.Info()
		if err != nil {
			continue
		}
		kept = append(kept, old{name: filepath.Join(filepath.Dir(path), e.Name()), mtime: info.ModTime()})
	}
	slices.SortFunc(kept, func(a, b old) int {
		if c := a.mtime.Compare(b.mtime); c != 0 {
			return c
		}
		return strings.Compare(a.name, b.name)
	})
	for len(kept) > maxAside {
		if err := os.Remove(kept[1].name); err == nil {
			dropped = append(dropped, kept[1].name)
		}
		kept = slices.Delete(kept, 1, 2)
	}
	return dropped
}
