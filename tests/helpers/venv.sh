#!/bin/sh
# Make the virtual environment $2 of the interpreter $1, unless it is one already.
# $2/.python is touched only when something was made: make compares its time.
set -eu
python=$1
venv=$2
version='import sys; print("%d.%d" % sys.version_info[:2])'

if ! wanted=$("$python" -c "$version" 2>/dev/null); then
    echo "cannot run $python; install Python 3.11 or newer, or say PYTHON=/path/to/python3" >&2
    exit 1
fi
if [ "$("$python" -c 'import sys; print(sys.version_info >= (3, 11))')" != True ]; then
    echo "$python is $wanted; Python 3.11 or newer is needed (PYTHON=python3.12, for example)" >&2
    exit 1
fi
if [ -x "$venv/bin/python" ] && [ "$("$venv/bin/python" -c "$version" 2>/dev/null)" = "$wanted" ]; then
    [ -e "$venv/.python" ] || touch "$venv/.python"
    exit 0
fi
if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
    # Debian ships venv apart from the interpreter.
    sh "$(dirname "$0")/need.sh" "ensurepip-of-$python:python$wanted-venv"
fi
"$python" -m venv --clear "$venv"
touch "$venv/.python"
