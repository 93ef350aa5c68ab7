package activate_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/nixfleet/nixfleet-agent/internal/activate"
)

// script makes the switch-to-configuration of a closure say what it was run as, and then do something.
func (r *root) script(top, do string) {
	r.t.Helper()
	name := top[strings.LastIndex(top, "-")+1:]
	r.file(top+"/bin/switch-to-configuration", "#!/bin/sh\necho "+name+" $1 >>"+r.at("/ran")+"\n"+do+"\n")
}

// flip makes a closure the running one, as its activation script does.
func (r *root) flip(top string) string { return "ln -sfn " + top + " " + r.at("/run/current-system") }

// next is a closure that differs from what runs in nothing but its name.
func (r *root) next(label string) string {
	c := nixos()
	c.label = label
	return r.add(c)
}

func TestSwitchAndObserve(t *testing.T) {
	prior := nixos().path()
	tests := []struct {
		name   string
		script func(r *root, top string) string
		want   activate.OutcomeKind
	}{
		{"switched", func(r *root, top string) string { return r.flip(top) }, activate.Completed},
		{"a unit failed", func(r *root, top string) string {
			return r.flip(top) + "; echo 'warning: the following units failed: a.service, b.service' >&2; exit 4"
		}, activate.Completed},
		{"refused", func(*root, string) string {
			return "echo \"Pre-switch check 'switchInhibitors' failed\" >&2; exit 1"
		}, activate.Stage},
		{"killed on the way", func(r *root, _ string) string {
			return "echo sshd.service >" + r.at("/run/nixos/start-list") + "; kill -KILL $$"
		}, activate.Interrupted},
		{"nothing happened", func(*root, string) string { return "exit 0" }, activate.Failed},
		{"somebody else was faster", func(r *root, _ string) string { return r.flip(r.next("other")) }, activate.AnotherHand},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			r := newRoot(t, nixos())
			r.file("/run/nixos/x", "")
			top := r.next("target")
			r.script(top, test.script(r, top))
			runner := r.runner()
			result, err := runner.Switch(within(t), jobAt("switch", 1), top, "", activate.ActionSwitch)
			if err != nil {
				t.Fatal(err)
			}
			want := activate.Expectation{Action: activate.ActionSwitch, Target: top, PriorRunning: prior, FailedBefore: []string{"b.service"}}
			observed, err := runner.Observe(within(t), want, result)
			if err != nil {
				t.Fatal(err)
			}
			o := activate.Judge(observed)
			if o.Kind != test.want {
				t.Errorf("got %s (%s) of %+v", o.Kind, o.Reason, observed)
			}
			if named := result.ExitCode == 4; named != slices.Equal(o.FailedUnits, []string{"a.service"}) {
				t.Errorf("failed units are %q", o.FailedUnits)
			}
			if got := content(t, r.at("/ran")); got != "target switch\n" {
				t.Errorf("it ran %q", got)
			}
		})
	}
}

// Where a service manager can be asked, its answer counts and not the output.
func TestObserveAsksTheServiceManager(t *testing.T) {
	r := newRoot(t, nixos())
	top := r.next("target")
	runner := r.runner(withManager(managed{failed: []string{"real.service"}}))
	result := exited(4)
	result.Tail = "warning: the following units failed: said.service"
	observed, err := runner.Observe(within(t), activate.Expectation{Action: activate.ActionSwitch, Target: top}, result)
	if err != nil || !slices.Equal(observed.FailedAfter, []string{"real.service"}) {
		t.Errorf("got %+v, %v", observed, err)
	}
}

// What NixOS itself compares is read from the host, not from the output.
func TestObserveReadsWhatNixOSRefuses(t *testing.T) {
	was, to := nixos(), nixos()
	to.label, to.init = "target", "systemd 3"
	was.inhibitors, to.inhibitors = `{"fstab":"/a"}`, `{"fstab":"/b"}`
	r := newRoot(t, was)
	top := r.add(to)
	observed, err := r.runner().Observe(within(t), activate.Expectation{Action: activate.ActionSwitch, Target: top, PriorRunning: was.path()}, exited(1))
	if err != nil || !slices.Equal(names(observed.Inhibitors), []string{"inhibitor:fstab"}) || observed.Init == nil || observed.Init.To != "systemd 3" {
		t.Errorf("got %+v, %v", observed, err)
	}
	if o := activate.Judge(observed); o.Kind != activate.Stage {
		t.Errorf("got %+v", o)
	}
}

func TestSwitchToASpecialisation(t *testing.T) {
	for _, test := range []struct {
		name       string
		action     activate.Action
		bootFails  bool
		ran        string
		exit       int
		specialise string
	}{
		// The builder of older entries makes no default of a child: the parent's script does that.
		{"switch", activate.ActionSwitch, false, "target boot\nchild test\n", 0, "gaming"},
		{"the parent cannot be made the boot default", activate.ActionSwitch, true, "target boot\n", 1, "gaming"},
		{"boot", activate.ActionBoot, false, "target boot\n", 0, "gaming"},
		{"test", activate.ActionTest, false, "child test\n", 0, "gaming"},
		{"none", activate.ActionSwitch, false, "target switch\n", 0, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := newRoot(t, nixos())
			top, child := r.next("target"), r.next("child")
			r.link(top+"/specialisation/gaming", child)
			r.script(top, map[bool]string{true: "exit 1", false: r.flip(top)}[test.bootFails])
			r.script(child, r.flip(child))
			runner := r.runner()
			for range 2 { // the second time, every job is found done
				result, err := runner.Switch(within(t), jobAt("switch", 1), top, test.specialise, test.action)
				if err != nil || result.ExitCode != test.exit {
					t.Fatalf("got %+v, %v", result, err)
				}
			}
			if got := content(t, r.at("/ran")); got != test.ran {
				t.Errorf("it ran %q, want %q", got, test.ran)
			}
		})
	}
	r := newRoot(t, nixos())
	top, child, other := r.next("target"), r.next("child"), r.next("other")
	r.link(top+"/specialisation/gaming", child)
	r.link(top+"/specialisation/office", other)
	runner := r.runner()
	_, err := runner.Switch(within(t), jobAt("switch", 1), top, "server", activate.ActionSwitch)
	if f := failureOf(t, err); f.Reason != activate.ReasonNotSwitchable || !strings.Contains(f.Detail, `"server"`) {
		t.Errorf("got %+v", f)
	}
	for running, want := range map[string][2]bool{top: {true, false}, child: {true, true}, other: {true, false}, nixos().path(): {false, false}} {
		r.link("/run/current-system", running)
		for i, asked := range []string{"", "gaming"} {
			observed, err := runner.Observe(within(t), activate.Expectation{Action: activate.ActionSwitch, Target: top, Specialisation: asked}, exited(0))
			if err != nil || observed.RunningIsTarget != want[i] {
				t.Errorf("%s runs, %q was asked for: is the target: %t, %v", running, asked, observed.RunningIsTarget, err)
			}
		}
	}
}

// A switch gets neither the agent's secrets nor what would skip the checks of the site.
func TestEnvironmentOfASwitch(t *testing.T) {
	for name, value := range map[string]string{"NIXOS_NO_CHECK": "1", "CREDENTIALS_DIRECTORY": "/secret", "NOTIFY_SOCKET": "/n", "NIXOS_INSTALL_BOOTLOADER": "1", "https_proxy": "http://proxy"} {
		t.Setenv(name, value)
	}
	r := newRoot(t, nixos())
	top := r.next("target")
	r.script(top, "env >"+r.at("/env"))
	if _, err := r.runner().Switch(within(t), jobAt("switch", 1), top, "", activate.ActionSwitch); err != nil {
		t.Fatal(err)
	}
	env := strings.Split(content(t, r.at("/env")), "\n")
	for _, want := range []string{"NIXOS_INSTALL_BOOTLOADER=0", "HOME=/root", "https_proxy=http://proxy"} {
		if !slices.Contains(env, want) {
			t.Errorf("%s is missing in %q", want, env)
		}
	}
	for _, line := range env {
		for _, bad := range []string{"NIXOS_NO_CHECK", "CREDENTIALS_DIRECTORY", "NOTIFY_SOCKET"} {
			if strings.HasPrefix(line, bad) {
				t.Errorf("it has %s", line)
			}
		}
	}
}
