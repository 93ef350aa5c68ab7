package store

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"go.etcd.io/bbolt"
	"pgregory.net/rapid"
)

// A file that bbolt has written passes, whatever was done to it, and every value of a top-level bucket is seen once.
func TestWhatTheLibraryWritesIsSound(t *testing.T) {
	dir := t.TempDir()
	n := 0
	rapid.Check(t, func(t *rapid.T) {
		n++
		path := filepath.Join(dir, fmt.Sprint(n))
		defer os.Remove(path)
		options := &bbolt.Options{
			NoSync: true, NoGrowSync: true,
			PageSize:       rapid.SampledFrom([]int{1024, 4096, 16384}).Draw(t, "page size"),
			FreelistType:   rapid.SampledFrom([]bbolt.FreelistType{bbolt.FreelistMapType, bbolt.FreelistArrayType}).Draw(t, "freelist"),
			NoFreelistSync: rapid.Bool().Draw(t, "no freelist"),
		}
		db, err := bbolt.Open(path, 0o600, options)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = db.Close() }()
		name := rapid.SampledFrom([]string{"a", "b", "c"})
		model := map[string]map[string]string{}
		for range rapid.IntRange(1, 12).Draw(t, "transactions") {
			abort := rapid.IntRange(0, 5).Draw(t, "abort") == 0
			before := cloneModel(model)
			err := db.Update(func(tx *bbolt.Tx) error {
				for range rapid.IntRange(0, 8).Draw(t, "operations") {
					if err := operate(t, tx, name.Draw(t, "bucket"), model); err != nil {
						return err
					}
				}
				if abort {
					return errNotThisTime
				}
				return nil
			})
			if err == errNotThisTime { //nolint:errorlint // our own value
				model, err = before, nil
			}
			if err != nil {
				t.Fatal(err)
			}
			if rapid.IntRange(0, 3).Draw(t, "look") == 0 {
				compare(t, path, model)
			}
		}
		compare(t, path, model)
	})
}

var errNotThisTime = fmt.Errorf("not this time")

func cloneModel(model map[string]map[string]string) map[string]map[string]string {
	c := map[string]map[string]string{}
	for bucket, values := range model {
		c[bucket] = map[string]string{}
		for k, v := range values {
			c[bucket][k] = v
		}
	}
	return c
}

func operate(t *rapid.T, tx *bbolt.Tx, name string, model map[string]map[string]string) error {
	b, err := tx.CreateBucketIfNotExists([]byte(name))
	if err != nil {
		return err
	}
	if model[name] == nil {
		model[name] = map[string]string{}
	}
	switch rapid.IntRange(0, 6).Draw(t, "operation") {
	case 0:
		delete(model, name)
		return tx.DeleteBucket([]byte(name))
	case 1: // many small ones: the tree gets branches
		first := rapid.IntRange(0, 2000).Draw(t, "first")
		for i := first; i < first+400; i++ {
			key, value := fmt.Sprintf("%06d", i*7919%100000), fmt.Sprint(i)
			model[name][key] = value
			if err := b.Put([]byte(key), []byte(value)); err != nil {
				return err
			}
		}
	case 2: // some go
		c := b.Cursor()
		var keys [][]byte
		skip := rapid.IntRange(1, 3).Draw(t, "skip")
		for k, v := c.First(); k != nil; k, v = c.Next() {
			if v != nil && len(keys)%skip == 0 {
				keys = append(keys, bytes.Clone(k))
			}
		}
		for _, k := range keys {
			delete(model[name], string(k))
			if err := b.Delete(k); err != nil {
				return err
			}
		}
	case 3: // a value of many pages
		value := bytes.Repeat([]byte("v"), rapid.IntRange(0, 70000).Draw(t, "size"))
		key := fmt.Sprintf("big%d", rapid.IntRange(0, 3).Draw(t, "big"))
		model[name][key] = string(value)
		return b.Put([]byte(key), value)
	case 4: // nested buckets, small ones and large ones
		nested, err := b.CreateBucketIfNotExists([]byte("~nested"))
		if err != nil {
			return err
		}
		return nested.Put([]byte("k"), bytes.Repeat([]byte("v"), rapid.IntRange(0, 5000).Draw(t, "nested")))
	default:
		key := rapid.StringN(1, 30, 60).Draw(t, "key")
		model[name][key] = "x"
		return b.Put([]byte(key), []byte("x"))
	}
	return nil
}

func compare(t *rapid.T, path string, model map[string]map[string]string) {
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	found, err := inspect(f, info.Size(), func(bucket string, key, value []byte) {
		seen++
		if want, ok := model[bucket][string(key)]; !ok || want != string(value) {
			t.Fatalf("%s %q has %d bytes, want %d, %v", bucket, key, len(value), len(want), ok)
		}
	})
	if err != nil || found.tornMeta {
		t.Fatalf("found %+v, %v", found, err)
	}
	want := 0
	for _, values := range model {
		want += len(values)
	}
	if seen != want {
		t.Fatalf("%d values, want %d", seen, want)
	}
}
