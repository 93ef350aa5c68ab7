package activate

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	sddbus "github.com/coreos/go-systemd/v22/dbus"
	"github.com/godbus/dbus/v5"
)

const (
	// callTimeout bounds one conversation with PID 1. sd-bus itself gives a call 25 s.
	callTimeout = 25 * time.Second
	// managerPatience is how long PID 1 may be away: while it executes itself anew it drops every connection, and
	// switch-to-configuration gives it 180 s for that. It takes well under a second.
	managerPatience = time.Minute
)

// manager is the part of PID 1 that a launcher needs. A connection to it serves one conversation and is closed: PID 1 drops
// connections when it executes itself anew, and a restarted bus does not tell its clients.
type manager interface {
	startTransient(ctx context.Context, unit string, properties []sddbus.Property) error
	unit(ctx context.Context, unit string) (unitState, error)
	stop(ctx context.Context, unit string) error
	resetFailed(ctx context.Context, unit string) error
	systemState(ctx context.Context) (string, error)
	failedUnits(ctx context.Context) ([]string, error)
	close()
}

// unitState is what PID 1 knows of a unit. Of a unit that it does not know everything reads as a success (LoadState is
// "not-found"), and Result and the codes mean nothing before the unit has ended.
type unitState struct {
	LoadState      string
	ActiveState    string
	SubState       string
	Result         string
	ExecMainCode   int // as in siginfo: 0 it has not ended, 1 exited, 2 killed, 3 dumped core
	ExecMainStatus int
	InvocationID   string
	JobQueued      bool
}

func (u unitState) loaded() bool { return u.LoadState == "loaded" }

// busy reports whether the unit runs, or is about to.
func (u unitState) busy() bool {
	if !u.loaded() {
		return false
	}
	switch u.ActiveState {
	case "activating", "deactivating", "reloading", "refreshing", "maintenance":
		return true
	default:
		return u.JobQueued
	}
}

// Errors of org.freedesktop.systemd1.
const (
	errUnitExists = "org.freedesktop.systemd1.UnitExists"
	errNoSuchUnit = "org.freedesktop.systemd1.NoSuchUnit"
)

// answered reports whether err is PID 1's answer, as opposed to a connection that broke before there was one.
func answered(err error) bool {
	var e dbus.Error
	if !errors.As(err, &e) {
		return false
	}
	switch e.Name {
	case "org.freedesktop.DBus.Error.NoReply", "org.freedesktop.DBus.Error.Disconnected", "org.freedesktop.DBus.Error.Timeout",
		"org.freedesktop.DBus.Error.TimedOut", "org.freedesktop.DBus.Error.ServiceUnknown", "org.freedesktop.DBus.Error.NameHasNoOwner",
		"org.freedesktop.DBus.Error.NoServer":
		return false
	default:
		return true
	}
}

func named(err error, name string) bool {
	var e dbus.Error
	return errors.As(err, &e) && e.Name == name
}

// dialManager connects to PID 1: at its private socket, which is there without a bus, else over the system bus. The
// connection ends with ctx.
func dialManager(ctx context.Context) (manager, error) {
	conn, private := sddbus.NewSystemdConnectionContext(ctx)
	if private == nil {
		return connection{conn}, nil
	}
	conn, bus := sddbus.NewSystemConnectionContext(ctx)
	if bus == nil {
		return connection{conn}, nil
	}
	return nil, fmt.Errorf("connect to PID 1: %w", errors.Join(private, bus))
}

// connection is a manager over D-Bus.
type connection struct{ conn *sddbus.Conn }

func (c connection) startTransient(ctx context.Context, unit string, properties []sddbus.Property) error {
	_, err := c.conn.StartTransientUnitContext(ctx, unit, "fail", properties, nil)
	return err
}

func (c connection) unit(ctx context.Context, unit string) (unitState, error) {
	properties, err := c.conn.GetAllPropertiesContext(ctx, unit)
	if err != nil {
		return unitState{}, err
	}
	return unitFrom(properties), nil
}

// unitFrom reads the properties of a unit (org.freedesktop.systemd1(5)).
func unitFrom(properties map[string]any) unitState {
	text := func(name string) string {
		s, _ := properties[name].(string)
		return s
	}
	number := func(name string) int {
		n, _ := properties[name].(int32)
		return int(n)
	}
	u := unitState{
		LoadState: text("LoadState"), ActiveState: text("ActiveState"), SubState: text("SubState"), Result: text("Result"),
		ExecMainCode: number("ExecMainCode"), ExecMainStatus: number("ExecMainStatus"),
	}
	if id, ok := properties["InvocationID"].([]byte); ok {
		u.InvocationID = hex.EncodeToString(id)
	}
	if job, ok := properties["Job"].([]any); ok && len(job) > 0 {
		id, _ := job[0].(uint32)
		u.JobQueued = id != 0
	}
	return u
}

func (c connection) stop(ctx context.Context, unit string) error {
	_, err := c.conn.StopUnitContext(ctx, unit, "replace", nil)
	return err
}

func (c connection) resetFailed(ctx context.Context, unit string) error {
	return c.conn.ResetFailedUnitContext(ctx, unit)
}

func (c connection) systemState(ctx context.Context) (string, error) {
	property, err := c.conn.SystemStateContext(ctx)
	if err != nil {
		return "", err
	}
	state, _ := property.Value.Value().(string)
	return state, nil
}

func (c connection) failedUnits(ctx context.Context) ([]string, error) {
	units, err := c.conn.ListUnitsFilteredContext(ctx, []string{"failed"})
	if err != nil {
		return nil, err
	}
	var names []string
	for _, u := range units {
		names = append(names, u.Name)
	}
	return names, nil
}

func (c connection) close() { c.conn.Close() }

// ownUnit matches the units of attempts.
var ownUnit = regexp.MustCompile(`^` + jobPrefix + `[a-z0-9-]+-[0-9a-f]{12}-[0-9]+\.service$`)

// foreignFailures are the failed units that a switch may have to do with: not the attempts' own, and no scopes, which
// switch-to-configuration leaves out as well.
func foreignFailures(units []string) []string {
	units = slices.DeleteFunc(slices.Clone(units), func(unit string) bool {
		return ownUnit.MatchString(unit) || strings.HasSuffix(unit, ".scope")
	})
	slices.Sort(units)
	return units
}

// execStart is one element of ExecStart, of D-Bus type (sasb).
type execStart struct {
	Path             string
	Args             []string
	UncleanIsFailure bool
}

// infinity is no timeout, in PID 1's microseconds.
const infinity = ^uint64(0)

// transientProperties describe the unit of an attempt. A oneshot is the type whose result tells a SIGTERM from a success;
// RemainAfterExit keeps a success readable; a unit that failed stays readable until somebody resets it. PID 1's own deadline
// comes after the body's, which knows what it stopped.
func transientProperties(job Job, argv []string) []sddbus.Property {
	timeout := infinity
	if job.Deadline > 0 {
		timeout = microseconds(job.Deadline + unitDeadlineMargin)
	}
	args := make([]string, len(argv))
	for i, arg := range argv {
		args[i] = strings.ReplaceAll(arg, "$", "$$") // PID 1 expands variables in arguments
	}
	property := func(name string, value any) sddbus.Property {
		return sddbus.Property{Name: name, Value: dbus.MakeVariant(value)}
	}
	return []sddbus.Property{
		property("Description", job.Description),
		property("Type", "oneshot"),
		property("RemainAfterExit", true),
		property("ExecStart", []execStart{{Path: argv[0], Args: args}}),
		property("Environment", job.Env),
		property("TimeoutStartUSec", timeout),
		property("TimeoutStopUSec", microseconds(unitStopTimeout)),
		property("KillMode", "control-group"),
		property("IgnoreOnIsolate", true),
		property("StandardInput", "null"),
		property("StandardOutput", "journal"),
		property("StandardError", "journal"),
		property("SyslogIdentifier", jobPrefix+job.ID.Step),
		property("OOMScoreAdjust", int32(unitOOMScore)),
	}
}

const (
	// unitDeadlineMargin lets the body stop the program at its deadline and write its result, before PID 1 stops both.
	unitDeadlineMargin = time.Minute
	// unitStopTimeout is longer than the grace that the body gives the program.
	unitStopTimeout = 30 * time.Second
	// unitOOMScore makes a half-done switch one of the last processes to be killed for want of memory.
	unitOOMScore = -900
)

func microseconds(d time.Duration) uint64 { return uint64(d.Microseconds()) }
