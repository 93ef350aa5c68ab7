package store

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"slices"

	"github.com/nixfleet/nixfleet-agent/internal/checksum"
)

// surveyed is what a look over a file has found.
type surveyed struct {
	inspection
	about   about
	damaged []DamagedRecord
}

// survey looks over the whole file before it is opened: its structure, and every value of the buckets that this version knows.
// The error is an *unreadable if the file cannot be used as a store. An error of the disk is one, too: what cannot be read will
// not be read better by the next start, and the file is kept.
func survey(f *os.File) (surveyed, error) {
	info, err := f.Stat()
	if err != nil {
		return surveyed{}, err
	}
	if info.Size() == 0 {
		return surveyed{}, &unreadable{"it is empty"}
	}
	s, err := surveyBytes(f, info.Size())
	if isIOError(err) {
		err = &unreadable{fmt.Sprintf("the disk does not read it: %v", err)}
	}
	return s, err
}

func surveyBytes(file io.ReaderAt, size int64) (surveyed, error) {
	var s surveyed
	var err error
	var aboutErr error = &unreadable{"it is a database, but not a store of this agent"}
	sealed := allBuckets()
	s.inspection, err = inspect(file, size, func(bucket string, key, value []byte) {
		if bucket == aboutBucket && bytes.Equal(key, aboutKey) {
			if s.about, aboutErr = decodeAbout(value); aboutErr != nil {
				aboutErr = &unreadable{fmt.Sprintf("the row about the store is damaged: %v", aboutErr)}
			}
			return
		}
		if !slices.Contains(sealed, bucket) {
			return
		}
		if reason := damageOf(bucket, key, value); reason != "" {
			s.damaged = append(s.damaged, DamagedRecord{Bucket: bucket, Key: string(key), Raw: bytes.Clone(value), Reason: reason})
		}
	})
	if err == nil {
		err = aboutErr
	}
	if err != nil {
		return s, err
	}
	for _, name := range s.about.Buckets {
		if !slices.Contains(s.buckets, name) {
			return s, &unreadable{fmt.Sprintf("its bucket %s is gone", name)}
		}
	}
	return s, nil
}

// damageOf says why a value cannot be used; empty: it can.
func damageOf(bucket string, key, value []byte) string {
	payload, err := checksum.Open(value, bucket, string(key))
	if err == nil && bucket == recordsBucket {
		_, err = decodeRecordRow(string(key), payload)
	}
	if err != nil {
		return err.Error()
	}
	return ""
}
