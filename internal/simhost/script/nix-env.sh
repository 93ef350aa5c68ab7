# shellcheck shell=sh
# nix-env for a machine without Nix: profiles and their generations, numbered as Nix numbers them.

here=$(realpath -- "$0") || exit 1
root=$(root_of "$here")
[ -n "$root" ] || { say 'error: the simulated Nix does not touch a real profile' && exit 1; }
toplevel='' profile='' operation='' argument=''

generations() { # the numbers of the profile's generations, ascending
	for link in "$profile"-*-link; do
		[ -L "$link" ] || continue
		number=${link#"$profile"-}
		number=${number%-link}
		case $number in *[!0-9]*) continue ;; esac
		printf '%s\n' "$number"
	done | sort -n
}

current() { # the number that the profile stands at; nothing for a new profile
	[ -L "$profile" ] || return 0
	number=$(readlink "$profile")
	number=${number##*-link/}
	number=${number%-link}
	printf '%s\n' "${number##*-}"
}

go_to() { # go_to NUMBER
	swap_link "${profile##*/}-$1-link" "$profile"
}

# The highest generation is taken again if it is the same closure, whatever the profile stands at; else there is a new one.
set_to() { # set_to PATH
	"${here%/*}/nix-store" --realise "$1" --add-root "/nix/var/nix/gcroots/tmp/nix-env-$$" >/dev/null || exit 1
	highest=$(generations | tail -n 1)
	if [ -z "$highest" ] || [ "$(readlink "$profile-$highest-link")" != "$1" ]; then
		highest=$((${highest:-0} + 1))
		swap_link "$1" "$profile-$highest-link"
	fi
	go_to "$highest"
	rm -f "$root/nix/var/nix/gcroots/tmp/nix-env-$$"
}

switch_to() { # switch_to NUMBER
	if [ ! -L "$profile-$1-link" ]; then
		say "error: profile version $1 does not exist"
		exit 1
	fi
	say "switching profile from version $(current) to $1"
	go_to "$1"
}

roll_back() {
	before=''
	for number in $(generations); do
		[ "$number" -lt "$(current)" ] && before=$number
	done
	if [ -z "$before" ]; then
		say "error: no profile version older than the current ($(current)) exists"
		exit 1
	fi
	switch_to "$before"
}

list() {
	now=$(current)
	for number in $(generations); do
		made=$(date -d "@$(stat -c %Z "$profile-$number-link")" '+%Y-%m-%d %H:%M:%S')
		mark=''
		[ "$number" != "$now" ] || mark='(current)'
		printf '%4d   %s   %s\n' "$number" "$made" "$mark"
	done
}

delete() { # delete old|NUMBER
	for number in $(generations); do
		[ "$number" != "$(current)" ] || continue
		case $1 in
		old | "$number") rm -f "$profile-$number-link" ;;
		esac
	done
}

while [ "$#" -gt 0 ]; do
	case $1 in
	--profile | -p) profile=$root$(logical "$2") && shift ;;
	--set) operation=set argument=$(logical "$2") && shift ;;
	--switch-generation | -G) operation=switch argument=$2 && shift ;;
	--delete-generations) operation=delete argument=$2 && shift ;;
	--rollback) operation=rollback ;;
	--list-generations) operation=list ;;
	--option) shift 2 ;;
	*) say "error: unrecognised flag '$1'" && exit 1 ;;
	esac
	shift
done
[ -n "$profile" ] || profile=$root/nix/var/nix/profiles/default
mkdir -p "${profile%/*}"
exec 9>>"$profile.lock"
flock 9

case $operation in
set) set_to "$argument" ;;
switch) switch_to "$argument" ;;
delete) delete "$argument" ;;
rollback) roll_back ;;
list) list ;;
*) say 'error: no operation specified' && exit 1 ;;
esac
