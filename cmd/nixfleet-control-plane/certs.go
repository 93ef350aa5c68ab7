package main

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/nixfleet/nixfleet-agent/internal/pki"
)

type certsOptions struct {
	dir   string
	json  bool
	renew bool
	names []string
}

func certsVerb() *cobra.Command {
	opt := &certsOptions{}
	cmd := &cobra.Command{
		Use:   "certs",
		Short: "Make the certificates of a fleet",
		Long: `Make an authority for a fleet and issue certificates by it: ECDSA P-256, the authority for ten years, all others for 398 days.
Keys are written with mode 0600 and never overwritten, unless --renew says so.

The authority's key, ca.key, can issue a certificate for any host and operator. Keep it where operators are, not where the control
plane runs. A host needs NAME.crt, NAME.key and ca.crt.`,
	}
	cmd.PersistentFlags().StringVar(&opt.dir, "dir", "", "`directory` of the authority and of what it issues (default ~/.config/nixfleet)")
	cmd.PersistentFlags().BoolVar(&opt.json, "json", false, "print JSON")
	cmd.AddCommand(opt.init(), opt.issue(pki.Host, "Issue the certificate of a host", "The name is the host's: networking.hostName, or with its domain if the agent is configured so."),
		opt.issue(pki.Operator, "Issue the certificate of an operator", "Its holder may dispatch to every host of the fleet."),
		opt.issue(pki.Server, "Issue the certificate of a control plane", "The names are those by which agents and operators reach it, addresses among them."))
	return cmd
}

func (o *certsOptions) init() *cobra.Command {
	var name string
	cmd := &cobra.Command{
		Use:   "init",
		Short: "Make the authority of a fleet",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			dir, err := o.directory()
			if err != nil {
				return err
			}
			issued, err := pki.Create(dir, name, time.Now())
			return o.say(cmd, issued, err)
		},
	}
	cmd.Flags().StringVar(&name, "name", "nixfleet", "`name` of the authority")
	return cmd
}

func (o *certsOptions) issue(role pki.Role, short, long string) *cobra.Command {
	cmd := &cobra.Command{
		Use:   string(role) + " NAME",
		Short: short,
		Long:  short + ". " + long,
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			dir, err := o.directory()
			if err != nil {
				return err
			}
			ca, err := pki.Open(dir)
			if err != nil {
				return hinted(err.Error(), "`nixfleet-control-plane certs init` makes an authority")
			}
			issued, err := ca.Issue(role, args[0], o.names, time.Now(), o.renew)
			return o.say(cmd, issued, err)
		},
	}
	cmd.Flags().BoolVar(&o.renew, "renew", false, "overwrite what was issued under this name")
	if role == pki.Server {
		cmd.Use += " [--name NAME]..."
		cmd.Flags().StringArrayVar(&o.names, "name", nil, "a further `name` or address of it")
	}
	return cmd
}

func (o *certsOptions) directory() (string, error) {
	if o.dir != "" {
		return filepath.Clean(o.dir), nil
	}
	return configDir()
}

func (o *certsOptions) say(cmd *cobra.Command, issued pki.Issued, err error) error {
	if err != nil {
		return err
	}
	if o.json {
		return json.NewEncoder(cmd.OutOrStdout()).Encode(issued)
	}
	_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s\n%s\n", issued.Cert, issued.Key)
	return err
}
