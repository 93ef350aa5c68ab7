# shellcheck shell=sh
# sim/install-boot-loader TOPLEVEL: writes the entries of systemd-boot for what the system profile lists, as the builder of
# NixOS does. TOPLEVEL becomes the default only if a generation of the profile is it.

here=$(realpath -- "$0") || exit 1
root=$(root_of "$here")
toplevel=$1
boot="$root/boot"
entries="$boot/loader/entries"

require_test_host

[ "$(knob boot-loader)" != silent ] || exit 0

generations() { # the numbers that the profile lists, ascending, no more than the configuration limit
	limit=$(knob configuration-limit) || limit=0
	for link in "$root"/nix/var/nix/profiles/system-*-link; do
		[ -L "$link" ] || continue
		number=${link##*/system-}
		printf '%s\n' "${number%-link}"
	done | sort -n | if [ "$limit" -gt 0 ]; then tail -n "$limit"; else cat; fi
}

image() { # image LINK: copies what the link of a closure names to the boot partition and prints where it is there
	store_path=$(resolve "$1")
	directory=${store_path%/*}
	copy=/EFI/nixos/${directory##*/}-${store_path##*/}.efi
	if [ ! -f "$boot$copy" ]; then
		if [ -f "$root$store_path" ]; then
			cat "$root$store_path"
		else
			printf 'stands for %s\n' "$store_path"
		fi | replace_file "$boot$copy"
	fi
	used="$used ${copy##*/}"
}

describe() { # describe GENERATION CLOSURE SPECIALISATION: the text of the entry, in $text
	title=NixOS${3:+ ($3)}
	built=$(date -d "@$(stat -c %Z "$root/nix/var/nix/profiles/system-$1-link")" +%F)
	text="title $title${NL}sort-key nixos${NL}version Generation $1 NixOS $(content "$2/nixos-version"), built on $built$NL"
	for kind in kernel initrd; do
		[ -L "$root$2/$kind" ] || continue
		image "$2/$kind"
		case $kind in
		kernel) text="${text}linux $copy$NL" ;;
		initrd) text="${text}initrd $copy$NL" ;;
		esac
	done
	text="${text}options init=$2/init $(content "$2/kernel-params")${NL}machine-id $(cat "$root/etc/machine-id")$NL"
}

# An entry that is there already keeps its name, and with it what boot counting wrote into it.
write_entry() { # write_entry GENERATION CLOSURE SPECIALISATION: writes $text; the entry's id in $id
	case $format in
	hashed)
		digest=$(printf '%s' "$text" | sha256sum)
		id=nixos-${digest%% *}
		file=$id
		tries=$(knob boot-tries) && file=$id+$tries
		for present in "$entries/$id.conf" "$entries/$id"+*.conf; do
			[ ! -f "$present" ] || { file=${present##*/} && file=${file%.conf}; }
		done
		;;
	*)
		id=nixos-generation-$1${3:+-specialisation-$3}
		file=$id
		;;
	esac
	printf '%s' "$text" | replace_file "$entries/$file.conf"
	written="$written $file.conf"
	if [ "$2" = "$toplevel" ] && { [ -z "$3" ] || [ "$format" = hashed ]; }; then
		default=$id.conf
	fi
}

write_default() {
	case $format:$default in
	hashed:) lines='default nixos-*' ;;
	hashed:*) lines="preferred $default${NL}default nixos-*" ;;
	*:) return 0 ;;
	*) lines="default $default" ;;
	esac
	printf 'timeout 5\n%s\nconsole-mode keep\n' "$lines" | replace_file "$boot/loader/loader.conf"
}

among() { # among NAME NAME...
	wanted=$1
	shift
	for name in "$@"; do
		[ "$name" != "$wanted" ] || return 0
	done
	return 1
}

# The builder of the older format knows only its own names; the one of the newer removes both.
prune_entries() {
	for file in "$entries"/nixos-*.conf; do
		[ -f "$file" ] || continue
		# shellcheck disable=SC2086 # the list is words
		among "${file##*/}" $written && continue
		case $format:${file##*/} in
		hashed:* | *:nixos-generation-*) rm -f "$file" ;;
		esac
	done
}

# Room is made before anything is written: an entry whose generation is gone goes first.
prune_generations() {
	for file in "$entries"/nixos-generation-*.conf; do
		[ -f "$file" ] || continue
		number=${file##*/nixos-generation-}
		number=${number%.conf}
		number=${number%%-*}
		[ -L "$root/nix/var/nix/profiles/system-$number-link" ] || rm -f "$file"
	done
}

prune_images() {
	for file in "$boot"/EFI/nixos/*.efi; do
		[ -f "$file" ] || continue
		# shellcheck disable=SC2086 # the list is words
		among "${file##*/}" $used || rm -f "$file"
	done
}

mkdir -p "$entries" "$boot/EFI/nixos"
format=$(knob entry-format) || format=generation
default='' written='' used=''
prune_generations
if [ "$(knob boot-loader)" = full ]; then
	say "OSError: [Errno 28] No space left on device: '/boot/EFI/nixos'"
	exit 1
fi
for generation in $(generations); do
	closure=$(resolve "/nix/var/nix/profiles/system-$generation-link")
	if [ ! -e "$root$closure/init" ]; then
		say "ignoring generation $generation in the list of boot entries: $closure is not there"
		continue
	fi
	describe "$generation" "$closure" ''
	write_entry "$generation" "$closure" ''
	for link in "$root$closure"/specialisation/*; do
		[ -L "$link" ] || continue
		child=$(resolve "$closure/specialisation/${link##*/}")
		describe "$generation" "$child" "${link##*/}"
		write_entry "$generation" "$child" "${link##*/}"
	done
done
prune_entries
prune_images
if [ "$(knob boot-loader)" = partial ]; then
	say "OSError: [Errno 28] No space left on device: '/boot/loader/loader.conf.tmp'"
	exit 1
fi
write_default
