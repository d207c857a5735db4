#!/bin/sh
# need.sh [--try] COMMAND:PACKAGE...   install the Debian package of each command that is missing.
# COMMAND may be the path of a file too: of a header, say. As root or by `sudo -n`.
# What cannot be installed is named, and is an error without --try.
set -u
try=0
if [ "${1:-}" = --try ]; then
    try=1
    shift
fi

missing=
for pair in "$@"; do
    command -v "${pair%%:*}" >/dev/null 2>&1 || [ -e "${pair%%:*}" ] || missing="$missing ${pair#*:}"
done
[ -n "$missing" ] || exit 0

if [ "$(id -u)" = 0 ]; then
    as_root=
elif sudo -n true 2>/dev/null; then
    as_root="sudo -n"
else
    as_root=none
fi

failed=$missing
if [ "$as_root" != none ] && command -v apt-get >/dev/null 2>&1; then
    echo "installing:$missing" >&2
    $as_root apt-get update -qq >/dev/null 2>&1
    failed=
    for package in $missing; do
        DEBIAN_FRONTEND=noninteractive $as_root apt-get install -y -qq --no-install-recommends \
            "$package" >/dev/null || failed="$failed $package"
    done
fi
[ -n "$failed" ] || exit 0
echo "cannot install:$failed (run: sudo apt-get install$failed)" >&2
[ "$try" = 1 ]
