//go:build man

// The man pages come from the same commands as the help, and from a program that is built for that alone: what renders them is
// a third of a megabyte, which the agent does not carry on every host.

package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
)

func init() { onlyInBuilds = append(onlyInBuilds, manVerb) }

func manVerb() *cobra.Command {
	return &cobra.Command{
		Use:    "man DIRECTORY",
		Short:  "Write the man pages into a directory",
		Args:   cobra.ExactArgs(1),
		Hidden: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := os.MkdirAll(args[0], 0o755); err != nil {
				return fmt.Errorf("make directory of the man pages: %w", err)
			}
			root := cmd.Root()
			root.DisableAutoGenTag = true // the same sources make the same pages
			return doc.GenManTree(root, &doc.GenManHeader{Title: "NIXFLEET-AGENT", Section: "8", Source: "nixfleet-agent " + version, Manual: "NixOS fleet"}, args[0])
		},
	}
}
