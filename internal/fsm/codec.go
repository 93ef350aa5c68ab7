package fsm

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// MaxEncoded bounds what the encoders write and the decoders read, in bytes. A record with a long tail of output and some
// hundred probes stays well below it; more is not ours.
const MaxEncoded = 1 << 20

// maxNesting bounds how deep a value may nest. Our own values nest four deep; the rest is room for newer ones.
const maxNesting = 32

// errNotObject is the error of every value whose JSON is not an object.
var errNotObject = errors.New("not a JSON object")

// EncodePayload writes a payload as {"kind": "...", ...fields}. The kind comes first.
func EncodePayload(p Payload) ([]byte, error) {
	if p == nil {
		return nil, errors.New("encode payload: there is none")
	}
	known, ok := payloads[p.PayloadKind()]
	if !ok || !known.is(p) {
		return nil, fmt.Errorf("encode payload %s: %T is not of the closed set", p.PayloadKind(), p)
	}
	return encodeTagged(string(p.PayloadKind()), p)
}

// DecodePayload reads what EncodePayload wrote. For a kind that this version does not have the error is an *UnknownKind.
// Fields that it does not have are dropped: a reader that hands a payload on must hand on the bytes.
func DecodePayload(data []byte) (Payload, error) {
	kind, err := kindOf(data)
	if err != nil {
		return nil, fmt.Errorf("decode payload: %w", err)
	}
	known, ok := payloads[PayloadKind(kind)]
	if !ok {
		return nil, &UnknownKind{Kind: kind, Raw: bytes.Clone(data)}
	}
	p, err := known.decode(data)
	if err != nil {
		return nil, fmt.Errorf("decode payload %s: %w", kind, err)
	}
	return p, nil
}

// EncodeEvent writes an event as {"kind": "...", ...fields of its payload}. The kind comes first.
func EncodeEvent(ev Event) ([]byte, error) {
	if ev == nil {
		return nil, errors.New("encode event: there is none")
	}
	known, ok := events[ev.Kind()]
	if !ok || !known.is(ev) {
		return nil, fmt.Errorf("encode event %s: %T is not of the closed set", ev.Kind(), ev)
	}
	return encodeTagged(string(ev.Kind()), ev.Payload())
}

// DecodeEvent reads what EncodeEvent wrote. For a kind that this version does not have the error is an *UnknownKind.
func DecodeEvent(data []byte) (Event, error) {
	kind, err := kindOf(data)
	if err != nil {
		return nil, fmt.Errorf("decode event: %w", err)
	}
	known, ok := events[Kind(kind)]
	if !ok {
		return nil, &UnknownKind{Kind: kind, Raw: bytes.Clone(data)}
	}
	ev, err := known.decode(data)
	if err != nil {
		return nil, fmt.Errorf("decode event %s: %w", kind, err)
	}
	return ev, nil
}

// encodeTagged puts the tag before the fields of a payload, which always has some: its number at least.
func encodeTagged(kind string, p Payload) ([]byte, error) {
	fields, err := json.Marshal(p)
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w", kind, err)
	}
	tag, err := json.Marshal(kind)
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w", kind, err)
	}
	out := make([]byte, 0, len(fields)+len(tag)+len(`{"kind":,`))
	out = append(out, `{"kind":`...)
	out = append(out, tag...)
	out = append(out, ',')
	out = append(out, fields[len(`{`):]...)
	if err := checkSize(out); err != nil {
		return nil, fmt.Errorf("encode %s: %w", kind, err)
	}
	return out, nil
}

// kindOf checks the shape of a tagged value and reads its tag.
func kindOf(data []byte) (string, error) {
	fields, err := objectOf(data)
	if err != nil {
		return "", err
	}
	raw, ok := fields["kind"]
	if !ok {
		return "", errors.New("no kind")
	}
	var kind string
	if err := json.Unmarshal(raw, &kind); err != nil {
		return "", fmt.Errorf("read kind: %w", err)
	}
	if kind == "" {
		return "", errors.New("no kind")
	}
	return kind, nil
}

// decodeExact reads the fields of T.
func decodeExact[T any](data []byte) (T, error) {
	var v T
	err := json.Unmarshal(data, &v)
	return v, err
}

// objectOf reads one JSON object, nothing before or after it, within the bounds and without a key twice, as its raw fields.
func objectOf(data []byte) (map[string]json.RawMessage, error) {
	if err := checkSize(data); err != nil {
		return nil, err
	}
	if err := checkShape(data); err != nil {
		return nil, err
	}
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(data, &fields); err != nil {
		return nil, err
	}
	if fields == nil {
		return nil, errNotObject
	}
	return fields, nil
}

// checkSize keeps what is written within what will be read again.
func checkSize(data []byte) error {
	if len(data) > MaxEncoded {
		return fmt.Errorf("%d bytes are more than the limit of %d", len(data), MaxEncoded)
	}
	return nil
}

// checkShape walks the value once and refuses what encoding/json would let pass: a key twice, which two readers could
// read differently, and nesting beyond the bound.
func checkShape(data []byte) error {
	type level struct {
		keys  map[string]bool // nil in an array
		atKey bool
	}
	var open []level
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	for {
		token, err := dec.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		var top *level
		if len(open) > 0 {
			top = &open[len(open)-1]
		}
		if key, isString := token.(string); isString && top != nil && top.atKey {
			if top.keys[key] {
				return fmt.Errorf("key %q is there twice", key)
			}
			top.keys[key] = true
			top.atKey = false
			continue
		}
		if top != nil && top.keys != nil {
			top.atKey = true // whatever ends here, a key or the end of the object is next
		}
		switch token {
		case json.Delim('{'):
			open = append(open, level{keys: map[string]bool{}, atKey: true})
		case json.Delim('['):
			open = append(open, level{})
		case json.Delim('}'), json.Delim(']'):
			open = open[:len(open)-1]
		}
		if len(open) > maxNesting {
			return fmt.Errorf("nested deeper than %d", maxNesting)
		}
	}
	return nil
}
