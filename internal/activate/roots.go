package activate

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strings"

	"github.com/nixfleet/nixfleet-agent/internal/system"
)

// RootsDir is where the agent's garbage collector roots are: symlinks into the store, which Nix takes as roots by their place.
const RootsDir = "/nix/var/nix/gcroots/nixfleet-agent"

// rootPath is the logical path of a root.
func rootPath(name string) (string, error) {
	if name == "" || strings.HasPrefix(name, ".") || strings.ContainsAny(name, "/\x00") {
		return "", fmt.Errorf("name root %q: not a file name", name)
	}
	return path.Join(RootsDir, name), nil
}

// Root keeps a store path from being collected, under a name. An older root of that name is replaced in one step.
func (r *Runner) Root(name, storePath string) error {
	root, err := rootPath(name)
	if err != nil {
		return err
	}
	if err := system.ParseStorePath(storePath); err != nil {
		return fmt.Errorf("make root %s: %w", name, err)
	}
	at := r.host.Path(root)
	dir := path.Dir(at)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("make root %s: %w", name, err)
	}
	// The name that Nix would take for a root, too: were the agent killed here, it roots the same path.
	scratch := path.Join(dir, "."+name+".new")
	if err := os.Remove(scratch); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("make root %s: %w", name, err)
	}
	if err := os.Symlink(storePath, scratch); err != nil {
		return fmt.Errorf("make root %s: %w", name, err)
	}
	if err := os.Rename(scratch, at); err != nil {
		return fmt.Errorf("make root %s: %w", name, err)
	}
	return syncDir(dir)
}

// Unroot drops a root. One that is not there is no error.
func (r *Runner) Unroot(name string) error {
	root, err := rootPath(name)
	if err != nil {
		return err
	}
	if err := os.Remove(r.host.Path(root)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("drop root %s: %w", name, err)
	}
	return nil
}
