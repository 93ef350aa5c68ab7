package simhost

import (
	"fmt"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// node is a regular file, a link, or, with neither content nor link, a directory that may stay empty.
type node struct {
	content    []byte
	link       string
	executable bool
	directory  bool
}

// tree is what a store path holds, by relative path. A tree whose only key is "" is a single file.
type tree map[string]node

func (t tree) file(name, content string)    { t[name] = node{content: []byte(content)} }
func (t tree) script(name string, b []byte) { t[name] = node{content: b, executable: true} }
func (t tree) link(name, text string)       { t[name] = node{link: text} }
func (t tree) dir(name string)              { t[name] = node{directory: true} }

// extra adds a file the way Closure.Extra spells it.
func (t tree) extra(name, value string) {
	if text, ok := strings.CutPrefix(value, "-> "); ok {
		t.link(name, text)
		return
	}
	t[name] = node{content: []byte(value), executable: strings.HasPrefix(value, "#!")}
}

// serialise is the canonical text of the tree that its hash is made of.
func (t tree) serialise() []byte {
	var text []byte
	for _, name := range slices.Sorted(maps.Keys(t)) {
		n := t[name]
		text = fmt.Appendf(text, "%q exec=%t dir=%t link=%q content=%q\n", name, n.executable, n.directory, n.link, n.content)
	}
	return text
}

// references are the base names of the store paths that the tree mentions in a link, as far as placed knows them.
func (t tree) references(placed []string) []string {
	var found []string
	for _, storePath := range placed {
		for _, n := range t {
			if n.link == storePath || strings.HasPrefix(n.link, storePath+"/") {
				found = append(found, path.Base(storePath))
				break
			}
		}
	}
	slices.Sort(found)
	return slices.Compact(found)
}

// write puts the tree at dir, which must not exist.
func (t tree) write(dir string) error {
	if single, ok := t[""]; ok {
		return writeNode(dir, single)
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		return fmt.Errorf("make store directory: %w", err)
	}
	for _, name := range slices.Sorted(maps.Keys(t)) {
		at := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
			return fmt.Errorf("make store directory: %w", err)
		}
		if err := writeNode(at, t[name]); err != nil {
			return err
		}
	}
	return nil
}

func writeNode(at string, n node) error {
	var err error
	switch {
	case n.directory:
		err = os.MkdirAll(at, 0o755)
	case n.link != "":
		err = os.Symlink(n.link, at)
	case n.executable:
		err = writeExecutable(at, n.content)
	default:
		err = os.WriteFile(at, n.content, 0o444)
	}
	if err != nil {
		return fmt.Errorf("write store file: %w", err)
	}
	return nil
}

// writeExecutable keeps this process from forking while the file is open for writing. A child that inherits the descriptor
// for the moment until it executes makes every start of the file fail with ETXTBSY.
func writeExecutable(at string, content []byte) error {
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	return os.WriteFile(at, content, 0o555)
}
