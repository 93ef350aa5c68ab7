package activate

import (
	"errors"
	"fmt"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// Treatment is what a difference in one component leads to.
type Treatment string

// The treatments of a component.
const (
	Defer  Treatment = "defer"  // the activation waits for a reboot
	Switch Treatment = "switch" // it goes live, and a reboot is pending for the component
	Ignore Treatment = "ignore" // it goes live, and nothing is pending
)

// The components that are compared in every closure.
const (
	ComponentDBus    = "dbus"    // the implementation of the system bus, not its package
	ComponentSystemd = "systemd" // what PID 1 runs
	ComponentKernel  = "kernel"  // kernel and modules
	ComponentInit    = "init"    // init-interface-version
)

// The components that an operator may add by name. Any path within a closure may be added, too.
const (
	ComponentInitrd       = "initrd"
	ComponentKernelParams = "kernel-params"
	ComponentFirmware     = "firmware"
)

// inhibitorPrefix begins the component name of a key of switch-inhibitors.
const inhibitorPrefix = "inhibitor:"

var (
	criticalComponents = []string{ComponentDBus, ComponentSystemd, ComponentKernel, ComponentInit}
	namedExtras        = []string{ComponentInitrd, ComponentKernelParams, ComponentFirmware}
)

// The ways to compare systemd.
const (
	ByVersion = "version" // by the version in the name of its store path
	ByPath    = "path"    // by its store path, which a mass rebuild changes
)

// Rules are the operator's say in what is critical. The zero value defers for each of the four components and for inhibitors.
type Rules struct {
	// Treatment by component; what is not in it is deferred for.
	Treatment map[string]Treatment
	// Extra adds components: ComponentInitrd, ComponentKernelParams, ComponentFirmware, or the path of a symlink or
	// file within a closure, such as "etc/fstab".
	Extra []string
	// SystemdBy is ByVersion, which "" means as well, or ByPath.
	SystemdBy string
}

// ValidComponent reports whether name is a component that a treatment can be given for. A path that Rules.Extra adds is valid
// in those rules, too.
func ValidComponent(name string) bool {
	return slices.Contains(criticalComponents, name) || slices.Contains(namedExtras, name)
}

// Validate reports everything in the rules that cannot be meant.
func (r Rules) Validate() error {
	var errs []error
	for _, extra := range r.Extra {
		switch {
		case slices.Contains(namedExtras, extra):
		case slices.Contains(criticalComponents, extra):
			errs = append(errs, fmt.Errorf("extra component %q: is always compared", extra))
		case !filepath.IsLocal(extra) || path.Clean(extra) != extra || extra == ".":
			errs = append(errs, fmt.Errorf("extra component %q: neither one of %s nor a path within a closure", extra, strings.Join(namedExtras, ", ")))
		}
	}
	for name, treatment := range r.Treatment {
		switch {
		case strings.HasPrefix(name, inhibitorPrefix):
			errs = append(errs, fmt.Errorf("treatment of %q: NixOS itself refuses to switch across an inhibitor", name))
		case !ValidComponent(name) && !slices.Contains(r.Extra, name):
			errs = append(errs, fmt.Errorf("treatment of %q: no such component; one of %s, or one that is added", name,
				strings.Join(slices.Concat(criticalComponents, namedExtras), ", ")))
		}
		switch treatment {
		case Defer, Switch, Ignore:
		default:
			errs = append(errs, fmt.Errorf("treatment of %q: %q is none of defer, switch, ignore", name, treatment))
		}
	}
	switch r.SystemdBy {
	case "", ByVersion, ByPath:
	default:
		errs = append(errs, fmt.Errorf("compare systemd by %q: neither version nor path", r.SystemdBy))
	}
	// Ranging over a map has no order; messages have one.
	slices.SortFunc(errs, func(a, b error) int { return strings.Compare(a.Error(), b.Error()) })
	return errors.Join(errs...)
}

func (r Rules) treatment(component string) Treatment {
	if t, ok := r.Treatment[component]; ok {
		return t
	}
	return Defer
}

// paths are the extra components that are paths within a closure, each once.
func (r Rules) paths() []string {
	var paths []string
	for _, extra := range r.Extra {
		if !slices.Contains(namedExtras, extra) && !slices.Contains(paths, extra) {
			paths = append(paths, extra)
		}
	}
	return paths
}
