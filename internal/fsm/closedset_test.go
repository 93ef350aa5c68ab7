package fsm

import (
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// source is what the package's own text declares.
type source struct {
	consts  map[string]map[string]string // type name -> constant name -> value
	methods map[string]map[string]bool   // type name -> value methods
	pointer []string                     // methods on pointers
	docs    map[string]string            // constant name -> comment
}

func readSource(t *testing.T) source {
	t.Helper()
	src := source{consts: map[string]map[string]string{}, methods: map[string]map[string]bool{}, docs: map[string]string{}}
	names, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		for _, decl := range file.Decls {
			switch decl := decl.(type) {
			case *ast.GenDecl:
				src.readConsts(t, decl)
			case *ast.FuncDecl:
				src.readMethod(decl)
			}
		}
	}
	return src
}

func (s *source) readConsts(t *testing.T, decl *ast.GenDecl) {
	if decl.Tok != token.CONST {
		return
	}
	for _, spec := range decl.Specs {
		value := spec.(*ast.ValueSpec)
		typ, ok := value.Type.(*ast.Ident)
		if !ok {
			continue
		}
		for i, name := range value.Names {
			literal, ok := value.Values[i].(*ast.BasicLit)
			if !ok {
				continue // a constant of the package's own use, not a word on disk
			}
			word, err := strconv.Unquote(literal.Value)
			if err != nil {
				t.Fatalf("read constant %s: %v", name.Name, err)
			}
			if s.consts[typ.Name] == nil {
				s.consts[typ.Name] = map[string]string{}
			}
			s.consts[typ.Name][name.Name] = word
			s.docs[name.Name] = value.Doc.Text()
		}
	}
}

func (s *source) readMethod(decl *ast.FuncDecl) {
	if decl.Recv == nil {
		return
	}
	switch recv := decl.Recv.List[0].Type.(type) {
	case *ast.StarExpr:
		if id, ok := recv.X.(*ast.Ident); ok {
			s.pointer = append(s.pointer, id.Name+"."+decl.Name.Name)
		}
	case *ast.Ident:
		if s.methods[recv.Name] == nil {
			s.methods[recv.Name] = map[string]bool{}
		}
		s.methods[recv.Name][decl.Name.Name] = true
	}
}

// typesWith names the types that declare the method themselves, on values.
func (s *source) typesWith(method string) []string {
	var names []string
	for name, methods := range s.methods {
		if methods[method] {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

func typeName(v any) string { return reflect.TypeOf(v).Name() }

func sortedWords[K ~string, V any](m map[K]V) []string {
	words := make([]string, 0, len(m))
	for k := range m {
		words = append(words, string(k))
	}
	slices.Sort(words)
	return words
}

func sameWords(t *testing.T, what string, a, b []string) {
	t.Helper()
	if !slices.Equal(a, b) {
		t.Errorf("%s differ:\n  %v\n  %v", what, a, b)
	}
}

// Constants, types, decoders and samples are four lists of one thing. A new event that is missing in one of them would be
// written and never read, or read and never tested.
func TestClosedSetsAgree(t *testing.T) {
	src := readSource(t)

	t.Run("payloads", func(t *testing.T) {
		words := slices.Sorted(maps.Values(src.consts["PayloadKind"]))
		sameWords(t, "constants and decoders", words, sortedWords(payloads))
		sameWords(t, "constants and samples", words, sortedWords(samples()))
		var types []string
		for kind, p := range samples() {
			types = append(types, typeName(p))
			if p.PayloadKind() != kind || !payloads[kind].is(p) {
				t.Errorf("sample %s is of kind %s", kind, p.PayloadKind())
			}
		}
		slices.Sort(types)
		sameWords(t, "types and samples", src.typesWith("PayloadKind"), types)
	})

	t.Run("events", func(t *testing.T) {
		words := slices.Sorted(maps.Values(src.consts["Kind"]))
		sameWords(t, "constants and decoders", words, sortedWords(events))
		sameWords(t, "constants and samples", words, sortedWords(sampleEvents()))
		listed := make([]string, 0, len(kinds()))
		for _, kind := range kinds() {
			listed = append(listed, string(kind))
		}
		slices.Sort(listed)
		sameWords(t, "constants and the matrix", words, listed)
		var types []string
		for kind, ev := range sampleEvents() {
			types = append(types, typeName(ev))
			if ev.Kind() != kind || !events[kind].is(ev) {
				t.Errorf("sample %s is of kind %s", kind, ev.Kind())
			}
			if typeName(ev) != string(kind) {
				t.Errorf("event %s has the type %s", kind, typeName(ev))
			}
		}
		slices.Sort(types)
		sameWords(t, "types and samples", src.typesWith("Kind"), types)
	})

	t.Run("states", func(t *testing.T) {
		var listed []string
		for _, s := range States() {
			listed = append(listed, string(s))
		}
		slices.Sort(listed)
		sameWords(t, "constants and States", slices.Sorted(maps.Values(src.consts["State"])), listed)
		for _, name := range sortedWords(src.consts["State"]) {
			if !strings.HasPrefix(src.docs[name], name+": ") {
				t.Errorf("state %s has no paragraph of its own", name)
			}
		}
	})

	t.Run("constants are their words", func(t *testing.T) {
		for name, word := range src.consts["Kind"] {
			if name != "Kind"+word {
				t.Errorf("constant %s is the word %q", name, word)
			}
		}
		for name, word := range src.consts["PayloadKind"] {
			if name != "Kind"+word {
				t.Errorf("constant %s is the word %q", name, word)
			}
		}
		for name, word := range src.consts["State"] {
			if name != word {
				t.Errorf("constant %s is the word %q", name, word)
			}
		}
	})

	t.Run("values only", func(t *testing.T) {
		for _, method := range src.pointer {
			if !strings.HasPrefix(method, "UnknownKind.") {
				t.Errorf("%s has a pointer receiver", method)
			}
		}
	})
}

// Every event has exactly two halves, of one payload.
func TestHalves(t *testing.T) {
	for kind, p := range samples() {
		local, remote := LocalOf(p), RemoteOf(p)
		if !reflect.DeepEqual(local.Payload(), p) {
			t.Errorf("%s: the host's half carries another payload", kind)
		}
		if !reflect.DeepEqual(remote.Payload(), p) {
			t.Errorf("%s: the mirror's half carries another payload", kind)
		}
		if sideOf(local) != host || sideOf(remote) != mirror {
			t.Errorf("%s: the halves are told apart wrongly", kind)
		}
		if !strings.HasPrefix(string(local.Kind()), "Local") || !strings.HasPrefix(string(remote.Kind()), "Remote") {
			t.Errorf("%s: halves %s and %s", kind, local.Kind(), remote.Kind())
		}
	}
	if RemoteOf(&LeftTarget{}) != nil || LocalOf(&LeftTarget{}) != nil {
		t.Error("a pointer to a payload has halves")
	}
}

// An event that is left out where events are numbered keeps number 0 and is dropped as stale.
func TestStampNumbersEveryEvent(t *testing.T) {
	for kind, ev := range sampleEvents() {
		stamped := Stamp(ev, 4711)
		if Seq(stamped) != 4711 {
			t.Errorf("%s: stamped 4711, carries %d", kind, Seq(stamped))
		}
		if stamped.Kind() != kind {
			t.Errorf("%s: became %s", kind, stamped.Kind())
		}
		if Seq(ev) == 4711 {
			t.Errorf("%s: the input was changed", kind)
		}
		if !reflect.DeepEqual(Stamp(stamped, Seq(ev)), ev) {
			t.Errorf("%s: stamping changed more than the number", kind)
		}
		if ev.Payload().OccurredAt().IsZero() {
			t.Errorf("%s: the sample's moment is not found", kind)
		}
	}
}

// A sample with an empty field would let a lost field pass.
func TestSamplesAreFull(t *testing.T) {
	for kind, p := range samples() {
		v := reflect.ValueOf(p)
		for i := range v.NumField() {
			if v.Field(i).IsZero() {
				t.Errorf("sample %s leaves %s empty", kind, v.Type().Field(i).Name)
			}
			if tag := v.Type().Field(i).Tag.Get("json"); tag == "" || strings.HasPrefix(tag, "kind") {
				t.Errorf("payload %s: field %s has the tag %q", kind, v.Type().Field(i).Name, tag)
			}
		}
	}
}

// The shape of the codec names what the structs declare.
func TestShapeIsTheStructs(t *testing.T) {
	sameWords(t, "record", sortedWords(recordShape), keysOf(Record{}))
	sameWords(t, "prior", sortedWords(recordShape["prior"]), keysOf(Prior{}))
	sameWords(t, "work", sortedWords(recordShape["work"]), keysOf(Work{}))
}

func keysOf(v any) []string {
	var keys []string
	for i := range reflect.TypeOf(v).NumField() {
		key, _, _ := strings.Cut(reflect.TypeOf(v).Field(i).Tag.Get("json"), ",")
		if key != "-" {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	return keys
}

// same compares records as they are stored: what is not stored does not count.
func same(t interface {
	Helper()
	Fatal(...any)
}, a, b Record) bool {
	t.Helper()
	x, err := EncodeRecord(a)
	if err != nil {
		t.Fatal(err)
	}
	y, err := EncodeRecord(b)
	if err != nil {
		t.Fatal(err)
	}
	return string(x) == string(y)
}
