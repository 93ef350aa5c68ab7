package fsm

import (
	"bytes"
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"
)

func encodedRecord(t *testing.T, rec Record) string {
	t.Helper()
	data, err := EncodeRecord(rec)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// fullRecord has every field filled, so that a field that is lost on the way to disk is noticed.
func fullRecord() Record {
	return Record{
		Hostname: "web", RolloutID: "stable@abc", Channel: "stable", Generation: 7, TargetClosure: targetT, Specialisation: "desk",
		State: Failed, Policy: Halt, Soak: 600_000, SoakDueAt: at(600), Force: true, ExpiresAt: at(900),
		CreatedAt: at(0), ReceivedAt: at(1), ActivationStartedAt: at(2), ActivationCompletedAt: at(3), ActivationFailedAt: at(4),
		DeferredAt: at(5), FailedAt: at(6), ConvergedAt: at(7), EndedAt: at(8),
		Prior: wayBack, CurrentClosure: targetT, Degraded: []string{"mail"}, Components: newKernel,
		StagedBoot: BootStamp{BootID: "boot-1", SoftReboots: 1},
		Probes:     map[string]Probe{"http": {Kind: "http", Mode: Enforce, Status: Fail, ObservedAt: at(9), Reason: "503"}},

		TopologyDeclaredAt: at(10), ProbeObservedFirstAt: at(11), ProbeFailureFirstAt: at(12),
		SoakServed: 5_000, SoakMark: SoakMark{BootID: "boot-1", Up: 9_000},
		FailureReason: ReasonUnhealthy, FailureDetail: "503", PolicyApplied: Halt,
		RollbackFailureReason: ReasonDiskFull, RollbackFailureDetail: "no space", RevertedTo: priorP, SupersededBy: "stable@def",
		Work: &Work{Kind: WorkUndo, Phase: PhaseUndoBoot, Attempt: 3, Touched: true, Boot: BootStamp{BootID: "boot-1", SoftReboots: 1},
			Starts: 1, Retries: 2, Returns: 1, Left: []string{"profile"}},
		Attempts: 3, LastEventSeq: 17,
		Unknown: map[string]json.RawMessage{
			"colour": json.RawMessage(`{"b":[1,2.50],"a":"é"}`),
			"work":   json.RawMessage(`{"urgency":7}`),
			"prior":  json.RawMessage(`{"initrd":"/nix/store/i"}`),
		},
	}
}

func TestRecordSurvivesEncoding(t *testing.T) {
	rec := fullRecord()
	v := reflect.ValueOf(rec)
	for i := range v.NumField() {
		if v.Field(i).IsZero() {
			t.Errorf("the full record leaves %s empty", v.Type().Field(i).Name)
		}
	}
	data := encodedRecord(t, rec)
	got, err := DecodeRecord([]byte(data))
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, rec) {
		t.Errorf("got\n%+v\nwant\n%+v", got, rec)
	}
	if again := encodedRecord(t, got); again != data {
		t.Errorf("rewriting changed the record:\n%s\n%s", data, again)
	}
}

func TestUnknownFieldsSurviveRewriting(t *testing.T) {
	const data = `{"rollout_id":"stable@abc","state":"Activating","hostname":"web","target_closure":"T","policy":"halt","soak_ms":1,
		"created_at":"2026-03-01T12:00:00Z","last_event_seq":3,"work":{"kind":"switch","phase":"switch","urgency":{"level":12345678901234567890}},
		"prior":{"running":"P","initrd":"I"},"Colour":"red","STATE":"not ours","novel":[1.50,{"x":null}]}`
	rec, err := DecodeRecord([]byte(data))
	if err != nil {
		t.Fatal(err)
	}
	if rec.State != Activating {
		t.Errorf("a key that differs in case was taken for ours: %s", rec.State)
	}
	rec.LastEventSeq = 4
	got := encodedRecord(t, rec)
	for _, kept := range []string{`"Colour":"red"`, `"STATE":"not ours"`, `"novel":[1.50,{"x":null}]`, `"initrd":"I"`, `{"level":12345678901234567890}`, `"last_event_seq":4`} {
		if !strings.Contains(got, kept) {
			t.Errorf("lost %s in\n%s", kept, got)
		}
	}

	rec.Prior = Prior{}
	if got := encodedRecord(t, rec); !strings.Contains(got, `"prior":{"initrd":"I"}`) {
		t.Errorf("lost with the fields around it: %s", got)
	}
	rec.Work = nil
	if got := encodedRecord(t, rec); strings.Contains(got, `"work"`) {
		t.Errorf("work came back for its leftovers: %s", got)
	}
}

func TestRecordOfANewerAgentIsKept(t *testing.T) {
	rec := pendingRecord()
	rec.State, rec.Policy = "Hibernating", "page-somebody"
	got, err := DecodeRecord([]byte(encodedRecord(t, rec)))
	if err != nil || !reflect.DeepEqual(got, rec) || got.State.Known() {
		t.Errorf("got %+v, %v", got, err)
	}
}

func TestTagComesFirst(t *testing.T) {
	for kind, p := range samples() {
		data, err := EncodePayload(p)
		if err != nil || !strings.HasPrefix(string(data), `{"kind":"`+string(kind)+`",`) {
			t.Errorf("%s: %s %v", kind, data, err)
		}
		got, err := DecodePayload(data)
		if err != nil || !reflect.DeepEqual(got, p) {
			t.Errorf("%s: got %+v, %v", kind, got, err)
		}
	}
	for kind, ev := range sampleEvents() {
		data, err := EncodeEvent(ev)
		if err != nil || !strings.HasPrefix(string(data), `{"kind":"`+string(kind)+`",`) {
			t.Errorf("%s: %s %v", kind, data, err)
		}
		got, err := DecodeEvent(data)
		if err != nil || !reflect.DeepEqual(got, ev) {
			t.Errorf("%s: got %+v, %v", kind, got, err)
		}
	}
}

func TestListsAreNeverNull(t *testing.T) {
	for kind, p := range samples() {
		empty, err := payloads[kind].decode([]byte("{}"))
		if err != nil {
			t.Fatal(err)
		}
		data, err := EncodePayload(empty.withSeq(p.Sequence()))
		if err != nil || bytes.Contains(data, []byte("null")) {
			t.Errorf("%s: %s %v", kind, data, err)
		}
	}
}

func TestMomentsAreUTC(t *testing.T) {
	local := time.Date(2026, 3, 1, 13, 0, 0, 0, time.FixedZone("CET", 3600))
	ev := Stamp(LocalLeftTarget{LeftTarget{ObservedCurrentClosure: otherX, LeftAt: local}}, 9)
	data, err := EncodeEvent(ev)
	if err != nil || !strings.Contains(string(data), `"left_at":"2026-03-01T12:00:00Z"`) {
		t.Errorf("%s %v", data, err)
	}
}

func TestUnknownKindsAreKept(t *testing.T) {
	const data = ` {"seq":9, "kind" : "Hibernated","novel":[1.50]} `
	for name, decode := range map[string]func([]byte) error{
		"payload": func(b []byte) error { _, err := DecodePayload(b); return err },
		"event":   func(b []byte) error { _, err := DecodeEvent(b); return err },
	} {
		input := []byte(data)
		err := decode(input)
		clear(input)
		var unknown *UnknownKind
		if !errors.As(err, &unknown) || unknown.Kind != "Hibernated" || string(unknown.Raw) != data {
			t.Errorf("%s: %v", name, err)
		}
	}
	// The two closed sets have no kind in common: an event is never read as a payload.
	for kind := range events {
		if _, both := payloads[PayloadKind(kind)]; both {
			t.Errorf("%s is an event and a payload", kind)
		}
	}
}

func TestDecodersRefuse(t *testing.T) {
	deep := `{"kind":"LeftTarget","x":` + strings.Repeat("[", maxNesting) + strings.Repeat("]", maxNesting) + `}`
	huge := `{"kind":"LeftTarget","x":"` + strings.Repeat("x", MaxEncoded) + `"}`
	for name, data := range map[string]string{
		"nothing":                  ``,
		"null":                     `null`,
		"a list":                   `[]`,
		"a word":                   `"LeftTarget"`,
		"no kind":                  `{}`,
		"an empty kind":            `{"kind":""}`,
		"a kind that is no word":   `{"kind":7}`,
		"a null kind":              `{"kind":null}`,
		"something after":          `{"kind":"LeftTarget","seq":1} {}`,
		"half":                     `{"kind":"LeftTarget","seq":1`,
		"a key twice":              `{"kind":"LeftTarget","seq":1,"seq":2}`,
		"a key twice, in another":  `{"kind":"ProbeTopologyDeclared","probes":[{"mode":"enforce","mode":"observe"}]}`,
		"a key twice, escaped":     `{"kind":"LeftTarget","seq":1,"s\u0065q":2}`,
		"too deep":                 deep,
		"too long":                 huge,
		"a number that is none":    `{"kind":"LeftTarget","seq":-1}`,
		"a moment that is none":    `{"kind":"LeftTarget","left_at":"yesterday"}`,
		"a list that is a word":    `{"kind":"Failed","failing_probes":"http"}`,
		"a word that is an object": `{"kind":"LeftTarget","observed_current_closure":{}}`,
	} {
		if p, err := DecodePayload([]byte(data)); err == nil {
			t.Errorf("%s: read as %+v", name, p)
		}
		event := strings.NewReplacer(`"LeftTarget"`, `"LocalLeftTarget"`, `"Failed"`, `"RemoteFailed"`,
			`"ProbeTopologyDeclared"`, `"LocalProbeTopologyDeclared"`).Replace(data)
		if ev, err := DecodeEvent([]byte(event)); err == nil {
			t.Errorf("%s: read as %+v", name, ev)
		}
	}
	for name, data := range map[string]string{
		"nothing": ``, "null": `null`, "a list": `[1]`, "no rollout": `{"state":"Pending"}`, "no state": `{"rollout_id":"a@b"}`,
		"a key twice": `{"rollout_id":"a@b","state":"Pending","state":"Failed"}`, "half": `{"rollout_id":"a@b","state":"Pending"`,
		"something after":         `{"rollout_id":"a@b","state":"Pending"}x`,
		"a work that is a number": `{"rollout_id":"a@b","state":"Pending","work":7}`,
	} {
		if rec, err := DecodeRecord([]byte(data)); err == nil {
			t.Errorf("%s: read as %+v", name, rec)
		}
	}
}

func TestEncodersRefuseWhatIsNotInTheTable(t *testing.T) {
	if data, err := EncodePayload(&LeftTarget{}); err == nil {
		t.Errorf("a pointer was written: %s", data)
	}
	if data, err := EncodePayload(nil); err == nil {
		t.Errorf("nothing was written: %s", data)
	}
	if data, err := EncodeEvent(&LocalLeftTarget{}); err == nil {
		t.Errorf("a pointer was written: %s", data)
	}
	if data, err := EncodeEvent(nil); err == nil {
		t.Errorf("nothing was written: %s", data)
	}
	if data, err := EncodePayload(LeftTarget{ObservedCurrentClosure: strings.Repeat("x", MaxEncoded)}); err == nil {
		t.Errorf("%d bytes were written that nobody would read", len(data))
	}
	if data, err := EncodeRecord(Record{RolloutID: "a@b", State: Failed, FailureDetail: strings.Repeat("x", MaxEncoded)}); err == nil {
		t.Errorf("%d bytes were written that nobody would read", len(data))
	}
	if data, err := EncodePayload(LeftTarget{LeftAt: time.Date(10_000, 1, 1, 0, 0, 0, 0, time.UTC)}); err == nil {
		t.Errorf("a year that JSON times do not have was written: %s", data)
	}
}
