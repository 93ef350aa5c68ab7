package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nixfleet/nixfleet-agent/internal/pki"
	"github.com/nixfleet/nixfleet-agent/internal/wire"
)

// asServer makes the test's own binary the program, so that it can be started, and killed, as a process of its own.
const asServer = "NIXFLEET_TEST_AS_PROGRAM"

func TestMain(m *testing.M) {
	if os.Getenv(asServer) != "" {
		main()
	}
	os.Exit(m.Run())
}

// patience bounds every wait of a test. What is waited for takes milliseconds.
const patience = 60 * time.Second

const toplevel = "/nix/store/00000000000000000000000000000001-nixos-system-web-1"

// place is a directory with certificates, in which the program runs.
type place struct {
	t   *testing.T
	dir string
}

func newPlace(t *testing.T) *place {
	t.Helper()
	p := &place{t: t, dir: t.TempDir()}
	for _, args := range [][]string{{"init"}, {"server", "localhost", "--name", "127.0.0.1"}, {"operator", "me"}, {"host", "web-1"}} {
		if code, _, stderr := p.run(append([]string{"certs", "--dir", p.dir}, args...)...); code != exitOK {
			t.Fatalf("certs %v: %d %s", args, code, stderr)
		}
	}
	return p
}

// run runs a verb in this process.
func (p *place) run(args ...string) (code int, stdout, stderr string) {
	var out, rest bytes.Buffer
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	code = execute(ctx, args, &out, &rest)
	return code, out.String(), rest.String()
}

func (p *place) certs(name string) []string {
	return []string{"--cert", filepath.Join(p.dir, name+".crt"), "--key", filepath.Join(p.dir, name+".key"), "--ca", filepath.Join(p.dir, "ca.crt")}
}

// ask runs a verb of an operator.
func (p *place) ask(s *served, args ...string) (code int, stdout, stderr string) {
	return p.run(append(append([]string{"--url", s.url}, p.certs("operator-me")...), args...)...)
}

// served is a child process that serves.
type served struct {
	url  string
	cmd  *exec.Cmd
	done chan struct{}
	once sync.Once
}

// serve starts the program and waits until it listens. It is killed with the test.
func (p *place) serve() *served {
	p.t.Helper()
	cmd := exec.Command(os.Args[0], append(p.certs("server-localhost"), "serve", "--dir", filepath.Join(p.dir, "data"), "--listen", "127.0.0.1:0")...)
	cmd.Env = append(os.Environ(), asServer+"=1")
	out, err := cmd.StderrPipe()
	if err != nil {
		p.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	s := &served{cmd: cmd, done: make(chan struct{})}
	p.t.Cleanup(func() { s.kill() })
	var said strings.Builder
	chunk := make([]byte, 4096)
	for s.url == "" {
		n, err := out.Read(chunk)
		said.Write(chunk[:n])
		if _, rest, ok := strings.Cut(said.String(), "address="); ok && strings.Contains(rest, " ") {
			s.url = "https://" + rest[:strings.IndexByte(rest, ' ')]
		} else if err != nil {
			p.t.Fatalf("serve: %v\n%s", err, said.String())
		}
	}
	go func() {
		_, _ = io.Copy(io.Discard, out)
		_ = cmd.Wait() // it was killed
		close(s.done)
	}()
	return s
}

// kill ends the process without a warning (SIGKILL). What the kernel holds is not lost by it, as it would be by a power cut.
func (s *served) kill() {
	s.once.Do(func() {
		_ = s.cmd.Process.Kill()
		if s.url != "" {
			<-s.done
		}
	})
}

// host is a client with the certificate of a host.
func (p *place) host() *http.Client {
	p.t.Helper()
	id, err := pki.Load(pki.Files{Cert: filepath.Join(p.dir, "web-1.crt"), Key: filepath.Join(p.dir, "web-1.key"), CA: filepath.Join(p.dir, "ca.crt")}, func(error) {})
	if err != nil {
		p.t.Fatal(err)
	}
	transport := &http.Transport{TLSClientConfig: id.ClientConfig()}
	p.t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: patience}
}

func batch(from, n int) []byte {
	var events []wire.Event
	for pos := from; pos < from+n; pos++ {
		events = append(events, wire.Event{SpecVersion: wire.SpecVersion, ID: wire.EventID("e", uint64(pos)), Source: wire.SourceOf("web-1"), Type: wire.TypeOf("Note"),
			Time: time.Date(2026, 11, 24, 20, 0, 0, 0, time.UTC), DataContentType: wire.JSON, Data: json.RawMessage(`{"kind":"Note"}`)})
	}
	data, err := json.Marshal(events)
	if err != nil {
		panic(err)
	}
	return data
}

func post(c *http.Client, url string, body []byte) (wire.Answer, error) {
	var got wire.Answer
	resp, err := c.Post(url+wire.EventsPath, wire.Batch, bytes.NewReader(body))
	if err != nil {
		return got, err
	}
	data, err := io.ReadAll(resp.Body)
	if closing := resp.Body.Close(); err == nil {
		err = closing
	}
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", resp.Status, data)
	}
	if err != nil {
		return got, err
	}
	return got, json.Unmarshal(data, &got)
}

// The process is killed at any moment of a stream of batches, most often between storing one and answering it. The sender repeats what
// was not answered. In the end every event is in the log once, and what was answered is there.
func TestKilledServerLosesNothingAndDoublesNothing(t *testing.T) {
	p := newPlace(t)
	const size, kills = 3, 6
	next, duplicates := 1, 0
	for n := range kills {
		s := p.serve()
		client := p.host()
		time.AfterFunc(time.Duration(20+n*15)*time.Millisecond, s.kill)
		for {
			got, err := post(client, s.url, batch(next, size))
			if err != nil {
				break // the answer is not known: the same again, to the next process
			}
			if got.Acked != uint64(next+size-1) {
				t.Fatalf("acknowledged %d for a batch from %d", got.Acked, next)
			}
			if got.Results[0].Result == wire.Duplicate {
				duplicates++
			}
			next += size
		}
		s.kill()
	}
	t.Logf("%d events answered, %d batches were stored and not answered", next-1, duplicates)
	s := p.serve()
	if got, err := post(p.host(), s.url, batch(next, size)); err != nil || got.Acked != uint64(next+size-1) {
		t.Fatalf("the last batch: %+v, %v", got, err)
	}
	next += size
	code, out, stderr := p.ask(s, "events", "-n", "10000", "--json")
	if code != exitOK {
		t.Fatalf("events: %d %s", code, stderr)
	}
	applied := map[string]int{}
	for line := range strings.Lines(out) {
		var l struct {
			ID     string      `json:"id"`
			Result wire.Ruling `json:"result"`
		}
		if err := json.Unmarshal([]byte(line), &l); err != nil {
			t.Fatal(err)
		}
		if l.Result == wire.Applied {
			applied[l.ID]++
		}
	}
	first := max(1, next-9999) // as many as are shown
	for pos := first; pos < next; pos++ {
		if n := applied[wire.EventID("e", uint64(pos))]; n != 1 {
			t.Fatalf("event %d is in the log %d times", pos, n)
		}
	}
}

func TestSecondServerIsKeptOut(t *testing.T) {
	p := newPlace(t)
	p.serve()
	code, _, stderr := p.run(append(p.certs("server-localhost"), "serve", "--dir", filepath.Join(p.dir, "data"), "--listen", "127.0.0.1:0")...)
	if code != exitError || !strings.Contains(stderr, "another control plane works in") || !strings.Contains(stderr, "hint: ") {
		t.Errorf("exit %d, %s", code, stderr)
	}
}

// An operator's session, with the exit codes that scripts rely on.
func TestVerbs(t *testing.T) {
	p := newPlace(t)
	s := p.serve()
	want := func(code int, holds string, args ...string) {
		t.Helper()
		got, stdout, stderr := p.ask(s, args...)
		if got != code || !strings.Contains(stdout+stderr, holds) {
			t.Errorf("%s: exit %d, want %d with %q\n%s%s", strings.Join(args, " "), got, code, holds, stdout, stderr)
		}
	}
	want(exitOK, "no host has been heard of", "hosts")
	want(exitError, "no host is named", "dispatch", toplevel)
	want(exitError, "is not a store path", "dispatch", "--host", "web-1", "/tmp/x")
	want(exitError, "hint: `nixfleet-control-plane hosts`", "show", "web-1")
	want(exitOK, "nothing was ever heard of this host", "dispatch", "--host", "web-1", "--channel", "stable", "--ref", "1", "--detach", toplevel)
	want(exitInProgress, "Pending, not answered yet", "dispatch", "--host", "web-1", "--channel", "stable", "--ref", "1", "--timeout", "200ms", toplevel)
	want(exitError, "use another --ref", "dispatch", "--host", "web-1", "--channel", "stable", "--ref", "1", strings.Replace(toplevel, "1-nixos", "2-nixos", 1))

	say := func(pos int, kind, fields string) {
		t.Helper()
		ev := wire.Event{SpecVersion: wire.SpecVersion, ID: wire.EventID("e", uint64(pos)), Source: wire.SourceOf("web-1"), Type: wire.TypeOf(kind), Subject: "stable@1",
			Time: time.Date(2026, 11, 24, 20, 0, 0, 0, time.UTC), DataContentType: wire.JSON, Data: json.RawMessage(fmt.Sprintf(`{"kind":%q,%s,"seq":%d}`, kind, fields, pos))}
		data, err := json.Marshal([]wire.Event{ev})
		if err != nil {
			t.Fatal(err)
		}
		if got, err := post(p.host(), s.url, data); err != nil || got.Results[0].Result != wire.Applied {
			t.Fatalf("%s: %+v, %v", kind, got, err)
		}
	}
	again := []string{"dispatch", "--host", "web-1", "--channel", "stable", "--ref", "1", "--timeout", "30s", toplevel}
	say(1, "DispatchAck", `"target_closure":"`+toplevel+`","prior":{},"received_at":"2026-11-24T20:00:00Z"`)
	say(2, "ActivationDeferred", `"components":[{"component":"kernel","from":"a","to":"b"}],"boot_id":"x","deferred_at":"2026-11-24T20:00:00Z"`)
	want(exitRebootNeeded, "waits for a reboot: kernel", again...)
	want(exitOK, "Deferred", "hosts")
	say(3, "ActivationCompleted", `"observed_current_closure":"`+toplevel+`","completed_at":"2026-11-24T20:00:00Z"`)
	say(4, "Converged", `"current_closure":"`+toplevel+`","converged_at":"2026-11-24T20:00:00Z"`)
	want(exitOK, "Converged", again...)
	want(exitOK, "stable@1", "show", "web-1")
	want(exitOK, "ActivationDeferred", "events", "--host", "web-1")
	want(exitOK, `"rolloutId":"stable@1"`, "hosts", "--json")
	want(exitOK, "no closure is accused", "accused", "list")
	want(exitError, "hint: --channel says", "accused", "clear", toplevel)
	want(exitError, "hint: `nixfleet-control-plane accused list`", "accused", "clear", "--channel", "stable", toplevel)
	want(exitError, "of the role host", "--cert", filepath.Join(p.dir, "web-1.crt"), "--key", filepath.Join(p.dir, "web-1.key"), "hosts")

	s.kill()
	want(exitUnreachable, "hint: is `nixfleet-control-plane serve` running", "hosts")
}

// A closure that a host went back from, up to its dispatch to the next host; and a rollout whose end was told to a control plane whose data
// is lost.
func TestVerbsOfTrouble(t *testing.T) {
	p := newPlace(t)
	s := p.serve()
	want := func(code int, holds string, args ...string) {
		t.Helper()
		got, stdout, stderr := p.ask(s, args...)
		if got != code || !strings.Contains(stdout+stderr, holds) {
			t.Errorf("%s: exit %d, want %d with %q\n%s%s", strings.Join(args, " "), got, code, holds, stdout, stderr)
		}
	}
	dispatch := func(ref string, more ...string) []string {
		return append(append([]string{"dispatch", "--host", "web-1", "--channel", "stable", "--ref", ref}, more...), toplevel)
	}
	send := func(path, contentType string, body any) {
		t.Helper()
		data, err := json.Marshal(body)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := p.host().Post(s.url+path, contentType, bytes.NewReader(data))
		if err != nil {
			t.Fatal(err)
		}
		if err := resp.Body.Close(); err != nil || resp.StatusCode != http.StatusOK {
			t.Fatalf("%s: %s, %v", path, resp.Status, err)
		}
	}
	moment := time.Date(2026, 11, 24, 20, 0, 0, 0, time.UTC)
	say := func(pos int, ref, kind, fields string) {
		t.Helper()
		send(wire.EventsPath, wire.Batch, []wire.Event{{SpecVersion: wire.SpecVersion, ID: wire.EventID("e", uint64(pos)), Source: wire.SourceOf("web-1"), Type: wire.TypeOf(kind),
			Subject: "stable@" + ref, Time: moment, DataContentType: wire.JSON, Data: json.RawMessage(fmt.Sprintf(`{"kind":%q,%s}`, kind, fields))}})
	}
	want(exitOK, "rollout stable@1", dispatch("1", "--detach")...)
	say(1, "1", "DispatchAck", `"target_closure":"`+toplevel+`","prior":{},"received_at":"2026-11-24T20:00:00Z","seq":1`)
	say(2, "1", "ActivationFailed", `"exit_code":1,"stderr_tail":"no","reason":"switch-failed","failed_at":"2026-11-24T20:00:00Z","seq":2`)
	say(3, "1", "RollbackComplete", `"reverted_to_closure":"","completed_at":"2026-11-24T20:00:00Z","seq":3`)
	want(exitError, "accused clear --channel stable "+toplevel, dispatch("2", "--detach")...)
	want(exitOK, toplevel, "accused", "list")
	want(exitOK, `"host":"web-1"`, "accused", "list", "--json")
	want(exitOK, "may be dispatched on channel stable again", "accused", "clear", "--channel", "stable", toplevel+"/")
	want(exitOK, "no closure is accused", "accused", "list")
	want(exitOK, "rollout stable@2", dispatch("2", "--detach")...)

	say(4, "2", "DispatchAck", `"target_closure":"`+toplevel+`","prior":{},"received_at":"2026-11-24T20:00:00Z","seq":1`)
	want(exitInProgress, "Activating", dispatch("2", "--timeout", "200ms")...)
	send(wire.HeartbeatPath, wire.JSON, wire.Heartbeat{Host: "web-1", At: moment, Cursor: wire.Cursor{Epoch: "e", Highest: 9, Acked: 9}, Generation: 2})
	want(exitUnsuccessful, "Gone, it was Activating when it was last heard of", dispatch("2", "--timeout", "30s")...)
	want(exitOK, "Gone", "hosts")
	want(exitOK, "how it ended is not known", "hosts")
	want(exitOK, "Gone", "show", "web-1")
	want(exitOK, `"goneAt":"2026-11-24T20:00:00Z"`, "show", "--json", "web-1")
}

func TestServeSaysWhatIsMissing(t *testing.T) {
	p := newPlace(t)
	for holds, args := range map[string][]string{
		"one of --dir and --nats-url": append(p.certs("server-localhost"), "serve"),
		"belong together":             {"--cert", "x", "serve", "--dir", p.dir},
		"not a duration from now":     append(p.certs("server-localhost"), "serve", "--dir", filepath.Join(p.dir, "d"), "--keep-age", "-1h"),
		"--nats-key belong together":  append(p.certs("server-localhost"), "serve", "--nats-url", "nats://127.0.0.1:1", "--nats-cert", "x"),
		"--nats-key are for":          append(p.certs("server-localhost"), "serve", "--dir", filepath.Join(p.dir, "d"), "--nats-ca", "x"),
		"connect to NATS":             append(p.certs("server-localhost"), "serve", "--nats-url", "nats://127.0.0.1:1", "--nats-ca", filepath.Join(p.dir, "absent.crt")),
		"for a cluster":               append(p.certs("server-localhost"), "serve", "--dir", filepath.Join(p.dir, "d"), "--replicas", "3"),
	} {
		if code, _, stderr := p.run(args...); code != exitError || !strings.Contains(stderr, holds) {
			t.Errorf("%v: exit %d, %s", args, code, stderr)
		}
	}
}

// The agent runs as root on every host of the fleet. Nothing of the control plane is in it.
func TestAgentLinksNothingOfThis(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", "github.com/nixfleet/nixfleet-agent/cmd/nixfleet-agent").Output()
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(out), "internal/agent") {
		t.Fatalf("these are not the packages of the agent: %.200s", out)
	}
	for _, forbidden := range []string{"nats-io", "internal/mirror", "internal/fleetstore", "internal/controlplane", "internal/operator", "internal/pki"} {
		if strings.Contains(string(out), forbidden) {
			t.Errorf("the agent's binary holds %s", forbidden)
		}
	}
}
