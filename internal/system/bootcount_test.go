package system

import "testing"

func TestGaveUpOn(t *testing.T) {
	target, other := storePathOf("nixos-system-target"), storePathOf("nixos-system-other")
	for name, tc := range map[string]struct {
		file string
		want bool
	}{
		"not counted":     {"nixos-aaaa.conf", false},
		"tries left":      {"nixos-aaaa+2-1.conf", false},
		"never tried":     {"nixos-aaaa+3.conf", false},
		"used up":         {"nixos-aaaa+0-3.conf", true},
		"not quite a one": {"nixos-aaaa+0-x.conf", false},
	} {
		t.Run(name, func(t *testing.T) {
			tr := newTree(t).loader("default nixos-*\n").entry(tc.file, 2, target).entry("nixos-bbbb+0-3.conf", 1, other)
			if got := tr.host().GaveUpOn(target); got != tc.want {
				t.Errorf("the loader gave up: %v", got)
			}
		})
	}
	tr := newTree(t)
	if tr.host().GaveUpOn(target) {
		t.Error("a host without a boot loader gave up")
	}
	child := tr.closure("child")
	parent := tr.closure("parent")
	tr.link(parent+"/specialisation/dark", child).loader("default nixos-*\n").entry("nixos-cccc+0-2.conf", 3, child)
	if !tr.host().GaveUpOn(parent) {
		t.Error("the loader gave up on a specialisation of the target, and that is not seen")
	}
}
