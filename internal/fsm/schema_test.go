package fsm_test

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"testing"

	"github.com/nixfleet/nixfleet-agent/internal/fsm"
	"github.com/nixfleet/nixfleet-agent/internal/schematest"
)

const (
	docs         = "../../docs"
	recordSchema = "record.schema.json"
)

func schemas(t *testing.T) *schematest.Set {
	t.Helper()
	set, err := schematest.Load(filepath.Join(docs, "schema"))
	if err != nil {
		t.Fatal(err)
	}
	return set
}

func payload(t *testing.T, p fsm.Payload) []byte {
	t.Helper()
	data, err := fsm.EncodePayload(p)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func record(t *testing.T, rec fsm.Record) []byte {
	t.Helper()
	data, err := fsm.EncodeRecord(rec)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestEveryKindHasASchema(t *testing.T) {
	want := append(fsm.Words(t, "PayloadKind"), "HostNotice")
	slices.Sort(want)
	if got := schemas(t).Kinds(); !slices.Equal(got, want) {
		t.Errorf("schemas are of\n%v, and kinds are\n%v", got, want)
	}
}

func TestPayloadsAreValid(t *testing.T) {
	set := schemas(t)
	for kind, p := range fsm.Samples() {
		name := schematest.OfKind(string(kind))
		if got := set.At(name, "properties", "kind", "const"); got != string(kind) {
			t.Errorf("%s is of kind %v", name, got)
		}
		for _, differs := range set.Compare(name, reflect.TypeOf(p), "kind") {
			t.Error(differs)
		}
		full := payload(t, p)
		if err := set.Validate(name, full); err != nil {
			t.Errorf("%v\n%s", err, full)
		}
		for what, data := range map[string][]byte{
			"the least":         leastOf(t, set, name, full),
			"the highest seq":   changed(t, full, "seq", uint64(math.MaxUint64)),
			"of a newer agent":  changed(t, full, "colour", "red"),
			"other than notice": changed(t, full, "text", 7),
		} {
			if err := set.Validate(name, data); err != nil {
				t.Errorf("%s: %v\n%s", what, err, data)
			}
		}
	}
}

func TestWrongPayloadsAreRefused(t *testing.T) {
	set := schemas(t)
	for kind, p := range fsm.Samples() {
		name := schematest.OfKind(string(kind))
		full := payload(t, p)
		passed, err := set.Lax(name, full)
		if err != nil {
			t.Fatal(err)
		}
		for _, passes := range passed {
			t.Error(passes)
		}
		for field, wrong := range map[string]any{"kind": "Other", "seq": 0} {
			if set.Validate(name, changed(t, full, field, wrong)) == nil {
				t.Errorf("%s: %s may be %v", name, field, wrong)
			}
		}
		for field := range fieldsOf(t, full) {
			schema, _ := set.At(name, "properties", field).(map[string]any)
			required := slices.Contains(set.At(name, "required").([]any), any(field))
			if refused := set.Validate(name, without(t, full, field)) != nil; refused != required {
				t.Errorf("%s: without %s it is refused: %t", name, field, refused)
			}
			if schema["format"] == "date-time" {
				for _, wrong := range []string{"", "yesterday", "2026-03-01", "2026-03-01T12:00:00+01:00"} {
					if set.Validate(name, changed(t, full, field, wrong)) == nil {
						t.Errorf("%s: %s may be %q", name, field, wrong)
					}
				}
			}
			if schema["enum"] != nil && set.Validate(name, changed(t, full, field, "other")) == nil {
				t.Errorf("%s: %s may be any word", name, field)
			}
		}
	}
}

func TestRecordsAreValid(t *testing.T) {
	set := schemas(t)
	for _, differs := range set.Compare(recordSchema, reflect.TypeFor[fsm.Record]()) {
		t.Error(differs)
	}
	for _, rec := range fsm.SampleRecords() {
		data := record(t, rec)
		if err := set.Validate(recordSchema, data); err != nil {
			t.Errorf("%v\n%s", err, data)
		}
	}
	full := fsm.FullRecord()
	full.Generation, full.LastEventSeq = math.MaxUint64, math.MaxUint64
	full.StagedBoot.SoftReboots = math.MaxUint32
	full.Unknown = nil // of these, the schema says nothing
	passed, err := set.Lax(recordSchema, record(t, full))
	if err != nil {
		t.Fatal(err)
	}
	for _, passes := range passed {
		t.Error(passes)
	}
	if err := set.Validate(recordSchema, leastOf(t, set, recordSchema, record(t, full))); err != nil {
		t.Error(err)
	}
}

// TestWordsOfSchemas holds the closed sets of words against the constants.
func TestWordsOfSchemas(t *testing.T) {
	set := schemas(t)
	for _, place := range []struct {
		typeName string
		path     []string
	}{
		{"State", []string{recordSchema, "properties", "state"}},
		{"Policy", []string{recordSchema, "properties", "policy"}},
		{"Policy", []string{recordSchema, "properties", "policy_applied"}},
		{"Policy", []string{"Failed.v1.schema.json", "properties", "policy_applied"}},
		{"WorkKind", []string{recordSchema, "$defs", "work", "properties", "kind"}},
		{"ProbeMode", []string{recordSchema, "$defs", "probe", "properties", "mode"}},
		{"ProbeStatus", []string{recordSchema, "$defs", "probe", "properties", "status"}},
		{"ProbeMode", []string{"ProbeTopologyDeclared.v1.schema.json", "$defs", "probeDeclaration", "properties", "mode"}},
		{"ProbeMode", []string{"ProbeResult.v1.schema.json", "properties", "mode"}},
		{"ProbeStatus", []string{"ProbeResult.v1.schema.json", "properties", "status"}},
	} {
		var got []string
		words, _ := set.At(place.path[0], append(place.path[1:], "enum")...).([]any)
		for _, word := range words {
			got = append(got, fmt.Sprint(word))
		}
		slices.Sort(got)
		if want := fsm.Words(t, place.typeName); !slices.Equal(got, want) {
			t.Errorf("%v is one of %v, and the constants of %s are %v", place.path, got, place.typeName, want)
		}
	}
	phases, _ := set.At(recordSchema, "$defs", "work", "properties", "phase", "description").(string)
	for _, phase := range fsm.Words(t, "Phase") {
		if !regexp.MustCompile(`\b` + phase + `\b`).MatchString(phases) {
			t.Errorf("the phase %s is not described", phase)
		}
	}
}

// TestReasonsAreDocumented holds the table of reasons in the page of the protocol against the constants.
func TestReasonsAreDocumented(t *testing.T) {
	page, err := os.ReadFile(filepath.Join(docs, "protocol.md"))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, row := range regexp.MustCompile("(?m)^\\| `([a-z-]+)` \\| (yes|no) \\|").FindAllStringSubmatch(string(page), -1) {
		got = append(got, row[1])
		if accuses := fsm.FailureReason(row[1]).Accuses(); accuses != (row[2] == "yes") {
			t.Errorf("%s accuses the closure: %t", row[1], accuses)
		}
	}
	slices.Sort(got)
	if want := fsm.Words(t, "FailureReason"); !slices.Equal(got, want) {
		t.Errorf("the page has the reasons\n%v, and the constants are\n%v", got, want)
	}
}

func fieldsOf(t *testing.T, data []byte) map[string]json.RawMessage {
	t.Helper()
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(data, &fields); err != nil {
		t.Fatal(err)
	}
	return fields
}

func marshal(t *testing.T, v any) []byte {
	t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func changed(t *testing.T, data []byte, field string, to any) []byte {
	t.Helper()
	fields := fieldsOf(t, data)
	fields[field] = marshal(t, to)
	return marshal(t, fields)
}

func without(t *testing.T, data []byte, field string) []byte {
	t.Helper()
	fields := fieldsOf(t, data)
	delete(fields, field)
	return marshal(t, fields)
}

// leastOf keeps only what the schema requires.
func leastOf(t *testing.T, set *schematest.Set, name string, data []byte) []byte {
	t.Helper()
	fields := fieldsOf(t, data)
	for field := range fields {
		if !slices.Contains(set.At(name, "required").([]any), any(field)) {
			delete(fields, field)
		}
	}
	return marshal(t, fields)
}
