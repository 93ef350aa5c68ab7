package simhost

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// Place puts the finished file or directory at tree into a store under name and returns its logical store path. On a booted
// test host it is `nix store add-path --name name tree`.
type Place func(name, tree string) (string, error)

// WriteTree writes the closure to dir, which must not exist, in the form that `nix store add-path --name c.StoreName() dir` takes.
//
// What the closure links to (kernel, systemd, sw, etc and so on) is put into the store by place, so that every link leads
// somewhere, as it does on a NixOS host. add-path records no references: what is placed must be kept from garbage collection,
// and a copy of the closure to a binary cache comes without it. With a nil place the tree stands alone: what must be read is
// inside of it, and the kernel, initrd, modules, firmware and systemd are links to store paths that do not exist.
// Specialisations need a place.
func (c Closure) WriteTree(dir string, place Place) error {
	b := builder{put: pretend, alone: true}
	if place != nil {
		scratch, err := os.MkdirTemp("", "simhost-*")
		if err != nil {
			return fmt.Errorf("make scratch directory: %w", err)
		}
		defer os.RemoveAll(scratch)
		b = builder{put: placeFromDisk(scratch, place)}
	} else if len(c.Specialisations) > 0 {
		return fmt.Errorf("write closure %s: specialisations need a place in the store", c.StoreName())
	}
	t, err := b.toplevel(c)
	if err != nil {
		return err
	}
	return t.write(dir)
}

// put puts a tree into a store, with the base names of what it refers to, and returns its store path. The salt makes
// equal trees different paths.
type put func(name string, t tree, references []string, salt string) (string, error)

func pretend(name string, t tree, _ []string, salt string) (string, error) {
	return storePathOf(name, t, salt), nil
}

func placeFromDisk(scratch string, place Place) put {
	return func(name string, t tree, _ []string, _ string) (string, error) {
		dir, err := os.MkdirTemp(scratch, "tree-*")
		if err != nil {
			return "", fmt.Errorf("make scratch directory: %w", err)
		}
		at := filepath.Join(dir, name)
		if err := t.write(at); err != nil {
			return "", err
		}
		return place(name, at)
	}
}

// builder makes the trees of a closure, components before what links to them.
type builder struct {
	put    put
	alone  bool // no component can be read: what must be is part of the toplevel
	tools  bool // sw/bin holds the simulated Nix
	placed []string
}

func (b *builder) place(name string, t tree) (string, error) {
	name, salt, _ := strings.Cut(name, "#")
	if salt != "" {
		t["salt"] = node{content: []byte(salt)}
	}
	storePath, err := b.put(name, t, t.references(b.placed), salt)
	if err != nil {
		return "", fmt.Errorf("place %s: %w", name, err)
	}
	b.placed = append(b.placed, storePath)
	return storePath, nil
}

// closure places a whole closure and returns the store path of its toplevel.
func (b *builder) closure(c Closure) (string, error) {
	t, err := b.toplevel(c)
	if err != nil {
		return "", err
	}
	return b.place(c.StoreName(), t)
}

func (b *builder) toplevel(c Closure) (tree, error) {
	t := make(tree)
	if c.NotNixOS {
		t.file("README", "not a system\n")
		for name, value := range c.Extra {
			t.extra(name, value)
		}
		return t, nil
	}
	if err := b.components(t, c); err != nil {
		return nil, err
	}
	if err := b.directories(t, c); err != nil {
		return nil, err
	}
	if err := b.inhibitors(t, c); err != nil {
		return nil, err
	}
	t.dir("specialisation")
	for _, name := range slices.Sorted(maps.Keys(c.Specialisations)) {
		child := c.child(c.Specialisations[name])
		child.Extra = withEntry(child.Extra, "etc/specialisation", name)
		storePath, err := b.closure(child)
		if err != nil {
			return nil, err
		}
		t.link("specialisation/"+name, storePath)
	}
	programs(t, c)
	return t, nil
}

func withEntry(m map[string]string, key, value string) map[string]string {
	m = maps.Clone(m)
	if m == nil {
		m = make(map[string]string)
	}
	m[key] = value
	return m
}

// components are the links to packages and the files that say what the system is.
func (b *builder) components(t tree, c Closure) error {
	image := "bzImage"
	if strings.HasPrefix(c.System, "aarch64-") {
		image = "Image"
	}
	version, _, _ := strings.Cut(c.Kernel, "#")
	for _, component := range []struct{ link, name, file string }{
		{"kernel", c.Kernel, image},
		{"kernel-modules", withSuffix(c.Kernel, "-modules"), "lib/modules/" + version + "/modules.order"},
		{"initrd", c.Initrd, "initrd"},
		{"systemd", c.Systemd, "lib/systemd/systemd"},
		{"firmware", c.Firmware, "lib/firmware/README"},
	} {
		if component.name == "" {
			continue
		}
		storePath, err := b.place(component.name, tree{component.file: {content: []byte("stands for " + component.name + "\n")}})
		if err != nil {
			return err
		}
		switch component.link {
		case "kernel", "initrd":
			storePath = path.Join(storePath, component.file)
		case "firmware":
			storePath = path.Join(storePath, "lib/firmware")
		}
		t.link(component.link, storePath)
	}
	if c.Kernel != "" {
		t.file("kernel-params", c.KernelParams)
	}
	t.file("nixos-version", c.Label)
	t.file("system", c.System)
	t.file("init-interface-version", c.InitInterface)
	// The real one is stage 2 with its own store path in it, or a copy of systemd: either way no two closures need have it
	// in common. The digest keeps that so.
	t.script("init", fmt.Appendf(nil, "#!/bin/sh\n# stage 2 of %s\n# %x\nexit 1\n", c.StoreName(), sha256.Sum256(fmt.Append(nil, c))))
	return nil
}

func withSuffix(name, suffix string) string {
	if name == "" {
		return ""
	}
	base, salt, salted := strings.Cut(name, "#")
	if salted {
		return base + suffix + "#" + salt
	}
	return base + suffix
}

// directories are sw and etc.
func (b *builder) directories(t tree, c Closure) error {
	sw := make(tree)
	sw.dir("bin")
	etc := make(tree)
	etc.dir("systemd/system")
	etc.file("os-release", "ID=nixos\nNAME=NixOS\nVERSION_ID=\""+c.Label+"\"\n")
	if b.tools {
		scripts := Scripts()
		tools := make(tree)
		tools.script("bin/nix-store", scripts[NixStoreScript])
		tools.script("bin/nix-env", scripts[NixEnvScript])
		storePath, err := b.place("nix-simulated", tools)
		if err != nil {
			return err
		}
		sw.link("bin/nix-store", storePath+"/bin/nix-store")
		sw.link("bin/nix-env", storePath+"/bin/nix-env")
	}
	if err := b.bus(etc, c); err != nil {
		return err
	}
	for name, text := range c.Units {
		etc.file("systemd/system/"+name, text)
		t.file("sim/units/"+name, text)
	}
	for name, value := range c.Extra {
		if inSw, ok := strings.CutPrefix(name, "sw/"); ok {
			sw.extra(inSw, value)
		} else if inEtc, ok := strings.CutPrefix(name, "etc/"); ok {
			etc.extra(inEtc, value)
		} else {
			t.extra(name, value)
		}
	}
	if b.alone {
		graft(t, "sw", sw)
		graft(t, "etc", etc)
		return nil
	}
	storePath, err := b.place("system-path", sw)
	if err != nil {
		return err
	}
	t.link("sw", storePath)
	packaged := make(tree)
	graft(packaged, "etc", etc)
	storePath, err = b.place("etc", packaged)
	if err != nil {
		return err
	}
	t.link("etc", storePath+"/etc")
	return nil
}

func graft(t tree, at string, branch tree) {
	for name, n := range branch {
		t[at+"/"+name] = n
	}
}

// busPackages are the packages that bring the two implementations, and the executables that run as them.
var busPackages = map[string]struct{ name, executable, unit string }{
	DBusDaemon: {"dbus-1.16.2", "bin/dbus-daemon", "dbus.service"},
	DBusBroker: {"dbus-broker-36", "bin/dbus-broker-launch", "dbus-broker.service"},
}

// bus puts the bus's unit into etc: the broker has its own, and dbus.service as another name of it.
func (b *builder) bus(etc tree, c Closure) error {
	if c.DBus == "" {
		return nil
	}
	implementation, known := busPackages[c.DBus]
	if !known {
		return fmt.Errorf("no D-Bus implementation %q", c.DBus)
	}
	const systemUnits = "systemd/system/"
	text := "[Service]\nExecStart=/" + implementation.executable + "\nX-ReloadIfChanged=true\n"
	packaged := make(tree)
	packaged.script(implementation.executable, []byte("#!/bin/sh\nexit 1\n"))
	packaged.file("share/"+systemUnits+implementation.unit, text)
	storePath, err := b.place(implementation.name, packaged)
	if err != nil {
		return err
	}
	if b.alone {
		etc.file(systemUnits+implementation.unit, text)
	} else {
		etc.link(systemUnits+implementation.unit, storePath+"/share/"+systemUnits+implementation.unit)
	}
	if implementation.unit != "dbus.service" {
		etc.link(systemUnits+"dbus.service", implementation.unit)
	}
	// The executable of the live bus is found through here, as a real unit's ExecStart names it.
	etc.link("dbus-1/executable", storePath+"/"+implementation.executable)
	return nil
}

func (b *builder) inhibitors(t tree, c Closure) error {
	text := c.InhibitorsRaw
	if text == "" {
		if c.Inhibitors == nil {
			return nil
		}
		encoded, err := json.Marshal(c.Inhibitors)
		if err != nil {
			return fmt.Errorf("encode switch inhibitors: %w", err)
		}
		text = string(encoded)
	}
	if b.alone {
		t.file("switch-inhibitors", text)
		return nil
	}
	storePath, err := b.place("switch-inhibitors", tree{"": {content: []byte(text)}})
	if err != nil {
		return err
	}
	t.link("switch-inhibitors", storePath)
	return nil
}

// programs are the scripts of the closure and the knobs that it carries.
func programs(t tree, c Closure) {
	scripts := Scripts()
	if !c.NotSwitchable {
		t.script("bin/switch-to-configuration", scripts[SwitchScript])
		t.script("activate", scripts[ActivateScript])
	}
	t.script("sim/install-boot-loader", scripts[BootLoaderScript])
	if len(c.Units) == 0 {
		t.file("sim/"+KnobStartList, "example-web.service")
		t.file("sim/"+KnobRestartList, "example-worker.service")
	}
	for name, value := range c.Behaviour {
		t.file("sim/"+name, value)
	}
}
