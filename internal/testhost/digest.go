package testhost

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// digestOf tells trees apart that Nix would tell apart: by names, contents, link texts and the executable bit.
func digestOf(tree string) (string, error) {
	sum := sha256.New()
	err := filepath.WalkDir(tree, func(at string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(tree, at)
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		fmt.Fprintf(sum, "%q %s %t ", name, info.Mode().Type(), info.Mode()&0o100 != 0 && info.Mode().IsRegular())
		switch {
		case info.Mode()&fs.ModeSymlink != 0:
			text, err := os.Readlink(at)
			fmt.Fprintf(sum, "%q", text)
			return err
		case info.Mode().IsRegular():
			content, err := os.ReadFile(at)
			fmt.Fprintf(sum, "%q", content)
			return err
		}
		return nil
	})
	if err != nil {
		return "", fmt.Errorf("read tree: %w", err)
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}
