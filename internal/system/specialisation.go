package system

import (
	"fmt"
	"path"
)

// Specialisation is a child system of a closure. Children have no children.
type Specialisation struct {
	Name string
	// Path is the child's own toplevel, another store path than its parent's.
	Path string
}

// Specialisations lists the children of a closure in the order of their names.
func (h *Host) Specialisations(closure string) ([]Specialisation, error) {
	w := newWalk(h)
	dir := path.Join(closure, "specialisation")
	names, err := w.names(dir)
	if err != nil {
		return nil, fmt.Errorf("list specialisations of %s: %w", closure, err)
	}
	var children []Specialisation
	for _, name := range names {
		child, err := w.lead(path.Join(dir, name))
		if err != nil {
			return nil, fmt.Errorf("read specialisation %s of %s: %w", name, closure, err)
		}
		if child != "" {
			children = append(children, Specialisation{Name: name, Path: child})
		}
	}
	return children, nil
}

// IsOrSpecialises says whether a closure is the target itself, with no name, or
// one of the target's specialisations, with its name. A switch to the target
// that keeps a specialisation active has such a closure running.
func (h *Host) IsOrSpecialises(closure, target string) (name string, ok bool) {
	if closure == "" || target == "" {
		return "", false
	}
	if closure == target {
		return "", true
	}
	children, err := h.Specialisations(target)
	if err != nil {
		return "", false
	}
	for _, child := range children {
		if child.Path == closure {
			return child.Name, true
		}
	}
	return "", false
}
