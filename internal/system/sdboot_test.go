package system

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"strings"
	"testing"
)

// entry writes a boot entry as NixOS's builder does, with the kernel it names.
func (tr *tree) entry(file string, generation int, closure string) *tree {
	tr.t.Helper()
	return tr.entryOn("/boot", file, fmt.Sprintf(
		"title NixOS\nsort-key nixos\nversion Generation %d NixOS 25.11, built on 2026-01-01\nlinux /EFI/nixos/kernel.efi\n"+
			"initrd /EFI/nixos/initrd.efi\noptions init=%s/init loglevel=4\nmachine-id 0123\n", generation, closure))
}

func (tr *tree) entryOn(boot, file, content string) *tree {
	tr.t.Helper()
	return tr.file(boot+"/EFI/nixos/kernel.efi", "kernel").file(boot+"/loader/entries/"+file, content)
}

func (tr *tree) loader(conf string) *tree {
	tr.t.Helper()
	return tr.file("/boot/loader/loader.conf", conf)
}

func TestSystemdBootDefault(t *testing.T) {
	a, b, c := storePathOf("nixos-system-a"), storePathOf("nixos-system-b"), storePathOf("nixos-system-c")
	const hashA, hashB = "nixos-aaaa.conf", "nixos-bbbb+3.conf"
	generations := func(tr *tree) *tree {
		return tr.entry("nixos-generation-9.conf", 9, a).entry("nixos-generation-10.conf", 10, b).entry("nixos-generation-11.conf", 11, c)
	}
	for name, tc := range map[string]struct {
		lay  func(tr *tree)
		want BootDefault // Loader is systemd-boot; a Reason is a prefix
	}{
		"named by loader.conf": {func(tr *tree) { generations(tr).loader("timeout 5\ndefault nixos-generation-10.conf\n") },
			BootDefault{Closure: b, Entry: "nixos-generation-10.conf", Via: ViaDefault}},
		"no loader.conf: newest version, not the highest text": {func(tr *tree) { generations(tr) },
			BootDefault{Closure: c, Entry: "nixos-generation-11.conf", Via: ViaFirstEntry}},
		"named entry is gone": {func(tr *tree) { generations(tr).loader("default nixos-generation-99.conf\n") },
			BootDefault{Closure: c, Entry: "nixos-generation-11.conf", Via: ViaFirstEntry}},
		"glob takes the newest": {func(tr *tree) { generations(tr).loader("default nixos-*\n") },
			BootDefault{Closure: c, Entry: "nixos-generation-11.conf", Via: ViaDefault}},
		"set in a glob": {func(tr *tree) { generations(tr).loader("default nixos-generation-[0-9].conf\n") },
			BootDefault{Closure: a, Entry: "nixos-generation-9.conf", Via: ViaDefault}},
		"case, quotes, comments, CRLF": {func(tr *tree) { generations(tr).loader("#default x\r\n  default\t \"NixOS-Generation-9.CONF\" \r\n") },
			BootDefault{Closure: a, Entry: "nixos-generation-9.conf", Via: ViaDefault}},
		"last default counts, unknown special names do not": {func(tr *tree) {
			generations(tr).loader("default nixos-generation-11.conf\ndefault nixos-generation-9.conf\ndefault @none\n")
		}, BootDefault{Closure: a, Entry: "nixos-generation-9.conf", Via: ViaDefault}},
		"LoaderEntryDefault beats default": {func(tr *tree) {
			generations(tr).loader("default nixos-generation-10.conf\n").efiVar("LoaderEntryDefault", "nixos-generation-9.conf")
		}, BootDefault{Closure: a, Entry: "nixos-generation-9.conf", Via: ViaDefaultVar, Pinned: true}},
		"LoaderEntryDefault that matches nothing": {func(tr *tree) {
			generations(tr).loader("default nixos-generation-10.conf\n").efiVar("LoaderEntryDefault", "windows.conf")
		}, BootDefault{Closure: b, Entry: "nixos-generation-10.conf", Via: ViaDefault}},
		"preferred beats LoaderEntryDefault": {func(tr *tree) {
			generations(tr).loader("preferred nixos-generation-10.conf\ndefault nixos-*\n").efiVar("LoaderEntryDefault", "nixos-generation-9.conf")
		}, BootDefault{Closure: b, Entry: "nixos-generation-10.conf", Via: ViaPreferred}},
		"LoaderEntryPreferred beats preferred": {func(tr *tree) {
			generations(tr).loader("preferred nixos-generation-10.conf\n").efiVar("LoaderEntryPreferred", "nixos-generation-9.conf")
		}, BootDefault{Closure: a, Entry: "nixos-generation-9.conf", Via: ViaPreferredVar, Pinned: true}},
		"one-shot beats all": {func(tr *tree) {
			generations(tr).loader("preferred nixos-generation-10.conf\n").efiVar("LoaderEntryPreferred", "nixos-generation-10.conf").
				efiVar("LoaderEntryDefault", "nixos-generation-10.conf").efiVar("LoaderEntryOneShot", "NIXOS-generation-9.conf")
		}, BootDefault{Closure: a, Entry: "nixos-generation-9.conf", Via: ViaOneShot, Pinned: true}},
		"one-shot that matches nothing": {func(tr *tree) {
			generations(tr).loader("default nixos-generation-10.conf\n").efiVar("LoaderEntryOneShot", "auto-reboot-to-firmware-setup")
		}, BootDefault{Closure: b, Entry: "nixos-generation-10.conf", Via: ViaDefault}},
		"saved": {func(tr *tree) {
			generations(tr).loader("default @saved\n").efiVar("LoaderEntryLastBooted", "nixos-generation-9.conf")
		}, BootDefault{Closure: a, Entry: "nixos-generation-9.conf", Via: ViaSaved, Pinned: true}},
		"saved by variable": {func(tr *tree) {
			generations(tr).loader("default nixos-generation-10.conf\n").efiVar("LoaderEntryDefault", "@saved").efiVar("LoaderEntryLastBooted", "nixos-generation-9.conf")
		}, BootDefault{Closure: a, Entry: "nixos-generation-9.conf", Via: ViaSaved, Pinned: true}},
		"saved, nothing booted yet": {func(tr *tree) { generations(tr).loader("default @saved\n").dir(efiVarsDir) },
			BootDefault{Closure: c, Entry: "nixos-generation-11.conf", Via: ViaFirstEntry}},
		"saved, variables not to be seen": {func(tr *tree) { generations(tr).loader("default @saved\n") },
			BootDefault{Reason: "the default is the entry booted last"}},
		"damaged variable": {func(tr *tree) {
			generations(tr).loader("default nixos-*\n").file(efiVarsDir+"/LoaderEntryDefault-"+loaderVendor, "x")
		}, BootDefault{Reason: "read EFI variable LoaderEntryDefault"}},

		"counted entry by its id": {func(tr *tree) {
			tr.entry(hashA, 9, a).entry(hashB, 10, b).loader("preferred nixos-bbbb.conf\ndefault nixos-*\n")
		}, BootDefault{Closure: b, Entry: hashB, Via: ViaPreferred}},
		"counted entry by its name with the counter": {func(tr *tree) {
			tr.entry(hashA, 9, a).entry(hashB, 8, b).loader("default nixos-bbbb+3.conf\n")
		}, BootDefault{Closure: b, Entry: hashB, Via: ViaDefault}},
		"preferred entry used up its tries": {func(tr *tree) {
			tr.entry(hashA, 9, a).entry("nixos-bbbb+0-3.conf", 10, b).loader("preferred nixos-bbbb.conf\ndefault nixos-*\n")
		}, BootDefault{Closure: a, Entry: hashA, Via: ViaDefault}},
		"default does not skip a bad entry that it names": {func(tr *tree) {
			tr.entry(hashA, 9, a).entry("nixos-bbbb+0-3.conf", 10, b).loader("default nixos-bbbb.conf\n")
		}, BootDefault{Closure: b, Entry: "nixos-bbbb+0-3.conf", Via: ViaDefault}},
		"all entries bad": {func(tr *tree) {
			tr.entry("nixos-aaaa+0.conf", 9, a).entry("nixos-bbbb+0-3.conf", 10, b).loader("preferred nixos-*\ndefault nixos-*\n")
		}, BootDefault{Closure: b, Entry: "nixos-bbbb+0-3.conf", Via: ViaDefault}},

		"specialisation child": {func(tr *tree) {
			tr.entry("nixos-generation-9.conf", 9, a).entry("nixos-generation-9-specialisation-gaming.conf", 9, c).
				loader("default nixos-generation-9-specialisation-gaming.conf\n")
		}, BootDefault{Closure: c, Entry: "nixos-generation-9-specialisation-gaming.conf", Via: ViaDefault}},
		"init below the parent": {func(tr *tree) {
			tr.link(a+"/specialisation/gaming", c).dir(c).entry("x.conf", 1, a+"/specialisation/gaming")
		}, BootDefault{Closure: c, Entry: "x.conf", Via: ViaFirstEntry}},
		"init below the profile": {func(tr *tree) {
			tr.link("/nix/var/nix/profiles/system", "system-1-link").link("/nix/var/nix/profiles/system-1-link", a).dir(a).
				entry("x.conf", 1, "/nix/var/nix/profiles/system")
		}, BootDefault{Closure: a, Entry: "x.conf", Via: ViaFirstEntry}},

		"entry without its kernel is not in the menu": {func(tr *tree) {
			generations(tr).loader("default nixos-generation-11.conf\n").
				entryOn("/boot", "nixos-generation-11.conf", "linux /EFI/nixos/missing.efi\noptions init="+c+"/init\n")
		}, BootDefault{Closure: b, Entry: "nixos-generation-10.conf", Via: ViaFirstEntry}},
		"entry for another architecture": {func(tr *tree) {
			tr.entry("a.conf", 1, a).entryOn("/boot", "b.conf", "linux /EFI/nixos/kernel.efi\narchitecture AA64\noptions init="+b+"/init\n").loader("default b.conf\n")
		}, BootDefault{Closure: a, Entry: "a.conf", Via: ViaFirstEntry}},
		"entry of two kinds": {func(tr *tree) {
			tr.entry("a.conf", 1, a).entryOn("/boot", "b.conf", "linux /EFI/nixos/kernel.efi\nefi /EFI/nixos/kernel.efi\noptions init="+b+"/init\n").loader("default b.conf\n")
		}, BootDefault{Closure: a, Entry: "a.conf", Via: ViaFirstEntry}},
		"hidden and automatic names": {func(tr *tree) {
			tr.entry("a.conf", 1, a).entry(".b.conf", 2, b).entry("auto-b.conf", 2, b).entry("b.conf.bak", 2, b).dir("/boot/loader/entries/dir.conf")
		}, BootDefault{Closure: a, Entry: "a.conf", Via: ViaFirstEntry}},
		"several options lines, the last init counts": {func(tr *tree) {
			tr.entryOn("/boot", "a.conf", "linux /EFI/nixos/kernel.efi\noptions quiet init="+a+"/init\noptions init=\""+b+"/init\" -- init="+c+"/init\n")
		}, BootDefault{Closure: b, Entry: "a.conf", Via: ViaFirstEntry}},
		"backslashes in the path of the kernel": {func(tr *tree) {
			tr.entryOn("/boot", "a.conf", "linux \\EFI\\nixos\\kernel.efi\noptions init="+a+"/init\n")
		}, BootDefault{Closure: a, Entry: "a.conf", Via: ViaFirstEntry}},
		"not NixOS": {func(tr *tree) {
			generations(tr).loader("default memtest86.conf\n").entryOn("/boot", "memtest86.conf", "title MemTest\nefi /EFI/nixos/kernel.efi\n")
		}, BootDefault{Entry: "memtest86.conf", Via: ViaDefault, Reason: `entry "memtest86.conf" does not boot a NixOS system`}},
		"init that is not in the store": {func(tr *tree) {
			tr.file("/sbin/init", "").entryOn("/boot", "a.conf", "linux /EFI/nixos/kernel.efi\noptions init=/sbin/init\n")
		}, BootDefault{Entry: "a.conf", Via: ViaFirstEntry, Reason: `entry "a.conf" boots /sbin/init: "/sbin" is not a store path`}},
		"huge neighbour, exact name": {func(tr *tree) {
			generations(tr).loader("default nixos-generation-10.conf\n").file("/boot/loader/entries/nixos-huge.conf", strings.Repeat("x", maxFile+1))
		}, BootDefault{Closure: b, Entry: "nixos-generation-10.conf", Via: ViaDefault}},
		"huge neighbour, glob": {func(tr *tree) {
			generations(tr).loader("default nixos-*\n").file("/boot/loader/entries/nixos-huge.conf", strings.Repeat("x", maxFile+1))
		}, BootDefault{Entry: "nixos-generation-11.conf", Via: ViaDefault, Reason: `entry "nixos-huge.conf", which may come first, cannot be read`}},
		"huge loader.conf": {func(tr *tree) { generations(tr).loader(strings.Repeat("#", maxFile+1)) },
			BootDefault{Reason: "read /boot/loader/loader.conf: larger"}},
		"loader.conf and no entry": {func(tr *tree) { tr.loader("default nixos-*\n") },
			BootDefault{Reason: "no entry that systemd-boot could boot"}},
		"garbage": {func(tr *tree) {
			tr.loader("\x00\xff default\n=\ndefault").file("/boot/loader/entries/x.conf", "\xff\xfe\x00linux").file("/boot/EFI/Linux/x.efi", "MZ")
		}, BootDefault{Reason: "no entry that systemd-boot could boot"}},

		"loader.conf on the ESP, entries on the boot partition": {func(tr *tree) {
			generations(tr).file("/efi/loader/loader.conf", "default nixos-generation-10.conf\n").file("/efi/EFI/systemd/systemd-bootx64.efi", "")
		}, BootDefault{Closure: b, Entry: "nixos-generation-10.conf", Via: ViaDefault}},
		"a stale loader.conf beside the ESP": {func(tr *tree) {
			generations(tr).loader("default nixos-generation-9.conf\n").
				file("/efi/loader/loader.conf", "default nixos-generation-10.conf\n").file("/efi/EFI/systemd/systemd-bootx64.efi", "")
		}, BootDefault{Closure: b, Entry: "nixos-generation-10.conf", Via: ViaDefault}},
		"one partition under two names": {func(tr *tree) { generations(tr).link("/efi", "boot").loader("default nixos-*\n") },
			BootDefault{Closure: c, Entry: "nixos-generation-11.conf", Via: ViaDefault}},

		"unified image of Lanzaboote": {func(tr *tree) {
			tr.loader("default nixos-*\n").
				file("/boot/EFI/Linux/nixos-generation-9-x.efi", string(uki(t, "ID=lanza\nPRETTY_NAME=NixOS\nVERSION_ID=\"Generation 9, 2026\"\n", "init="+a+"/init quiet"))).
				file("/boot/EFI/Linux/nixos-generation-10-a.efi", string(uki(t, "ID=lanza\nPRETTY_NAME=NixOS\nVERSION_ID=\"Generation 10, 2026\"\n", "init="+b+"/init quiet\x00")))
		}, BootDefault{Closure: b, Entry: "nixos-generation-10-a.efi", Via: ViaDefault}},
		"unified image without os-release": {func(tr *tree) {
			tr.loader("").file("/boot/EFI/Linux/nixos.efi", string(peImage(t, section{".cmdline", "init=" + a + "/init"})))
		}, BootDefault{Reason: "no entry that systemd-boot could boot"}},
		"type 1 entry of a unified image": {func(tr *tree) {
			tr.entryOn("/boot", "a.conf", "uki /EFI/nixos/a.efi\n").file("/boot/EFI/nixos/a.efi", string(uki(t, "ID=nixos\n", "init="+a+"/init")))
		}, BootDefault{Closure: a, Entry: "a.conf", Via: ViaFirstEntry}},
		"type 1 entry of a damaged image": {func(tr *tree) {
			tr.entryOn("/boot", "a.conf", "uki /EFI/nixos/kernel.efi\n")
		}, BootDefault{Entry: "a.conf", Via: ViaFirstEntry, Reason: `entry "a.conf": not a PE image`}},
		"command line of an image that is too long": {func(tr *tree) {
			tr.loader("").file("/boot/EFI/Linux/a.efi", string(uki(t, "ID=nixos\n", strings.Repeat("x", maxSection+1))))
		}, BootDefault{Reason: `entry "a.efi" cannot be read: larger`}},
	} {
		t.Run(name, func(t *testing.T) {
			tr := newTree(t)
			tc.lay(tr)
			checkBootDefault(t, tr.host().BootDefault(), LoaderSystemdBoot, tc.want)
		})
	}
}

func checkBootDefault(t *testing.T, got BootDefault, loader string, want BootDefault) {
	t.Helper()
	want.Loader = loader
	if (got.Reason == "") != (want.Reason == "") || !strings.HasPrefix(got.Reason, want.Reason) {
		t.Errorf("reason %q, want %q", got.Reason, want.Reason)
	}
	if (got.Closure == "") != (got.Reason != "") {
		t.Errorf("closure %q with reason %q", got.Closure, got.Reason)
	}
	got.Reason, want.Reason = "", ""
	if got != want {
		t.Errorf("boot default\n got %+v\nwant %+v", got, want)
	}
}

func TestBootDefaultOfOtherLoaders(t *testing.T) {
	a, b := storePathOf("nixos-system-a"), storePathOf("nixos-system-b")
	grubOf := func(closure string) string {
		return "set default=0\nmenuentry \"NixOS - Default\" {\nlinux ($drive1)/kernel init=" + closure + "/init\n}\n"
	}
	both := func(tr *tree) *tree { return tr.entry("a.conf", 1, a).file("/boot/grub/grub.cfg", grubOf(b)) }
	sdboot := BootDefault{Loader: LoaderSystemdBoot, Closure: a, Entry: "a.conf", Via: ViaFirstEntry}
	grub := BootDefault{Loader: LoaderGRUB, Closure: b, Entry: "NixOS - Default", Via: ViaDefault}
	for name, tc := range map[string]struct {
		lay  func(tr *tree)
		want BootDefault
	}{
		"no directory":   {func(*tree) {}, BootDefault{Loader: LoaderNone, Reason: "no boot loader configuration"}},
		"empty":          {func(tr *tree) { tr.dir("/boot/EFI") }, BootDefault{Loader: LoaderNone, Reason: "no boot loader configuration"}},
		"boot is a file": {func(tr *tree) { tr.file("/boot", "") }, BootDefault{Loader: LoaderNone, Reason: "no boot loader configuration"}},
		"boot is a loop": {func(tr *tree) { tr.link("/boot", "boot") }, BootDefault{Loader: LoaderUnknown, Reason: "resolve /boot: too many"}},
		"Limine": {func(tr *tree) { tr.file("/boot/limine/limine.conf", "") },
			BootDefault{Loader: LoaderUnknown, Reason: "the configuration of Limine cannot be read"}},
		"two, systemd-boot started this boot": {func(tr *tree) { both(tr).efiVar("LoaderInfo", "systemd-boot 258.3") }, sdboot},
		"two, GRUB started this boot":         {func(tr *tree) { both(tr).efiVar("LoaderInfo", "GRUB 2.12") }, grub},
		"two, EFI and not systemd-boot":       {func(tr *tree) { both(tr).dir(efiVarsDir) }, grub},
		"two, nobody says which": {func(tr *tree) { both(tr) },
			BootDefault{Loader: LoaderUnknown, Reason: "systemd-boot and grub are configured with different defaults"}},
		"two that agree": {func(tr *tree) { tr.entry("a.conf", 1, a).file("/boot/grub/grub.cfg", grubOf(a)) }, sdboot},
	} {
		t.Run(name, func(t *testing.T) {
			tr := newTree(t)
			tc.lay(tr)
			checkBootDefault(t, tr.host().BootDefault(), tc.want.Loader, tc.want)
		})
	}
	tr := newTree(t)
	tr.entryOn("/mnt/esp", "a.conf", "linux /EFI/nixos/kernel.efi\noptions init="+a+"/init\n").entry("b.conf", 1, b)
	if got := tr.host(WithBootPaths("/mnt/esp")).BootDefault(); got.Closure != a {
		t.Errorf("with another boot path: %+v", got)
	}
}

func TestBootDefaultThatMayNotBeRead(t *testing.T) {
	if os.Geteuid() == 0 {
		t.Skip("root may read everything")
	}
	tr := newTree(t)
	tr.entry("a.conf", 1, storePathOf("nixos-system-a"))
	if err := os.Chmod(tr.at("/boot"), 0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Chmod(tr.at("/boot"), 0o755) })
	checkBootDefault(t, tr.host().BootDefault(), LoaderUnknown, BootDefault{Reason: "open"})
}

type section struct{ name, content string }

func uki(t testing.TB, osRelease, cmdline string) []byte {
	return peImage(t, section{".text", "code"}, section{".osrel", osRelease}, section{".cmdline", cmdline},
		section{".profile", "ID=other\n"}, section{".cmdline", "init=/other"})
}

// peImage lays out a PE image with nothing but a section table.
func peImage(t testing.TB, sections ...section) []byte {
	t.Helper()
	const header, align, optional = 0x80, 512, 112
	le := binary.LittleEndian
	image := bytes.Repeat([]byte{0}, header+24+optional+40*len(sections))
	copy(image, "MZ")
	le.PutUint32(image[0x3c:], header)
	copy(image[header:], "PE\x00\x00")
	le.PutUint16(image[header+6:], uint16(len(sections)))
	le.PutUint16(image[header+20:], optional)
	for i, s := range sections {
		image = append(image, bytes.Repeat([]byte{0}, (align-len(image)%align)%align)...)
		row := image[header+24+optional+40*i:]
		copy(row[:8], s.name)
		le.PutUint32(row[8:], uint32(len(s.content)))
		le.PutUint32(row[16:], uint32((len(s.content)+align-1)/align*align))
		le.PutUint32(row[20:], uint32(len(image)))
		image = append(image, s.content...)
	}
	return append(image, bytes.Repeat([]byte{0}, align)...)
}

func TestCutCounter(t *testing.T) {
	for file, want := range map[string]struct {
		name       string
		left, done int
	}{
		"nixos-x+3.conf": {"nixos-x.conf", 3, 0}, "nixos-x+2-1.conf": {"nixos-x.conf", 2, 1}, "nixos-x+0-3.CONF": {"nixos-x.CONF", 0, 3},
		"a+1+2.conf": {"a+1.conf", 2, 0}, "a.conf": {"a.conf", -1, -1}, "a+.conf": {"a+.conf", -1, -1}, "a+x.conf": {"a+x.conf", -1, -1},
		"a+1-.conf": {"a+1-.conf", -1, -1}, "a+1-2-3.conf": {"a+1-2-3.conf", -1, -1}, "a+3b.conf": {"a+3b.conf", -1, -1},
		"a+99999999999.conf": {"a+99999999999.conf", -1, -1}, "a+1.efi": {"a+1.efi", -1, -1}, "": {"", -1, -1},
	} {
		name, left, done := cutCounter(file, ".conf")
		if name != want.name || left != want.left || done != want.done {
			t.Errorf("cutCounter(%q) = %q, %d, %d; want %+v", file, name, left, done, want)
		}
	}
}

func TestEntryOrder(t *testing.T) {
	sorted := []bootEntry{
		{id: "1", hasSortKey: true, sortKey: "a", machineID: "m", version: "2", triesLeft: -1},
		{id: "2", hasSortKey: true, sortKey: "a", machineID: "m", version: "1", triesLeft: -1},
		{id: "3", hasSortKey: true, sortKey: "a", machineID: "n", version: "9", triesLeft: -1},
		{id: "5", hasSortKey: true, sortKey: "b", triesLeft: 3},
		{id: "5", hasSortKey: true, sortKey: "b", triesLeft: 2, triesDone: 0},
		{id: "5", hasSortKey: true, sortKey: "b", triesLeft: 2, triesDone: 1},
		{id: "4", hasSortKey: true, sortKey: "b", triesLeft: -1},
		{id: "x-10", triesLeft: -1},
		{id: "x-9", triesLeft: -1},
		{id: "0", hasSortKey: true, sortKey: "a", version: "99", triesLeft: 0},
	}
	for i, a := range sorted {
		for j, b := range sorted {
			if got, want := compareEntries(a, b), compareInts(i, j); got != want {
				t.Errorf("entries %d and %d compare as %d, want %d", i, j, got, want)
			}
		}
	}
}

func compareInts(a, b int) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// The examples of the Version Format Specification, oldest first.
func TestCompareVersions(t *testing.T) {
	for _, versions := range [][]string{
		{"122.1", "123~rc1-1", "123", "123-a", "123-a.1", "123-1", "123-1.1", "123^post1", "123.a-1", "123.1-1", "123a-1", "124-1"},
		{"~", "~1", "", "a", "1"},
		{"Generation 9 NixOS 25.11", "Generation 10 NixOS 25.11", "Generation 11 NixOS 24.05"},
		{"A1", "B", "a"}, // letters are compared as bytes
	} {
		for i, a := range versions {
			for j, b := range versions {
				if got, want := compareVersions(a, b), compareInts(i, j); got != want {
					t.Errorf("%q and %q compare as %d, want %d", a, b, got, want)
				}
			}
		}
	}
	for _, same := range [][2]string{{"", ""}, {"001", "1"}, {"1_2", "1 2"}, {"__", ""}, {"a b", "a_b"}} {
		if got := compareVersions(same[0], same[1]); got != 0 {
			t.Errorf("%q and %q compare as %d", same[0], same[1], got)
		}
	}
}

func TestGlobMatch(t *testing.T) {
	for _, c := range []struct {
		pattern, name string
		want          bool
	}{
		{"", "", true}, {"", "a", false}, {"a", "", false}, {"*", "", true}, {"*", "abc", true}, {"a*c", "abc", true}, {"a*c", "abcd", false},
		{"?", "", false}, {"?", "a", true}, {"a?c", "abc", true}, {"*a*b*", "xxaxxbxx", true}, {"*a*b*", "xxbxxaxx", false},
		{"[abc]", "b", true}, {"[abc]", "d", false}, {"[a-c]x", "bx", true}, {"[a-c]", "-", false}, {"[-a]", "-", true}, {"[a-]", "-", true},
		{"[]]", "]", true}, {"[a-c-f]", "-", true}, {"[a-c-f]", "e", false}, {"[\\]]", "]", true}, {"[a-\\c]", "b", true},
		{"[a", "a", false}, {"[", "[", false}, {"\\*", "*", true}, {"\\*", "a", false}, {"a\\", "a", false}, {"\\", "\\", false}, {"[a\\", "a", false}, {"[a-\\", "a", false},
		{"nixos-*", "nixos-generation-1.conf", true}, {"*.conf", "a.conf", true}, {"*-1?", "a-1", false}, {"**a", "ba", true}, {"é?", "éü", true},
	} {
		if got := globMatch(c.pattern, c.name); got != c.want {
			t.Errorf("globMatch(%q, %q) = %v", c.pattern, c.name, got)
		}
	}
}

func TestDecodeEFIString(t *testing.T) {
	for _, value := range []string{"", "nixos-generation-1.conf", "héé", "日本"} {
		if got, err := decodeEFIString(efiString(value)); err != nil || got != value {
			t.Errorf("%q: %q, %v", value, got, err)
		}
	}
	if got, err := decodeEFIString(append(efiString("a"), 'x', 0)); err != nil || got != "a" {
		t.Errorf("after the NUL: %q, %v", got, err)
	}
	for _, bad := range []string{"", "abc", "abcde"} {
		if got, err := decodeEFIString([]byte(bad)); err == nil {
			t.Errorf("%q was decoded to %q", bad, got)
		}
	}
}
