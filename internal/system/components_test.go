package system

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io/fs"
	"maps"
	"reflect"
	"strings"
	"testing"
)

func TestComponents(t *testing.T) {
	tr := newTree(t)
	top := tr.closure("25.11")
	tr.file(top+"/switch-inhibitors.json", `{"dbus-implementation":"broker","kernel":"6.12"}`).
		link(top+"/switch-inhibitors", "switch-inhibitors.json")
	got, err := tr.host().Components(top)
	if err != nil {
		t.Fatal(err)
	}
	want := Components{
		Closure: top, Version: "25.11", System: "x86_64-linux",
		SystemdPath: storePathOf("systemd-258.3"), SystemdVersion: "258.3", DBus: DBusBroker,
		Kernel: storePathOf("linux-6.12.1") + "/bzImage", KernelModules: storePathOf("linux-6.12.1-modules"),
		Initrd: storePathOf("initrd-linux-6.12.1") + "/initrd", KernelParams: "loglevel=4 quiet",
		Firmware:      storePathOf("firmware") + "/lib/firmware",
		InitInterface: "systemd 2",
		Inhibitors:    map[string]string{"dbus-implementation": "broker", "kernel": "6.12"},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("components\n got %+v\nwant %+v", got, want)
	}
}

func TestComponentsOfAContainer(t *testing.T) {
	tr := newTree(t)
	top := storePathOf("nixos-system-container")
	tr.file(top+"/nixos-version", "25.11")
	got, err := tr.host().Components(top)
	if want := (Components{Closure: top, Version: "25.11"}); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("components %+v, %v", got, err)
	}
	if _, err := tr.host().Components(storePathOf("nixos-system-missing")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("of a missing closure: %v", err)
	}
	if _, err := tr.host().Components(top + "/nixos-version"); err == nil {
		t.Error("of a file: no error")
	}
}

func TestComponentThatIsNotInTheStore(t *testing.T) {
	tr := newTree(t)
	top, kernel := tr.closure("25.11"), storePathOf("linux-9.9")+"/bzImage"
	tr.remove(top+"/kernel").link(top+"/kernel", kernel)
	if got, err := tr.host().Components(top); err != nil || got.Kernel != kernel {
		t.Errorf("kernel %q, %v; want %q", got.Kernel, err, kernel)
	}
}

func TestDBusImplementation(t *testing.T) {
	for name, c := range map[string]struct {
		lay  func(tr *tree, units, top string)
		want string
	}{
		"daemon": {func(tr *tree, units, _ string) {
			tr.link(units+"/dbus.service", storePathOf("unit-dbus.service")+"/dbus.service")
		}, DBusDaemon},
		"broker with its alias": {func(tr *tree, units, _ string) {
			tr.link(units+"/dbus.service", "dbus-broker.service").
				link(units+"/dbus-broker.service", storePathOf("unit-dbus-broker.service")+"/dbus-broker.service")
		}, DBusBroker},
		"alias only": {func(tr *tree, units, _ string) {
			tr.link(units+"/dbus.service", storePathOf("unit-dbus-broker.service")+"/dbus-broker.service")
		}, DBusBroker},
		"broker masked": {func(tr *tree, units, _ string) {
			tr.link(units+"/dbus-broker.service", "/dev/null").link(units+"/dbus.service", storePathOf("u")+"/dbus.service")
		}, DBusDaemon},
		"none": {func(*tree, string, string) {}, ""},
		"by the inhibitor, whatever the units": {func(tr *tree, units, top string) {
			tr.file(top+"/switch-inhibitors", `{"dbus-implementation":"dbus"}`).link(units+"/dbus-broker.service", "/x/dbus-broker.service")
		}, DBusDaemon},
		"an inhibitor file that cannot be parsed": {func(tr *tree, units, top string) {
			tr.file(top+"/switch-inhibitors", storePathOf("dbus")+"\n").link(units+"/dbus-broker.service", "/x/dbus-broker.service")
		}, DBusBroker},
	} {
		tr := newTree(t)
		top := tr.closure("25.11")
		c.lay(tr, tr.units("25.11"), top)
		if got, err := tr.host().Components(top); err != nil || got.DBus != c.want {
			t.Errorf("%s: %q, %v; want %q", name, got.DBus, err, c.want)
		}
	}
}

func TestInhibitors(t *testing.T) {
	for content, want := range map[string]map[string]string{
		`{}`:                           {},
		`{"a":"1","b":""}`:             {"a": "1", "b": ""},
		`{"a":1, "b":[1, 2],"c":null}`: {"a": "1", "b": "[1,2]", "c": "null"},
		`{"a":"1","a":"2"}`:            {"a": "2"},
		`{"a":"\u00e9"}`:               {"a": "é"},
		"":                             nil, "null": nil, "[]": nil, `"x"`: nil, `{"a":`: nil, `{} {}`: nil,
		"/nix/store/a\n/nix/store/b\n": nil,
	} {
		got, ok := parseInhibitors([]byte(content))
		if ok != (want != nil) || !maps.Equal(got, want) {
			t.Errorf("%q: %v, %v; want %v", content, got, ok, want)
		}
	}
	tr := newTree(t)
	top := tr.closure("huge")
	tr.file(top+"/switch-inhibitors", strings.Repeat(" ", maxFile+1))
	if got, err := tr.host().Components(top); err != nil || !got.InhibitorsUnparsable || got.Inhibitors != nil {
		t.Errorf("a huge file: unparsable %v, %v", got.InhibitorsUnparsable, err)
	}
}

func TestVersionInName(t *testing.T) {
	for name, want := range map[string]string{
		"systemd-258.3": "258.3", "systemd-minimal-257.6": "257.6", "systemd-256-rc1": "256-rc1",
		"systemd-v2-1.0": "1.0", "systemd": "", "": "",
	} {
		if got := versionInName(storePathOf(name)); got != want {
			t.Errorf("version of %q: %q, want %q", name, got, want)
		}
	}
	if got := versionInName(""); got != "" {
		t.Errorf("version of nothing: %q", got)
	}
}

func TestClosurePath(t *testing.T) {
	tr := newTree(t)
	top := tr.closure("25.11")
	unit := storePathOf("unit-x.service") + "/x.service"
	tr.link(tr.units("25.11")+"/x.service", unit).file(tr.units("25.11")+"/y.service", "[Unit]\n")
	h := tr.host()
	for rel, want := range map[string]string{
		"kernel":                       storePathOf("linux-6.12.1") + "/bzImage",
		"etc/systemd/system/x.service": unit,
		"etc/systemd/system/y.service": "sha256:" + sha256Hex("[Unit]\n"),
		"missing":                      "",
		"missing/below":                "",
		"activate/below":               "",
	} {
		got, err := h.ClosurePath(top, rel)
		if err != nil || got != want {
			t.Errorf("ClosurePath(%q) = %q, %v; want %q", rel, got, err, want)
		}
	}
	for _, rel := range []string{"", ".", "..", "../x", "/etc", "a/../..", "specialisation"} {
		if got, err := h.ClosurePath(top, rel); err == nil {
			t.Errorf("ClosurePath(%q) = %q", rel, got)
		}
	}
}

func TestSpecialisations(t *testing.T) {
	tr := newTree(t)
	top, other := tr.closure("25.11"), tr.closure("other")
	gaming, office := tr.closure("gaming"), storePathOf("nixos-system-office")
	tr.link(top+"/specialisation/office", office).link(top+"/specialisation/gaming", gaming)
	h := tr.host()
	got, err := h.Specialisations(top)
	want := []Specialisation{{"gaming", gaming}, {"office", office}}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("specialisations %v, %v; want %v", got, err, want)
	}
	if got, err := h.Specialisations(storePathOf("none")); err != nil || got != nil {
		t.Errorf("of nothing: %v, %v", got, err)
	}
	for _, c := range []struct {
		closure, target, name string
		ok                    bool
	}{
		{top, top, "", true}, {gaming, top, "gaming", true}, {office, top, "office", true},
		{other, top, "", false}, {top, gaming, "", false}, {"", "", "", false}, {"", top, "", false},
	} {
		if name, ok := h.IsOrSpecialises(c.closure, c.target); name != c.name || ok != c.ok {
			t.Errorf("IsOrSpecialises(%q, %q) = %q, %v", c.closure, c.target, name, ok)
		}
	}
}

func BenchmarkComponentsWarm(b *testing.B) {
	tr, top := booted(b)
	tr.file(top+"/switch-inhibitors", `{"dbus-implementation":"broker"}`)
	h := tr.host()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := h.Components(top); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkFactsWarm(b *testing.B) {
	tr, _ := booted(b)
	h := tr.host()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := h.Facts(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
}

func sha256Hex(content string) string {
	sum := sha256.Sum256([]byte(content))
	return hex.EncodeToString(sum[:])
}
