package activate

import (
	"context"
	"os/exec"
	"strings"
	"time"
)

// validPatience bounds a question to Nix's database, which takes some ten milliseconds.
const validPatience = 10 * time.Second

// Valid reports whether what lies in the store at a path is whole, as Nix knows it: a download that was cut off leaves a part of a
// closure at its final name, which says nothing about the closure and goes when that is realised. Where Nix does not tell, what
// lies there counts.
func (r *Runner) Valid(ctx context.Context, storePath string) bool {
	nixStore, err := r.program("nix-store")
	if err != nil {
		return true
	}
	ctx, cancel := context.WithTimeout(ctx, validPatience)
	defer cancel()
	// With --print-invalid an invalid path is an answer and no error (nix-store(1), since 1.0).
	ask := exec.CommandContext(ctx, nixStore, "--check-validity", "--print-invalid", storePath)
	ask.Env = environment()
	invalid, err := ask.Output()
	return err != nil || strings.TrimSpace(string(invalid)) != storePath
}
