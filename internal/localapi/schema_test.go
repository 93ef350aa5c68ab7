package localapi

import (
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

func statusSchema(t *testing.T) *jsonschema.Schema {
	t.Helper()
	doc, err := jsonschema.UnmarshalJSON(strings.NewReader(StatusSchema))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	c.AssertFormat()
	if err := c.AddResource("status.schema.json", doc); err != nil {
		t.Fatal(err)
	}
	schema, err := c.Compile("status.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	return schema
}

// least is the smallest status that the agent gives.
func least() Status {
	return Status{SchemaVersion: SchemaVersion, Source: FromFile, At: testTime, Verdict: NoAgent}
}

// full has a value in every field, which fillValue sees to.
func full(t *testing.T) Status {
	t.Helper()
	var st Status
	fillValue(t, reflect.ValueOf(&st).Elem())
	st.SchemaVersion, st.Source, st.Verdict = SchemaVersion, FromAgent, RebootNeeded
	return st
}

func fillValue(t *testing.T, v reflect.Value) {
	t.Helper()
	switch {
	case v.Type() == reflect.TypeFor[time.Time]():
		v.Set(reflect.ValueOf(testTime))
	case v.Kind() == reflect.Struct:
		for _, field := range v.Fields() {
			fillValue(t, field)
		}
	case v.Kind() == reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fillValue(t, v.Elem())
	case v.Kind() == reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 2, 2))
		for i := range 2 {
			fillValue(t, v.Index(i))
		}
	case v.Kind() == reflect.String:
		v.SetString("text")
	case v.Kind() == reflect.Bool:
		v.SetBool(true)
	case v.CanInt():
		v.SetInt(1)
	case v.CanUint():
		v.SetUint(1)
	default:
		t.Fatalf("no value for a %s", v.Type())
	}
}

func TestStatusIsValid(t *testing.T) {
	schema := statusSchema(t)
	large := full(t)
	large.Outbox.LastPos, large.Rollout.LastEventSeq, large.Host.SoftReboots = math.MaxUint64, math.MaxUint64, math.MaxUint32
	emptied := full(t)
	*emptied.Rollout, *emptied.Next, *emptied.Target = Rollout{Components: []Component{}}, Waiting{}, Closure{}
	cases := map[string]Status{"least": least(), "full": full(t), "large numbers": large, "emptied": emptied}
	for _, v := range verdicts {
		st := least()
		st.Verdict = v
		cases[string(v)] = st
	}
	for name, st := range cases {
		data, err := json.Marshal(st)
		if err != nil {
			t.Fatal(err)
		}
		value, err := jsonschema.UnmarshalJSON(strings.NewReader(string(data)))
		if err != nil {
			t.Fatal(err)
		}
		if err := schema.Validate(value); err != nil {
			t.Errorf("%s: %v\n%s", name, err, data)
		}
		var back Status
		if err := json.Unmarshal(data, &back); err != nil {
			t.Fatal(err)
		}
		again, err := json.Marshal(back)
		if err != nil || string(again) != string(data) {
			t.Errorf("%s: read back it is\n%s, %v; was\n%s", name, again, err, data)
		}
	}
}

var verdicts = []Verdict{AtTarget, InProgress, RebootNeeded, Unsuccessful, NoAgent}

func TestStatusNullsAreWhereTheSchemaSaysSo(t *testing.T) {
	data, err := json.Marshal(least())
	if err != nil {
		t.Fatal(err)
	}
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(data, &fields); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"target": "null", "rollout": "null", "next": "null", "why": "[]", "notes": "[]"} {
		if string(fields[name]) != want {
			t.Errorf("%s is %s, want %s", name, fields[name], want)
		}
	}
}

func TestSchemaRefusesWhatIsNoStatus(t *testing.T) {
	schema := statusSchema(t)
	data, err := json.Marshal(full(t))
	if err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(m map[string]any){
		"another version":   func(m map[string]any) { m["schemaVersion"] = 2 },
		"no verdict":        func(m map[string]any) { delete(m, "verdict") },
		"unknown verdict":   func(m map[string]any) { m["verdict"] = "fine" },
		"why is null":       func(m map[string]any) { m["why"] = nil },
		"a time that isn't": func(m map[string]any) { m["at"] = "yesterday" },
		"nested type":       func(m map[string]any) { m["rollout"].(map[string]any)["soakMs"] = "5m" },
		"nested missing":    func(m map[string]any) { delete(m["nextBoot"].(map[string]any), "loader") },
	} {
		var m map[string]any
		if err := json.Unmarshal(data, &m); err != nil {
			t.Fatal(err)
		}
		change(m)
		changed, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		value, err := jsonschema.UnmarshalJSON(strings.NewReader(string(changed)))
		if err != nil {
			t.Fatal(err)
		}
		if schema.Validate(value) == nil {
			t.Errorf("%s: is valid", name)
		}
	}
	var m map[string]any
	if err := json.Unmarshal(data, &m); err != nil {
		t.Fatal(err)
	}
	m["field of a newer agent"] = true
	if err := schema.Validate(m); err != nil && strings.Contains(err.Error(), "additional") {
		t.Errorf("the contract may grow: %v", err)
	}
}

// TestSchemaHasEveryField holds the fields of Status and of what is in it against the schema, both ways.
func TestSchemaHasEveryField(t *testing.T) {
	var schema map[string]any
	if err := json.Unmarshal([]byte(StatusSchema), &schema); err != nil {
		t.Fatal(err)
	}
	c := comparison{t: t, defs: schema["$defs"].(map[string]any), used: map[string]bool{}}
	c.object("Status", schema, reflect.TypeFor[Status]())
	for name := range c.defs {
		if !c.used[name] {
			t.Errorf("$defs/%s is not used", name)
		}
	}
	for field, want := range map[string][]string{"source": {string(FromAgent), string(FromFile)}, "verdict": words(verdicts)} {
		got := schema["properties"].(map[string]any)[field].(map[string]any)["enum"]
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%s is one of %v, want %v", field, got, want)
		}
	}
}

func words[T ~string](in []T) (out []string) {
	for _, w := range in {
		out = append(out, string(w))
	}
	return out
}

type comparison struct {
	t    *testing.T
	defs map[string]any
	used map[string]bool
}

// jsonField is a field as encoding/json writes it.
type jsonField struct {
	kind     reflect.Type
	optional bool
}

func fieldsOf(kind reflect.Type) map[string]jsonField {
	fields := map[string]jsonField{}
	for f := range kind.Fields() {
		tag := f.Tag.Get("json")
		if f.Anonymous && tag == "" {
			maps.Copy(fields, fieldsOf(f.Type))
			continue
		}
		name, options, _ := strings.Cut(tag, ",")
		fields[name] = jsonField{f.Type, strings.Contains(options, "omit")}
	}
	return fields
}

func (c *comparison) object(where string, schema map[string]any, kind reflect.Type) {
	c.t.Helper()
	if schema["type"] != "object" || schema["additionalProperties"] != true {
		c.t.Errorf("%s: is to be an object that may grow", where)
	}
	properties, _ := schema["properties"].(map[string]any)
	fields := fieldsOf(kind)
	var required []string
	for name, f := range fields {
		property, ok := properties[name].(map[string]any)
		if !ok {
			c.t.Errorf("%s.%s is not in the schema", where, name)
			continue
		}
		if text, _ := property["description"].(string); text == "" {
			c.t.Errorf("%s.%s is not described", where, name)
		}
		if !f.optional {
			required = append(required, name)
		}
		c.value(where+"."+name, property, f.kind)
	}
	for name := range properties {
		if _, ok := fields[name]; !ok {
			c.t.Errorf("%s.%s is in the schema alone", where, name)
		}
	}
	var listed []string
	for _, name := range schema["required"].([]any) {
		listed = append(listed, name.(string))
	}
	slices.Sort(required)
	slices.Sort(listed)
	if !slices.Equal(required, listed) {
		c.t.Errorf("%s: required is %v, and always written is %v", where, listed, required)
	}
}

func (c *comparison) value(where string, schema map[string]any, kind reflect.Type) {
	c.t.Helper()
	var want string
	switch {
	case kind == reflect.TypeFor[time.Time]():
		want = "string"
		if schema["format"] != "date-time" {
			c.t.Errorf("%s: is a time", where)
		}
	case kind.Kind() == reflect.Pointer:
		either, _ := schema["oneOf"].([]any)
		if len(either) != 2 || either[0].(map[string]any)["type"] != "null" {
			c.t.Fatalf("%s: is to be null or an object", where)
		}
		c.value(where, either[1].(map[string]any), kind.Elem())
		return
	case kind.Kind() == reflect.Struct:
		ref, _ := schema["$ref"].(string)
		name := strings.TrimPrefix(ref, "#/$defs/")
		def, ok := c.defs[name].(map[string]any)
		if !ok {
			c.t.Fatalf("%s: refers to %q", where, ref)
		}
		c.used[name] = true
		c.object(where, def, kind)
		return
	case kind.Kind() == reflect.Slice:
		want = "array"
		items, _ := schema["items"].(map[string]any)
		c.value(where+"[]", items, kind.Elem())
	case kind.Kind() == reflect.String:
		want = "string"
	case kind.Kind() == reflect.Bool:
		want = "boolean"
	default:
		want = "integer"
		if schema["const"] == float64(SchemaVersion) {
			return
		}
	}
	if schema["type"] != want {
		c.t.Errorf("%s: is a %v in the schema, and a %s", where, schema["type"], want)
	}
}
