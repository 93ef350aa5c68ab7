# shellcheck shell=sh
# activate of a simulated closure, as stage 2 calls it.

here=$(realpath -- "$0") || exit 1
root=$(root_of "$here")
toplevel=${here#"$root"}
toplevel=${toplevel%/activate}

no_point() {
	:
}

require_test_host
activate_closure no_point
