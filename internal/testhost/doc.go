// Package testhost boots a host with a real systemd, D-Bus and journald, and a real Nix store. It is equipment for the
// end-to-end suite and no part of the agent.
//
// A [Host] is an overlay of its own over a Debian tree that is made once and kept in the user's cache directory; it is booted
// by systemd-nspawn, without a network, in about a second. It can do what a machine can do to an agent: reboot, restart its
// user space, and lose its power. What systemd-nspawn cannot give, a firmware and a stage 2, is simulated: the boot loader's
// files and the links of the booted and the running system are the business of package simhost, whose scripts run at the
// same moments as on NixOS.
//
// Commands run in the namespaces of the host's PID 1 and need nothing of it but its being there: they work while D-Bus is
// down, PID 1 executes itself anew, or the boot has not finished.
//
// It needs root on Debian, and the network once. Nothing of it outlives the process that uses it: processes are killed with it,
// and mounts and files that a killed run left behind are cleared away by the next one. What it installs on the machine
// (debootstrap, systemd-container) and the cached tree stay.
//
// A power cut is the sudden death of every process, with what they wrote kept: it tells what a program had done, not what a disk
// had synced. A Host is for one goroutine at a time.
package testhost
