package importlaw_test

import (
	"slices"
	"testing"
)

// TestJudge tries the judge on modules of a few lines: a law that lets
// everything pass would look exactly like a module that keeps it.
func TestJudge(t *testing.T) {
	const here = "example.org/m"
	table := map[string]room{
		"internal/rules": {purpose: "rules", pure: true},
		"internal/disk": {
			purpose:  "disk",
			internal: reasons{"internal/rules": "keeps them"},
			external: reasons{"go.etcd.io/bbolt": "keeps them there"},
			tests:    reasons{"internal/simhost": "a host to run on"},
		},
		"internal/simhost": {purpose: "host"},
	}
	// lawful is a module that keeps the table; each case replaces or adds files.
	lawful := map[string]string{
		"internal/rules/rules.go": `package rules; import ("strings"; "time"); var _ = strings.ToUpper; var _ time.Time`,
		"internal/disk/disk.go": `package disk; import ("os"; "time"; _ "go.etcd.io/bbolt"; _ "example.org/m/internal/rules")
			var _ = os.Open; var _ = time.NewTimer`,
		"internal/disk/disk_test.go": `package disk_test; import ("time"; _ "example.org/m/internal/disk"; _ "example.org/m/internal/simhost"; _ "pgregory.net/rapid")
			var _ = time.Now`,
		"internal/simhost/host.go": `package simhost; import "time"; var _ = time.Now`,
	}
	cases := map[string]struct {
		files map[string]string
		want  []string
	}{
		"a lawful module": {},
		"a package without a row": {
			files: map[string]string{"internal/utils/u.go": `package utils`},
			want:  []string{"internal/utils: not in the law; give it a row with its purpose and the reason of each import"},
		},
		"an edge against the flow": {
			files: map[string]string{"internal/rules/more.go": `package rules; import _ "example.org/m/internal/disk"`},
			want:  []string{"internal/rules/more.go:1:23: internal/rules imports example.org/m/internal/disk: not in its row of the law"},
		},
		"an edge under a build tag": {
			files: map[string]string{"internal/rules/more.go": "//go:build e2e\n\npackage rules; import _ \"example.org/m/internal/disk\""},
			want:  []string{"internal/rules/more.go:3:23: internal/rules imports example.org/m/internal/disk: not in its row of the law"},
		},
		"a generator belongs to no build": {
			files: map[string]string{"internal/rules/gen.go": "//go:build ignore\n\npackage main; import _ \"example.org/m/internal/disk\""},
		},
		"an edge of a test against the flow": {
			files: map[string]string{"internal/rules/rules_test.go": `package rules; import _ "example.org/m/internal/disk"`},
			want:  []string{"internal/rules/rules_test.go:1:23: a test of internal/rules imports example.org/m/internal/disk: not in its row of the law"},
		},
		"a third party that nobody allowed": {
			files: map[string]string{"internal/disk/more.go": `package disk; import _ "github.com/spf13/cobra"`},
			want:  []string{"internal/disk/more.go:1:22: internal/disk imports github.com/spf13/cobra: not in its row of the law"},
		},
		"a test's tool in the product": {
			files: map[string]string{"internal/disk/more.go": `package disk; import _ "pgregory.net/rapid"`},
			want:  []string{"internal/disk/more.go:1:22: internal/disk imports pgregory.net/rapid: only tests may: properties over random walks"},
		},
		"a test's tool in a room for tests that does not say so": {
			files: map[string]string{"internal/simhost/more.go": `package simhost; import _ "pgregory.net/rapid"`},
			want:  []string{"internal/simhost/more.go:1:25: internal/simhost imports pgregory.net/rapid: not in its row of the law"},
		},
		"a host for tests in the product": {
			files: map[string]string{"internal/disk/more.go": `package disk; import _ "example.org/m/internal/simhost"`},
			want:  []string{"internal/disk/more.go:1:22: internal/disk imports example.org/m/internal/simhost: not in its row of the law"},
		},
		"a pure room that touches the world": {
			files: map[string]string{"internal/rules/more.go": `package rules; import _ "os"`},
			want:  []string{"internal/rules/more.go:1:23: internal/rules imports os: the room is pure"},
		},
		"a pure room that waits": {
			files: map[string]string{"internal/rules/more.go": `package rules; import clock "time"; var _ = clock.After`},
			want:  []string{"internal/rules/more.go:1:45: internal/rules uses time.After: the room is pure"},
		},
		"a room that reads the clock": {
			files: map[string]string{"internal/disk/more.go": `package disk; import "time"; var _ = time.Since`},
			want:  []string{"internal/disk/more.go:1:38: internal/disk uses time.Since: it is to be handed a time or a clock"},
		},
		"a room that sleeps": {
			files: map[string]string{"internal/disk/more.go": `package disk; import "time"; func f() { time.Sleep(1) }`},
			want:  []string{"internal/disk/more.go:1:41: internal/disk uses time.Sleep: nothing can cancel it"},
		},
		"a room that starts processes": {
			files: map[string]string{"internal/disk/more.go": `package disk; import _ "os/exec"`},
			want:  []string{"internal/disk/more.go:1:22: internal/disk imports os/exec: a root agent's list of what starts processes must be short"},
		},
		"edges that are no longer there": {
			files: map[string]string{
				"internal/disk/disk.go":      `package disk`,
				"internal/disk/disk_test.go": `package disk`,
			},
			want: []string{
				"law: stale edge: internal/disk does not import go.etcd.io/bbolt",
				"law: stale edge: internal/disk does not import internal/rules",
				"law: stale edge: internal/disk does not import internal/simhost",
			},
		},
		"a room that is no longer there": {
			files: map[string]string{"internal/rules/rules.go": ""},
			want:  []string{"law: stale row: there is no package internal/rules"},
		},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			m := module{path: here, packages: map[string]pkg{}}
			files := map[string]string{}
			for file, source := range lawful {
				files[file] = source
			}
			for file, source := range c.files {
				files[file] = source
			}
			for file, source := range files {
				if source == "" {
					continue
				}
				if err := m.add(file, []byte(source)); err != nil {
					t.Fatal(err)
				}
			}
			if got := judge(m, table); !slices.Equal(got, c.want) {
				t.Errorf("breaches:\n%q\nwant:\n%q", got, c.want)
			}
		})
	}
}

func TestJudgeWantsReasons(t *testing.T) {
	m := module{path: "example.org/m", packages: map[string]pkg{}}
	if err := m.add("internal/disk/disk.go", []byte(`package disk; import _ "go.etcd.io/bbolt"`)); err != nil {
		t.Fatal(err)
	}
	got := judge(m, map[string]room{"internal/disk": {external: reasons{"go.etcd.io/bbolt": ""}}})
	want := []string{"law: internal/disk has no purpose", "law: internal/disk may import go.etcd.io/bbolt for no reason"}
	if !slices.Equal(got, want) {
		t.Errorf("breaches: %q, want %q", got, want)
	}
}

func TestDotImportIsRefused(t *testing.T) {
	m := module{path: "example.org/m", packages: map[string]pkg{}}
	if err := m.add("internal/disk/disk.go", []byte(`package disk; import . "time"; var _ = Now`)); err == nil {
		t.Error("a dot import passed; uses of the clock would be hidden behind it")
	}
}
