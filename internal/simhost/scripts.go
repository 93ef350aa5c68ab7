package simhost

import (
	"embed"
	"fmt"
	"io/fs"
	"path"
)

//go:embed script
var scriptFiles embed.FS

// Names of the scripts in [Scripts].
const (
	SwitchScript      = "switch-to-configuration.sh"
	BootLoaderScript  = "install-boot-loader.sh"
	ActivateScript    = "activate.sh"
	StageTwoScript    = "stage-2.sh"
	NixStoreScript    = "nix-store.sh"
	NixEnvScript      = "nix-env.sh"
	sharedScriptLines = "lib.sh"
)

// Scripts returns every script by its name, each of them complete: it can be written anywhere, made executable and run.
// All but [StageTwoScript] find the host from the store path that they lie in.
func Scripts() map[string][]byte {
	shared := scriptSource(sharedScriptLines)
	scripts := make(map[string][]byte)
	for _, name := range []string{SwitchScript, BootLoaderScript, ActivateScript, StageTwoScript, NixStoreScript, NixEnvScript} {
		scripts[name] = fmt.Appendf(nil, "#!/bin/sh\n%s\n%s", shared, scriptSource(name))
	}
	return scripts
}

func scriptSource(name string) []byte {
	source, err := fs.ReadFile(scriptFiles, path.Join("script", name))
	if err != nil {
		panic("embedded script " + name + ": " + err.Error())
	}
	return source
}

// EarlyUnit is the text of a systemd unit that runs the stage-2 script at scriptPath on a booted test host, before any unit
// that reads the booted or the running link. It does nothing until a boot loader has been installed, and nothing in a soft
// reboot, which keeps /run and with it the links. Enable it with a link in sysinit.target.wants.
func EarlyUnit(scriptPath string) string {
	return `[Unit]
Description=Booted and running system from the boot entry, as stage 2 of NixOS does
DefaultDependencies=no
RequiresMountsFor=/boot /etc /nix/store /nix/var/nix /run /var/log
After=systemd-remount-fs.service
Before=sysinit.target shutdown.target
Conflicts=shutdown.target
ConditionPathExists=/boot/loader/loader.conf
ConditionPathExists=!/run/booted-system

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=` + scriptPath + `

[Install]
WantedBy=sysinit.target
`
}
