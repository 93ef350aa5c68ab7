package fsm

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// Sessions tell a rollout line by line. Input lines begin in the first column; what the rules answer is indented below
// them and rewritten by -update. The mirror follows every session through the reported payloads.
//
//	record key=value …   changes fields of the record before the first event
//	clock 10m            lets time pass in this boot
//	reboot               boots the host again; soft-reboot keeps kernel and boot id
//	work PHASE           stores the next phase, as the agent does before it touches the host
//	count, restart       CountSoak, RestartSoak
//	gate                 asks ConvergeGate
//	LocalKind key=value  is an event; its moment is the clock's
func TestSessions(t *testing.T) {
	paths, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(paths) == 0 {
		t.Fatalf("no sessions in testdata: %v", err)
	}
	for _, path := range paths {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".txt"), func(t *testing.T) {
			script, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			golden(t, path, newSession(t).run(string(script)))
		})
	}
}

type session struct {
	t      *testing.T
	rec    Record
	mirror Record
	now    Now
	boots  int
	unseen bool // the probes changed by what is no event: the mirror learns of it with the next topology
}

func newSession(t *testing.T) *session {
	rec := pendingRecord()
	rec.TargetClosure, rec.LastEventSeq = "T", 0
	return &session{t: t, rec: rec, mirror: rec.clone(), now: firstBoot, boots: 1}
}

func (s *session) run(script string) string {
	var out strings.Builder
	for line := range strings.Lines(script) {
		line = strings.TrimRight(line, "\n")
		if strings.HasPrefix(line, " ") {
			continue // an old answer
		}
		out.WriteString(line + "\n")
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		for _, answer := range s.do(strings.Fields(line)) {
			out.WriteString("    " + answer + "\n")
		}
	}
	return out.String()
}

func (s *session) do(words []string) []string {
	switch words[0] {
	case "record":
		s.change(words[1:])
	case "clock":
		d, err := time.ParseDuration(words[1])
		if err != nil {
			s.t.Fatal(err)
		}
		s.now = later(s.now, d)
	case "reboot":
		s.boots++
		s.now = Now{Wall: s.now.Wall.Add(time.Minute), Up: 10 * time.Second, BootID: fmt.Sprintf("boot-%d", s.boots)}
	case "soft-reboot":
		s.now.SoftReboots++
	case "work":
		work := s.rec.Work.Enter(Phase(words[1]), BootStamp{BootID: s.now.BootID, SoftReboots: s.now.SoftReboots})
		s.rec.Work = &work
		return []string{"work " + workLine(s.rec.Work)}
	case "count":
		s.rec = CountSoak(s.rec, s.now)
		return []string{fmt.Sprintf("served %s", s.rec.SoakServed.Duration())}
	case "restart":
		s.rec = RestartSoak(s.rec, s.now)
		s.unseen = true
		return []string{fmt.Sprintf("served %s", s.rec.SoakServed.Duration())}
	case "gate":
		open, waiting := ConvergeGate(s.rec, s.now)
		return append([]string{fmt.Sprintf("open %t", open)}, waiting...)
	default:
		return s.event(words)
	}
	return nil
}

func (s *session) change(pairs []string) {
	for _, rec := range []*Record{&s.rec, &s.mirror} {
		encoded, err := EncodeRecord(*rec)
		if err != nil {
			s.t.Fatal(err)
		}
		if *rec, err = DecodeRecord(s.with(encoded, pairs)); err != nil {
			s.t.Fatal(err)
		}
	}
}

// with sets key=value pairs in an encoded object; a value that is no JSON is a string.
func (s *session) with(object []byte, pairs []string) []byte {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(object, &fields); err != nil {
		s.t.Fatal(err)
	}
	for _, pair := range pairs {
		key, value, ok := strings.Cut(pair, "=")
		if !ok {
			s.t.Fatalf("%q is not key=value", pair)
		}
		raw := json.RawMessage(value)
		if !json.Valid(raw) {
			raw, _ = json.Marshal(value)
		}
		fields[key] = raw
	}
	encoded, err := json.Marshal(fields)
	if err != nil {
		s.t.Fatal(err)
	}
	return encoded
}

// event reads an event from its words: the fields that are given, the clock for its moment, nothing else.
func (s *session) event(words []string) []string {
	ev := s.read(words)
	policy := s.rec.Policy
	before := s.rec
	next, effects, err := Step(s.rec, Stamp(ev, s.rec.LastEventSeq+1), s.now, policy)
	answers := []string{outcomeLine(next, err)}
	if err != nil {
		return answers
	}
	answers[0] += fmt.Sprintf(", seq %d", next.LastEventSeq)
	for i, eff := range effects {
		answers = append(answers, fmt.Sprintf("%d %s", i+1, effectLine(eff)))
	}
	s.rec = next
	s.follow(effects, before)
	return answers
}

func (s *session) read(words []string) Event {
	sample, ok := sampleEvents()[Kind(words[0])]
	if !ok {
		s.t.Fatalf("no such word: %s", words[0])
	}
	empty, err := events[sample.Kind()].decode([]byte("{}"))
	if err != nil {
		s.t.Fatal(err)
	}
	encoded, err := EncodeEvent(empty)
	if err != nil {
		s.t.Fatal(err)
	}
	moment, err := s.now.Wall.MarshalJSON()
	if err != nil {
		s.t.Fatal(err)
	}
	timed := strings.ReplaceAll(string(encoded), `"0001-01-01T00:00:00Z"`, string(moment))
	ev, err := DecodeEvent(s.with([]byte(timed), words[1:]))
	if err != nil {
		s.t.Fatal(err)
	}
	return ev
}

// follow hands what was reported to the mirror, which must come to stand where the host stands.
func (s *session) follow(effects []Effect, before Record) {
	for _, eff := range effects {
		emitted, ok := eff.(LocalEmitEvent)
		if !ok {
			continue
		}
		next, _, err := Step(s.mirror, RemoteOf(emitted.Payload), Now{}, before.Policy)
		if err != nil {
			s.t.Fatalf("the mirror refuses %s: %v", emitted.Payload.PayloadKind(), err)
		}
		s.mirror = next
		if _, declared := emitted.Payload.(ProbeTopologyDeclared); declared {
			s.unseen = false
		}
	}
	if diff := mirrorDiffers(s.t, s.rec, s.mirror, s.unseen); diff != "" {
		s.t.Fatalf("host and mirror differ:\n%s", diff)
	}
}

// mirrorDiffers compares what host and mirror both have of a record.
func mirrorDiffers(t interface {
	Helper()
	Fatal(...any)
}, onHost, inMirror Record, probesUnseen bool) string {
	t.Helper()
	shared := func(rec Record) string {
		rec.Work, rec.SoakServed, rec.SoakMark = nil, 0, SoakMark{}
		if probesUnseen {
			forgetProbes(&rec)
		}
		encoded, err := EncodeRecord(rec)
		if err != nil {
			t.Fatal(err)
		}
		return string(encoded)
	}
	if a, b := shared(onHost), shared(inMirror); a != b {
		return "host:   " + a + "\nmirror: " + b
	}
	return ""
}
