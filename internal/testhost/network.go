package testhost

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// networkPrefix begins the name of a network's namespace; the process that made it and a number follow.
	networkPrefix = "nixfleet-"
	namespaces    = "/run/netns"
	bridge        = "bridge"
	hostInterface = "host0"
	// subnet is that of every network: they are namespaces of their own and do not meet.
	subnet     = "10.77.0."
	prefixBits = "/24"
	firstHost  = 10
)

// Network is an Ethernet of its own, in a network namespace of its own: a bridge with an address, on which the test runs its
// servers, and a cable to each host. Nothing of it reaches any other network.
type Network struct {
	tb    testing.TB
	name  string
	hosts int
}

var networks int

// NewNetwork makes a network. It is taken down with the test.
func NewNetwork(tb testing.TB) *Network {
	tb.Helper()
	sweepNetworks()
	networks++
	n := &Network{tb: tb, name: fmt.Sprintf("%s%d-%d", networkPrefix, os.Getpid(), networks)}
	n.ip("netns", "add", n.name)
	tb.Cleanup(func() { n.ip("netns", "delete", n.name) })
	n.inside("link", "set", "lo", "up")
	n.inside("link", "add", bridge, "type", "bridge")
	n.inside("addr", "add", n.Address()+prefixBits, "dev", bridge)
	n.inside("link", "set", bridge, "up")
	return n
}

// sweepNetworks takes down what a killed run left behind.
func sweepNetworks() {
	entries, err := os.ReadDir(namespaces)
	if err != nil {
		return
	}
	for _, entry := range entries {
		rest, ours := strings.CutPrefix(entry.Name(), networkPrefix)
		owner, _, _ := strings.Cut(rest, "-")
		pid, err := strconv.Atoi(owner)
		if ours && err == nil && syscall.Kill(pid, 0) == syscall.ESRCH {
			_ = exec.Command("ip", "netns", "delete", entry.Name()).Run() // somebody else may be at it
		}
	}
}

// Address is that of the network's own side, on which servers listen.
func (n *Network) Address() string { return subnet + "1" }

// Command is a program of this machine that runs on the network's own side.
func (n *Network) Command(ctx context.Context, program string, args ...string) *exec.Cmd {
	return exec.CommandContext(ctx, "ip", append([]string{"netns", "exec", n.name, program}, args...)...)
}

// Listen listens, in this process, on an address of the network's own side.
func (n *Network) Listen(address string) net.Listener {
	n.tb.Helper()
	var listener net.Listener
	if err := n.within(func() (err error) {
		var config net.ListenConfig
		listener, err = config.Listen(context.Background(), "tcp", address)
		return err
	}); err != nil {
		n.tb.Fatalf("listen on the network: %v", err)
	}
	return listener
}

// Dial connects, from this process, to an address of the network.
func (n *Network) Dial(ctx context.Context, address string) (conn net.Conn, err error) {
	err = n.within(func() (err error) {
		var dialer net.Dialer
		conn, err = dialer.DialContext(ctx, "tcp", address)
		return err
	})
	return conn, err
}

// within runs do on a thread that is in the network's namespace. A socket stays in the namespace in which it was made. The thread goes
// back afterwards: if it ended instead, what it has started with Pdeathsig would end with it.
func (n *Network) within(do func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		home, err := os.Open("/proc/thread-self/ns/net")
		if err != nil {
			done <- err
			return
		}
		defer home.Close()
		there, err := os.Open(filepath.Join(namespaces, n.name))
		if err != nil {
			done <- err
			return
		}
		defer there.Close()
		if err = unix.Setns(int(there.Fd()), unix.CLONE_NEWNET); err == nil {
			err = do()
		}
		if unix.Setns(int(home.Fd()), unix.CLONE_NEWNET) == nil { // otherwise the thread is of no more use, and goes
			runtime.UnlockOSThread()
		}
		done <- err
	}()
	return <-done
}

func (n *Network) ip(args ...string) {
	n.tb.Helper()
	if output, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
		n.tb.Fatalf("ip %s: %v: %s", strings.Join(args, " "), err, output)
	}
}

func (n *Network) inside(args ...string) {
	n.tb.Helper()
	n.ip(append([]string{"-n", n.name}, args...)...)
}

// cable is one host's connection.
type cable struct {
	network *Network
	number  int
}

func (n *Network) newCable() *cable {
	n.hosts++
	return &cable{network: n, number: n.hosts}
}

func (c *cable) near() string { return "host" + strconv.Itoa(c.number) }

func (c *cable) address() string { return subnet + strconv.Itoa(firstHost+c.number) }

// plug connects a machine that has just been switched on. The cable of its boot before is gone with that.
func (c *cable) plug(leader int) {
	n := c.network
	n.tb.Helper()
	pid := strconv.Itoa(leader)
	// The other end goes with its namespace, when the kernel comes to it: a new boot may be quicker.
	for deadline := time.Now().Add(patience); exec.Command("ip", "-n", n.name, "link", "show", c.near()).Run() == nil; time.Sleep(lookAgain) {
		_ = exec.Command("ip", "-n", n.name, "link", "delete", c.near()).Run()
		if time.Now().After(deadline) {
			n.tb.Fatalf("the cable %s of the boot before does not go away", c.near())
		}
	}
	n.ip("link", "add", c.near(), "netns", n.name, "type", "veth", "peer", "name", hostInterface, "netns", pid)
	n.inside("link", "set", c.near(), "master", bridge, "up")
	for _, args := range [][]string{
		{"addr", "add", c.address() + prefixBits, "dev", hostInterface},
		{"link", "set", hostInterface, "up"},
	} {
		enter := append([]string{"--target", pid, "--net", "ip"}, args...)
		if output, err := exec.Command("nsenter", enter...).CombinedOutput(); err != nil {
			n.tb.Fatalf("ip %s in the host: %v: %s", strings.Join(args, " "), err, output)
		}
	}
}

// CutNetwork pulls the host's cable.
func (h *Host) CutNetwork() {
	h.tb.Helper()
	h.cable.network.inside("link", "set", h.cable.near(), "down")
}

// MendNetwork puts the host's cable back.
func (h *Host) MendNetwork() {
	h.tb.Helper()
	h.cable.network.inside("link", "set", h.cable.near(), "up")
}

// Address is the host's on its network.
func (h *Host) Address() string { return h.cable.address() }

// Resolve makes a name known to the host.
func (h *Host) Resolve(name, address string) {
	h.tb.Helper()
	hosts := filepath.Join(h.root, "etc/hosts")
	text, err := os.ReadFile(hosts)
	if err != nil && !os.IsNotExist(err) {
		h.must(err)
	}
	h.must(os.WriteFile(hosts, []byte(string(text)+address+" "+name+"\n"), 0o644))
}
