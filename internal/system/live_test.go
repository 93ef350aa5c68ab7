package system

import (
	"strings"
	"testing"
)

func TestLive(t *testing.T) {
	systemd := storePathOf("systemd-258.3") + "/lib/systemd/systemd"
	broker, daemon := storePathOf("dbus-broker-37")+"/bin/dbus-broker-launch", storePathOf("dbus-1.16.2")+"/bin/dbus-daemon"
	for name, c := range map[string]struct {
		lay  func(*tree)
		want Live
	}{
		"daemon, unified": {func(tr *tree) {
			tr.link("/proc/1/exe", systemd).link("/proc/612/exe", daemon).
				file("/sys/fs/cgroup/system.slice/dbus.service/cgroup.procs", "612\n")
		}, Live{PID1: systemd, Bus: daemon, DBus: DBusDaemon}},
		"broker, legacy tree, main process first": {func(tr *tree) {
			tr.link("/proc/1/exe", systemd+" (deleted)").
				link("/proc/700/exe", broker).link("/proc/1024/exe", storePathOf("dbus-broker-37")+"/bin/dbus-broker").
				file("/sys/fs/cgroup/systemd/system.slice/dbus-broker.service/cgroup.procs", "1024\n700\n")
		}, Live{PID1: systemd, Bus: broker, DBus: DBusBroker}},
		"wrapped daemon, hybrid tree": {func(tr *tree) {
			tr.link("/proc/1/exe", systemd).link("/proc/9/exe", "/nix/store/x/bin/.dbus-daemon-wrapped").
				file("/sys/fs/cgroup/unified/system.slice/dbus.service/cgroup.procs", "9\n")
		}, Live{PID1: systemd, Bus: "/nix/store/x/bin/.dbus-daemon-wrapped", DBus: DBusDaemon}},
		"executable hidden": {func(tr *tree) {
			tr.link("/proc/1/exe", systemd).file("/proc/9/comm", "dbus-broker-lau\n").
				file("/sys/fs/cgroup/system.slice/dbus-broker.service/cgroup.procs", "9\n")
		}, Live{PID1: systemd, DBus: DBusBroker, BusNote: "the executable of process 9 of dbus-broker.service cannot be read"}},
		"a stopped bus and garbage": {func(tr *tree) {
			tr.link("/proc/1/exe", systemd).link("/proc/5/exe", "/bin/cat").
				file("/sys/fs/cgroup/system.slice/dbus.service/cgroup.procs", "-1 x 5\n99999999999999999999\n").
				file("/sys/fs/cgroup/system.slice/dbus-broker.service/cgroup.procs", "")
		}, Live{PID1: systemd, BusNote: "process 5 of dbus.service is /bin/cat, which is no known bus"}},
		"nothing": {func(*tree) {}, Live{
			PID1Note: "the executable of PID 1 cannot be read", BusNote: "no process of dbus-broker.service or dbus.service was found"}},
	} {
		tr := newTree(t)
		c.lay(tr)
		got := tr.host().Live()
		if !strings.HasPrefix(got.PID1Note, c.want.PID1Note) || !strings.HasPrefix(got.BusNote, c.want.BusNote) ||
			(c.want.PID1Note == "") != (got.PID1Note == "") || (c.want.BusNote == "") != (got.BusNote == "") {
			t.Errorf("%s: notes %q and %q", name, got.PID1Note, got.BusNote)
		}
		got.PID1Note, got.BusNote = c.want.PID1Note, c.want.BusNote
		if got != c.want {
			t.Errorf("%s:\n got %+v\nwant %+v", name, got, c.want)
		}
	}
}
