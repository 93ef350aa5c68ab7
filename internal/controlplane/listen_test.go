package controlplane

import (
	"errors"
	"net"
	"testing"
	"time"
)

func TestConnectionsLeaveFilesToTheLog(t *testing.T) {
	for _, c := range []struct {
		files uint64
		want  int
	}{{1024, 512}, {20_000, 20_000 - reservedFiles}, {256, 512}, {1<<64 - 1, 1 << 20}} {
		if got := connectionsOf(c.files); got != c.want {
			t.Errorf("with %d files %d connections, want %d", c.files, got, c.want)
		}
	}
}

func TestListenerIsBounded(t *testing.T) {
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	waits := make(chan struct{}, 8)
	l := bound(inner, 2, func() { waits <- struct{}{} })
	accepted := make(chan net.Conn, 3)
	ended := make(chan error, 1)
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				ended <- err
				return
			}
			accepted <- conn
		}
	}()
	for range 3 { // all three connect: the kernel takes them
		conn, err := net.Dial("tcp", inner.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
	}
	next := func() net.Conn {
		t.Helper()
		select {
		case conn := <-accepted:
			return conn
		case <-time.After(30 * time.Second):
			t.Fatal("no connection is accepted")
			return nil
		}
	}
	first, second := next(), next()
	if len(l.slots) != 2 {
		t.Fatalf("%d slots are taken by two connections", len(l.slots))
	}
	select {
	case <-waits:
	case <-time.After(30 * time.Second):
		t.Fatal("it is not said that the third connection waits")
	}
	if len(accepted) > 0 {
		t.Fatal("a third connection is accepted beside two")
	}
	for range 2 { // twice, as net/http may: it gives one slot back
		if err := first.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
			t.Fatal(err)
		}
	}
	third := next()
	<-waits // full again: closing the listener ends the wait for a slot
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-ended:
		if !errors.Is(err, net.ErrClosed) {
			t.Errorf("accept ends with %v", err)
		}
	case <-time.After(30 * time.Second):
		t.Fatal("accept does not end with the listener")
	}
	for _, conn := range []net.Conn{second, third} {
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
	}
	if len(l.slots) != 0 {
		t.Errorf("%d slots are taken by nobody", len(l.slots))
	}
}
