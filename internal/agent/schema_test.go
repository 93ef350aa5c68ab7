package agent

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"testing"
	"time"

	"github.com/nixfleet/nixfleet-agent/internal/schematest"
)

const docs = "../../docs"

func TestNoticesAreValid(t *testing.T) {
	const schema = "HostNotice.v1.schema.json"
	set, err := schematest.Load(filepath.Join(docs, "schema"))
	if err != nil {
		t.Fatal(err)
	}
	for _, differs := range set.Compare(schema, reflect.TypeFor[notice]()) {
		t.Error(differs)
	}
	at := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	full := notice{Kind: noticeStateReset, Text: "begun anew", At: at, Host: "web",
		Seen: &hostSeen{BootID: "boot-1", Booted: "/nix/store/a", Running: "/nix/store/b", Profile: "/nix/store/c", BootDefault: "/nix/store/d"}}
	for _, n := range []notice{full, {Kind: noticeHeld, Text: "held", At: at}, {Kind: noticeCommitLost, Text: "lost", At: at, Seen: &hostSeen{}}} {
		data, err := json.Marshal(n)
		if err != nil {
			t.Fatal(err)
		}
		if err := set.Validate(schema, data); err != nil {
			t.Errorf("%v\n%s", err, data)
		}
	}
	data, err := json.Marshal(full)
	if err != nil {
		t.Fatal(err)
	}
	passed, err := set.Lax(schema, data)
	if err != nil {
		t.Fatal(err)
	}
	for _, passes := range passed {
		t.Error(passes)
	}
}

// TestNoticesAreDocumented holds the table of notices in the page of the protocol against the constants.
func TestNoticesAreDocumented(t *testing.T) {
	constants := regexp.MustCompile(`(?m)^\t(?:notice[A-Z]\w*\s+|\w+\s+NoticeKind )= "([A-Z]\w+)"`)
	var want []string
	for _, pattern := range []string{"*.go", "../bootrecovery/*.go"} {
		files, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			source, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			for _, found := range constants.FindAllStringSubmatch(string(source), -1) {
				want = append(want, found[1])
			}
		}
	}
	for _, known := range []string{noticeStateReset, "Drift"} {
		if !slices.Contains(want, known) {
			t.Fatalf("%s was not found in the sources", known)
		}
	}
	page, err := os.ReadFile(filepath.Join(docs, "protocol.md"))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, row := range regexp.MustCompile("(?m)^\\| `([A-Z]\\w+)` \\| notice \\|").FindAllStringSubmatch(string(page), -1) {
		got = append(got, row[1])
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("the page has the notices\n%v, and the constants are\n%v", got, want)
	}
}

// TestDispatchBounds holds the bounds that the schema of a dispatch gives against those by which the agent judges one.
func TestDispatchBounds(t *testing.T) {
	set, err := schematest.Load(filepath.Join(docs, "schema"))
	if err != nil {
		t.Fatal(err)
	}
	for field, want := range map[string]struct {
		bound string
		is    int64
	}{"rolloutId": {"maxLength", maxRolloutID}, "soakMs": {"maximum", maxSoak.Milliseconds()}} {
		if got := fmt.Sprint(set.At("dispatch.schema.json", "properties", field, want.bound)); got != fmt.Sprint(want.is) {
			t.Errorf("%s of %s is %s, want %d", want.bound, field, got, want.is)
		}
	}
}
