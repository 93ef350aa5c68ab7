package wire_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nixfleet/nixfleet-agent/internal/schematest"
	"github.com/nixfleet/nixfleet-agent/internal/wire"
)

const docs = "../../docs"

var moment = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func schemas(t *testing.T) *schematest.Set {
	t.Helper()
	set, err := schematest.Load(filepath.Join(docs, "schema"))
	if err != nil {
		t.Fatal(err)
	}
	return set
}

const record = `{"hostname":"web","rollout_id":"stable@abc","target_closure":"/nix/store/t","state":"Pending","policy":"halt",
	"soak_ms":0,"created_at":"2026-03-01T12:00:00Z","last_event_seq":0}`

// messages has every shape of the protocol by its schema: the smallest that is sent, and one with every field filled.
func messages() map[string][2]any {
	const target = "/nix/store/0c0w6v1kzhrrhvrrnhzdrp6b5d4sx1yg-nixos-system-web-26.05.2"
	records := []json.RawMessage{json.RawMessage(record)}
	cursor := wire.Cursor{Epoch: "e", Highest: math.MaxUint64, Acked: math.MaxUint64, LowestKept: 1}
	event := wire.Event{SpecVersion: wire.SpecVersion, ID: wire.EventID("e", math.MaxUint64), Source: wire.SourceOf("web"),
		Type: wire.TypeOf("Drift"), Time: moment, DataContentType: wire.JSON, Data: json.RawMessage(`{}`)}
	rollout := event
	rollout.Subject = "stable@abc"
	return map[string][2]any{
		"cloudevent.schema.json": {event, rollout},
		"dispatch.schema.json": {
			wire.Dispatch{Generation: 1, Host: "web", RolloutID: "stable@abc", Channel: "stable", Target: target},
			wire.Dispatch{Generation: math.MaxUint64, Host: "web", RolloutID: "stable@abc", Channel: "stable", Target: target,
				Specialisation: "desk", SoakMS: 1, SoakDueAt: moment, Policy: "halt", Force: true, ExpiresAt: moment},
		},
		"heartbeat.schema.json": {
			wire.Heartbeat{Host: "web", Records: []json.RawMessage{}, Degraded: []string{}},
			wire.Heartbeat{Host: "web", At: moment, AgentVersion: "1.0.0", Records: records, StillOld: []string{"systemd"},
				Facts:  wire.Facts{BootID: "b", SoftReboots: math.MaxUint32, Booted: target, Running: target, Profile: target, NextBoot: target, Loader: "grub"},
				Cursor: cursor, Outbox: wire.Outbox{Depth: 1, OldestAt: moment, DeadLetters: 1}, Generation: 7, Degraded: []string{"disk full"}, Hold: "audit"},
		},
		"heartbeat-reply.schema.json": {
			wire.HeartbeatReply{},
			wire.HeartbeatReply{Cursor: &cursor, Snapshots: records, Generation: 7},
		},
		"answer.schema.json": {
			wire.Answer{},
			wire.Answer{Acked: math.MaxUint64, Results: []wire.Result{{Pos: 1, Result: wire.Refused, Reason: "illegal in state Converged"}}},
		},
		"problem.schema.json": {
			wire.Problem{Code: "busy", Message: "not now"},
			wire.Problem{Code: "bad-event", Message: "event 7 is no CloudEvent", Hint: "mend it", Pos: 7},
		},
	}
}

func TestMessagesAreValid(t *testing.T) {
	set := schemas(t)
	all := messages()
	for _, name := range set.Names() {
		if _, has := all[name]; !has && !strings.Contains(name, ".v1.") && name != "record.schema.json" {
			t.Errorf("%s is of no message", name)
		}
	}
	for name, pair := range all {
		full := reflect.ValueOf(pair[1])
		for _, differs := range set.Compare(name, full.Type()) {
			t.Error(differs)
		}
		for i := range full.NumField() {
			if full.Field(i).IsZero() {
				t.Errorf("the full %s leaves %s empty", full.Type(), full.Type().Field(i).Name)
			}
		}
		for _, message := range pair {
			data := marshal(t, message)
			if err := set.Validate(name, data); err != nil {
				t.Errorf("%v\n%s", err, data)
			}
			fields := map[string]json.RawMessage{}
			if err := json.Unmarshal(data, &fields); err != nil {
				t.Fatal(err)
			}
			fields["colour"] = json.RawMessage(`"red"`)
			if err := set.Validate(name, marshal(t, fields)); err != nil {
				t.Errorf("the contract may grow: %v", err)
			}
		}
		passed, err := set.Lax(name, marshal(t, pair[1]), "data")
		if err != nil {
			t.Fatal(err)
		}
		for _, passes := range passed {
			t.Error(passes)
		}
	}
	rulings, _ := set.At("answer.schema.json", "$defs", "result", "properties", "result", "enum").([]any)
	if want := []any{"applied", "duplicate", "refused"}; !reflect.DeepEqual(rulings, want) {
		t.Errorf("rulings are %v, want %v", rulings, want)
	}
}

// TestSchemasAgreeWithCode holds what the schemas say of names against the functions that make and read them.
func TestSchemasAgreeWithCode(t *testing.T) {
	set := schemas(t)
	for _, c := range []struct {
		schema, field string
		valid         func(s string) bool
		words         []string
	}{
		{"cloudevent.schema.json", "id", func(s string) bool { _, _, err := wire.ParseEventID(s); return err == nil },
			[]string{"e:1", "a:b:42", "e:18446744073709551615", "", ":", "e", "e:", ":1", "e:0", "e:-1", "e:+1", "e:01", "e:1 ", "e:x", "e:123456789012345678901"}},
		{"cloudevent.schema.json", "type", func(s string) bool { kind, ok := wire.KindOf(s); return ok && kind[0] >= 'A' && kind[0] <= 'Z' },
			[]string{"dev.nixfleet.agent.Converged.v1", "", "dev.nixfleet.agent..v1", "com.example.X.v1", "dev.nixfleet.agent.X", "dev.nixfleet.agent.x.v1"}},
		{"cloudevent.schema.json", "source", func(s string) bool { _, ok := wire.HostOf(s); return ok },
			[]string{"/hosts/web-1.example", "", "/hosts/", "web"}},
		{"cloudevent.schema.json", "specversion", func(s string) bool { return s == wire.SpecVersion }, []string{"1.0", "0.3", ""}},
		{"cloudevent.schema.json", "datacontenttype", func(s string) bool { return s == wire.JSON }, []string{"application/json", "text/xml"}},
	} {
		fields := map[string]any{}
		if err := json.Unmarshal(marshal(t, messages()[c.schema][1]), &fields); err != nil {
			t.Fatal(err)
		}
		for _, word := range c.words {
			fields[c.field] = word
			if valid := set.Validate(c.schema, marshal(t, fields)) == nil; valid != c.valid(word) {
				t.Errorf("%s: %s %q is valid by the schema: %t", c.schema, c.field, word, valid)
			}
		}
	}
}

// example is a fenced block of the page, with the schema that the line before it names.
type example struct {
	schema string // empty: none is named
	batch  bool   // an array, each element of it by the schema
	text   string
}

func examples(t *testing.T) []example {
	t.Helper()
	page, err := os.ReadFile(filepath.Join(docs, "protocol.md"))
	if err != nil {
		t.Fatal(err)
	}
	var found []example
	for _, block := range regexp.MustCompile("(?ms)(?:^<!-- (each )?([a-z-]+\\.schema\\.json) -->\n)?^```json\n(.*?)^```$").FindAllStringSubmatch(string(page), -1) {
		found = append(found, example{batch: block[1] != "", schema: block[2], text: block[3]})
	}
	if fences := strings.Count(string(page), "```json\n"); fences != len(found) {
		t.Fatalf("%d examples were read, and there are %d", len(found), fences)
	}
	return found
}

// TestExamplesOfTheProtocol holds every example of the page against its schema, and against the type: what is read and
// written again is the same.
func TestExamplesOfTheProtocol(t *testing.T) {
	set := schemas(t)
	all := messages()
	shown := map[string]bool{}
	for _, ex := range examples(t) {
		pair, known := all[ex.schema]
		if !known {
			t.Errorf("no message is named before the example\n%s", ex.text)
			continue
		}
		shown[ex.schema] = true
		parts := []json.RawMessage{json.RawMessage(ex.text)}
		if ex.batch {
			if err := json.Unmarshal([]byte(ex.text), &parts); err != nil || len(parts) == 0 {
				t.Fatalf("%v\n%s", err, ex.text)
			}
		}
		for _, part := range parts {
			if err := set.Validate(ex.schema, part); err != nil {
				t.Errorf("%v\n%s", err, part)
				continue
			}
			message := reflect.New(reflect.TypeOf(pair[0]))
			dec := json.NewDecoder(bytes.NewReader(part))
			dec.DisallowUnknownFields()
			if err := dec.Decode(message.Interface()); err != nil {
				t.Errorf("%v\n%s", err, part)
				continue
			}
			if again := marshal(t, message.Interface()); !sameJSON(t, again, part) {
				t.Errorf("%s\nis written again as\n%s", part, again)
			}
			if event, is := message.Interface().(*wire.Event); is {
				checkEvent(t, set, *event)
			}
		}
	}
	for name := range all {
		if !shown[name] {
			t.Errorf("the page has no example of %s", name)
		}
	}
}

func checkEvent(t *testing.T, set *schematest.Set, event wire.Event) {
	t.Helper()
	kind, ok := wire.KindOf(event.Type)
	if !ok {
		t.Errorf("the type %q is none", event.Type)
		return
	}
	if err := set.Validate(schematest.OfEvent(kind, event.Subject), event.Data); err != nil {
		t.Errorf("%v\n%s", err, event.Data)
	}
	var data struct {
		Kind string `json:"kind"`
	}
	if err := json.Unmarshal(event.Data, &data); err != nil || data.Kind != kind {
		t.Errorf("an event of type %s has data of kind %q, %v", event.Type, data.Kind, err)
	}
}

// TestBoundsOfTheProtocol holds the bounds that the page gives against the constants.
func TestBoundsOfTheProtocol(t *testing.T) {
	page, err := os.ReadFile(filepath.Join(docs, "protocol.md"))
	if err != nil {
		t.Fatal(err)
	}
	mib := func(n int) string { return fmt.Sprintf("%d MiB", n>>20) }
	kib := func(n int) string { return fmt.Sprintf("%d KiB", n>>10) }
	for _, row := range []struct{ what, bound string }{
		{"Events in a batch", fmt.Sprint(wire.MaxEvents)},
		{"A batch", mib(wire.MaxBatch)},
		{"A dispatch", kib(wire.MaxDispatch)},
		{"An answer to a batch", kib(wire.MaxAnswer)},
		{"A problem", kib(wire.MaxProblem)},
		{"A heartbeat", mib(wire.MaxHeartbeat)},
		{"A reply to a heartbeat", mib(wire.MaxHeartbeatReply)},
		{"Waiting for a dispatch", fmt.Sprintf("%.0f s", wire.MaxWait.Seconds())},
		{"Nesting of a value", fmt.Sprint(wire.MaxNesting)},
	} {
		if line := fmt.Sprintf("\n| %s | %s |", row.what, row.bound); !bytes.Contains(page, []byte(line)) {
			t.Errorf("the page does not have the row%s", line)
		}
	}
	for _, word := range []string{wire.DispatchPath, wire.EventsPath, wire.HeartbeatPath, wire.JSON, wire.Batch} {
		if !bytes.Contains(page, []byte("`"+word+"`")) && !bytes.Contains(page, []byte(word+"?")) {
			t.Errorf("the page does not have %s", word)
		}
	}
}

func marshal(t *testing.T, v any) []byte {
	t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func sameJSON(t *testing.T, a, b []byte) bool {
	t.Helper()
	values := make([]any, 2)
	for i, data := range [][]byte{a, b} {
		dec := json.NewDecoder(bytes.NewReader(data))
		dec.UseNumber()
		if err := dec.Decode(&values[i]); err != nil {
			t.Fatal(err)
		}
	}
	return reflect.DeepEqual(values[0], values[1])
}

// TestExamplesAreFound tries the reader of the page: one that found nothing would pass everything.
func TestExamplesAreFound(t *testing.T) {
	var named []string
	for _, ex := range examples(t) {
		named = append(named, ex.schema)
	}
	if len(named) < len(messages()) || !slices.Contains(named, "answer.schema.json") {
		t.Errorf("found %v", named)
	}
}
