package schematest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
)

// Lax changes a valid value in every place, one at a time: null, a value of another type, a broken number. It returns
// the changes that the schema lets pass. It does not go below the properties in opaque, which the schema leaves open.
func (s *Set) Lax(name string, valid []byte, opaque ...string) ([]string, error) {
	dec := json.NewDecoder(bytes.NewReader(valid))
	dec.UseNumber() // a large number stays what it is
	var value any
	if err := dec.Decode(&value); err != nil {
		return nil, err
	}
	again, err := json.Marshal(value)
	if err != nil {
		return nil, err
	}
	if err := s.Validate(name, again); err != nil {
		return nil, err
	}
	l := lax{set: s, name: name, opaque: opaque, root: value}
	l.below("", value)
	return l.passed, l.err
}

type lax struct {
	set    *Set
	name   string
	opaque []string
	root   any
	passed []string
	err    error
}

func (l *lax) below(where string, value any) {
	switch value := value.(type) {
	case map[string]any:
		for _, key := range slices.Sorted(maps.Keys(value)) {
			l.place(where+"."+key, value[key], func(v any) { value[key] = v })
			if !slices.Contains(l.opaque, key) {
				l.below(where+"."+key, value[key])
			}
		}
	case []any:
		for i := range value {
			at := fmt.Sprintf("%s[%d]", where, i)
			l.place(at, value[i], func(v any) { value[i] = v })
			l.below(at, value[i])
		}
	}
}

// place puts every wrong value into one place, and the right one back.
func (l *lax) place(where string, right any, put func(any)) {
	defer put(right)
	for _, wrong := range wrongFor(right) {
		put(wrong)
		data, err := json.Marshal(l.root)
		if err != nil {
			l.err = err
			return
		}
		if l.set.Validate(l.name, data) == nil {
			l.passed = append(l.passed, fmt.Sprintf("%s: %s may be %v", l.name, where, wrong))
		}
	}
}

func wrongFor(right any) []any {
	switch right.(type) {
	case json.Number:
		return []any{nil, "1", 1.5, []any{}}
	case string:
		return []any{nil, 1, true, []any{}}
	case bool:
		return []any{nil, "true", 1}
	case []any:
		return []any{nil, map[string]any{}, "x"}
	default:
		return []any{nil, []any{}, "x"}
	}
}
