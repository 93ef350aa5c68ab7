// Package activate is what touches the host: it decides whether a closure can be
// activated live, and runs the programs of Nix and NixOS that bring the host to
// it.
//
// It has a pure half. [Classify] compares what runs with a target and says what
// must wait for a reboot; [Judge] says from the facts after a switch how it
// went. Both take values and return values.
//
// Its other half is the [Runner], which works through a [Launcher]: [Systemd]
// gives PID 1 the work as transient units, [Exec] runs it as processes of their
// own where the host is only a directory. What the runner promises:
//
//   - A program runs outside of the agent: the agent's death, restart or upgrade
//     neither ends it nor takes its output away. The next agent finds it by name
//     and goes on with it.
//   - An attempt runs at most once. Its body ([RunAttempt]) begins with a marker
//     that is created exclusively and synced, and ends with a result that is
//     synced. An attempt with a marker and no result is lost; it is never
//     started again, and never taken for a success.
//   - An exit code is a hint. Success is only claimed for what was read back
//     from the host.
//   - Every method may be called again after a crash, with the same [JobID].
//   - A context that ends ends the waiting and not the program; [Runner.Stop]
//     ends the program.
//
// The caller stores each attempt before it starts it, never gives the same
// number to two attempts of one rollout, and runs one attempt at a time.
//
// What is known here about NixOS is from nixpkgs: switch-to-configuration-ng
// (exit codes, lock, list files), nixos/modules/system/activation, the
// boot-loader builders; about systemd from org.freedesktop.systemd1(5) and
// systemd.service(5); about Nix from the texts of nix-store 2.3 to 2.26.
package activate
