package config

import (
	"encoding/json"
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"reflect"
	"strings"
	"testing"
)

const page = "../../docs/configuration.md"

var update = flag.Bool("update", false, "rewrite the generated page")

const pageHead = `<!-- Generated from internal/config: go test ./internal/config -run TestPage -update -->
# Configuration

One JSON file, ` + "`" + DefaultPath + "`" + ` or the one named by ` + "`--config`" + `. It is read at start, and strictly: an unknown or ill-typed field is an
error with its place and a hint, and nothing is started. A file that is not named need not exist; what is left out has its
default. Durations are strings such as ` + "`90s`, `5m` or `1h30m`" + `.

With ` + "`--root DIRECTORY`" + ` all paths are below that directory.

`

// TestPage holds the operators' page against the documentation of the fields, and every field to having one.
func TestPage(t *testing.T) {
	docs := fieldDocs(t)
	var b strings.Builder
	b.WriteString(pageHead + "| field | default | what it is |\n|---|---|---|\n")
	fieldRows(t, &b, docs, reflect.ValueOf(Default()), "")
	b.WriteString("\n## Every default\n\n```json\n")
	defaults, err := json.MarshalIndent(Default(), "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	b.Write(defaults)
	b.WriteString("\n```\n")

	if *update {
		if err := os.WriteFile(page, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	is, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	if string(is) != b.String() {
		t.Errorf("%s is not what the fields say: go test ./internal/config -run TestPage -update", page)
	}
}

// fieldRows writes one row for every field. The default is shown by its own column, so the sentence about it is left out.
func fieldRows(t *testing.T, b *strings.Builder, docs map[string]string, v reflect.Value, prefix string) {
	for i, f := range reflect.VisibleFields(v.Type()) {
		name := prefix + f.Tag.Get("json")
		if f.Type.Kind() == reflect.Struct {
			fieldRows(t, b, docs, v.Field(i), name+".")
			continue
		}
		doc := docs[v.Type().Name()+"."+f.Name]
		if doc == "" {
			t.Errorf("%s.%s has no documentation", v.Type().Name(), f.Name)
		}
		doc, _, _ = strings.Cut(doc, " Default ")
		doc, _, _ = strings.Cut(doc, "; default ")
		doc = strings.TrimPrefix(doc, f.Name+" is ")
		doc = strings.TrimPrefix(doc, f.Name+" ")
		value, err := json.Marshal(v.Field(i).Interface())
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(b, "| `%s` | `%s` | %s |\n", name, value, doc)
	}
}

// fieldDocs reads the comments of the fields of every struct of this package, each as one line.
func fieldDocs(t *testing.T) map[string]string {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), "config.go", nil, parser.ParseComments)
	if err != nil {
		t.Fatal(err)
	}
	docs := map[string]string{}
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.TypeSpec)
		if !ok {
			return true
		}
		fields, ok := spec.Type.(*ast.StructType)
		if !ok {
			return true
		}
		for _, f := range fields.Fields.List {
			text := f.Doc.Text() + f.Comment.Text()
			docs[spec.Name.Name+"."+f.Names[0].Name] = strings.Join(strings.Fields(text), " ")
		}
		return true
	})
	return docs
}
