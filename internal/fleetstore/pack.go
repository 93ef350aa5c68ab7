package fleetstore

import (
	"bytes"
	"compress/gzip"
	"encoding/base32"
	"encoding/json"
	"fmt"
	"io"
	"sync"
)

var keyEncoding = base32.HexEncoding.WithPadding(base32.NoPadding)

// keyOf is a name as a key or as a token of a subject.
func keyOf(name string) string { return keyEncoding.EncodeToString([]byte(name)) }

// nameOf is the way back of keyOf.
func nameOf(key string) (string, error) {
	name, err := keyEncoding.DecodeString(key)
	if err != nil {
		return "", fmt.Errorf("read key %q: %w", key, err)
	}
	return string(name), nil
}

// zippers and unzippers are used again: making one takes a megabyte, for values of a few hundred bytes.
var (
	zippers = sync.Pool{New: func() any {
		zip, err := gzip.NewWriterLevel(nil, gzip.BestSpeed)
		if err != nil {
			panic(err) // the level is one that there is
		}
		return zip
	}}
	unzippers = sync.Pool{New: func() any { return new(gzip.Reader) }}
)

// pack writes a value as compressed JSON: events and records repeat themselves, and every byte is synced and replicated.
func pack(v any) ([]byte, error) {
	var out bytes.Buffer
	zip := zippers.Get().(*gzip.Writer) // nothing else is in it
	defer zippers.Put(zip)
	zip.Reset(&out)
	if err := json.NewEncoder(zip).Encode(v); err != nil {
		return nil, err
	}
	if err := zip.Close(); err != nil {
		return nil, err
	}
	zip.Reset(nil) // what was packed is the caller's
	return out.Bytes(), nil
}

// unpack is the way back of pack.
func unpack(data []byte, v any) error {
	zip := unzippers.Get().(*gzip.Reader) // nothing else is in it
	defer unzippers.Put(zip)
	if err := zip.Reset(bytes.NewReader(data)); err != nil {
		return err
	}
	plain, err := io.ReadAll(io.LimitReader(zip, maxUnpacked+1))
	if err != nil {
		return err
	}
	if len(plain) > maxUnpacked {
		return fmt.Errorf("more than %d bytes", maxUnpacked)
	}
	return json.Unmarshal(plain, v)
}
