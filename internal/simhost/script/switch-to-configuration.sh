# shellcheck shell=sh
# bin/switch-to-configuration of a simulated closure: the order, the messages and the exit codes of the real one.

here=$(realpath -- "$0") || exit 1
root=$(root_of "$here")
toplevel=${here#"$root"}
toplevel=${toplevel%/bin/switch-to-configuration}
action=${1-}
state="$root/run/nixos"

record() {
	printf '%s\n' "$*" >>"$root/var/log/sim-switch.log"
}

finish() {
	record "ended $action $toplevel $$ $1"
	exit "$1"
}

fail() { # fail CODE MESSAGE
	code=$1
	shift
	say "$*"
	finish "$code"
}

# The real program's print macro panics when nobody reads its output any more.
lost_output() {
	finish 101
}

# A point in the order at which a test can watch or disturb. Each line of a knob is "POINT [ARGUMENT]"; a knob whose name ends
# in .once is gone when it has served.
point() {
	mkdir -p "$root/run/sim"
	for kind in exec wait exit panic die hang; do
		in_knob_dirs disturb_in "$1"
	done
	return 0
}

disturb_in() { # disturb_in DIRECTORY POINT: non-zero, so that every directory has its turn
	for file in "$1/$kind-at.once" "$1/$kind-at"; do
		[ -f "$file" ] || continue
		argument=$(at_point "$2" "$file") || continue
		case $file in *.once) rm -f "$file" ;; esac
		disturb "$kind" "$2" "$argument"
	done
	return 1
}

at_point() { # at_point POINT FILE: the argument of the first line for POINT
	while read -r name argument || [ -n "$name" ]; do
		if [ "$name" = "$1" ]; then
			printf '%s\n' "$argument"
			return 0
		fi
	done <"$2"
	return 1
}

disturb() { # disturb KIND POINT ARGUMENT
	case $1 in
	exec) root=$root toplevel=$toplevel sh -c "$3" </dev/null 9>&- ;;
	wait)
		: >"$root/run/sim/at-$2"
		while [ ! -e "$root/run/sim/go-$2" ]; do sleep 0.02 9>&-; done
		rm -f "$root/run/sim/at-$2" "$root/run/sim/go-$2"
		;;
	exit) finish "${3:-1}" ;;
	panic)
		say "thread 'main' panicked: failed printing to stderr: Broken pipe (os error 32)"
		finish 101
		;;
	die) kill -KILL $$ ;;
	hang)
		: >"$root/run/sim/at-$2"
		exec sleep infinity
		;;
	esac
}

changed_inhibitors() { # "key : old -> new" for every key that both closures have with different values
	running=$(flat_object "$(content /run/current-system/switch-inhibitors)")
	flat_object "$(content "$toplevel/switch-inhibitors")" | while IFS=$TAB read -r key new; do
		printf '%s\n' "$running" | while IFS=$TAB read -r running_key old; do
			if [ "$running_key" = "$key" ] && [ "$old" != "$new" ]; then
				printf '%s : %s -> %s\n' "$key" "$old" "$new"
			fi
		done
	done
}

# A closure without the file is older than inhibitors, and so is the script that it brings: nothing is compared.
check_inhibitors() {
	own=$(resolve "$toplevel/switch-inhibitors")
	[ -f "$root$own" ] || return 0
	if [ "$action" = boot ]; then
		say 'Not checking switch inhibitors (action = boot)'
		return 0
	fi
	changes=$(changed_inhibitors)
	if [ -z "$changes" ]; then
		say 'Checking switch inhibitors... done'
		return 0
	fi
	say 'Checking switch inhibitors...'
	say 'There are changes to critical components of the system:'
	say "$changes"
	say 'Switching into this system is not recommended.'
	say "You probably want to run 'nixos-rebuild boot' and reboot your system instead."
	say "Pre-switch check 'switchInhibitors' failed"
	return 1
}

pre_switch_checks() {
	[ "${NIXOS_NO_CHECK-}" = 1 ] && return 0
	check_inhibitors || return 1
	if [ "$(knob pre-switch-check)" = fail ]; then
		say "Pre-switch check 'site' failed"
		return 1
	fi
}

# Lists of units, as words. The real lists are files that outlive the process: the next run takes up what they hold.
starts='' restarts='' stops='' skipped=''

plan() {
	units="$root/etc/systemd/system"
	for unit in $(cat "$root/etc/sim/installed-units" 2>/dev/null); do
		[ -f "$root$toplevel/sim/units/$unit" ] && continue
		case $(cat "$units/$unit" 2>/dev/null) in
		*X-StopOnRemoval=false*) ;;
		*) stops="$stops $unit" ;;
		esac
	done
	for unit in $(unit_names "$root$toplevel/sim/units"); do
		new=$(cat "$root$toplevel/sim/units/$unit")
		if [ ! -f "$units/$unit" ]; then
			starts="$starts $unit"
		elif [ "$(cat "$units/$unit")" != "$new" ]; then
			case $new in
			*X-RestartIfChanged=false*) skipped="$skipped $unit" ;;
			*X-StopIfChanged=false*) restarts="$restarts $unit" ;;
			*) stops="$stops $unit" starts="$starts $unit" ;;
			esac
		fi
	done
	if [ "$(resolve /run/current-system)" != "$toplevel" ]; then
		named=$(knob start-list) && starts="$starts $named" && stops="$stops $named"
		named=$(knob restart-list) && restarts="$restarts $named"
	fi
	starts="$starts $(cat "$state/start-list" 2>/dev/null)"
	restarts="$restarts $(cat "$state/restart-list" 2>/dev/null)"
	# shellcheck disable=SC2086 # the lists are words
	{
		starts=$(printf '%s\n' $starts | sort -fu)
		restarts=$(printf '%s\n' $restarts | sort -fu)
	}
}

write_list() { # write_list FILE UNIT...: appends those that are not in it yet
	list=$1
	shift
	for unit in "$@"; do
		case "$NL$(cat "$list" 2>/dev/null)$NL" in
		*"$NL$unit$NL"*) ;;
		*) printf '%s\n' "$unit" >>"$list" ;;
		esac
	done
}

listed() { # listed UNIT...: "a, b", sorted whatever their case, each once
	joined=''
	for unit in $(printf '%s\n' "$@" | sort -fu); do
		joined="$joined${joined:+, }$unit"
	done
	printf '%s\n' "$joined"
}

announce() { # announce WORDS UNIT...: a line, if there is any unit
	words=$1
	shift
	[ "$#" -eq 0 ] || say "$words $(listed "$@")"
}

# Only units that a closure installed are real; names that a knob gave stand for units that systemd does not know.
unit_job() { # unit_job VERB UNIT
	if [ -f "$root/etc/systemd/system/$2" ] && ! real_systemctl "$1" "$2"; then
		say "Failed to $1 $2"
		failed="$failed $2"
	fi
}

failed=''

units_phase() {
	real_systemctl reset-failed
	real_systemctl daemon-reload
	say 'restarting sysinit-reactivation.target'
	# shellcheck disable=SC2086 # the lists are words
	{
		announce 'restarting the following units:' $restarts
		for unit in $restarts; do unit_job restart "$unit"; done
		rm -f "$state/restart-list"
		announce 'starting the following units:' $starts
		for unit in $starts; do unit_job start "$unit"; done
		rm -f "$state/start-list"
	}
	for unit in $(knob failed-units); do
		say "Failed to start $unit"
		failed="$failed $unit"
	done
	for unit in $(unit_names "$root$toplevel/sim/units"); do
		[ -z "$root" ] && systemctl is-failed --quiet "$unit" && failed="$failed $unit"
	done
	return 0
}

# PID 1 becomes the systemd of the new closure, unless it is that already.
reexec_systemd() {
	[ -n "$root" ] && [ -L "$root/proc/1/exe" ] || return 0
	package=$(resolve "$toplevel/systemd")
	[ "$(readlink "$root/proc/1/exe")" = "$package/lib/systemd/systemd" ] && return 0
	say 'restarting systemd...'
	swap_link "$package/lib/systemd/systemd" "$root/proc/1/exe"
}

mkdir -p "$root/var/log"
require_test_host
record "started $action $toplevel $$ $(date +%s)"
case $action in
switch | boot | test | dry-activate | check) ;;
*) fail 1 'Usage: switch-to-configuration [check|switch|boot|test|dry-activate]' ;;
esac
export NIXOS_ACTION="$action"
[ -n "$root" ] || [ "$(id -u)" = 0 ] || fail 1 'switch-to-configuration must be run as the root user'
point start

# The real program leaves with the number of the last system error, here ENOENT.
is_nixos || fail 2 'This is not a NixOS installation!'

mkdir -p "$state"
exec 9>>"$state/switch-to-configuration.lock"
flock -n 9 || fail 11 'Could not acquire lock'
point locked

pre_switch_checks || fail 1 'Pre-switch checks failed'
point checked
[ "$action" != check ] || finish 0

case $action in
switch | boot)
	"$root$toplevel/sim/install-boot-loader" "$toplevel" </dev/null 9>&- || fail 1 'Failed to install bootloader'
	point bootloader
	;;
esac
[ "$action" != boot ] || finish 0

if [ "$(content /run/current-system/init-interface-version)" != "$(content "$toplevel/init-interface-version")" ]; then
	say "Warning: the new NixOS configuration has an 'init' that is"
	say 'incompatible with the current configuration.  The new configuration'
	fail 100 "won't take effect until you reboot the system."
fi

if [ "$(knob dbus)" = down ]; then
	fail 1 'Error: Failed to open dbus connection'
fi

plan
# shellcheck disable=SC2086 # the lists are words
if [ "$action" = dry-activate ]; then
	announce 'would stop the following units:' $stops
	announce 'would NOT stop the following changed units:' $skipped
	say 'would activate the configuration...'
	announce 'would restart the following units:' $restarts
	announce 'would start the following units:' $starts
	finish 0
else
	write_list "$state/start-list" $starts
	write_list "$state/restart-list" $restarts
	announce 'stopping the following units:' $stops
	for unit in $stops; do unit_job stop "$unit"; done
	announce 'NOT restarting the following changed units:' $skipped
fi
point stopped

result=0 forced=$(knob exit-code)
say 'activating the configuration...'
activate_closure point
if [ "$forced" = 2 ]; then
	say "Activation script snippet 'sim' failed (1)"
	say 'Failed to run activate script'
	result=2
fi
point linked

reexec_systemd
units_phase
point units

if [ "$forced" = 4 ] && [ -z "$failed" ]; then
	say 'Failed to start example-web.service'
	failed=example-web.service
fi
if [ -n "$failed" ]; then
	# shellcheck disable=SC2086 # the list is words
	announce 'warning: the following units failed:' $failed
	result=4
fi
point end
case $forced in
'' | 2 | 4) finish "$result" ;;
*) finish "$forced" ;;
esac
