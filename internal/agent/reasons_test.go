package agent

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// The runner says why something failed in words of its own, and the loop hands them to the state machine as they are. The two
// lists are held against each other in the source, so that a new word without its twin is found.
func TestEveryReasonOfTheRunnerIsOneOfTheStateMachine(t *testing.T) {
	ours, theirs := reasonsOf(t, "../fsm"), reasonsOf(t, "../activate")
	if len(ours) == 0 || len(theirs) == 0 {
		t.Fatalf("found %d reasons of the state machine and %d of the runner", len(ours), len(theirs))
	}
	for name, word := range theirs {
		if twin, ok := ours[name]; !ok || twin != word {
			t.Errorf("activate.%s is %q, fsm.%s is %q (declared: %v)", name, word, name, twin, ok)
		}
	}
}

// reasonsOf gives the constants of a package whose names begin with Reason, and their values.
func reasonsOf(t *testing.T, dir string) map[string]string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]string{}
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		file, err := parser.ParseFile(token.NewFileSet(), name, text, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		for _, decl := range file.Decls {
			if group, ok := decl.(*ast.GenDecl); ok && group.Tok == token.CONST {
				addReasons(t, found, group)
			}
		}
	}
	return found
}

func addReasons(t *testing.T, found map[string]string, group *ast.GenDecl) {
	t.Helper()
	for _, spec := range group.Specs {
		values, ok := spec.(*ast.ValueSpec)
		if !ok {
			continue
		}
		for i, ident := range values.Names {
			if !strings.HasPrefix(ident.Name, "Reason") {
				continue
			}
			if i >= len(values.Values) {
				t.Fatalf("%s has no value of its own", ident.Name)
			}
			literal, ok := values.Values[i].(*ast.BasicLit)
			if !ok {
				t.Fatalf("%s is not a plain string", ident.Name)
			}
			word, err := strconv.Unquote(literal.Value)
			if err != nil {
				t.Fatal(err)
			}
			found[ident.Name] = word
		}
	}
}
