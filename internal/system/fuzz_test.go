package system

import (
	"bytes"
	"strings"
	"testing"
)

func FuzzLoaderConf(f *testing.F) {
	for _, seed := range []string{"timeout 5\ndefault nixos-generation-1.conf\n", "preferred X\ndefault @saved\n", "default\t\"a b\"\r\n#c\n", "\x00default x", "default @x"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, content []byte) {
		for _, pattern := range func() []string { p, d := parseLoaderConf(content); return []string{p, d} }() {
			if pattern != lower(pattern) || strings.ContainsAny(pattern, "\n\r\x00") || strings.HasPrefix(pattern, "@") && pattern != savedEntry {
				t.Errorf("pattern %q", pattern)
			}
		}
	})
}

func FuzzEntry(f *testing.F) {
	f.Add("nixos-x+3-1.conf", []byte("title NixOS\nsort-key nixos\nversion Generation 1\nlinux /k\noptions init=/nix/store/x/init\n"))
	f.Add("a.conf", []byte("linux x\nefi y\noptions a\noptions b\n"))
	f.Add("+.conf", []byte("options\n\xff\xfe"))
	f.Fuzz(func(t *testing.T, file string, content []byte) {
		e := parseEntry(file, content)
		if e.id != lower(e.id) || e.triesLeft < -1 || (e.triesLeft < 0) != (e.triesDone < 0) {
			t.Errorf("entry %+v", e)
		}
		if compareEntries(e, e) != 0 {
			t.Errorf("%+v does not equal itself", e)
		}
		if init := initOf(e.options); strings.ContainsAny(init, " \n") {
			t.Errorf("init %q", init)
		}
	})
}

func FuzzCompareVersions(f *testing.F) {
	f.Add("123~rc1", "123", "124")
	f.Add("a-~1", "a-^.", "__..")
	f.Add("001", "1", "")
	f.Fuzz(func(t *testing.T, a, b, c string) {
		ab, ba, bc, ac := compareVersions(a, b), compareVersions(b, a), compareVersions(b, c), compareVersions(a, c)
		if ab != -ba {
			t.Errorf("%q and %q compare as %d and %d", a, b, ab, ba)
		}
		if ab <= 0 && bc <= 0 && ac > 0 {
			t.Errorf("%q <= %q <= %q but the first is greater than the last", a, b, c)
		}
	})
}

func FuzzGlob(f *testing.F) {
	f.Add("nixos-*", "nixos-generation-1.conf")
	f.Add("[a-c][]-]?\\**", "a]x*y")
	f.Add("*a*a*a*a*b", strings.Repeat("a", 64))
	f.Fuzz(func(t *testing.T, pattern, name string) {
		matched := globMatch(pattern, name)
		if !strings.ContainsAny(pattern, "*?[\\") && matched != (string([]rune(pattern)) == string([]rune(name))) {
			t.Errorf("plain %q and %q: %v", pattern, name, matched)
		}
		if matched && !strings.HasSuffix(pattern, "\\") && !globMatch("*"+pattern, name) {
			t.Errorf("%q matches %q, but not after a star", pattern, name)
		}
	})
}

func FuzzGrub(f *testing.F) {
	top := storePathOf("nixos-system-a")
	f.Add([]byte(nixosGrub("0", top, top)), []byte(grubEnvBlock("next_entry=1>0")))
	f.Add([]byte("if [ ! ]; then\nelse fi } { menuentry {\nlinux"), []byte("a=\\"))
	f.Add([]byte("set a=$a${a}$'\"\\"), []byte{})
	f.Add([]byte("submenu x {\nmenuentry y {\nlinux /k init=/x\n}\n}\nset default=0>0\n"), []byte{})
	w := newWalk(New(f.TempDir()))
	f.Fuzz(func(t *testing.T, script, env []byte) {
		d := resolveGrub(w, runGrub(string(script), parseGrubEnv(env)))
		if (d.Closure == "") == (d.Reason == "") {
			t.Errorf("%+v", d)
		}
		if d.Closure != "" && ParseStorePath(d.Closure) != nil {
			t.Errorf("closure %q", d.Closure)
		}
	})
}

func FuzzExtlinux(f *testing.F) {
	f.Add([]byte("DEFAULT a\nLABEL a\n APPEND init=/nix/store/x/init\nMENU DEFAULT\n"))
	f.Add([]byte("append x\nmenu default\nlabel\n"))
	f.Fuzz(func(t *testing.T, content []byte) {
		conf := parseExtlinux(content)
		if len(conf.labels) != len(conf.appends) {
			t.Errorf("%d labels, %d command lines", len(conf.labels), len(conf.appends))
		}
	})
}

func FuzzUKI(f *testing.F) {
	f.Add(uki(f, "ID=nixos\nVERSION_ID=1\n", "init=/nix/store/x/init"))
	f.Add([]byte("MZ"))
	f.Add(append([]byte("MZ"), bytes.Repeat([]byte{0xff}, 128)...))
	f.Fuzz(func(t *testing.T, image []byte) {
		e := parseUKI("x+1.efi", bytes.NewReader(image))
		if len(e.options) > maxSection || e.id != "x.efi" {
			t.Errorf("entry %q with %d bytes of options", e.id, len(e.options))
		}
	})
}

func FuzzInhibitors(f *testing.F) {
	for _, seed := range []string{`{"dbus-implementation":"broker"}`, `{"a":[1, 2]}`, `{`, "null", "/nix/store/x\n"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if inhibitors, ok := parseInhibitors(data); ok != (inhibitors != nil) {
			t.Errorf("%v, %v", inhibitors, ok)
		}
	})
}

func FuzzEFIString(f *testing.F) {
	f.Add(efiString("nixos-*"))
	f.Add([]byte{7, 0, 0, 0, 0, 0xd8})
	f.Fuzz(func(t *testing.T, data []byte) {
		if value, err := decodeEFIString(data); err == nil && strings.ContainsRune(value, 0) {
			t.Errorf("%q", value)
		}
	})
}
