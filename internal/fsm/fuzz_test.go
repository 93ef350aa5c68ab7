package fsm

import (
	"bytes"
	"errors"
	"reflect"
	"testing"
)

// Whatever is read is written back the same, and whatever is not known is kept to the byte.
func FuzzDecodePayload(f *testing.F) {
	for _, p := range samples() {
		data, err := EncodePayload(p)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Add([]byte(`{"kind":"Hibernated"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := DecodePayload(data)
		if keptUnknown(t, err, data) || err != nil {
			return
		}
		encoded, err := EncodePayload(p)
		if err != nil {
			t.Fatalf("read and not written: %v", err)
		}
		again, err := DecodePayload(encoded)
		if err != nil {
			t.Fatalf("written and not read: %v", err)
		}
		stable(t, encoded, again, EncodePayload)
	})
}

func FuzzDecodeEvent(f *testing.F) {
	for _, ev := range sampleEvents() {
		data, err := EncodeEvent(ev)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		ev, err := DecodeEvent(data)
		if keptUnknown(t, err, data) || err != nil {
			return
		}
		encoded, err := EncodeEvent(ev)
		if err != nil {
			t.Fatalf("read and not written: %v", err)
		}
		again, err := DecodeEvent(encoded)
		if err != nil {
			t.Fatalf("written and not read: %v", err)
		}
		stable(t, encoded, again, EncodeEvent)
		for _, s := range situations() {
			before := s.rec.clone()
			if _, _, err := Step(s.rec, ev, s.now, s.policy); err == nil && Seq(ev) <= s.rec.LastEventSeq {
				t.Fatalf("%s under number %d was applied after %d", ev.Kind(), Seq(ev), s.rec.LastEventSeq)
			}
			if !reflect.DeepEqual(s.rec, before) {
				t.Fatalf("%s changed its input", ev.Kind())
			}
		}
	})
}

func FuzzDecodeRecord(f *testing.F) {
	for _, s := range situations() {
		data, err := EncodeRecord(s.rec)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	full, err := EncodeRecord(fullRecord())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(full)
	f.Fuzz(func(t *testing.T, data []byte) {
		rec, err := DecodeRecord(data)
		if err != nil {
			return
		}
		encoded, err := EncodeRecord(rec)
		if err != nil {
			t.Fatalf("read and not written: %v", err)
		}
		again, err := DecodeRecord(encoded)
		if err != nil {
			t.Fatalf("written and not read: %v", err)
		}
		stable(t, encoded, again, EncodeRecord)
	})
}

func keptUnknown(t *testing.T, err error, data []byte) bool {
	t.Helper()
	var unknown *UnknownKind
	if !errors.As(err, &unknown) {
		return false
	}
	if !bytes.Equal(unknown.Raw, data) {
		t.Fatal("an unknown kind was not kept to the byte")
	}
	return true
}

func stable[T any](t *testing.T, encoded []byte, again T, encode func(T) ([]byte, error)) {
	t.Helper()
	second, err := encode(again)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(encoded, second) {
		t.Fatalf("rewriting changes it:\n%s\n%s", encoded, second)
	}
}
