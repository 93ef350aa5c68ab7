// Package simhost lays out a directory that looks like a NixOS host. It is equipment for tests and for the demo and no part of
// the agent.
//
// A [Host] is a directory with a Nix store, a system profile, a boot partition and the links of a running system. Its closures
// have scripts that behave as the programs of NixOS do: bin/switch-to-configuration with its lock, its order, its messages and
// its exit codes; a boot loader installer that writes systemd-boot entries for what the profile lists; and, since the machine
// needs no Nix, nix-store and nix-env below sw/bin. The scripts want /bin/sh, coreutils and flock, and no privileges.
//
// The same trees serve a booted test host with a real systemd and a real Nix: [Closure.WriteTree] writes what
// `nix store add-path` takes, the scripts find out that they lie below "/", and [EarlyUnit] runs stage 2 at boot. There they
// refuse to work unless the directory /etc/sim exists, so that no host is switched by equipment.
//
// Every link has the text that it has on a NixOS host, an absolute path as the host sees it ([Host.Path] says where that is
// on this machine): who reads links below a root must prefix them and not let the kernel follow them.
//
// What is simulated stops at files: below a root nothing is started or killed, so a caller that reboots a host ends its own
// processes first. A Host is for one goroutine at a time; the scripts exclude each other as the real programs do.
package simhost
