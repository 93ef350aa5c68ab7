package schematest_test

import (
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nixfleet/nixfleet-agent/internal/schematest"
)

type thing struct {
	Name   string           `json:"name"`
	At     time.Time        `json:"at,omitzero"`
	Number uint64           `json:"number"`
	Parts  []part           `json:"parts"`
	ByName map[string]part  `json:"byName,omitempty"`
	Hidden map[string]int64 `json:"-"`
}

type part struct {
	Sound bool `json:"sound"`
}

const good = `{
  "$id": "https://example.org/thing.schema.json", "type": "object", "additionalProperties": true, "required": ["name", "number", "parts"],
  "properties": {
    "name": {"description": "A name.", "type": "string"},
    "at": {"description": "A moment.", "type": "string", "format": "date-time"},
    "number": {"description": "A number.", "type": "integer", "minimum": 0, "maximum": 18446744073709551615},
    "parts": {"description": "Parts.", "type": "array", "items": {"$ref": "#/$defs/part"}},
    "byName": {"description": "Parts.", "type": "object", "additionalProperties": {"$ref": "#/$defs/part"}}
  },
  "$defs": {"part": {"type": "object", "additionalProperties": true, "required": ["sound"], "properties": {"sound": {"description": "Whether.", "type": "boolean"}}}}
}`

const value = `{"name":"n","at":"2026-03-01T12:00:00Z","number":18446744073709551615,"parts":[{"sound":true}],"byName":{"x":{"sound":false}}}`

func load(t *testing.T, text string) (*schematest.Set, error) {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "thing.schema.json"), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return schematest.Load(dir)
}

// TestFindings changes the schema in one place at a time. What holds schemas must notice each.
func TestFindings(t *testing.T) {
	for name, c := range map[string]struct{ was, is, differs, lax string }{
		"nothing":                 {},
		"a field is missing":      {was: `"name": {"description": "A name.", "type": "string"},`, differs: "thing.name is not in the schema", lax: "thing.schema.json: .name may be <nil>"},
		"a field too many":        {was: `"name": {`, is: `"colour": {"description": "A colour."}, "name": {`, differs: "thing.colour is in the schema alone"},
		"no description":          {was: `"description": "A name.", `, differs: "thing.name is not described in a sentence"},
		"no type":                 {was: `"A name.", "type": "string"`, is: `"A name."`, differs: "thing.name: is a <nil> in the schema, and a string", lax: "thing.schema.json: .name may be 1"},
		"another type":            {was: `"Whether.", "type": "boolean"`, is: `"Whether."`, differs: "thing.parts[].sound: is a <nil> in the schema, and a boolean", lax: `thing.schema.json: .byName.x.sound may be true`},
		"a number of any kind":    {was: `"type": "integer"`, is: `"type": "number"`, differs: "thing.number: is a number in the schema, and a integer", lax: "thing.schema.json: .number may be 1.5"},
		"a range too small":       {was: `18446744073709551615`, is: `18446744073709551616`, differs: "thing.number: its maximum is 18446744073709551616, and that of a uint64 18446744073709551615"},
		"no moment":               {was: `, "format": "date-time"`, differs: "thing.at: is a moment"},
		"not required":            {was: `["sound"]`, is: `[]`, differs: "thing.byName{}: required are [], and always written are [sound]"},
		"closed":                  {was: `{"part": {"type": "object", "additionalProperties": true`, is: `{"part": {"type": "object"`, differs: "thing.byName{}: is to be an object that may grow"},
		"a definition left over":  {was: `{"part": {`, is: `{"spare": {}, "part": {`, differs: "thing.schema.json: $defs/spare is not used"},
		"null instead of nothing": {was: `"A moment.", "type": "string"`, is: `"A moment.", "type": ["string", "null"]`, differs: "thing.at: is a [string null] in the schema, and a string", lax: "thing.schema.json: .at may be <nil>"},
	} {
		t.Run(name, func(t *testing.T) {
			if !strings.Contains(good, c.was) {
				t.Fatalf("the schema does not have %s", c.was)
			}
			set, err := load(t, strings.Replace(good, c.was, c.is, 1))
			if err != nil {
				t.Fatal(err)
			}
			differences := set.Compare("thing.schema.json", reflect.TypeFor[thing]())
			if c.differs == "" && len(differences) > 0 || c.differs != "" && !slices.Contains(differences, c.differs) {
				t.Errorf("it differs in %q, want %q", differences, c.differs)
			}
			passed, err := set.Lax("thing.schema.json", []byte(value))
			if err != nil {
				t.Fatal(err)
			}
			if c.lax == "" && len(passed) > 0 || c.lax != "" && !slices.Contains(passed, c.lax) {
				t.Errorf("it lets pass %q, want %q", passed, c.lax)
			}
		})
	}
}

func TestLaxWantsAValidValue(t *testing.T) {
	set, err := load(t, good)
	if err != nil {
		t.Fatal(err)
	}
	if passed, err := set.Lax("thing.schema.json", []byte(`{}`)); err == nil {
		t.Errorf("a value that is not valid was tried: %q", passed)
	}
	if set.Validate("nosuch.schema.json", []byte(value)) == nil {
		t.Error("a schema that is not there accepts")
	}
}

func TestLoadRefuses(t *testing.T) {
	for name, text := range map[string]string{
		"no JSON":          "{",
		"no object":        "[]",
		"no id":            "{}",
		"the id of others": `{"$id": "https://example.org/other.schema.json"}`,
		"no schema":        `{"$id": "https://example.org/thing.schema.json", "type": 7}`,
		"a broken ref":     `{"$id": "https://example.org/thing.schema.json", "$ref": "#/$defs/nosuch"}`,
	} {
		if _, err := load(t, text); err == nil {
			t.Errorf("%s: loaded", name)
		}
	}
	if _, err := schematest.Load(t.TempDir()); err == nil {
		t.Error("a directory without schemas was loaded")
	}
}
