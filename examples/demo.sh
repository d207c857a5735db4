#!/bin/sh
# Run a real training program through a private agent, kill the agent in the middle, and see
# the job end well. Touches nothing of the user's; `make demo` calls it with the bin directory.
set -eu
bin=$(cd "$1" && pwd)
here=$(cd "$(dirname "$0")" && pwd)
PATH="$bin:$PATH"
place=$(mktemp -d /tmp/agentctl-demo-XXXXXX)
export AGENTD_STATE_DIR="$place/state" AGENTD_RUNTIME_DIR="$place/run"
export AGENTCTL_CONFIG="$place/config.toml"
unset AGENTCTL_HOST || true

clean_up() {
    status=$?
    trap - EXIT INT TERM
    agentctl stop --grace 2s training >/dev/null 2>&1 || true
    agentctl agent stop >/dev/null 2>&1 || true
    rm -rf "$place"
    exit "$status"
}
trap clean_up EXIT
trap 'exit 130' INT TERM

say() { printf '\n== %s\n' "$*"; }
field() { agentctl agent status --json | python3 -c "import json, sys; print(json.load(sys.stdin)['$1'])"; }

cd "$place"
say "submit a training program; the agent is started on demand"
echo '$ agentctl submit --name training -- python3 train.py --epochs 600'
id=$(agentctl submit --name training -- "$bin/python" "$here/train.py" --epochs 600)
echo "$id"

say "kill -9 the whole agent while the job trains"
sleep 1
kill -9 "$(field warden_pid)" "$(field server_pid)"

say "the next command starts a new agent, which finds the job running"
echo '$ agentctl ls'
agentctl ls

say "follow it to its end"
echo "\$ agentctl logs -f $id"
agentctl logs -f "$id" | awk 'NR <= 3 || /00\/600|done/'

say "what is known afterwards"
echo "\$ agentctl show $id"
agentctl show "$id"
agentctl wait "$id"
say "exit status 0: nothing was lost; the agent of this demo is stopped and its files removed"
