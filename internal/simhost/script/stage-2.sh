# shellcheck shell=sh
# stage-2.sh [ROOT]: a boot, up to where PID 1 starts units. It picks the entry that systemd-boot would pick, and makes the
# links that the stage 2 of NixOS makes of that entry's init=.

root=${1-}
[ -z "$root" ] || root=$(realpath -- "$root") || exit 1
[ "$root" != / ] || root=''
toplevel=''
entries="$root/boot/loader/entries"
variables="$root/sys/firmware/efi/efivars"
vendor=4a67b082-0a4c-41cf-b6c7-440b29bb8c4f

require_test_host

stop_boot() {
	say "stage-2: $*"
	exit 1
}

option() { # option NAME: its value in loader.conf, the last one where there are several
	[ -f "$root/boot/loader/loader.conf" ] || return 0
	while read -r name value || [ -n "$name" ]; do
		[ "$name" != "$1" ] || printf '%s\n' "$value"
	done <"$root/boot/loader/loader.conf" | tail -n 1
}

variable() { # variable NAME: a UTF-16 EFI variable as text, without the four bytes of attributes
	[ -f "$variables/$1-$vendor" ] || return 0
	tail -c +5 "$variables/$1-$vendor" | tr -d '\000'
}

field() { # field FILE NAME: the value of an entry's field
	while read -r name value || [ -n "$name" ]; do
		if [ "$name" = "$2" ]; then
			printf '%s\n' "$value"
			return 0
		fi
	done <"$1"
}

closure_of() { # closure_of FILE: what the entry boots
	for word in $(field "$1" options); do
		case $word in
		init=*/init)
			word=${word#init=}
			printf '%s\n' "${word%/init}"
			return 0
			;;
		esac
	done
}

id_of() { # id_of FILE-NAME: without the boot counter
	case $1 in
	*+*) printf '%s.conf\n' "${1%%+*}" ;;
	*) printf '%s\n' "$1" ;;
	esac
}

tries_left() { # tries_left FILE-NAME: nothing for an entry that is not counted
	case $1 in
	*+*)
		counter=${1##*+}
		counter=${counter%.conf}
		printf '%s\n' "${counter%%-*}"
		;;
	esac
}

# The order of the loader's menu: entries without tries left last, the newest version first, then the highest id. All
# entries of a NixOS host have the same sort key and machine id.
menu() {
	for file in "$entries"/*.conf; do
		[ -f "$file" ] || continue
		name=${file##*/}
		bad=0
		[ "$(tries_left "$name")" != 0 ] || bad=1
		printf '%s\t%s\t%s\t%s\n' "$bad" "$(field "$file" version)" "$(id_of "$name")" "$name"
	done | sort -t "$TAB" -k1,1n -k2,2Vr -k3,3Vr | cut -f 4
}

first_match() { # first_match PATTERN: the first of the menu whose id matches
	[ -n "$1" ] || return 1
	for name in $(menu); do
		# shellcheck disable=SC2254 # a pattern is what loader.conf holds
		case $(id_of "$name") in
		$1)
			printf '%s\n' "$name"
			return 0
			;;
		esac
	done
	return 1
}

chosen_once() { # the operator's choice in the menu: the name of an entry, or a closure that an entry boots
	[ -f "$root/etc/sim/boot-once" ] || return 1
	wish=$(cat "$root/etc/sim/boot-once")
	for name in $(menu); do
		if [ "$name" = "$wish" ] || [ "$(id_of "$name")" = "$wish" ] || [ "$(closure_of "$entries/$name")" = "$wish" ]; then
			printf '%s\n' "$name"
			return 0
		fi
	done
	stop_boot "no entry for $wish"
}

preferred() { # passed over when its tries are used up
	name=$(first_match "$(option preferred)") && [ "$(tries_left "$name")" != 0 ] && printf '%s\n' "$name"
}

pick() {
	chosen_once || first_match "$(variable LoaderEntryOneShot)" || first_match "$(variable LoaderEntryDefault)" ||
		preferred || first_match "$(option default)" || first_match '*'
}

count_down() { # one try less in the name of the entry, before it is booted
	left=$(tries_left "$entry")
	if [ -n "$left" ] && [ "$left" -gt 0 ]; then
		used=${entry##*+}
		used=${used%.conf}
		case $used in
		*-*) used=${used#*-} ;;
		*) used=0 ;;
		esac
		counted=${entry%+*}+$((left - 1))-$((used + 1)).conf
		mv -f "$entries/$entry" "$entries/$counted"
		entry=$counted
	fi
}

bless() { # what systemd-bless-boot does once the boot is complete
	case $entry in
	*+*)
		knob no-bless >/dev/null && return 0
		mv -f "$entries/$entry" "$entries/${entry%+*}.conf"
		entry=${entry%+*}.conf
		;;
	esac
}

fails_to_boot() {
	for name in $(knob boot-fails); do
		[ "$name" != "$1" ] || return 0
	done
	return 1
}

while :; do
	entry=$(pick) || stop_boot 'no boot entry'
	rm -f "$root/etc/sim/boot-once" "$variables/LoaderEntryOneShot-$vendor"
	toplevel=$(closure_of "$entries/$entry")
	[ -n "$toplevel" ] || stop_boot "$entry has no init="
	left=$(tries_left "$entry")
	count_down
	fails_to_boot "$toplevel" || break
	if [ -z "$left" ] || [ "$left" = 0 ]; then
		stop_boot "$toplevel does not boot, and nothing counts its tries"
	fi
done
[ -e "$root$toplevel/init" ] || stop_boot "$entry: $toplevel/init is not there"

mkdir -p "$root/run/sim" "$root/nix/var/nix/gcroots"
rm -rf "$root/nix/var/nix/gcroots/tmp" "$root/nix/var/nix/temproots"
printf '%s\n' "$entry" >"$root/run/sim/booted-entry"
swap_link "$toplevel" "$root/run/booted-system"
swap_link /run/booted-system "$root/nix/var/nix/gcroots/booted-system"
if [ -x "$root$toplevel/activate" ]; then
	"$root$toplevel/activate" || say "stage-2: activate failed"
else
	swap_link "$toplevel" "$root/run/current-system"
	swap_link /run/current-system "$root/nix/var/nix/gcroots/current-system"
fi
bless

units=$(cat "$root/etc/sim/installed-units" 2>/dev/null)
if [ -n "$units" ]; then
	real_systemctl daemon-reload
	# shellcheck disable=SC2086 # the list is words
	real_systemctl start --no-block $units
fi
exit 0
