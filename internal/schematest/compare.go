package schematest

import (
	"encoding/json"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strings"
	"time"
)

// Compare holds a schema against the type that it describes, in both directions: every field that encoding/json writes is
// described, with its type, and is required if it is always written; nothing else is described, and nothing is left over
// in $defs. also names properties that are written beside the fields. It returns what differs.
func (s *Set) Compare(name string, kind reflect.Type, also ...string) []string {
	schema, ok := s.raw[name]
	if !ok {
		return []string{"there is no schema " + name}
	}
	defs, _ := schema["$defs"].(map[string]any)
	c := comparison{set: s, defs: defs, used: map[string]bool{}}
	c.object(strings.TrimSuffix(name, suffix), schema, kind, also)
	for def := range defs {
		if !c.used[def] {
			c.differ("%s: $defs/%s is not used", name, def)
		}
	}
	slices.Sort(c.differences)
	return c.differences
}

// At gives what a schema says in one place, such as At(name, "properties", "state", "enum"); nil if it says nothing there.
func (s *Set) At(name string, path ...string) any {
	var at any = s.raw[name]
	for _, step := range path {
		object, _ := at.(map[string]any)
		at = object[step]
	}
	return at
}

type comparison struct {
	set         *Set
	defs        map[string]any
	used        map[string]bool
	differences []string
}

func (c *comparison) differ(format string, args ...any) {
	c.differences = append(c.differences, fmt.Sprintf(format, args...))
}

// field is a field of a type as encoding/json writes it.
type field struct {
	kind     reflect.Type
	optional bool
}

func fieldsOf(kind reflect.Type) map[string]field {
	fields := map[string]field{}
	for f := range kind.Fields() {
		name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case name == "-" || !f.IsExported():
		case name == "":
			fields["field "+f.Name+" without a name"] = field{kind: f.Type}
		default:
			fields[name] = field{f.Type, strings.Contains(options, "omit")}
		}
	}
	return fields
}

func (c *comparison) object(where string, schema map[string]any, kind reflect.Type, also []string) {
	if schema["type"] != "object" || schema["additionalProperties"] != true {
		c.differ("%s: is to be an object that may grow", where)
	}
	properties, _ := schema["properties"].(map[string]any)
	fields := fieldsOf(kind)
	always := slices.Clone(also)
	for name, f := range fields {
		if !f.optional {
			always = append(always, name)
		}
		property, ok := properties[name].(map[string]any)
		if !ok {
			c.differ("%s.%s is not in the schema", where, name)
			continue
		}
		c.value(where+"."+name, property, f.kind)
	}
	for name, property := range properties {
		if _, ok := fields[name]; !ok && !slices.Contains(also, name) {
			c.differ("%s.%s is in the schema alone", where, name)
		}
		if described, _ := property.(map[string]any)["description"].(string); !strings.HasSuffix(described, ".") {
			c.differ("%s.%s is not described in a sentence", where, name)
		}
	}
	var required []string
	listed, _ := schema["required"].([]any)
	for _, name := range listed {
		required = append(required, fmt.Sprint(name))
	}
	slices.Sort(always)
	slices.Sort(required)
	if !slices.Equal(always, required) {
		c.differ("%s: required are %v, and always written are %v", where, required, always)
	}
}

func (c *comparison) value(where string, schema map[string]any, kind reflect.Type) {
	switch {
	case kind == reflect.TypeFor[time.Time]():
		c.typed(where, schema, "string")
		if schema["format"] != "date-time" {
			c.differ("%s: is a moment", where)
		}
	case kind == reflect.TypeFor[json.RawMessage]():
		if _, refers := schema["$ref"]; !refers {
			c.typed(where, schema, "object")
		}
	case kind.Kind() == reflect.Pointer:
		c.value(where, schema, kind.Elem()) // absent or there, never null
	case kind.Kind() == reflect.Struct:
		ref, _ := schema["$ref"].(string)
		name := strings.TrimPrefix(ref, "#/$defs/")
		def, ok := c.defs[name].(map[string]any)
		if !ok {
			c.differ("%s: refers to %q, where an object is to be", where, ref)
			return
		}
		c.used[name] = true
		c.object(where, def, kind, nil)
	case kind.Kind() == reflect.Slice:
		c.typed(where, schema, "array")
		items, _ := schema["items"].(map[string]any)
		c.value(where+"[]", items, kind.Elem())
	case kind.Kind() == reflect.Map:
		c.typed(where, schema, "object")
		values, _ := schema["additionalProperties"].(map[string]any)
		c.value(where+"{}", values, kind.Elem())
	case kind.Kind() == reflect.String:
		if fixed, is := schema["const"].(string); !is || fixed == "" {
			c.typed(where, schema, "string")
		}
	case kind.Kind() == reflect.Bool:
		c.typed(where, schema, "boolean")
	case reflect.Zero(kind).CanUint():
		c.typed(where, schema, "integer")
		c.bounded(where, schema, kind)
	case reflect.Zero(kind).CanInt():
		c.typed(where, schema, "integer")
	default:
		c.differ("%s: nothing is known of a %s", where, kind)
	}
}

func (c *comparison) typed(where string, schema map[string]any, want string) {
	if schema["type"] != want {
		c.differ("%s: is a %v in the schema, and a %s", where, schema["type"], want)
	}
}

// bounded holds the range of an unsigned number against that of its type: a reader may not think it fits into less.
func (c *comparison) bounded(where string, schema map[string]any, kind reflect.Type) {
	want := fmt.Sprint(uint64(math.MaxUint64) >> (64 - kind.Bits()))
	if got := fmt.Sprint(schema["maximum"]); got != want {
		c.differ("%s: its maximum is %s, and that of a %s %s", where, got, kind, want)
	}
	if least := fmt.Sprint(schema["minimum"]); least != "0" && least != "1" {
		c.differ("%s: its minimum is %s", where, least)
	}
}
