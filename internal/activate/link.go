package activate

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/nixfleet/nixfleet-agent/internal/system"
)

// RestoreRunningLink makes the link of the running system lead to the closure that ran before, if it is not there at all: the
// activation script removes it and then makes it anew, and may have been cut off in between. Running the switch again, which is
// NixOS's own repair, does not get past that: with nothing to read, switch-to-configuration takes the init interface for another
// one and ends with 100, every time. A link that is there, and a host on which a switch is under way, are left as they are.
func (r *Runner) RestoreRunningLink(closure string) error {
	if err := system.ParseStorePath(closure); err != nil {
		return fmt.Errorf("restore running link: %w", err)
	}
	if r.LockHolder() != "" {
		return nil
	}
	// An exclusive act: where somebody else has made the link since, theirs stays.
	err := os.Symlink(closure, r.host.Path(runningLink))
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("restore running link: %w", err)
	}
	return nil
}
