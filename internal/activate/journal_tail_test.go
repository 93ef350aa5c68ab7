package activate

import (
	"context"
	"slices"
	"testing"
)

// The journal daemon does not learn the invocation of a process that ends too soon: its lines carry the unit alone.
func TestTailIsFoundByTheUnit(t *testing.T) {
	t.Parallel()
	const unit, invocation = "nixfleet-realise-0123456789ab-1.service", "d668b87532a44f08bc53d41e7aa23960"
	fields := map[string]string{"_SYSTEMD_UNIT": unit}
	j := journal(func(_ context.Context, args ...string) string {
		for name, value := range fields {
			if slices.Contains(args, name+"="+value) && slices.Contains(args, "+") {
				return "error: build of '/nix/store/x' failed\n"
			}
		}
		return ""
	})
	if tail := j.tail(t.Context(), unit, invocation, tailLines); tail != "error: build of '/nix/store/x' failed" {
		t.Errorf("tail: %q", tail)
	}
	fields = map[string]string{"_SYSTEMD_INVOCATION_ID": invocation}
	if tail := j.tail(t.Context(), unit, invocation, tailLines); tail == "" {
		t.Error("lines that carry the invocation are not found any more")
	}
}
