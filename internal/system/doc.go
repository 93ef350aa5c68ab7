// Package system reads the facts of one NixOS host below a root directory: what
// it runs, what it booted, what its profile names, what a reboot would boot,
// and what a closure would bring.
//
// It promises:
//   - It only reads. No call writes a file, starts a process or changes a link.
//   - Every path that it takes or returns is logical: as the host itself would
//     write it, "/nix/store/...", whatever the root directory is. A symlink is
//     followed as the host would follow it; an absolute link is taken below the
//     root and nothing leads out of it.
//   - Everything read is bounded, in size and in number; a damaged or hostile
//     file is an error or a reason in words, never a panic.
//   - What is absent is "", not an error: a container has no kernel, a host may
//     have no boot loader.
//   - What cannot be told is said so, with the reason; it is never guessed.
//
// A Host holds no state between calls and may be used by several goroutines at
// once. Two calls are two moments: a caller that compares facts takes them from
// one Facts value.
//
// The caller decides what the facts mean. This package knows the layout of
// NixOS closures (nixos/modules/system/activation/top-level.nix), the rules by
// which the boot loaders of NixOS choose their default entry (systemd's
// src/boot/boot.c, GRUB's script language, U-Boot's extlinux.conf) and the
// interfaces of systemd (its D-Bus properties and cgroup names).
package system
