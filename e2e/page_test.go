package e2e

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestPageNamesEveryScenario holds docs/what-happens-when.md against the scenarios, both ways: what is promised there is played,
// and what is played is promised. It needs no host and runs with all other tests.
func TestPageNamesEveryScenario(t *testing.T) {
	page, err := os.ReadFile("../docs/what-happens-when.md")
	if err != nil {
		t.Fatal(err)
	}
	var promised []string
	for _, match := range regexp.MustCompile("(?m)`(Test[A-Za-z]+)` \\|$").FindAllStringSubmatch(string(page), -1) {
		promised = append(promised, match[1])
	}
	played := scenarios(t)
	if len(played) == 0 {
		t.Fatal("no scenario was found")
	}
	for _, name := range played {
		if !slices.Contains(promised, name) {
			t.Errorf("%s is on no row of the page", name)
		}
	}
	for i, name := range promised {
		if !slices.Contains(played, name) {
			t.Errorf("the page promises %s, which nobody plays", name)
		}
		if slices.Contains(promised[:i], name) {
			t.Errorf("%s is on two rows of the page", name)
		}
	}
}

// scenarios gives the tests of the end-to-end suite, which are behind its build tag.
func scenarios(t *testing.T) []string {
	t.Helper()
	files, err := filepath.Glob("*_test.go")
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, name := range files {
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		if len(file.Comments) == 0 || file.Comments[0].List[0].Text != "//go:build e2e" {
			continue
		}
		for _, decl := range file.Decls {
			if f, ok := decl.(*ast.FuncDecl); ok && strings.HasPrefix(f.Name.Name, "Test") && f.Name.Name != "TestMain" {
				names = append(names, f.Name.Name)
			}
		}
	}
	return names
}
