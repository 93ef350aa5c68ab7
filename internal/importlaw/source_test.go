package importlaw_test

import (
	"errors"
	"fmt"
	"go/ast"
	"go/build/constraint"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// pkg is what the sources of one directory say, under every build constraint
// and for every platform: a law that held only for the default tags would not
// hold for the e2e suite.
type pkg struct {
	imports     map[string]token.Position // of the code, first place of each
	testImports map[string]token.Position // of _test.go files
	clockUses   []clockUse                // of the code
}

// clockUse is a mention of a function of package time.
type clockUse struct {
	function string
	at       token.Position
}

// module is the main module: its path and its packages by directory, relative
// to the module's root, with slashes.
type module struct {
	path     string
	packages map[string]pkg
}

// readModule parses all Go files below root. Directories that the go command
// ignores, and nested modules, are no part of the module.
func readModule(root string) (module, error) {
	m := module{packages: map[string]pkg{}}
	goMod, err := os.ReadFile(filepath.Join(root, "go.mod"))
	if err != nil {
		return m, fmt.Errorf("read module file: %w", err)
	}
	for line := range strings.Lines(string(goMod)) {
		if p, ok := strings.CutPrefix(strings.TrimSpace(line), "module "); ok {
			m.path = strings.TrimSpace(p)
		}
	}
	if m.path == "" {
		return m, errors.New("read module file: no module line")
	}
	err = filepath.WalkDir(root, func(file string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() {
			if file != root && (ignoredByGo(entry.Name()) || isModule(file)) {
				return fs.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(file, ".go") || strings.HasPrefix(entry.Name(), "_") || strings.HasPrefix(entry.Name(), ".") {
			return nil
		}
		source, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, file)
		if err != nil {
			return err
		}
		return m.add(filepath.ToSlash(rel), source)
	})
	if err != nil {
		return m, fmt.Errorf("read sources: %w", err)
	}
	return m, nil
}

func ignoredByGo(dir string) bool {
	return strings.HasPrefix(dir, ".") || strings.HasPrefix(dir, "_") || dir == "testdata" || dir == "vendor"
}

func isModule(dir string) bool {
	_, err := os.Stat(filepath.Join(dir, "go.mod"))
	return err == nil
}

// add reads one file into the package of its directory.
func (m module) add(file string, source []byte) error {
	fset := token.NewFileSet()
	syntax, err := parser.ParseFile(fset, file, source, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		return err
	}
	if isGenerator(syntax) {
		return nil
	}
	dir := path.Dir(file)
	p, known := m.packages[dir]
	if !known {
		p = pkg{imports: map[string]token.Position{}, testImports: map[string]token.Position{}}
	}
	isTest := strings.HasSuffix(file, "_test.go")
	imports := p.imports
	if isTest {
		imports = p.testImports
	}
	for _, spec := range syntax.Imports {
		imported, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			return err
		}
		if spec.Name != nil && spec.Name.Name == "." {
			return fmt.Errorf("%s: a dot import hides what is used of %s", fset.Position(spec.Pos()), imported)
		}
		if _, seen := imports[imported]; !seen {
			imports[imported] = fset.Position(spec.Pos())
		}
	}
	if !isTest {
		p.clockUses = append(p.clockUses, usesOfClock(fset, syntax)...)
	}
	m.packages[dir] = p
	return nil
}

// isGenerator reports whether the file is run by hand and belongs to no build.
func isGenerator(syntax *ast.File) bool {
	for _, group := range syntax.Comments {
		if group.Pos() > syntax.Package {
			return false
		}
		for _, c := range group.List {
			if expr, err := constraint.Parse(c.Text); err == nil && expr.String() == "ignore" {
				return true
			}
		}
	}
	return false
}

// usesOfClock returns the calls of package time that read the clock or wait on it.
func usesOfClock(fset *token.FileSet, syntax *ast.File) []clockUse {
	name := ""
	for _, spec := range syntax.Imports {
		if spec.Path.Value == `"time"` {
			name = "time"
			if spec.Name != nil {
				name = spec.Name.Name
			}
		}
	}
	if name == "" {
		return nil
	}
	var uses []clockUse
	ast.Inspect(syntax, func(n ast.Node) bool {
		sel, ok := n.(*ast.SelectorExpr)
		if !ok {
			return true
		}
		x, ok := sel.X.(*ast.Ident)
		if ok && x.Name == name && isClockFunction(sel.Sel.Name) {
			uses = append(uses, clockUse{function: sel.Sel.Name, at: fset.Position(sel.Pos())})
		}
		return true
	})
	return uses
}

func isClockFunction(name string) bool {
	return name == sleep || slices.Contains(clockReads, name) || slices.Contains(clockWaits, name)
}
