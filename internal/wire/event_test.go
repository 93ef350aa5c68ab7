package wire_test

import (
	"testing"

	"github.com/nixfleet/nixfleet-agent/internal/wire"
)

func TestEventID(t *testing.T) {
	for _, pos := range []uint64{1, 42, 1<<64 - 1} {
		epoch, got, err := wire.ParseEventID(wire.EventID("a:b", pos))
		if err != nil || epoch != "a:b" || got != pos {
			t.Errorf("%d comes back as %q, %d, %v", pos, epoch, got, err)
		}
	}
	for _, bad := range []string{"", ":", "e", "e:", ":1", "e:0", "e:-1", "e:+1", "e:01", "e:1 ", "e:18446744073709551616", "e:x"} {
		if epoch, pos, err := wire.ParseEventID(bad); err == nil {
			t.Errorf("%q is read as %q, %d", bad, epoch, pos)
		}
	}
}

func TestNames(t *testing.T) {
	if got := wire.TypeOf("ActivationCompleted"); got != "dev.nixfleet.agent.ActivationCompleted.v1" {
		t.Errorf("type %q", got)
	}
	if kind, ok := wire.KindOf(wire.TypeOf("Converged")); !ok || kind != "Converged" {
		t.Errorf("kind %q, %v", kind, ok)
	}
	for _, bad := range []string{"", "dev.nixfleet.agent..v1", "dev.nixfleet.agent.X.v2", "com.example.X.v1"} {
		if kind, ok := wire.KindOf(bad); ok {
			t.Errorf("%q is of kind %q", bad, kind)
		}
	}
	if host, ok := wire.HostOf(wire.SourceOf("web-1.example")); !ok || host != "web-1.example" {
		t.Errorf("host %q, %v", host, ok)
	}
	for _, bad := range []string{"", "/hosts/", "web"} {
		if host, ok := wire.HostOf(bad); ok {
			t.Errorf("%q is of host %q", bad, host)
		}
	}
}
