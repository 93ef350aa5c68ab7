package agent

import (
	"context"
	"errors"

	"github.com/nixfleet/nixfleet-agent/internal/activate"
	"github.com/nixfleet/nixfleet-agent/internal/config"
	"github.com/nixfleet/nixfleet-agent/internal/localapi"
	"github.com/nixfleet/nixfleet-agent/internal/system"
)

// Explain says whether a closure would be activated live or be deferred on this host, and why. It touches nothing and needs no
// agent.
func Explain(ctx context.Context, cfg config.Config, root, target string) (localapi.Explanation, error) {
	host := system.New(root)
	ex := localapi.Explanation{SchemaVersion: localapi.SchemaVersion, Target: target}
	components, err := host.InspectTarget(target)
	var unfit *system.NotSwitchable
	switch {
	case errors.As(err, &unfit):
		ex.Verdict, ex.Reason, ex.Hint = localapi.NotSwitchable, unfit.Error(), unfit.Hints()
		return ex, nil
	case err != nil:
		return ex, err
	}
	ex.Label = components.Version
	rules := rulesOf(cfg)
	base, to, err := activate.Gather(ctx, host, target, rules)
	if err != nil {
		return ex, err
	}
	verdict := activate.Classify(base, to, rules)
	ex.Verdict = localapi.GoesLive
	if !verdict.Live() {
		ex.Verdict = localapi.IsDeferred
	}
	ex.Components, ex.Switched, ex.Ignored = explained(verdict.Deferred), explained(verdict.Switched), explained(verdict.Ignored)
	ex.Notes = verdict.Notes
	return ex, nil
}

func explained(changes []activate.Change) []localapi.Component {
	out := make([]localapi.Component, 0, len(changes))
	for _, c := range changes {
		out = append(out, localapi.Component{Name: c.Component, From: c.From, To: c.To})
	}
	return out
}
