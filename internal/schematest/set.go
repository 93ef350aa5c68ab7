// Package schematest holds the published JSON Schemas of docs/schema against values and against the Go types that they
// describe. It is for tests only.
package schematest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

const (
	suffix = ".schema.json"

	// eventSuffix is that of schemas of the body of an event; the kind is before it.
	eventSuffix = ".v1" + suffix

	// notice is the schema of every event that is about the host and not about a rollout.
	notice = "HostNotice" + eventSuffix
)

// Set is a directory of schemas, each under its file name.
type Set struct {
	compiled map[string]*jsonschema.Schema
	raw      map[string]map[string]any
}

// Load reads and compiles every schema of a directory. Formats are asserted.
func Load(dir string) (*Set, error) {
	files, err := filepath.Glob(filepath.Join(dir, "*"+suffix))
	if err != nil {
		return nil, err
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("load schemas: there is none in %s", dir)
	}
	s := &Set{compiled: map[string]*jsonschema.Schema{}, raw: map[string]map[string]any{}}
	compiler := jsonschema.NewCompiler()
	compiler.AssertFormat()
	ids := map[string]string{}
	for _, file := range files {
		name := filepath.Base(file)
		data, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		if err := json.Unmarshal(data, new(map[string]any)); err != nil {
			return nil, fmt.Errorf("load schema %s: %w", name, err)
		}
		doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(data))
		if err != nil {
			return nil, fmt.Errorf("load schema %s: %w", name, err)
		}
		fields, ok := doc.(map[string]any)
		if !ok {
			return nil, fmt.Errorf("load schema %s: it is no object", name)
		}
		id, ok := fields["$id"].(string)
		if !ok || !strings.HasSuffix(id, "/"+name) {
			return nil, fmt.Errorf("load schema %s: its $id %q does not end with its name", name, id)
		}
		s.raw[name], ids[name] = fields, id
		if err := compiler.AddResource(id, doc); err != nil {
			return nil, fmt.Errorf("load schema %s: %w", name, err)
		}
	}
	for name, id := range ids {
		if s.compiled[name], err = compiler.Compile(id); err != nil {
			return nil, fmt.Errorf("compile schema %s: %w", name, err)
		}
	}
	return s, nil
}

// Names lists the schemas in order.
func (s *Set) Names() []string { return slices.Sorted(maps.Keys(s.raw)) }

// Kinds lists the kinds of event that have a schema, in order. That of notices is among them.
func (s *Set) Kinds() []string {
	var kinds []string
	for _, name := range s.Names() {
		if kind, is := strings.CutSuffix(name, eventSuffix); is {
			kinds = append(kinds, kind)
		}
	}
	return kinds
}

// OfKind is the name of the schema of a kind of event.
func OfKind(kind string) string { return kind + eventSuffix }

// OfEvent is the name of the schema of an event's body.
func OfEvent(kind, rolloutID string) string {
	if rolloutID == "" {
		return notice
	}
	return OfKind(kind)
}

// Validate holds one JSON value against a schema.
func (s *Set) Validate(name string, data []byte) error {
	schema, ok := s.compiled[name]
	if !ok {
		return fmt.Errorf("validate: there is no schema %s", name)
	}
	value, err := jsonschema.UnmarshalJSON(bytes.NewReader(data))
	if err != nil {
		return fmt.Errorf("validate against %s: %w", name, err)
	}
	if err := schema.Validate(value); err != nil {
		return fmt.Errorf("validate against %s: %w", name, err)
	}
	return nil
}
