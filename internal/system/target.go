package system

import (
	"fmt"
	"path"
	"regexp"
)

// Reason says why a closure cannot be switched to.
type Reason string

// The reasons of NotSwitchable.
const (
	NotAStorePath           Reason = "not-a-store-path"
	DoesNotExist            Reason = "does-not-exist"
	NotNixOS                Reason = "not-nixos"
	WrongMachine            Reason = "wrong-machine"
	NoSwitchToConfiguration Reason = "no-switch-to-configuration"
)

// NotSwitchable is the error for a closure that this host cannot be brought to.
type NotSwitchable struct {
	Closure string
	Reason  Reason
	// Detail completes Reason: the file that is missing, the machine types.
	Detail string
}

func (e *NotSwitchable) Error() string {
	what := map[Reason]string{
		NotAStorePath:           "is not a store path",
		DoesNotExist:            "does not exist",
		NotNixOS:                "is not a NixOS system",
		WrongMachine:            "is for another machine type",
		NoSwitchToConfiguration: "has no switch-to-configuration",
	}[e.Reason]
	if e.Detail == "" {
		return fmt.Sprintf("%q %s", e.Closure, what)
	}
	return fmt.Sprintf("%q %s: %s", e.Closure, what, e.Detail)
}

// Hints says what the operator can do about it, in one sentence.
func (e *NotSwitchable) Hints() string {
	switch e.Reason {
	case NotAStorePath:
		return "give the path of a system closure, such as /nix/store/<hash>-nixos-system-<host>-<version>"
	case DoesNotExist:
		return "copy the closure to this host first, or check that a substituter has it"
	case NotNixOS:
		return "give the output of config.system.build.toplevel of a NixOS configuration"
	case WrongMachine:
		return "build the configuration for this host's nixpkgs.hostPlatform"
	case NoSwitchToConfiguration:
		return "set system.switch.enable = true in the configuration; without it a closure can only be booted"
	}
	return ""
}

// maxStoreName is how long the part after "/nix/store/<hash>-" may be (Nix's
// store-path limits).
const maxStoreName = 211

var storePath = regexp.MustCompile(`^/nix/store/[0-9abcdfghijklmnpqrsvwxyz]{32}-([0-9A-Za-z+._?=-]+)$`)

// ParseStorePath checks that s is a store path, whole and nothing below it. It
// does not look whether the path exists. The error is a *NotSwitchable.
func ParseStorePath(s string) error {
	match := storePath.FindStringSubmatch(s)
	switch {
	case match == nil:
		return &NotSwitchable{Closure: s, Reason: NotAStorePath}
	case len(match[1]) > maxStoreName:
		return &NotSwitchable{Closure: s, Reason: NotAStorePath, Detail: "its name is too long"}
	}
	return nil
}

// InspectTarget checks that a closure is a NixOS system that this host can be
// switched to, and reads its components. The error is a *NotSwitchable where the
// closure is at fault. The machine type is judged last, so that with
// WrongMachine everything else is in order, and the components are returned.
func (h *Host) InspectTarget(closure string) (Components, error) {
	if err := ParseStorePath(closure); err != nil {
		return Components{}, err
	}
	w := newWalk(h)
	if info, err := w.stat(closure); absent(err) {
		return Components{}, &NotSwitchable{Closure: closure, Reason: DoesNotExist}
	} else if err != nil {
		return Components{}, fmt.Errorf("inspect %s: %w", closure, err)
	} else if !info.IsDir() {
		return Components{}, &NotSwitchable{Closure: closure, Reason: NotNixOS, Detail: "it is not a directory"}
	}
	for _, file := range []string{"nixos-version", "system"} {
		if info, err := w.stat(path.Join(closure, file)); absent(err) || err == nil && !info.Mode().IsRegular() {
			return Components{}, &NotSwitchable{Closure: closure, Reason: NotNixOS, Detail: "it has no file " + file}
		} else if err != nil {
			return Components{}, fmt.Errorf("inspect %s: %w", closure, err)
		}
	}
	info, err := w.stat(path.Join(closure, "bin/switch-to-configuration"))
	switch {
	case absent(err):
		return Components{}, &NotSwitchable{Closure: closure, Reason: NoSwitchToConfiguration}
	case err != nil:
		return Components{}, fmt.Errorf("inspect %s: %w", closure, err)
	case !info.Mode().IsRegular() || info.Mode().Perm()&0o111 == 0:
		return Components{}, &NotSwitchable{Closure: closure, Reason: NoSwitchToConfiguration, Detail: "it is not executable"}
	}
	components, err := w.components(closure)
	if err != nil {
		return Components{}, err
	}
	if machine := h.machine(); machine != "" && components.System != machine {
		return components, &NotSwitchable{Closure: closure, Reason: WrongMachine,
			Detail: fmt.Sprintf("it is for %s, this host is %s", components.System, machine)}
	}
	return components, nil
}
