package agent

import (
	"github.com/nixfleet/nixfleet-agent/internal/activate"
	"github.com/nixfleet/nixfleet-agent/internal/config"
)

// rulesOf gives the operator's say in what is critical.
func rulesOf(cfg config.Config) activate.Rules {
	rules := activate.Rules{Extra: cfg.ExtraComponents, SystemdBy: cfg.SystemdIdentity, Treatment: make(map[string]activate.Treatment, len(cfg.CriticalComponents))}
	for component, treatment := range cfg.CriticalComponents {
		rules.Treatment[component] = activate.Treatment(treatment)
	}
	return rules
}

func deadlinesOf(cfg config.Config) activate.Deadlines {
	d := cfg.Deadlines
	return activate.Deadlines{Realise: d.Realise.Std(), Profile: d.Boot.Std(), Switch: d.Switch.Std(), Boot: d.Boot.Std()}
}
