package main

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/nixfleet/nixfleet-agent/internal/operator"
	"github.com/nixfleet/nixfleet-agent/internal/pki"
)

// globals are the flags of every verb that asks a control plane.
type globals struct {
	url   string
	cert  string
	key   string
	ca    string
	color string
}

const rootLong = `nixfleet-control-plane serves a fleet of nixfleet-agents, and is the operator's hand in it.

A fleet is started with three commands:
  nixfleet-control-plane certs init
  nixfleet-control-plane certs server control.example
  nixfleet-control-plane certs operator me
and "certs host NAME" for every host. They write below ~/.config/nixfleet, where the other verbs look for them.`

// exitCodes is what --help says about exit codes.
const exitCodes = `
Exit codes:
  0  done; for dispatch: every host has converged
  1  error: bad usage, or what was asked for cannot be done
  2  dispatch: some host has not come to its end yet
  3  dispatch: some host waits for a reboot, none has failed
  4  dispatch: some host has failed, was rolled back, or was given another target
  5  no control plane answers`

// Where an operator's programs find the control plane and their certificate, if no flag says so.
const (
	envURL  = "NIXFLEET_URL"
	envCert = "NIXFLEET_CERT"
	envKey  = "NIXFLEET_KEY"
	envCA   = "NIXFLEET_CA"
)

const defaultURL = "https://localhost:8443"

func newRoot() *cobra.Command {
	g := &globals{}
	root := &cobra.Command{
		Use:           "nixfleet-control-plane",
		Short:         "Serve a fleet of nixfleet-agents",
		Long:          rootLong + "\n" + exitCodes,
		SilenceUsage:  true,
		SilenceErrors: true,
		Version:       version,
	}
	flags := root.PersistentFlags()
	flags.StringVar(&g.url, "url", orElse(os.Getenv(envURL), defaultURL), "`URL` of the control plane; "+envURL)
	flags.StringVar(&g.cert, "cert", os.Getenv(envCert), "certificate `file` of the server or operator; "+envCert)
	flags.StringVar(&g.key, "key", os.Getenv(envKey), "key `file` of that certificate; "+envKey)
	flags.StringVar(&g.ca, "ca", os.Getenv(envCA), "certificate `file` of the authority; "+envCA)
	flags.StringVar(&g.color, "color", "auto", "colours: auto, always or never; NO_COLOR is respected")
	root.AddCommand(serveVerb(g), certsVerb(), dispatchVerb(g), hostsVerb(g), showVerb(g), eventsVerb(g), accusedVerb(g), versionVerb())
	return root
}

// execute runs the command line and gives its exit code.
func execute(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	root := newRoot()
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	var code exitCode
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &code):
		return int(code)
	default:
		complain(stderr, err)
		return codeOf(err)
	}
}

// configDir is where certificates are kept, if no flag says otherwise.
func configDir() (string, error) {
	dir, err := os.UserConfigDir()
	if err != nil {
		return "", hinted("there is no home directory to look for certificates in", "name it with --dir, or the files with --cert, --key and --ca")
	}
	return filepath.Join(dir, "nixfleet"), nil
}

// files are the certificate files of a role: those that are named or, for what is not, the only ones of that role in the configuration
// directory.
func (g *globals) files(role pki.Role) (pki.Files, error) {
	files := pki.Files{Cert: g.cert, Key: g.key, CA: g.ca}
	if files.Cert != "" && files.Key != "" && files.CA != "" {
		return files, nil
	}
	dir, err := configDir()
	if err != nil {
		return files, err
	}
	if files.CA == "" {
		files.CA = filepath.Join(dir, "ca.crt")
	}
	if (files.Cert == "") != (files.Key == "") {
		return files, hinted("--cert and --key belong together", "name both")
	}
	if files.Cert != "" {
		return files, nil
	}
	found, err := filepath.Glob(filepath.Join(dir, string(role)+"-*.crt"))
	switch {
	case err != nil:
		return files, err
	case len(found) == 0:
		return files, hinted("there is no certificate of a "+string(role)+" in "+dir, "make one with `nixfleet-control-plane certs "+string(role)+" NAME`, or name it with --cert and --key")
	case len(found) > 1:
		return files, hinted("there are several certificates of a "+string(role)+" in "+dir, "name one with --cert and --key")
	}
	files.Cert = found[0]
	files.Key = found[0][:len(found[0])-len(".crt")] + ".key"
	return files, nil
}

// ask makes the client of the operator's verbs.
func (g *globals) ask() (*operator.Client, error) {
	files, err := g.files(pki.Operator)
	if err != nil {
		return nil, err
	}
	id, err := pki.Load(files, func(error) {})
	if err != nil {
		return nil, err
	}
	return operator.NewClient(g.url, id.ClientConfig())
}
