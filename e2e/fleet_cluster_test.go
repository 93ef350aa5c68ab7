//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/nixfleet/nixfleet-agent/internal/simhost"
)

// cluster is JetStream on servers that replicate to each other.
type cluster struct {
	fleet   *fleet
	program string
	log     *os.File
	names   []string
	running map[string]*exec.Cmd
	http    http.Client
}

// Of each server: where clients, the other servers and its watchers connect.
func clientPort(name string) string  { return "422" + name[1:] }
func routePort(name string) string   { return "622" + name[1:] }
func monitorPort(name string) string { return "822" + name[1:] }

// newCluster starts three servers.
func newCluster(f *fleet) *cluster {
	f.t.Helper()
	c := &cluster{fleet: f, program: filepath.Join(f.dir, "jetstream"), names: []string{"n1", "n2", "n3"}, running: map[string]*exec.Cmd{}}
	build := exec.Command("go", "build", "-buildvcs=false", "-o", c.program, "./testdata/jetstream")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if output, err := build.CombinedOutput(); err != nil {
		f.t.Fatalf("build the JetStream server: %v\n%s", err, output)
	}
	var err error
	if c.log, err = os.Create(filepath.Join(f.dir, "jetstream.log")); err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() {
		if f.t.Failed() {
			text, _ := os.ReadFile(c.log.Name())
			f.t.Logf("log of JetStream:\n%s", text)
		}
	})
	c.http.Transport = &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, address string) (net.Conn, error) {
		return f.network.Dial(ctx, address)
	}}
	for _, name := range c.names {
		c.start(name)
	}
	c.whole()
	return c
}

// urls are those of all servers, as --nats-url takes them.
func (c *cluster) urls() string {
	var urls []string
	for _, name := range c.names {
		urls = append(urls, "nats://"+c.fleet.at(clientPort(name)))
	}
	return strings.Join(urls, ",")
}

func (c *cluster) start(name string) {
	c.fleet.t.Helper()
	var routes []string
	for _, other := range c.names {
		routes = append(routes, fmt.Sprintf("%q", "nats://"+c.fleet.at(routePort(other))))
	}
	config := filepath.Join(c.fleet.dir, name+".conf")
	text := fmt.Sprintf("server_name: %s\nlisten: %q\nhttp: %q\njetstream { store_dir: %q }\ncluster { name: fleet, listen: %q, routes: [ %s ] }\n", name,
		c.fleet.at(clientPort(name)), c.fleet.at(monitorPort(name)), filepath.Join(c.fleet.dir, name), c.fleet.at(routePort(name)), strings.Join(routes, ", "))
	if err := os.WriteFile(config, []byte(text), 0o644); err != nil {
		c.fleet.t.Fatal(err)
	}
	c.running[name] = c.fleet.daemon(c.log, c.program, config)
}

// kill ends a server without a word.
func (c *cluster) kill(name string) {
	end(c.running[name], syscall.SIGKILL)
	delete(c.running, name)
}

// ask reads a page of a server's monitoring.
func (c *cluster) ask(name, page string, into any) error {
	resp, err := c.http.Get("http://" + c.fleet.at(monitorPort(name)) + page)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	return json.NewDecoder(resp.Body).Decode(into)
}

// leader is the server that leads the log of the fleet.
func (c *cluster) leader() (leader string) {
	c.fleet.t.Helper()
	c.fleet.eventually("the log has a leader that lives", func() (string, bool) {
		for name := range c.running {
			var page struct {
				Accounts []struct {
					Streams []struct {
						Name    string `json:"name"`
						Cluster struct {
							Leader string `json:"leader"`
						} `json:"cluster"`
					} `json:"stream_detail"`
				} `json:"account_details"`
			}
			if err := c.ask(name, "/jsz?accounts=true&streams=true", &page); err != nil {
				return err.Error(), false
			}
			for _, account := range page.Accounts {
				for _, stream := range account.Streams {
					if stream.Name == "NIXFLEET_LOG" {
						leader = stream.Cluster.Leader
					}
				}
			}
		}
		return leader, c.running[leader] != nil
	})
	return leader
}

// whole waits until every server has everything.
func (c *cluster) whole() {
	c.fleet.t.Helper()
	c.fleet.eventually("every server has everything", func() (string, bool) {
		for _, name := range c.names {
			var health struct {
				Status string `json:"status"`
				Error  string `json:"error"`
			}
			if err := c.ask(name, "/healthz", &health); err != nil || health.Status != "ok" {
				return fmt.Sprintf("%s: %+v, %v", name, health, err), false
			}
		}
		return "", true
	})
}

// shows waits until `hosts` says where each host stands: the rollout, its state and what runs.
func (f *fleet) shows(want ...string) {
	f.t.Helper()
	f.eventually(fmt.Sprintf("hosts shows %q", want), func() (string, bool) {
		out, complaints, code := f.verb("hosts", "--json")
		if code != 0 {
			return out + complaints, false
		}
		var page struct {
			Hosts []struct {
				Host     string `json:"host"`
				Running  string `json:"running"`
				Refusals int    `json:"refusals"`
				Rollout  *struct {
					ID    string `json:"rolloutId"`
					State string `json:"state"`
				} `json:"rollout"`
			} `json:"hosts"`
		}
		if err := json.Unmarshal([]byte(out), &page); err != nil {
			f.t.Fatalf("hosts --json: %v: %s", err, out)
		}
		var got []string
		for _, h := range page.Hosts {
			line := h.Host
			if h.Rollout != nil {
				line += " " + h.Rollout.ID + " " + h.Rollout.State
			}
			if h.Refusals > 0 {
				line += fmt.Sprintf(" %d refused", h.Refusals)
			}
			got = append(got, line+" "+h.Running)
		}
		return fmt.Sprintf("%q", got), slices.Equal(got, want)
	})
}

// Two instances of the control plane, behind one address, on a cluster of three JetStream servers. One of each is killed in the middle
// of a rollout; then each of the others, when what was killed is back.
func TestFleetOnACluster(t *testing.T) {
	t.Parallel()
	const portA, portB = "8444", "8445"
	f := foundFleet(t, 2)
	c := newCluster(f)
	serve := func(port string) *exec.Cmd {
		return f.instance(port, "--nats-url", c.urls(), "--replicas", "3")
	}
	a, b := serve(portA), serve(portB)
	for _, port := range []string{portA, portB} {
		f.port = port
		f.answers()
	}
	f.newLine(&line{}, portA, portB)
	f.port = planePort
	f.join("web")
	f.join("db")
	web, db := f.members["web"], f.members["db"]
	c.whole()

	// The switch of one host runs, and the other is Deferred, when an instance and the leader of the log die.
	one := web.Add(simhost.NixOS("web", "25.11.2"))
	kernel := simhost.NixOS("db", "25.11.2")
	kernel.Kernel = "linux-6.18.4"
	two := db.Add(kernel)
	web.KnobFor(one, simhost.Once(simhost.KnobWaitAt), simhost.PointStopped)
	f.dispatch("1", one, "web")
	f.dispatch("2", two, "db")
	web.AwaitPoint(simhost.PointStopped)
	f.hears("web", "stable@1", liveStory[:2]...)
	f.hears("db", "stable@2", deferredStory[:3]...)
	end(a, syscall.SIGKILL)
	dead := c.leader()
	c.kill(dead)
	web.Go(simhost.PointStopped)
	db.Reboot()
	web.awaitState("Converged")
	db.awaitState("Converged")
	f.port = portB
	f.hears("web", "stable@1", liveStory...)
	f.hears("db", "stable@2", deferredStory...)
	f.shows("db stable@2 Converged "+two, "web stable@1 Converged "+one)
	web.wantEvents("stable@1", liveStory...)
	db.wantEvents("stable@2", deferredStory...)

	// Who waited at the survivor, which has lost the server that its watch was on, perhaps, is still woken.
	three := web.Add(simhost.NixOS("web", "25.11.3"))
	f.insist(dispatchArgs("3", three, "web")...)
	f.hears("web", "stable@3", liveStory...)

	// What was killed comes back, with what it has on its disk; then the others are killed.
	c.start(dead)
	c.whole()
	serve(portA)
	f.port = portA
	f.answers()
	end(b, syscall.SIGKILL)
	c.kill(c.leader())
	f.insist(dispatchArgs("4", one, "web")...)
	f.hears("web", "stable@4", liveStory...)
	f.shows("db stable@2 Converged "+two, "web stable@4 Converged "+one)
	for rollout, story := range map[string][]string{"stable@1": liveStory, "stable@3": liveStory, "stable@4": liveStory} {
		f.hears("web", rollout, story...)
		web.wantEvents(rollout, story...)
	}
	f.hears("db", "stable@2", deferredStory...)
	web.wantLinks(links{running: one, booted: web.first, profile: one, bootDefault: one})
	db.wantLinks(links{running: two, booted: two, profile: two, bootDefault: two})
}
