package fsm

import (
	"maps"
	"slices"
	"testing"
)

// For the tests of package fsm_test, which see of fsm what its callers see.

// Samples has every payload once, every field of it filled.
func Samples() map[PayloadKind]Payload { return samples() }

// SampleRecords has a record of every state, and one with every field filled.
func SampleRecords() []Record {
	records := []Record{
		pendingRecord(), activatingRecord(Work{Kind: WorkSwitch, Phase: PhaseCheck}), deferredRecord(), soakingRecord(nil),
		soakingRecord(map[string]Probe{"http": {Mode: Enforce}}), failedRecord(nil), FullRecord(),
	}
	for _, s := range States() {
		if s.Terminal() {
			records = append(records, endedRecord(s))
		}
	}
	return records
}

// FullRecord has every field filled but for the work's list of units.
func FullRecord() Record {
	rec := fullRecord()
	rec.Work.FailedBefore = []string{"mail.service"}
	return rec
}

// Words lists, in order, the constants of a type of words, as the package's own text has them.
func Words(t *testing.T, typeName string) []string {
	t.Helper()
	words := slices.Sorted(maps.Values(readSource(t).consts[typeName]))
	if len(words) == 0 {
		t.Fatalf("there are no constants of type %s", typeName)
	}
	return words
}
