//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nixfleet/nixfleet-agent/internal/simhost"
	"github.com/nixfleet/nixfleet-agent/internal/testhost"
)

const (
	planeName  = "control.example"
	planePort  = "8443"
	planeURL   = "https://" + planeName + ":" + planePort
	identities = "/etc/nixfleet"

	// fleetPatience bounds a wait for the fleet: an agent that was cut off pauses for a while before it tries again.
	fleetPatience = 3 * time.Minute
)

// fleet is a control plane with its hosts, on a network of their own.
type fleet struct {
	t       *testing.T
	network *testhost.Network
	dir     string
	program string
	port    string // at which operators ask
	serving *exec.Cmd
	log     *os.File
	members map[string]*host
}

// newFleet makes a fleet as an operator does: certificates first, then the server, then the hosts.
func newFleet(t *testing.T, hosts ...string) *fleet {
	t.Helper()
	f := foundFleet(t, len(hosts))
	f.serve()
	for _, name := range hosts {
		f.join(name)
	}
	return f
}

// taking is held by the fleet that is taking its machines.
var taking sync.Mutex

// foundFleet makes a fleet that has its certificates, and neither a server nor hosts yet.
func foundFleet(t *testing.T, hosts int) *fleet {
	t.Helper()
	// As many machines as the fleet has, taken by one fleet at a time: two fleets must not wait for each other.
	taking.Lock()
	for range hosts {
		machines <- struct{}{}
	}
	taking.Unlock()
	t.Cleanup(func() {
		for range hosts {
			<-machines
		}
	})
	f := &fleet{t: t, network: testhost.NewNetwork(t), dir: t.TempDir(), port: planePort, members: map[string]*host{}}
	f.program = filepath.Join(f.dir, "nixfleet-control-plane")
	build := exec.Command("go", "build", "-buildvcs=false", "-o", f.program, "../cmd/nixfleet-control-plane")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if output, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the control plane: %v\n%s", err, output)
	}
	var err error
	if f.log, err = os.Create(filepath.Join(f.dir, "log")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		f.stop(syscall.SIGTERM)
		if t.Failed() {
			text, _ := os.ReadFile(f.log.Name())
			t.Logf("log of the control plane:\n%s", text)
		}
	})
	f.operator("certs", "init")
	f.operator("certs", "server", planeName, "--name", f.network.Address())
	f.operator("certs", "operator", "me")
	return f
}

// operator runs a verb of the control plane's command line, which must succeed, and returns what it printed.
func (f *fleet) operator(args ...string) string {
	f.t.Helper()
	stdout, stderr, code := f.verb(args...)
	if code != 0 {
		f.t.Fatalf("nixfleet-control-plane %s: exit code %d: %s%s", strings.Join(args, " "), code, stdout, stderr)
	}
	return stdout
}

func (f *fleet) verb(args ...string) (stdout, stderr string, code int) {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), fleetPatience)
	defer cancel()
	if args[0] == "certs" {
		args = append(args, "--dir", f.dir+"/pki")
	}
	cmd := f.network.Command(ctx, f.program, args...)
	cmd.Env = append(os.Environ(), "NIXFLEET_URL=https://"+f.at(f.port), "NIXFLEET_CA="+f.file("ca.crt"),
		"NIXFLEET_CERT="+f.file("operator-me.crt"), "NIXFLEET_KEY="+f.file("operator-me.key"))
	var out, complaints bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &complaints
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		f.t.Fatalf("run nixfleet-control-plane: %v", err)
	}
	return out.String(), complaints.String(), cmd.ProcessState.ExitCode()
}

func (f *fleet) file(name string) string { return filepath.Join(f.dir, "pki", name) }

// at is an address of the network's own side.
func (f *fleet) at(port string) string { return f.network.Address() + ":" + port }

// serve starts the control plane and waits until it answers.
func (f *fleet) serve() {
	f.t.Helper()
	f.serving = f.instance(f.port, "--dir", f.dir+"/data")
	f.answers()
}

// instance starts an instance of the control plane.
func (f *fleet) instance(port string, storage ...string) *exec.Cmd {
	f.t.Helper()
	return f.daemon(f.log, f.program, append([]string{"serve", "--listen", f.at(port),
		"--cert", f.file("server-" + planeName + ".crt"), "--key", f.file("server-" + planeName + ".key"), "--ca", f.file("ca.crt")}, storage...)...)
}

// daemon starts a program on the network's own side, which ends with the test at the latest.
func (f *fleet) daemon(log *os.File, program string, args ...string) *exec.Cmd {
	f.t.Helper()
	cmd := f.network.Command(context.Background(), program, args...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		f.t.Fatalf("start %s: %v", program, err)
	}
	f.t.Cleanup(func() { end(cmd, syscall.SIGKILL) })
	return cmd
}

// end ends a daemon with a signal, unless it has ended.
func end(cmd *exec.Cmd, signal syscall.Signal) {
	if cmd.ProcessState == nil {
		_ = cmd.Process.Signal(signal)
		_ = cmd.Wait()
	}
}

// answers waits until an operator is answered.
func (f *fleet) answers() {
	f.t.Helper()
	f.eventually("the control plane answers", func() (string, bool) {
		out, complaints, code := f.verb("hosts", "--json")
		return out + complaints, code == 0
	})
}

// stop ends the control plane with a signal.
func (f *fleet) stop(signal syscall.Signal) {
	if f.serving == nil {
		return
	}
	end(f.serving, signal)
	f.serving = nil
}

// restart kills the control plane, without a word, and starts it again.
func (f *fleet) restart() {
	f.t.Helper()
	f.stop(syscall.SIGKILL)
	f.serve()
}

// join boots a host whose agent belongs to the fleet.
func (f *fleet) join(name string) {
	f.t.Helper()
	f.operator("certs", "host", name)
	first := simhost.NixOS(name, "25.11.1")
	h := &host{Host: testhost.New(f.t, base, testhost.Options{Name: name, First: first, Network: f.network}), t: f.t}
	h.first = h.Profile()
	h.Install(binary, "/usr/local/bin/nixfleet-agent", 0o755)
	f.give(h, name)
	h.Resolve(planeName, f.network.Address())
	h.Write(configFile, fmt.Sprintf(`{"hostname": %q, "soak": "1s", "controlPlane": {"url": %q, "certificate": "%s/host.pem", "key": "%[3]s/host.key", "ca": "%[3]s/ca.pem", "heartbeatInterval": "2s"}}`,
		name, planeURL, identities), 0o644)
	h.Write("/etc/systemd/system/"+agentUnit, unitText("Bring this host to its target closure"), 0o644)
	h.Enable(agentUnit, "multi-user.target")
	f.t.Cleanup(func() {
		if f.t.Failed() {
			h.explain()
		}
	})
	h.Boot()
	h.awaitAgent()
	f.members[name] = h
}

// give puts a host's certificate where its agent finds it.
func (f *fleet) give(h *host, name string) {
	f.t.Helper()
	for from, to := range map[string]string{"ca.crt": "ca.pem", name + ".crt": "host.pem", name + ".key": "host.key"} {
		text, err := os.ReadFile(f.file(from))
		if err != nil {
			f.t.Fatal(err)
		}
		h.Write(identities+"/"+to, string(text), 0o600)
	}
}

func (f *fleet) eventually(what string, met func() (string, bool)) {
	f.t.Helper()
	last := ""
	for deadline := time.Now().Add(fleetPatience); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		var ok bool
		if last, ok = met(); ok {
			return
		}
	}
	f.t.Fatalf("waited in vain until %s: %s", what, last)
}

// dispatch asks hosts for a target and does not wait.
func (f *fleet) dispatch(ref, target string, hosts ...string) {
	f.t.Helper()
	f.operator(dispatchArgs(ref, target, hosts...)...)
}

func dispatchArgs(ref, target string, hosts ...string) []string {
	args := []string{"dispatch", "--detach", "--channel", "stable", "--ref", ref, "--soak", "1s", target}
	for _, h := range hosts {
		args = append(args, "--host", h)
	}
	return args
}

// insist runs a verb, which may be run twice, until it succeeds: who asks during an election is told to ask again.
func (f *fleet) insist(args ...string) (stdout string) {
	f.t.Helper()
	f.eventually("nixfleet-control-plane "+args[0]+" succeeds", func() (string, bool) {
		out, complaints, code := f.verb(args...)
		stdout = out
		return out + complaints, code == 0
	})
	return stdout
}

// told gives the kinds of what the control plane has stored of a rollout on a host, and how many of them it refused.
func (f *fleet) told(name, rollout string) (kinds []string, refused int) {
	f.t.Helper()
	for line := range strings.Lines(f.insist("events", "--host", name, "--json", "--number", "1000")) {
		var e struct {
			Kind    string `json:"kind"`
			Rollout string `json:"rolloutId"`
			Result  string `json:"result"`
		}
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			f.t.Fatalf("events --json: %v: %s", err, line)
		}
		if e.Rollout != rollout || e.Result == "" || e.Result == "duplicate" {
			continue
		}
		kinds = append(kinds, e.Kind)
		if e.Result == "refused" {
			refused++
		}
	}
	return kinds, refused
}

// hears waits until exactly these events of a rollout are stored, in this order and none refused.
func (f *fleet) hears(name, rollout string, want ...string) {
	f.t.Helper()
	f.eventually(fmt.Sprintf("%s has reported %v of %s", name, want, rollout), func() (string, bool) {
		got, refused := f.told(name, rollout)
		return fmt.Sprintf("%v, %d refused", got, refused), refused == 0 && slices.Equal(got, want)
	})
}

var (
	liveStory     = []string{"DispatchAck", "ActivationStarted", "ActivationCompleted", "ProbeTopologyDeclared", "Converged"}
	deferredStory = []string{"DispatchAck", "ActivationStarted", "ActivationDeferred", "ActivationCompleted", "ProbeTopologyDeclared", "Converged"}
)

func TestFleet(t *testing.T) {
	t.Parallel()
	f := newFleet(t, "web", "db")
	web, db := f.members["web"], f.members["db"]

	// A dispatch to one host does not reach the other; its end is the command's end.
	one := web.Add(simhost.NixOS("web", "25.11.2"))
	if out, complaints, code := f.verb("dispatch", "--host", "web", "--channel", "stable", "--ref", "1", "--soak", "1s", one); code != 0 {
		t.Fatalf("dispatch: exit code %d: %s%s", code, out, complaints)
	}
	web.awaitState("Converged")
	web.wantLinks(links{running: one, booted: web.first, profile: one, bootDefault: one})
	f.hears("web", "stable@1", liveStory...)
	if got, _ := f.told("db", "stable@1"); len(got) != 0 {
		t.Errorf("db has reported %v", got)
	}

	// A deferral and its reboot, with the control plane killed before, between and after.
	kernel := simhost.NixOS("db", "25.11.2")
	kernel.Kernel = "linux-6.18.4"
	two := db.Add(kernel)
	f.restart()
	f.dispatch("2", two, "db")
	db.awaitState("Deferred")
	f.hears("db", "stable@2", deferredStory[:3]...)
	f.stop(syscall.SIGKILL)
	db.Reboot()
	db.awaitState("Converged")
	f.serve()
	f.hears("db", "stable@2", deferredStory...)
	db.wantEvents("stable@2", deferredStory...)

	// A host that is cut off goes on, keeps what it has to say, and says it, once, when the network is back.
	three := web.Add(simhost.NixOS("web", "25.11.3"))
	web.CutNetwork()
	local := web.detach(three)
	web.awaitState("Converged")
	web.wantEvents(local, liveStory...)
	if got, _ := f.told("web", local); len(got) != 0 {
		t.Errorf("over a cut network came %v", got)
	}
	web.MendNetwork()
	f.hears("web", local, liveStory...)

	// A certificate is renewed under way.
	f.operator("certs", "host", "web", "--renew")
	f.give(web, "web")
	f.dispatch("4", one, "web")
	f.hears("web", "stable@4", liveStory...)

	// The control plane has lost everything: heartbeats tell it of its hosts, and generations do not go back.
	f.stop(syscall.SIGKILL)
	if err := os.RemoveAll(f.dir + "/data"); err != nil {
		t.Fatal(err)
	}
	f.serve()
	f.eventually("the hosts are known again", func() (string, bool) {
		out := f.operator("hosts", "--json")
		return out, strings.Contains(out, `"web"`) && strings.Contains(out, `"db"`)
	})
	f.dispatch("5", three, "web")
	f.hears("web", "stable@5", liveStory...)
	web.wantLinks(links{running: three, booted: web.first, profile: three, bootDefault: three})
}
