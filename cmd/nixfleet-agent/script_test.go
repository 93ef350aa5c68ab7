package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/nixfleet/nixfleet-agent/internal/localapi"
	"github.com/nixfleet/nixfleet-agent/internal/schematest"
	"github.com/nixfleet/nixfleet-agent/internal/simhost"
)

// patience bounds every wait of a script. What is waited for takes milliseconds; a machine that needs longer is stuck.
const patience = 60 * time.Second

// TestScripts plays sessions of an operator: the real binary on a directory that looks like a NixOS host. In a script,
// nixfleet-agent is that binary with --root $WORK/host and --config $WORK/config.json.
func TestScripts(t *testing.T) {
	binary := buildAgent(t)
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup:               func(env *testscript.Env) error { return setUp(env, binary) },
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"host":    makeHost,
			"closure": addClosure,
			"knob":    setKnob,
			"reboot":  reboot,
			"links":   expectLinks,
			"await":   await,
			"waitfor": waitFor,
			"exits":   exits,
			"valid":   valid,

			"validevents": validEvents,
		},
	})
}

func buildAgent(t *testing.T) string {
	t.Helper()
	binary := filepath.Join(t.TempDir(), "nixfleet-agent")
	build := exec.Command("go", "build", "-buildvcs=false", "-o", binary, ".")
	if text, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the agent: %v\n%s", err, text)
	}
	return binary
}

func setUp(env *testscript.Env, binary string) error {
	bin := filepath.Join(env.WorkDir, "bin")
	if err := os.Mkdir(bin, 0o755); err != nil {
		return err
	}
	wrapper := fmt.Sprintf("#!/bin/sh\nexec %s --root %s --config %s \"$@\"\n", binary, filepath.Join(env.WorkDir, "host"), filepath.Join(env.WorkDir, "config.json"))
	if err := os.WriteFile(filepath.Join(bin, "nixfleet-agent"), []byte(wrapper), 0o755); err != nil {
		return err
	}
	env.Setenv("PATH", bin+string(os.PathListSeparator)+env.Getenv("PATH"))
	env.Setenv("BARE", binary)
	env.Setenv("TZ", "UTC")
	if _, err := os.Stat(filepath.Join(env.WorkDir, "config.json")); errors.Is(err, os.ErrNotExist) {
		return os.WriteFile(filepath.Join(env.WorkDir, "config.json"), []byte(`{"soak": "0s"}`), 0o644)
	}
	return nil
}

func hostOf(ts *testscript.TestScript) *simhost.Host {
	h, err := simhost.Open(ts.MkAbs("host"))
	ts.Check(err)
	return h
}

// makeHost lays out the host: host. $RUNNING is what it runs.
func makeHost(ts *testscript.TestScript, _ bool, _ []string) {
	h, err := simhost.Create(ts.MkAbs("host"), simhost.Options{Hostname: "web", First: simhost.NixOS("web", "25.11.1")})
	ts.Check(err)
	ts.Setenv("RUNNING", h.Running())
}

// addClosure puts a closure into the store: closure VARIABLE LABEL [FIELD=VALUE...]. Its store path is $VARIABLE. The fields are
// those of simhost.Closure; Cache=true puts it into the cache only.
func addClosure(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) < 2 {
		ts.Fatalf("usage: closure VARIABLE LABEL [FIELD=VALUE...]")
	}
	c, add := simhost.NixOS("web", args[1]), hostOf(ts).AddClosure
	for _, field := range args[2:] {
		name, value, _ := strings.Cut(field, "=")
		if name == "Cache" {
			add = hostOf(ts).AddToCache
			continue
		}
		f := reflect.ValueOf(&c).Elem().FieldByName(name)
		switch {
		case !f.IsValid():
			ts.Fatalf("a closure has no field %s", name)
		case f.Kind() == reflect.Bool:
			f.SetBool(value == "true")
		default:
			f.SetString(value)
		}
	}
	at, err := add(c)
	ts.Check(err)
	ts.Setenv(args[0], at)
}

// setKnob makes the host's programs misbehave: knob NAME VALUE.
func setKnob(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 2 {
		ts.Fatalf("usage: knob NAME VALUE")
	}
	ts.Check(hostOf(ts).Knob(args[0], args[1]))
}

func reboot(ts *testscript.TestScript, _ bool, _ []string) { ts.Check(hostOf(ts).Boot()) }

// expectLinks holds the host itself against what is said: links running=PATH booted=PATH profile=PATH.
func expectLinks(ts *testscript.TestScript, _ bool, args []string) {
	h := hostOf(ts)
	is := map[string]string{"running": h.Running(), "booted": h.Booted(), "profile": h.Profile()}
	for _, arg := range args {
		what, want, _ := strings.Cut(arg, "=")
		if is[what] != want {
			ts.Fatalf("%s is %s and not %s", what, is[what], want)
		}
	}
}

// await waits until the agent answers (await agent), is gone (await nobody), or the last rollout is in a state (await Converged).
func await(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 1 {
		ts.Fatalf("usage: await agent|nobody|STATE")
	}
	client := localapi.NewClient(ts.MkAbs("host/run/nixfleet-agent/agent.sock"))
	met := func(st localapi.Status, err error) bool {
		switch args[0] {
		case "agent":
			return err == nil && st.Agent.Ready
		case "nobody":
			return errors.Is(err, localapi.ErrNoAgent)
		default:
			return err == nil && st.Rollout != nil && st.Rollout.State == args[0]
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for {
		st, err := client.Status(ctx)
		if met(st, err) {
			return
		}
		if ctx.Err() != nil {
			ts.Fatalf("wait for %s: last was %q, %v", args[0], st.Summary, err)
		}
		time.Sleep(10 * time.Millisecond) // polls a condition
	}
}

// waitFor waits until a file exists and holds a text: waitfor FILE [TEXT].
func waitFor(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) < 1 || len(args) > 2 {
		ts.Fatalf("usage: waitfor FILE [TEXT]")
	}
	deadline := time.Now().Add(patience)
	for {
		text, err := os.ReadFile(ts.MkAbs(args[0]))
		if err == nil && (len(args) == 1 || strings.Contains(string(text), args[1])) {
			return
		}
		if time.Now().After(deadline) {
			ts.Fatalf("wait for %s: %v %q", args[0], err, text)
		}
		time.Sleep(10 * time.Millisecond) // polls a condition
	}
}

// valid holds the last output of status --json against the schema that is published of it.
func valid(ts *testscript.TestScript, _ bool, _ []string) {
	schema, err := jsonschema.UnmarshalJSON(strings.NewReader(localapi.StatusSchema))
	ts.Check(err)
	status, err := jsonschema.UnmarshalJSON(strings.NewReader(ts.ReadFile("stdout")))
	ts.Check(err)
	compiler := jsonschema.NewCompiler()
	compiler.AssertFormat()
	ts.Check(compiler.AddResource("status.schema.json", schema))
	compiled, err := compiler.Compile("status.schema.json")
	ts.Check(err)
	ts.Check(compiled.Validate(status))
}

// validEvents holds every line of the last output of events --json against the schema of its kind: validevents [KIND...]. The
// kinds that are named must be among them.
func validEvents(ts *testscript.TestScript, _ bool, args []string) {
	schemas, err := schematest.Load("../../docs/schema")
	ts.Check(err)
	seen := map[string]bool{}
	for line := range strings.Lines(ts.ReadFile("stdout")) {
		var e localapi.Event
		ts.Check(json.Unmarshal([]byte(line), &e))
		if e.State == "damaged" {
			continue
		}
		var body struct {
			Kind string `json:"kind"`
		}
		ts.Check(json.Unmarshal(e.Body, &body))
		if body.Kind != e.Kind {
			ts.Fatalf("event %d is a %s and its body a %s", e.Pos, e.Kind, body.Kind)
		}
		if err := schemas.Validate(schematest.OfEvent(e.Kind, e.RolloutID), e.Body); err != nil {
			ts.Fatalf("event %d: %v\n%s", e.Pos, err, e.Body)
		}
		seen[e.Kind] = true
	}
	if len(seen) == 0 {
		ts.Fatalf("there is no event in the last output")
	}
	for _, kind := range args {
		if !seen[kind] {
			ts.Fatalf("there is no %s among the events", kind)
		}
	}
}

// exits runs a program and expects an exit code: exits CODE PROGRAM [ARGUMENT...].
func exits(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) < 2 {
		ts.Fatalf("usage: exits CODE PROGRAM [ARGUMENT...]")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got := 0
	var exit *exec.ExitError
	switch err := ts.Exec(args[1], args[2:]...); {
	case errors.As(err, &exit):
		got = exit.ExitCode()
	case err != nil:
		ts.Fatalf("%v", err)
	}
	if got != want {
		ts.Fatalf("exit code %d and not %d", got, want)
	}
}
