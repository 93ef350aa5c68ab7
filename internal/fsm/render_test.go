package fsm

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// golden compares got with the file, or rewrites it.
func golden(t *testing.T, path, got string) {
	t.Helper()
	if *update {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("%v (write it with -update)", err)
	}
	if string(want) != got {
		t.Errorf("%s differs from what the rules do; -update rewrites it, the reason belongs in the commit:\n%s",
			path, firstDifference(string(want), got))
	}
}

func firstDifference(want, got string) string {
	w, g := strings.Split(want, "\n"), strings.Split(got, "\n")
	for i := range max(len(w), len(g)) {
		var a, b string
		if i < len(w) {
			a = w[i]
		}
		if i < len(g) {
			b = g[i]
		}
		if a != b {
			return fmt.Sprintf("line %d\n  file:  %s\n  rules: %s", i+1, a, b)
		}
	}
	return ""
}

// effectLine shows an effect in one line.
func effectLine(eff Effect) string {
	switch eff := eff.(type) {
	case RecordTransition:
		return fmt.Sprintf("RecordTransition %s -> %s", eff.From, eff.To)
	case LocalEmitEvent:
		durable := "lossy"
		if eff.Durable {
			durable = "durable"
		}
		return fmt.Sprintf("LocalEmitEvent %s %s", eff.Payload.PayloadKind(), durable)
	case RemoteAppendEventLog:
		return fmt.Sprintf("RemoteAppendEventLog %s", eff.Payload.PayloadKind())
	case LocalFireSwitch:
		return "LocalFireSwitch " + short(eff.TargetClosure)
	case LocalResetProbeCache:
		return "LocalResetProbeCache"
	case LocalFireRollbackTo:
		return "LocalFireRollbackTo " + priorLine(eff.Prior)
	case LocalFireUnstage:
		return "LocalFireUnstage " + priorLine(eff.Prior)
	case LocalQuarantine:
		return fmt.Sprintf("LocalQuarantine %s %s", short(eff.Closure), eff.Reason)
	case RemoteQuarantineOnChannel:
		return fmt.Sprintf("RemoteQuarantineOnChannel %s %s", eff.Channel, short(eff.Closure))
	default:
		panic(fmt.Sprintf("%T is not of the closed set", eff))
	}
}

// short names the well-known closures of the tests by a letter.
func short(closure string) string {
	return strings.NewReplacer(targetT, "T", priorP, "P", otherX, "X").Replace(closure)
}

func priorLine(p Prior) string {
	return short(fmt.Sprintf("running=%s profile=%s boot=%s", p.Running, p.Profile, p.BootDefault))
}

func workLine(w *Work) string {
	if w == nil {
		return "-"
	}
	line := fmt.Sprintf("%s/%s", w.Kind, w.Phase)
	if w.Touched {
		line += " touched"
	}
	return line
}

// outcomeLine shows what Step said about the record: the refusal, or the next state and what is owed.
func outcomeLine(next Record, err error) string {
	var illegal IllegalForState
	var regression SeqRegression
	var invariant Invariant
	switch {
	case err == nil:
		return fmt.Sprintf("-> %s, work %s", next.State, workLine(next.Work))
	case errors.As(err, &illegal):
		return "illegal"
	case errors.As(err, &regression):
		return fmt.Sprintf("sequence %d is not above %d", regression.Got, regression.Last)
	case errors.As(err, &invariant):
		return "invariant: " + short(invariant.What)
	default:
		return "unexpected: " + err.Error()
	}
}
