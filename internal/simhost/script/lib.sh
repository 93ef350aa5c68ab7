# shellcheck shell=sh
# What every script of the simulated host begins with. It needs /bin/sh, coreutils and flock, nothing else.
#
# $root is the directory that the host lies below ("" on a real host) and $toplevel the closure at work. Every link on the
# host has the text that it has on a real one, an absolute path: below a root the kernel would follow it into the machine
# that runs the test, so links are read and prefixed here and never followed.

NL='
'
TAB=$(printf '\t')

# A closed standard error shows as a failing write, as it does to the real program, and not as a signal.
trap '' PIPE

say() {
	printf '%s\n' "$*" >&2 || lost_output
}

# Scripts that die of a lost output in a way of their own define this again.
lost_output() {
	exit 1
}

root_of() { # root_of PATH: what lies before the store that PATH is in
	physical=$(realpath -- "$1") || exit 1
	printf '%s\n' "${physical%/nix/store/*}"
}

# Real closures run on hosts that matter. Below "/" these scripts work only where somebody made the directory that says so.
require_test_host() {
	if [ -z "$root" ] && [ ! -d /etc/sim ]; then
		say "error: this closure is test equipment, and this host has no /etc/sim"
		exit 1
	fi
}

logical() { # logical PATH: PATH as the host sees it, also when the caller gave it with the root in front
	case $1 in
	"$root"/*) printf '%s\n' "${1#"$root"}" ;;
	*) printf '%s\n' "$1" ;;
	esac
}

resolve() { # resolve PATH: the logical path behind all links, whether or not its end exists
	rest=$1 out='' hops=0
	while [ -n "$rest" ]; do
		head=${rest%%/*}
		case $rest in
		*/*) rest=${rest#*/} ;;
		*) rest='' ;;
		esac
		case $head in
		'' | .) continue ;;
		..) out=${out%/*} && continue ;;
		esac
		if [ -L "$root$out/$head" ]; then
			hops=$((hops + 1))
			[ "$hops" -le 40 ] || return 1
			text=$(readlink "$root$out/$head") || return 1
			case $text in /*) out='' ;; esac
			rest=$text/$rest
		else
			out=$out/$head
		fi
	done
	printf '%s\n' "$out"
}

content() { # content PATH: the text of the logical PATH; non-zero if it cannot be read
	real=$(resolve "$1") && [ -f "$root$real" ] && cat "$root$real"
}

replace_file() { # replace_file PHYSICAL-PATH: standard input becomes the file, all of it or nothing
	cat >"$1.tmp" && sync "$1.tmp" && mv -f "$1.tmp" "$1"
}

swap_link() { # swap_link TEXT PHYSICAL-PATH: by rename, never absent
	ln -s "$1" "$2.tmp-$$" && mv -fT "$2.tmp-$$" "$2"
}

# Knobs: files that tell a script to misbehave. The first directory that has one wins: for this boot before for good, for one
# closure before for all, and last what the closure itself carries.
in_knob_dirs() { # in_knob_dirs FUNCTION ARGUMENT: calls FUNCTION DIRECTORY ARGUMENT until it returns zero
	for knobs in "$root/run/sim/${toplevel##*/}" "$root/run/sim" "$root/etc/sim/${toplevel##*/}" "$root/etc/sim" \
		"$root$toplevel/sim"; do
		"$1" "$knobs" "$2" && return 0
	done
	return 1
}

knob() { # knob NAME: its value; non-zero if it is not set
	in_knob_dirs knob_in "$1"
}

knob_in() {
	[ -f "$1/$2" ] && cat "$1/$2"
}

is_nixos() {
	[ -f "$root/etc/NIXOS" ] && return 0
	[ -f "$root/etc/os-release" ] || return 1
	while read -r line || [ -n "$line" ]; do
		case $line in 'ID=nixos' | 'ID="nixos"') return 0 ;; esac
	done <"$root/etc/os-release"
	return 1
}

unit_names() { # unit_names DIRECTORY: the names in it, one to a line
	[ -d "$1" ] && ls "$1"
}

real_systemctl() { # on a directory below which no systemd runs, units do as they are told
	[ -n "$root" ] || systemctl "$@" </dev/null 9>&-
}

# What the activation script of a closure does: its units to /etc, and last of all the running link, which is away for a
# moment, as ln -sfn leaves it.
activate_closure() { # activate_closure POINT-FUNCTION
	units="$root/etc/systemd/system" installed="$root/etc/sim/installed-units"
	mkdir -p "$units" "$root/etc/sim" "$root/run" "$root/nix/var/nix/gcroots"
	for unit in $(cat "$installed" 2>/dev/null); do
		[ -f "$root$toplevel/sim/units/$unit" ] || rm -f "$units/$unit"
	done
	for unit in $(unit_names "$root$toplevel/sim/units"); do
		cp "$root$toplevel/sim/units/$unit" "$units/$unit.tmp" && chmod 0644 "$units/$unit.tmp" &&
			mv -f "$units/$unit.tmp" "$units/$unit"
	done
	unit_names "$root$toplevel/sim/units" | replace_file "$installed"
	swap_link /run/current-system "$root/nix/var/nix/gcroots/current-system"
	rm -f "$root/run/current-system"
	"$1" unlinked
	ln -s "$toplevel" "$root/run/current-system"
}

# A reader of the flat JSON objects that NixOS writes: {"name": "string", ...}. Prints "name<TAB>string" for every member,
# escapes left as they are; whatever is not such an object is an empty one, as it is to NixOS's own check.
flat_object() { # flat_object TEXT
	json=$1 members=''
	json_skip
	json_take '{' || return 0
	json_skip
	if ! json_take '}'; then
		while :; do
			json_skip
			json_string || return 0
			key=$token
			json_skip
			json_take : || return 0
			json_skip
			json_string || return 0
			members=$members$key$TAB$token$NL
			json_skip
			json_take , && continue
			json_take '}' && break
			return 0
		done
	fi
	json_skip
	[ -z "$json" ] && printf '%s' "$members"
}

json_skip() {
	while :; do
		case $json in
		' '* | "$TAB"* | "$NL"*) json=${json#?} ;;
		*) return 0 ;;
		esac
	done
}

json_take() {
	case $json in
	"$1"*) json=${json#?} ;;
	*) return 1 ;;
	esac
}

json_string() {
	json_take '"' || return 1
	token=''
	while :; do
		case $json in
		'"'*) json=${json#?} && return 0 ;;
		"$NL"* | "$TAB"*) return 1 ;;
		'\'?*) escape=${json%"${json#??}"} token=$token$escape json=${json#??} ;;
		'' | '\') return 1 ;;
		*)
			plain=${json%%[\"\\"$NL$TAB"]*}
			token=$token$plain
			json=${json#"$plain"}
			;;
		esac
	done
}
