#!/bin/sh
# Writes lab.html, lab.svg and lab.json into the folder it is called from.
set -eu
size=--quick
[ "${1:-}" = --full ] && size= && shift
# shellcheck disable=SC2086  # empty means: no option
exec portside lab $size --html lab.html --svg lab.svg --json lab.json "$@"
