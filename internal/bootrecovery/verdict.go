package bootrecovery

import "github.com/nixfleet/nixfleet-agent/internal/fsm"

// Verdict is what the agent does about a record: store Work, raise Event, give Notice, and then Do. Any of them may be
// absent.
type Verdict struct {
	Row    Row
	Do     Do
	Event  fsm.Event // not numbered
	Work   *fsm.Work // to be stored in the same transaction; nil: as it is
	Rest   bool      // nothing is owed any more: the work is dropped in the same transaction
	Notice *Notice
	Say    string // for the log and for status, in words
}

// Do is an action of the agent's.
type Do string

// The actions. Each may be carried out twice.
const (
	Nothing     Do = "nothing"
	Resume      Do = "resume"       // go on with the stored phase: attach, take the result, or start the attempt
	Activate    Do = "activate"     // start the rollout
	Restart     Do = "restart"      // go back to Check and stamp the way back anew
	RestartSoak Do = "restart-soak" // clear results and failure clock, declare the probes again
	StampBoot   Do = "stamp-boot"   // the present boot is the one in which the target is staged
)

// Notice is something that happened to the host and not to the rollout. It is given once for one Key.
type Notice struct {
	Key  string // the same key is given only once
	Kind NoticeKind
	Text string
}

// NoticeKind is the tag of a host notice.
type NoticeKind string

// The notices that recovery gives.
const (
	AnotherHand NoticeKind = "AnotherHand" // profile or boot default were changed while a target is staged
	Drift       NoticeKind = "Drift"       // a converged host runs or booted something else
)

// Row names the line of the table that matched, for logs and tests.
type Row string

// The rows, first match wins.
const (
	RowFrozen           Row = "frozen: unknown state"
	RowAttach           Row = "work, its unit runs"
	RowPending          Row = "pending"
	RowPendingHeld      Row = "pending, held"
	RowPendingExpired   Row = "pending, expired"
	RowUntouched        Row = "activating, before the profile"
	RowBooted           Row = "new boot, booted and running the target"
	RowBootedParent     Row = "new boot, booted the target, its specialisation is still to run"
	RowBootedOtherRuns  Row = "new boot, booted the target, another runs"
	RowReinspect        Row = "activating at profile or boot, new boot, target not booted"
	RowReinspectNoMore  Row = "activating at profile or boot, new boot, target not booted again and again"
	RowCutOff           Row = "activating at switch, new boot, target not booted"
	RowNoProgress       Row = "activating, started again and again without progress"
	RowResult           Row = "activating, same boot, result there"
	RowNotStarted       Row = "activating, same boot, attempt not started"
	RowInterrupted      Row = "activating, same boot, marker without result"
	RowSwitchedByHand   Row = "deferred, new boot, target not booted but running"
	RowBootedOther      Row = "deferred, new boot, target not booted"
	RowRunsLive         Row = "deferred, same boot, target runs with its components"
	RowRunsHalf         Row = "deferred, same boot, target runs without all of its components"
	RowCancel           Row = "deferred, being cancelled"
	RowStagedByOther    Row = "deferred, same boot, another hand on profile or boot default"
	RowDeferred         Row = "deferred, same boot"
	RowLeftTarget       Row = "soaking, target does not run"
	RowSoaking          Row = "soaking, target runs"
	RowUndo             Row = "failed, a leg of the way back unfinished"
	RowUndoBooted       Row = "failed, way back staged, new boot, booted the prior system"
	RowUndoBootedTarget Row = "failed, way back staged, new boot, booted the target"
	RowUndoBootedOther  Row = "failed, way back staged, new boot, booted another system"
	RowUndoStaged       Row = "failed, way back staged, same boot"
	RowDrift            Row = "converged, another system booted or running"
	RowRest             Row = "at rest"
)
