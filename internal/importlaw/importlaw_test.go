// Package importlaw holds the law of imports of this module, and nothing else.
//
// Imports flow one way: the rules know nothing of disks and hosts, the rooms
// that touch a host know nothing of the rules, and they meet in internal/agent
// alone. The table in table_test.go names every room, every import that it has,
// and why. The tests hold the table and the sources against each other in both
// directions: what is imported must be in the table, and what is in the table
// must still be true. Whoever adds an edge adds its reason in the same change.
package importlaw_test

import (
	"fmt"
	"go/token"
	"slices"
	"strings"
	"testing"
)

const root = "../.."

func TestLawHolds(t *testing.T) {
	m, err := readModule(root)
	if err != nil {
		t.Fatal(err)
	}
	for _, breach := range judge(m, law) {
		t.Error(breach)
	}
}

// TestPermissionsAreUsed holds the lists beside the table against the sources: a
// permission that nobody uses is one that nobody would see being used.
func TestPermissionsAreUsed(t *testing.T) {
	m, err := readModule(root)
	if err != nil {
		t.Fatal(err)
	}
	for imported := range testOnly {
		used := false
		for _, p := range m.packages {
			_, here := p.testImports[imported]
			used = used || here
		}
		if !used {
			t.Errorf("testOnly: no test imports %s", imported)
		}
	}
	for imported, g := range guarded {
		for _, dir := range g.rooms {
			if _, used := m.packages[dir].imports[imported]; !used {
				t.Errorf("guarded: %s does not import %s", dir, imported)
			}
		}
	}
	for _, dir := range clockReaders {
		reads := func(use clockUse) bool { return slices.Contains(clockReads, use.function) }
		if !slices.ContainsFunc(m.packages[dir].clockUses, reads) {
			t.Errorf("clockReaders: %s does not read the clock", dir)
		}
	}
}

// judge returns every breach of the law, sorted.
func judge(m module, law map[string]room) []string {
	var breaches []string
	breach := func(format string, args ...any) { breaches = append(breaches, fmt.Sprintf(format, args...)) }

	for dir, p := range m.packages {
		row, known := law[dir]
		if !known {
			breach("%s: not in the law; give it a row with its purpose and the reason of each import", dir)
			continue
		}
		for imported, at := range p.imports {
			if why := forbidden(m.path, dir, row, imported); why != "" {
				breach("%s: %s imports %s: %s", at, dir, imported, why)
			}
		}
		for imported, at := range p.testImports {
			if why := forbiddenInTest(m.path, dir, row, imported); why != "" {
				breach("%s: a test of %s imports %s: %s", at, dir, imported, why)
			}
		}
		for _, use := range p.clockUses {
			if why := forbiddenClock(dir, row, use.function); why != "" {
				breach("%s: %s uses time.%s: %s", use.at, dir, use.function, why)
			}
		}
	}

	for dir, row := range law {
		if row.purpose == "" {
			breach("law: %s has no purpose", dir)
		}
		p, exists := m.packages[dir]
		if !exists {
			breach("law: stale row: there is no package %s", dir)
			continue
		}
		hold := func(allowed reasons, prefix string, imports map[string]token.Position) {
			for imported, reason := range allowed {
				if reason == "" {
					breach("law: %s may import %s for no reason", dir, imported)
				}
				if _, used := imports[prefix+imported]; !used {
					breach("law: stale edge: %s does not import %s", dir, imported)
				}
			}
		}
		hold(row.internal, m.path+"/", p.imports)
		hold(row.external, "", p.imports)
		hold(row.tests, m.path+"/", p.testImports)
		hold(row.testsExternal, "", p.testImports)
	}
	slices.Sort(breaches)
	return breaches
}

// forbidden returns why the code of dir may not import what it imports.
func forbidden(modulePath, dir string, row room, imported string) string {
	if room, ok := strings.CutPrefix(imported, modulePath+"/"); ok {
		if !has(row.internal, room) {
			return "not in its row of the law"
		}
		if slices.Contains(notInTheProduct, room) && inProduct(dir) {
			return "it is for tests and demonstrations"
		}
		return ""
	}
	if isStandard(imported) {
		if row.pure && !slices.Contains(pureStandardLibrary, imported) {
			return "the room is pure"
		}
		if g, ok := guarded[imported]; ok && inProduct(dir) && !slices.Contains(g.rooms, dir) {
			return g.reason
		}
		return ""
	}
	if reason, ok := testOnly[imported]; ok && inProduct(dir) {
		return "only tests may: " + reason
	}
	if !has(row.external, imported) {
		return "not in its row of the law"
	}
	return ""
}

// forbiddenInTest returns why the tests of dir may not import what they import.
// They may import what the code may, all of the standard library, and more.
func forbiddenInTest(modulePath, dir string, row room, imported string) string {
	if isStandard(imported) {
		return ""
	}
	var allowed bool
	if room, ok := strings.CutPrefix(imported, modulePath+"/"); ok {
		allowed = room == dir || has(row.internal, room) || has(row.tests, room)
	} else {
		allowed = has(row.external, imported) || has(row.testsExternal, imported) || has(testOnly, imported)
	}
	if !allowed {
		return "not in its row of the law"
	}
	return ""
}

// forbiddenClock returns why the code of dir may not use a function of package time.
func forbiddenClock(dir string, row room, function string) string {
	switch {
	case row.pure:
		return "the room is pure"
	case !inProduct(dir):
		return ""
	case function == sleep:
		return "nothing can cancel it"
	case slices.Contains(clockReads, function) && !slices.Contains(clockReaders, dir):
		return "it is to be handed a time or a clock"
	}
	return ""
}

// inProduct reports whether the package is linked into the agent.
func inProduct(dir string) bool {
	return !slices.Contains(notInTheProduct, dir) &&
		(strings.HasPrefix(dir, "internal/") || strings.HasPrefix(dir, "cmd/"))
}

// isStandard reports whether the import is of the standard library: the first
// element of any other import path is a domain.
func isStandard(imported string) bool {
	first, _, _ := strings.Cut(imported, "/")
	return !strings.Contains(first, ".")
}

func has(allowed reasons, imported string) bool {
	_, ok := allowed[imported]
	return ok
}
