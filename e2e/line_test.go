//go:build e2e

package e2e

import (
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// line is what stands between hosts and their control plane: a balancer of connections over the instances that live, and as
// bad a line as is asked for.
//
// The kernels that this suite runs on need not have netem. A line delays and loses as TCP shows it to a program: what is lost comes
// when it has been sent again, and what follows it waits.
type line struct {
	fleet     *fleet
	listener  net.Listener
	instances []string // addresses
	turn      atomic.Uint64
	open      sync.WaitGroup

	delay time.Duration // of every segment, in each direction
	loss  float64       // the part of the segments that have to be sent again

	fault     atomic.Int32 // what becomes of large requests
	hit       atomic.Int64 // large requests of which that became
	sentAgain atomic.Int64 // segments

	mu    sync.Mutex
	conns map[net.Conn]bool
}

// Faults of a line.
const (
	takesAll     = iota
	cutsRequests // in their middle
	losesAnswers // the request arrives
)

const (
	segment = 1400
	// large is more than a handshake or a heartbeat sends before it is answered, in bytes.
	large = 8 << 10
	// sendAgain is the shortest time after which Linux sends a segment again.
	sendAgain = 200 * time.Millisecond
)

// newLine takes connections at the address that hosts know.
func (f *fleet) newLine(l *line, ports ...string) *line {
	f.t.Helper()
	l.fleet, l.listener, l.conns = f, f.network.Listen(f.at(planePort)), map[net.Conn]bool{}
	for _, port := range ports {
		l.instances = append(l.instances, f.at(port))
	}
	l.open.Go(l.accept)
	f.t.Cleanup(func() {
		_ = l.listener.Close()
		l.hangUp()
		l.open.Wait()
	})
	return l
}

func (l *line) accept() {
	for {
		conn, err := l.listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err == nil {
			l.open.Go(func() { l.carry(conn) })
		}
	}
}

// hangUp resets all connections.
func (l *line) hangUp() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for conn := range l.conns {
		reset(conn)
	}
}

func reset(conn net.Conn) {
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	_ = conn.Close()
}

// keep notes a connection for hangUp until it is let go.
func (l *line) keep(conn net.Conn) (letGo func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.conns[conn] = true
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.conns, conn)
		reset(conn)
	}
}

// carry connects a host with the next instance that lives.
func (l *line) carry(host net.Conn) {
	defer l.keep(host)()
	var instance net.Conn
	for range l.instances {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		conn, err := l.fleet.network.Dial(ctx, l.instances[l.turn.Add(1)%uint64(len(l.instances))])
		cancel()
		if err == nil {
			instance = conn
			break
		}
	}
	if instance == nil {
		return
	}
	defer l.keep(instance)()
	var both sync.WaitGroup
	var asked atomic.Int64 // bytes of the request that is under way
	var deaf atomic.Bool
	both.Go(func() {
		defer instance.Close()
		l.pass(host, func(data []byte) error {
			was := asked.Load()
			now := asked.Add(int64(len(data)))
			if was <= large && now > large && l.fault.Load() != takesAll {
				l.hit.Add(1)
				if l.fault.Load() == cutsRequests {
					return net.ErrClosed
				}
				deaf.Store(true)
			}
			_, err := instance.Write(data)
			return err
		})
	})
	both.Go(func() {
		defer host.Close()
		l.pass(instance, func(data []byte) error {
			if deaf.Load() {
				return nil
			}
			asked.Store(0)
			_, err := host.Write(data)
			return err
		})
	})
	both.Wait()
}

// pass carries what comes from one side, until that is closed or deliver fails.
func (l *line) pass(from net.Conn, deliver func([]byte) error) {
	type late struct {
		data []byte
		due  time.Time
	}
	under := make(chan late, 256)
	var writer sync.WaitGroup
	writer.Go(func() {
		for s := range under {
			time.Sleep(time.Until(s.due)) // this is the line's own delay, and nothing that a test waits for
			if err := deliver(s.data); err != nil {
				reset(from)
				break
			}
		}
		for range under { // what was under way is lost
		}
	})
	due := time.Time{}
	for {
		data := make([]byte, segment)
		n, err := from.Read(data)
		if n > 0 {
			at := time.Now().Add(l.delay)
			for rand.Float64() < l.loss {
				at = at.Add(sendAgain + 2*l.delay)
				l.sentAgain.Add(1)
			}
			if due.Before(at) {
				due = at
			}
			under <- late{data[:n], due}
		}
		if err != nil {
			break
		}
	}
	close(under)
	writer.Wait()
}
