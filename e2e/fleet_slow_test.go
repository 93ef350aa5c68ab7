//go:build e2e

package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nixfleet/nixfleet-agent/internal/simhost"
)

// A fleet at the end of a bad line: 300 ms each way, and one segment in twenty has to be sent again.
func TestFleetOverASlowNetwork(t *testing.T) {
	t.Parallel()
	const instancePort = "8444"
	f := foundFleet(t, 1)
	f.port = instancePort // the operator is near
	f.serve()
	l := f.newLine(&line{delay: 300 * time.Millisecond, loss: 0.05}, instancePort)
	f.join("web")
	web := f.members["web"]

	kernel := simhost.NixOS("web", "25.11.2")
	kernel.Kernel = "linux-6.18.4"
	one := web.Add(kernel)
	f.dispatch("1", one, "web")
	web.awaitState("Deferred")
	f.hears("web", "stable@1", deferredStory[:3]...)
	web.Reboot()
	web.awaitState("Converged")
	f.hears("web", "stable@1", deferredStory...)
	f.shows("web stable@1 Converged " + one)
	web.wantEvents("stable@1", deferredStory...)

	// What has gathered goes out as one batch, and every try to send it is cut off in its middle.
	next := simhost.NixOS("web", "25.11.3")
	next.Kernel = kernel.Kernel
	two := web.Add(next)
	web.CutNetwork()
	var rollouts []string
	for _, target := range []string{two, one, two, one, two, one} {
		rollouts = append(rollouts, web.detach(target))
		web.awaitState("Converged")
	}
	stored := func() (events int) {
		for _, rollout := range rollouts {
			got, _ := f.told("web", rollout)
			events += len(got)
		}
		return events
	}
	all := len(rollouts) * len(liveStory)
	hit := func(times int64) func() (string, bool) {
		before := l.hit.Load()
		return func() (string, bool) {
			n := l.hit.Load() - before
			return fmt.Sprintf("it was %d times", n), n >= times
		}
	}
	l.fault.Store(cutsRequests)
	l.hangUp()
	web.MendNetwork()
	f.eventually("the batch was cut off several times", hit(3))
	if n := stored(); n != 0 {
		t.Errorf("of a batch of which half came are stored %d events", n)
	}

	// Then it arrives, and the answer does not: it is sent again, and known.
	l.fault.Store(losesAnswers)
	f.eventually("the batch is stored", func() (string, bool) {
		n := stored()
		return fmt.Sprintf("%d events of %d are", n, all), n == all
	})
	again := hit(1)
	l.hangUp()
	f.eventually("the batch was sent again", again)
	l.fault.Store(takesAll)
	l.hangUp()
	f.eventually("the host has nothing more to say", func() (string, bool) {
		out := f.operator("hosts", "--json")
		return out, !strings.Contains(out, `"outboxDepth"`)
	})
	for _, rollout := range rollouts {
		f.hears("web", rollout, liveStory...)
		web.wantEvents(rollout, liveStory...)
	}
	web.wantLinks(links{running: one, booted: one, profile: one, bootDefault: one})
	if l.sentAgain.Load() == 0 {
		t.Error("the line has lost nothing")
	}
}
