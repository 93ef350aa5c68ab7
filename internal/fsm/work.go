package fsm

// Work is what the agent owes to a record: it is stored with the record, so that a restart knows where it stopped. A phase
// is committed before the host is touched by it, an attempt before it starts.
type Work struct {
	Kind    WorkKind `json:"kind"`
	Phase   Phase    `json:"phase"`
	Attempt int      `json:"attempt,omitempty"` // the attempt in flight in this phase; 0: none started yet
	Touched bool     `json:"touched,omitempty"` // profile or boot loader may differ from Prior

	Boot BootStamp `json:"boot,omitzero"` // the boot in which the phase was entered

	Starts       int      `json:"starts,omitempty"`        // starts of the process that found this phase without progress since
	Retries      int      `json:"retries,omitempty"`       // how often an interrupted or returned phase was entered again
	Returns      int      `json:"returns,omitempty"`       // how often a boot sent the work back to an earlier phase
	FailedBefore []string `json:"failed_before,omitempty"` // units that had failed before the switch began
	Left         []string `json:"left,omitempty"`          // legs of the way back that another hand had changed, left as they are
}

// WorkKind says what the work is for.
type WorkKind string

// The kinds of work.
const (
	WorkSwitch  WorkKind = "switch"  // make the target run now
	WorkStage   WorkKind = "stage"   // make the target the boot default and wait for a reboot
	WorkUndo    WorkKind = "undo"    // bring profile, boot default and running system back
	WorkUnstage WorkKind = "unstage" // bring profile and boot default back
)

// Phase is one stored step of the work.
type Phase string

// The phases of WorkSwitch and WorkStage, in their order. Until PhaseProfile is stored the host is untouched.
const (
	PhaseCheck   Phase = "check"
	PhaseRealise Phase = "realise"
	PhaseInspect Phase = "inspect"
	PhaseProfile Phase = "profile"
	PhaseSwitch  Phase = "switch" // WorkSwitch: switch-to-configuration switch
	PhaseBoot    Phase = "boot"   // switch-to-configuration boot: WorkStage, and WorkSwitch of what runs already
	PhaseStaged  Phase = "staged" // WorkStage and WorkUndo: done but for the reboot

	// PhaseSpecialise: the target was booted, and the specialisation of it that the dispatch names is switched to. A boot
	// loader's default is the target itself.
	PhaseSpecialise Phase = "specialise"
)

// The phases, which are the legs, of WorkUndo and WorkUnstage, in their order.
const (
	PhaseUndoProfile Phase = "undo-profile"
	PhaseUndoBoot    Phase = "undo-boot"
	PhaseUndoRunning Phase = "undo-running"
)

// BeforeProfile reports whether the host has not been touched when p is the stored phase of a switch.
func (p Phase) BeforeProfile() bool {
	return p == PhaseCheck || p == PhaseRealise || p == PhaseInspect
}

// Enter gives the work in phase p, entered in the boot given, with the counters of the old phase cleared.
func (w Work) Enter(p Phase, boot BootStamp) Work {
	w.Phase, w.Boot, w.Attempt, w.Starts, w.Retries = p, boot, 0, 0, 0
	if p == PhaseProfile || p == PhaseSwitch || p == PhaseBoot {
		w.Touched = true
	}
	return w
}
