package agent

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nixfleet/nixfleet-agent/internal/fsm"
	"github.com/nixfleet/nixfleet-agent/internal/localapi"
	"github.com/nixfleet/nixfleet-agent/internal/outbox"
	"github.com/nixfleet/nixfleet-agent/internal/store"
	"github.com/nixfleet/nixfleet-agent/internal/system"
)

// snapshot is what a status is made of: what is stored and what the host shows. It is made by the agent and, while no agent
// answers, by whoever can read the file.
type snapshot struct {
	at       time.Time
	source   localapi.Source
	agent    localapi.Agent
	hostname string
	facts    system.Facts
	factsErr error
	live     *fsm.Record
	next     *fsm.Record
	held     *held
	cursor   outbox.Cursor
	depth    int
	oldest   time.Time
	last     *outbox.Entry
	dead     int
	receiver string
	progress map[string]string
	notes    []string
	label    func(closure string) string
	now      fsm.Now

	// specialises names which of a target's specialisations a closure is, "" if none; nil: nobody can be asked.
	specialises func(closure, target string) string
}

// read fills in what the store holds.
func (s *snapshot) read(st *store.Store, queue *outbox.Queue) error {
	err := st.View(func(tx *store.Tx) error {
		var err error
		if s.held, err = heldIn(tx, s.at); err != nil {
			return err
		}
		for _, claim := range []struct {
			rollout string
			into    **fsm.Record
		}{{tx.Live(), &s.live}, {tx.Next(), &s.next}} {
			if claim.rollout == "" {
				continue
			}
			rec, err := tx.Record(claim.rollout)
			if err != nil {
				s.notes = append(s.notes, fmt.Sprintf("the record of %s cannot be read: %v", claim.rollout, err))
				continue
			}
			*claim.into = &rec
		}
		return nil
	})
	if err != nil {
		return err
	}
	return s.readOutbox(queue)
}

func (s *snapshot) readOutbox(queue *outbox.Queue) error {
	stats, err := queue.Stats()
	if err != nil {
		return err
	}
	s.cursor, s.depth, s.oldest, s.last, s.dead = stats.Cursor, stats.Depth, stats.OldestAt, stats.Last, stats.DeadLetters
	return nil
}

// status puts the snapshot into words. It never fails: what cannot be read is said.
func (s *snapshot) status() localapi.Status {
	st := localapi.Status{
		SchemaVersion: localapi.SchemaVersion, Source: s.source, At: s.at, Agent: s.agent,
		Host:     localapi.Host{Name: s.hostname, BootID: s.facts.BootID, SoftReboots: s.facts.SoftReboots},
		Running:  s.closure(s.facts.Running, s.facts.RunningSince),
		NextBoot: s.nextBoot(),
		Outbox: localapi.Outbox{
			Depth: s.depth, OldestAt: s.oldest, LastPos: s.cursor.LastPos, AckedPos: s.cursor.AckedPos,
			DeadLetters: s.dead, Receiver: s.receiver,
		},
		Why: []string{}, Notes: append([]string{}, s.notes...),
	}
	if s.last != nil {
		st.Outbox.LastKind, st.Outbox.LastAt = s.last.Kind, s.last.At
	}
	if s.factsErr != nil {
		st.Notes = append(st.Notes, "the host cannot be read: "+s.factsErr.Error())
	}
	if s.live != nil {
		target := s.closure(s.live.TargetClosure, s.live.CreatedAt)
		target.Specialisation = s.live.Specialisation
		st.Running.Specialisation, st.NextBoot.Specialisation = s.child(st.Running.Path, *s.live), s.child(st.NextBoot.Path, *s.live)
		st.Target, st.Rollout = &target, s.rollout(*s.live)
	}
	if s.held != nil {
		shown := s.held.shown()
		st.Hold = &shown
	}
	s.waiting(&st)
	s.explain(&st)
	s.unattended(&st)
	return st
}

// unattended corrects what is said to happen next where no agent is there, or may, do it.
func (s *snapshot) unattended(st *localapi.Status) {
	if s.live == nil || !owns(*s.live) || st.Verdict != localapi.InProgress && !s.onTheWayBack() {
		return
	}
	switch {
	case s.agent.ReadOnly != "":
		st.Then = "Run the newer agent that wrote the store; this one may only read it and does nothing."
	case s.source == localapi.FromFile:
		st.Then = "Start the agent: systemctl start nixfleet-agent. It goes on where the work stands."
	}
}

func (s *snapshot) onTheWayBack() bool {
	return s.live.State == fsm.Failed && s.live.Work != nil && s.live.Work.Phase != fsm.PhaseStaged
}

func (s *snapshot) closure(path string, since time.Time) localapi.Closure {
	c := localapi.Closure{Path: path}
	if path == "" {
		return c
	}
	c.Label, c.Since = s.label(path), since
	return c
}

// child names which specialisation of a rollout's target a closure is, "" if none.
func (s *snapshot) child(closure string, rec fsm.Record) string {
	if s.specialises == nil || closure == "" || closure == rec.TargetClosure {
		return ""
	}
	return s.specialises(closure, rec.TargetClosure)
}

// boots reports whether a closure that would be booted is what the rollout wants: its target or a specialisation of that, the
// one that was named if one was.
func (s *snapshot) boots(closure string, rec fsm.Record) bool {
	if closure == rec.TargetClosure {
		return true
	}
	name := s.child(closure, rec)
	return name != "" && (rec.Specialisation == "" || rec.Specialisation == name)
}

// nextBoot says since when a closure is the boot default only where it is the profile, too: the boot loader's files do not tell.
func (s *snapshot) nextBoot() localapi.NextBoot {
	d := s.facts.BootDefault
	var since time.Time
	if d.Closure == s.facts.Profile {
		since = s.facts.ProfileSince
	}
	return localapi.NextBoot{Closure: s.closure(d.Closure, since), Loader: d.Loader, Entry: d.Entry, Reason: d.Reason}
}

func (s *snapshot) rollout(rec fsm.Record) *localapi.Rollout {
	r := &localapi.Rollout{
		ID: rec.RolloutID, State: string(rec.State), Since: sinceWhen(rec), TargetClosure: rec.TargetClosure,
		Policy: string(rec.Policy), Progress: s.progress[rec.RolloutID],
		SoakMS: int64(rec.Soak), SoakServedMS: int64(fsm.CountSoak(rec, s.now).SoakServed),
		FailureReason: string(rec.FailureReason), FailureDetail: rec.FailureDetail, Degraded: rec.Degraded,
		WayBackFailed: string(rec.RollbackFailureReason),
		LastEventSeq:  rec.LastEventSeq,
	}
	for _, c := range rec.Components {
		r.Components = append(r.Components, localapi.Component{Name: c.Component, From: c.From, To: c.To})
	}
	if rec.Work != nil {
		r.Phase, r.Attempt = string(rec.Work.Phase), rec.Work.Attempt
	}
	return r
}

// sinceWhen is when the record came into its state.
func sinceWhen(rec fsm.Record) time.Time {
	switch rec.State {
	case fsm.Pending:
		return rec.CreatedAt
	case fsm.Activating:
		return rec.ReceivedAt
	case fsm.Deferred:
		return rec.DeferredAt
	case fsm.Soaking:
		return rec.ActivationCompletedAt
	case fsm.Converged:
		return rec.ConvergedAt
	case fsm.Failed:
		return rec.FailedAt
	case fsm.Reverted, fsm.Superseded:
		return rec.EndedAt
	default:
		return time.Time{}
	}
}

func (s *snapshot) waiting(st *localapi.Status) {
	if s.next == nil {
		return
	}
	why := "the work of the rollout before it must end first"
	if s.live != nil {
		why = fmt.Sprintf("%s is at work (%s), which must end first", s.live.RolloutID, phaseOf(*s.live))
	}
	switch {
	case s.next.State == fsm.Pending && s.held != nil:
		why = s.held.words()
	case s.next.State == fsm.Failed:
		why = strings.Join(failureWords(*s.next), "; ")
	case s.next.State == fsm.Activating:
		why = "it is being prepared (" + phaseOf(*s.next) + ")"
		if p := s.progress[s.next.RolloutID]; p != "" {
			why += ": " + p
		}
	}
	st.Next = &localapi.Waiting{ID: s.next.RolloutID, State: string(s.next.State), TargetClosure: s.next.TargetClosure, Why: why,
		FailureReason: string(s.next.FailureReason)}
}

// explain answers why and what next.
func (s *snapshot) explain(st *localapi.Status) {
	if s.live == nil && s.next != nil && s.next.State == fsm.Pending {
		st.Verdict, st.Summary = localapi.InProgress, "pending: the rollout is accepted and waits"
		st.Why = append(st.Why, st.Next.Why)
		st.Then = "Nothing to do; the agent starts it when its turn has come."
		if s.held != nil {
			st.Then = "Resume this host to let it start: nixfleet-agent resume."
		}
		return
	}
	if s.live == nil {
		st.Verdict, st.Summary = localapi.AtTarget, "idle: this host was never told what to run"
		st.Then = "Hand it a closure: nixfleet-agent activate STORE-PATH."
		return
	}
	rec := *s.live
	switch rec.State {
	case fsm.Pending:
		st.Verdict, st.Summary = localapi.InProgress, "pending: the rollout is accepted and nothing was done yet"
		st.Then = "Nothing to do; the agent starts it when its turn has come."
	case fsm.Activating:
		st.Verdict, st.Summary = localapi.InProgress, "activating: "+phaseOf(rec)
		st.Then = "Nothing to do; the agent is at work."
		if p := s.progress[rec.RolloutID]; p != "" {
			st.Why = append(st.Why, p)
		}
	case fsm.Deferred:
		s.explainDeferred(st, rec)
	case fsm.Soaking:
		s.explainSoaking(st, rec)
	case fsm.Converged:
		s.explainConverged(st, rec)
	case fsm.Failed:
		s.explainFailed(st, rec)
	case fsm.Reverted:
		st.Verdict, st.Summary = localapi.Unsuccessful, "reverted: the host is back on what it ran before"
		st.Why = append(st.Why, failureWords(rec)...)
		st.Then = whatAfter(rec)
		if rec.FailureReason == "" {
			st.Summary = "cancelled: profile and boot default are what they were before the rollout"
			st.Then = "Nothing to do; activate the closure that you want."
		}
		st.Notes = append(st.Notes, s.inconsistent(rec)...)
	case fsm.Superseded:
		st.Verdict, st.Summary = localapi.InProgress, "superseded by "+rec.SupersededBy
		st.Then = "Nothing to do; the newer rollout goes on."
	default:
		st.Verdict, st.Summary = localapi.Unsuccessful, fmt.Sprintf("frozen: the record is in state %q, which this version does not know", rec.State)
		st.Then = "Run the agent version that wrote the record; it is kept as it is."
	}
}

func (s *snapshot) explainDeferred(st *localapi.Status, rec fsm.Record) {
	st.Verdict = localapi.RebootNeeded
	if onTheWayBack(rec) {
		s.explainCancel(st, rec)
		return
	}
	st.Summary = "deferred: the target waits for a reboot (" + componentNames(rec.Components) + ")"
	for _, c := range rec.Components {
		st.Why = append(st.Why, changeWords(c))
	}
	next := s.facts.BootDefault.Closure
	switch {
	case s.boots(next, rec):
		st.Then = "Reboot this host; it comes up in the target and the agent goes on by itself."
	case next == "":
		st.Then = "Reboot this host; what it will boot cannot be read" + inBrackets(s.facts.BootDefault.Reason) + "."
	default:
		st.Verdict = localapi.Unsuccessful // who reboots on "reboot needed" would end up elsewhere
		st.Summary = "deferred, but a reboot would not boot the target (" + componentNames(rec.Components) + ")"
		st.Notes = append(st.Notes, "the boot default is no longer the target: another hand changed it")
		st.Then = "Activate the closure that you want; a reboot would boot " + next + "."
	}
	if profile := s.facts.Profile; profile != "" && profile != rec.TargetClosure {
		st.Notes = append(st.Notes, "the profile is no longer the target but "+profile+": another hand changed it")
	}
	if s.facts.Running == rec.TargetClosure {
		st.Notes = append(st.Notes, "the target was switched to by hand; its critical components run after a reboot")
	}
}

// explainCancel tells of a deferral whose profile and boot default are being returned.
func (s *snapshot) explainCancel(st *localapi.Status, rec fsm.Record) {
	st.Verdict, st.Summary = localapi.InProgress, "deferred: being cancelled ("+string(rec.Work.Phase)+")"
	st.Then = "Nothing to do; profile and boot default are returned to what they were."
	if p := s.progress[rec.RolloutID]; p != "" {
		st.Why = append(st.Why, p)
	} else if rec.RollbackFailureReason != "" {
		st.Verdict, st.Summary = localapi.Unsuccessful, "deferred, and cancelling it did not succeed ("+string(rec.Work.Phase)+")"
		st.Why = append(st.Why, string(rec.RollbackFailureReason))
		st.Why = append(st.Why, linesOf(rec.RollbackFailureDetail)...)
		st.Then = "Mend the cause and cancel it again."
	}
	st.Notes = append(st.Notes, s.inconsistent(rec)...)
	st.Notes = append(st.Notes, rec.Work.Left...)
}

func (s *snapshot) explainSoaking(st *localapi.Status, rec fsm.Record) {
	st.Verdict, st.Summary = localapi.InProgress, "soaking: the target runs and is watched"
	_, waiting := fsm.ConvergeGate(rec, s.now)
	st.Why = append(st.Why, waiting...)
	st.Then = "Nothing to do; the host converges when the soak is served."
	if len(fsm.FailingProbes(rec)) > 0 {
		st.Then = "Look at the probes that fail; the host converges when they pass and the soak is served."
	}
	st.Notes = append(st.Notes, rec.Degraded...)
	if s.ranOff(rec) {
		st.Summary = "soaking, but another hand made the host run something else"
		st.Why = []string{"running " + s.facts.Running + " instead of " + rec.CurrentClosure}
		st.Then = "Activate the closure that you want; the agent does not fight another hand and ends this rollout."
		return
	}
	s.noteBootDefault(st, rec)
}

// ranOff reports whether the host was seen to run something else than what was last observed of the rollout.
func (s *snapshot) ranOff(rec fsm.Record) bool {
	return s.facts.Running != "" && s.facts.Running != rec.CurrentClosure
}

// noteBootDefault says that a reboot would take the host from its target.
func (s *snapshot) noteBootDefault(st *localapi.Status, rec fsm.Record) {
	if next := s.facts.BootDefault.Closure; next != "" && !s.boots(next, rec) && next != rec.CurrentClosure {
		st.Notes = append(st.Notes, "a reboot would not boot the target but "+next)
		st.Then = "Activate the closure that you want before this host is rebooted."
	}
}

func (s *snapshot) explainConverged(st *localapi.Status, rec fsm.Record) {
	st.Verdict, st.Summary = localapi.AtTarget, "converged: the host runs its target"
	st.Then = "Nothing to do."
	st.Notes = append(st.Notes, rec.Degraded...)
	switch {
	case s.ranOff(rec):
		st.Summary = "converged once, but another hand made the host run something else"
		st.Why = append(st.Why, "running "+s.facts.Running+" instead of "+rec.CurrentClosure)
		st.Then = "Activate the closure that you want; the agent does not fight another hand."
		st.Verdict = localapi.Unsuccessful
	case s.factsErr != nil, s.facts.BootID != "" && s.facts.Running == "":
		st.Summary = "converged; what the host runs now cannot be read"
	}
	if st.Verdict == localapi.AtTarget {
		s.noteBootDefault(st, rec)
	}
}

func (s *snapshot) explainFailed(st *localapi.Status, rec fsm.Record) {
	st.Verdict = localapi.Unsuccessful
	st.Why = append(st.Why, failureWords(rec)...)
	switch {
	case rec.Work == nil:
		st.Summary = "failed: " + string(rec.FailureReason)
		st.Then = whatAfter(rec)
		if rec.PolicyApplied == fsm.Halt && s.facts.Running == rec.TargetClosure {
			st.Then = "Look at the host, then reboot it or activate the closure that you want: it was left running the target, as the policy halt asks."
		}
	case rec.Work.Phase == fsm.PhaseStaged:
		st.Verdict, st.Summary = localapi.RebootNeeded, "failed: the way back waits for a reboot"
		for _, c := range rec.Components {
			st.Why = append(st.Why, changeWords(c))
		}
		st.Then = "Reboot this host to return to " + rec.Prior.Running + "."
	default:
		st.Summary = "failed: on the way back (" + string(rec.Work.Phase) + ")"
		st.Then = "Nothing to do; the agent brings the host back."
		if p := s.progress[rec.RolloutID]; p != "" {
			st.Why = append(st.Why, p)
		}
		if rec.RollbackFailureReason != "" && s.progress[rec.RolloutID] == "" {
			st.Summary = "failed, and the way back did not succeed (" + string(rec.Work.Phase) + ")"
			st.Then = "The way back did not succeed; mend the cause and restart the agent, which tries again."
		}
	}
	if rec.RollbackFailureReason != "" {
		st.Why = append(st.Why, "the way back: "+string(rec.RollbackFailureReason))
		st.Why = append(st.Why, linesOf(rec.RollbackFailureDetail)...)
	}
	st.Notes = append(st.Notes, s.inconsistent(rec)...)
	if rec.Work != nil {
		st.Notes = append(st.Notes, rec.Work.Left...)
	}
}

// inconsistent names what of the way back is not in place.
func (s *snapshot) inconsistent(rec fsm.Record) []string {
	var out []string
	for _, leg := range []struct{ what, is, want string }{
		{"the profile", s.facts.Profile, rec.Prior.Profile},
		{"the boot default", s.facts.BootDefault.Closure, rec.Prior.BootDefault},
		{"the running system", s.facts.Running, rec.Prior.Running},
	} {
		if leg.is != "" && leg.want != "" && leg.is != leg.want {
			out = append(out, fmt.Sprintf("%s is %s, before the rollout it was %s", leg.what, leg.is, leg.want))
		}
	}
	return out
}

// whatAfter is what an operator does about a rollout that is at its end and did not succeed.
func whatAfter(rec fsm.Record) string {
	switch {
	case rec.FailureReason == fsm.ReasonAnotherHand, rec.RollbackFailureReason == fsm.ReasonAnotherHand:
		return "Activate the closure that you want; the agent does not fight another hand."
	case rec.FailureReason.Accuses():
		return "Nothing owed; mend the closure and activate the mended one."
	default:
		return "Nothing owed; clear the reason, then activate the closure again."
	}
}

func inBrackets(text string) string {
	if text == "" {
		return ""
	}
	return " (" + text + ")"
}

func failureWords(rec fsm.Record) []string {
	var out []string
	if rec.FailureReason != "" {
		out = append(out, string(rec.FailureReason))
	}
	return append(out, linesOf(rec.FailureDetail)...)
}

// linesOf gives the lines of a text that say something.
func linesOf(text string) []string {
	var out []string
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); line != "" {
			out = append(out, line)
		}
	}
	return out
}

func changeWords(c fsm.ComponentChange) string {
	show := func(v string) string {
		if v == "" {
			return "(absent)"
		}
		return v
	}
	return fmt.Sprintf("%s: %s -> %s", c.Component, show(c.From), show(c.To))
}

// oneline is the status in the words of the service manager's STATUS=.
func oneline(st localapi.Status) string {
	var words []string
	if st.Agent.ReadOnly != "" {
		words = append(words, "read only: "+st.Agent.ReadOnly)
	}
	words = append(words, st.Summary)
	if st.Rollout != nil && st.Rollout.Progress != "" && !slices.Contains(words, st.Rollout.Progress) {
		words = append(words, st.Rollout.Progress)
	}
	return strings.Join(words, "; ")
}
