package fsm

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// operatorDoes says what an operator does about a host in each state. What the state means is said once, at its constant.
var operatorDoes = map[State]string{
	Pending:    "Nothing. If it stays, `status` names the hold, the other switch or the boot it waits for.",
	Activating: "Nothing. The agent may be restarted at any time, the host may lose power: the work is taken up where it stopped.",
	Deferred:   "Reboot the host when it suits; `status` names the components that the reboot is for. A newer rollout takes its place, too.",
	Soaking:    "Nothing. `status` says what convergence waits for.",
	Converged:  "Nothing.",
	Failed:     "Read the reason in `status`. Under `rollback-and-halt` wait for Reverted, or reboot if the way back is staged. Under `halt` look at the host: after a failed activation it boots what it booted before; an unhealthy host is left exactly as it is.",
	Reverted:   "Nothing on the host. Mend the closure and roll out the mended one.",
	Superseded: "Nothing. The newer rollout says what happens.",
}

// The page for operators is generated: the meaning of each state from its constant's comment, the diagram from the matrix.
func TestStatesPage(t *testing.T) {
	golden(t, "../../docs/states.md", statesPage(t))
}

func statesPage(t *testing.T) string {
	docs := readSource(t).docs
	var out strings.Builder
	out.WriteString(`<!-- Generated from internal/fsm: go test ./internal/fsm -run TestStatesPage -update -->
# The states of a rollout on a host

A rollout brings one closure to one host. Where it stands there is one of these states. Converged, Reverted and Superseded
are the end: a retry needs a new rollout.

| State | A host is in it when | What you do |
|---|---|---|
`)
	for _, state := range States() {
		paragraph := strings.Join(strings.Fields(docs[string(state)]), " ")
		fmt.Fprintf(&out, "| %s | %s | %s |\n", state, upperFirst(strings.TrimPrefix(paragraph, string(state)+": ")), operatorDoes[state])
	}
	out.WriteString(`
## The way through

Every arrow is an event, under the name by which it is reported. What is not drawn is refused. The diagram is printed from
the matrix of the tests, in which every event is applied in every state.

` + "```mermaid\nstateDiagram-v2\n    [*] --> Pending\n")
	for _, a := range arrows() {
		fmt.Fprintf(&out, "    %s --> %s: %s\n", a.from, a.to, strings.Join(a.kinds, ", "))
	}
	for _, state := range States() {
		if state.Terminal() {
			fmt.Fprintf(&out, "    %s --> [*]\n", state)
		}
	}
	out.WriteString("```\n")
	return out.String()
}

type arrow struct {
	from, to State
	kinds    []string
}

// arrows reads the matrix: every event that was applied leads somewhere.
func arrows() []arrow {
	var list []arrow
	for _, c := range matrix() {
		if c.err != nil {
			continue
		}
		kind := string(c.variation.ev.Payload().PayloadKind())
		i := slices.IndexFunc(list, func(a arrow) bool { return a.from == c.situation.rec.State && a.to == c.next.State })
		if i < 0 {
			list = append(list, arrow{c.situation.rec.State, c.next.State, []string{kind}})
		} else if !slices.Contains(list[i].kinds, kind) {
			list[i].kinds = append(list[i].kinds, kind)
		}
	}
	return list
}

func upperFirst(s string) string { return strings.ToUpper(s[:1]) + s[1:] }

func TestEveryStateHasAdvice(t *testing.T) {
	for _, state := range States() {
		if operatorDoes[state] == "" {
			t.Errorf("nothing is said about what to do in %s", state)
		}
	}
}
