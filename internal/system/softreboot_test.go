package system

import (
	"bufio"
	"context"
	"encoding/binary"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"
)

func TestSoftRebootsBelowADirectory(t *testing.T) {
	for _, c := range []struct {
		content string
		count   uint32
		known   bool
	}{
		{"3\n", 3, true}, {"0", 0, true}, {"", 0, true},
		{"-1", 0, false}, {"many", 0, false}, {"4294967296", 4294967295, false},
	} {
		count, known := newTree(t).file(softRebootsFile, c.content).host().softReboots(t.Context())
		if known != c.known || known && count != c.count {
			t.Errorf("%q: %d, %v; want %d, %v", c.content, count, known, c.count, c.known)
		}
	}
	if count, known := newTree(t).host().softReboots(t.Context()); count != 0 || !known {
		t.Errorf("no file: %d, %v", count, known)
	}
}

// manager speaks as much of D-Bus as PID 1 does on its private socket: the
// EXTERNAL handshake, then one property. With bus it wants Hello first.
func manager(t *testing.T, bus bool, reply func(*dbus.Message) *dbus.Message) managerAddress {
	socket := filepath.Join(t.TempDir(), "private")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan struct{})
	t.Cleanup(func() { listener.Close(); <-served })
	go func() {
		defer close(served)
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			serveManager(conn, reply)
			conn.Close()
		}
	}()
	return managerAddress{address: "unix:path=" + socket, bus: bus}
}

func serveManager(conn net.Conn, reply func(*dbus.Message) *dbus.Message) {
	in := bufio.NewReader(conn)
	if nul, err := in.ReadByte(); err != nil || nul != 0 {
		return
	}
	for {
		line, err := in.ReadString('\n')
		if err != nil {
			return
		}
		switch {
		case line == "BEGIN\r\n":
			for {
				call, err := dbus.DecodeMessage(in)
				if err != nil {
					return
				}
				if answer := reply(call); answer != nil && answer.EncodeTo(conn, binary.LittleEndian) != nil {
					return
				}
			}
		case strings.HasPrefix(line, "AUTH EXTERNAL"):
			_, err = conn.Write([]byte("OK 0123456789abcdef0123456789abcdef\r\n"))
		case strings.HasPrefix(line, "AUTH"):
			_, err = conn.Write([]byte("REJECTED EXTERNAL\r\n"))
		default:
			_, err = conn.Write([]byte("ERROR\r\n"))
		}
		if err != nil {
			return
		}
	}
}

func answer(call *dbus.Message, body ...any) *dbus.Message {
	m := &dbus.Message{Type: dbus.TypeMethodReply, Headers: map[dbus.HeaderField]dbus.Variant{
		dbus.FieldReplySerial: dbus.MakeVariant(call.Serial()),
	}, Body: body}
	if len(body) > 0 {
		m.Headers[dbus.FieldSignature] = dbus.MakeVariant(dbus.SignatureOf(body...))
	}
	return m
}

func refuse(call *dbus.Message, name string) *dbus.Message {
	m := answer(call)
	m.Type = dbus.TypeError
	m.Headers[dbus.FieldErrorName] = dbus.MakeVariant(name)
	return m
}

func askedForSoftReboots(call *dbus.Message) bool {
	return len(call.Body) == 2 && call.Body[0] == "org.freedesktop.systemd1.Manager" && call.Body[1] == "SoftRebootsCount" &&
		call.Headers[dbus.FieldPath].Value() == dbus.ObjectPath("/org/freedesktop/systemd1")
}

func TestSoftRebootsAskedOfPID1(t *testing.T) {
	counted := func(n any) func(*dbus.Message) *dbus.Message {
		return func(call *dbus.Message) *dbus.Message {
			switch {
			case call.Headers[dbus.FieldMember].Value() == "Hello":
				return answer(call, ":1.1")
			case askedForSoftReboots(call):
				return answer(call, dbus.MakeVariant(n))
			}
			return refuse(call, "org.freedesktop.DBus.Error.UnknownMethod")
		}
	}
	old := func(call *dbus.Message) *dbus.Message {
		return refuse(call, "org.freedesktop.DBus.Error.UnknownProperty")
	}
	absent := managerAddress{address: "unix:path=" + filepath.Join(t.TempDir(), "none")}
	for name, c := range map[string]struct {
		managers []managerAddress
		count    uint32
		known    bool
	}{
		"private socket":        {[]managerAddress{manager(t, false, counted(uint32(2)))}, 2, true},
		"bus":                   {[]managerAddress{absent, manager(t, true, counted(uint32(1)))}, 1, true},
		"older systemd":         {[]managerAddress{manager(t, false, old)}, 0, false},
		"property of odd type":  {[]managerAddress{manager(t, false, counted("two"))}, 0, false},
		"nobody":                {[]managerAddress{absent}, 0, false},
		"no address understood": {[]managerAddress{{address: "nonsense"}}, 0, false},
	} {
		h := New("/")
		h.managers = c.managers
		if count, known := h.softReboots(t.Context()); count != c.count || known != c.known {
			t.Errorf("%s: %d, %v; want %d, %v", name, count, known, c.count, c.known)
		}
	}
}

func TestSoftRebootsOfAManagerThatIsSilent(t *testing.T) {
	asked := make(chan struct{}, 1)
	silent := manager(t, false, func(*dbus.Message) *dbus.Message { asked <- struct{}{}; return nil })
	h := New("/")
	h.managers = []managerAddress{silent}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan bool, 1)
	go func() {
		_, known := h.softReboots(ctx)
		done <- known
	}()
	<-asked
	cancel()
	select {
	case known := <-done:
		if known {
			t.Error("an answer was made up")
		}
	case <-time.After(time.Minute):
		t.Fatal("the caller's context did not end the wait")
	}
}
