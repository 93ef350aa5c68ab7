package controlplane

import (
	"log/slog"
	"net"
	"sync"
	"syscall"
	"time"
)

// reservedFiles are the open files that connections never take: those of JetStream, which cannot append without them, and room.
const reservedFiles = 512

// maxConnections is how many connections may be open at a time, by the number of files that this process may open.
func maxConnections() int {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return reservedFiles // what every system gives
	}
	return connectionsOf(limit.Cur)
}

func connectionsOf(files uint64) int {
	const most = 1 << 20
	return int(min(max(files, 2*reservedFiles)-reservedFiles, most)) //nolint:gosec // bounded
}

// sayFull says that no more connections are taken, now and then. It is called by one goroutine.
func (s *Server) sayFull(most int) func() {
	var said time.Time
	return func() {
		now := s.now()
		if !said.IsZero() && now.Sub(said) < sayFullEvery {
			return
		}
		said = now
		s.log.Warn("as many connections as fit are open, and the next one waits until one ends; with more files (LimitNOFILE=) more fit", slog.Int("connections", most))
	}
}

// sayFullEvery is how often that is said.
const sayFullEvery = time.Minute

// bounded is a listener with so many connections at most. What comes beyond them waits in the kernel's queue until one ends:
// without a bound a fleet that comes back all at once takes the files away from the log, which then stores nothing for anybody.
type bounded struct {
	net.Listener
	slots  chan struct{}
	full   func() // called by Accept when it has to wait for a slot
	closed chan struct{}
	close  func()
}

func bound(l net.Listener, most int, full func()) *bounded {
	b := &bounded{Listener: l, slots: make(chan struct{}, most), full: full, closed: make(chan struct{})}
	b.close = sync.OnceFunc(func() { close(b.closed) })
	return b
}

func (b *bounded) Accept() (net.Conn, error) {
	select {
	case b.slots <- struct{}{}:
	default:
		b.full()
		select {
		case b.slots <- struct{}{}:
		case <-b.closed:
			return nil, net.ErrClosed
		}
	}
	conn, err := b.Listener.Accept()
	if err != nil {
		<-b.slots
		return nil, err
	}
	return &counted{Conn: conn, leave: sync.OnceFunc(func() { <-b.slots })}, nil
}

func (b *bounded) Close() error {
	b.close()
	return b.Listener.Close()
}

// counted is a connection that holds a slot until it is closed.
type counted struct {
	net.Conn
	leave func()
}

func (c *counted) Close() error {
	defer c.leave()
	return c.Conn.Close()
}
