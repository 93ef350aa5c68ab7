# shellcheck shell=sh
# nix-store for a machine without Nix: what is in ROOT/nix/store is valid, and ROOT/nix/cache is the one binary cache.

here=$(realpath -- "$0") || exit 1
root=$(root_of "$here")
toplevel=''
[ -n "$root" ] || { say 'error: the simulated Nix does not touch a real store' && exit 1; }
store="$root/nix/store"
cache="$root/nix/cache"
references="$root/nix/var/nix/db/references"
cache_url=http://cache.example.org

no_substitute() { # no_substitute PATH: the end of every failure to realise
	if [ "$(knob nix-wording)" = 2.8 ]; then
		say "don't know how to build these paths:"
		say "  $1"
		say "error: build of '$1' failed"
	else
		say "error: path '$1' is required, but there is no substituter that can build it"
	fi
	exit 1
}

check_name() { # check_name PATH
	base=${1#/nix/store/}
	case $1 in
	/nix/store/*/*) ;;
	/nix/store/????????????????????????????????-?*) return 0 ;;
	/nix/store/*) say "error: '$base' is too short to be a valid store path" && exit 1 ;;
	esac
	say "error: path '$1' is not in the Nix store"
	exit 1
}

fetch() { # fetch NAME: from the cache, what it refers to before itself
	[ ! -e "$store/$1" ] || return 0
	[ -e "$cache/$1" ] || return 1
	for needed in $(cat "$cache/$1.references" 2>/dev/null); do
		[ "$needed" = "$1" ] || fetch "$needed" || return 1
	done
	say "copying path '/nix/store/$1' from '$cache_url'..."
	mkdir -p "$references"
	cp -RP "$cache/$1" "$store/.$1.tmp-$$" && mv -T "$store/.$1.tmp-$$" "$store/$1"
	[ ! -f "$cache/$1.references" ] || cp "$cache/$1.references" "$references/$1"
}

realise() { # realise PATH
	check_name "$1"
	[ ! -e "$root$1" ] || return 0
	case $(knob cache) in
	unreachable)
		say "warning: unable to download '$cache_url/nix-cache-info': Couldn't connect to server (7)"
		no_substitute "$1"
		;;
	unsigned)
		if [ ! -e "$cache/${1##*/}" ]; then
			no_substitute "$1"
		elif [ "$(knob nix-wording)" = 2.8 ]; then
			say "warning: the substitute for '$1' from '$cache_url' is not signed by any of the keys in 'trusted-public-keys'"
		else
			say "warning: ignoring substitute for '$1' from '$cache_url', as it's not signed by any of the keys in 'trusted-public-keys'"
		fi
		no_substitute "$1"
		;;
	full)
		say "error: writing to file: No space left on device"
		exit 1
		;;
	esac
	fetch "${1##*/}" || no_substitute "$1"
}

add_root() { # add_root LINK PATH: the link, and a root that leads to it where it is no root by its place
	link=$(logical "$1")
	mkdir -p "$root${link%/*}"
	swap_link "$2" "$root$link"
	case $link in
	/nix/var/nix/gcroots/*) ;;
	*)
		mkdir -p "$root/nix/var/nix/gcroots/auto"
		digest=$(printf '%s' "$link" | sha256sum)
		swap_link "$link" "$root/nix/var/nix/gcroots/auto/$(printf '%.32s' "$digest")"
		;;
	esac
}

requisites() { # requisites NAME...: the closure of the names
	seen=' '
	while [ "$#" -gt 0 ]; do
		name=$1
		shift
		case $seen in *" $name "*) continue ;; esac
		seen="$seen$name "
		printf '/nix/store/%s\n' "$name"
		# shellcheck disable=SC2046 # names hold no blanks
		set -- "$@" $(cat "$references/$name" 2>/dev/null)
	done
}

operation='' link_to='' paths=''
while [ "$#" -gt 0 ]; do
	case $1 in
	--realise | -r) operation=realise ;;
	--query | -q) : "${operation:=query}" ;;
	--references) operation=references ;;
	--requisites | -R) operation=requisites ;;
	--check-validity) operation=check ;;
	--add-root) link_to=$2 && shift ;;
	--option) shift 2 ;;
	--indirect | --quiet | --ignore-unknown) ;;
	-*) say "error: unrecognised flag '$1'" && exit 1 ;;
	*) paths="$paths $(logical "$1")" ;;
	esac
	shift
done

number=0
for path in $paths; do
	number=$((number + 1))
	case $operation in
	realise)
		realise "$path"
		if [ -n "$link_to" ]; then
			named=$link_to
			[ "$number" -eq 1 ] || named=$link_to-$number
			add_root "$named" "$path" || exit 1
			printf '%s\n' "$named"
		else
			say "warning: you did not specify '--add-root'; the result might be removed by the garbage collector"
			printf '%s\n' "$path"
		fi
		;;
	check | references | requisites)
		if [ ! -e "$root$path" ]; then
			say "error: path '$path' is not valid"
			exit 1
		fi
		case $operation in
		references)
			for name in $(cat "$references/${path##*/}" 2>/dev/null); do printf '/nix/store/%s\n' "$name"; done
			;;
		requisites) requisites "${path##*/}" ;;
		esac
		;;
	*) say 'error: no operation specified' && exit 1 ;;
	esac
done
