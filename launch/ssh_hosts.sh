#!/usr/bin/env bash
# Train on hosts with GPUs that ssh reaches without a password. Run this on any machine:
#
#   HOSTS=hosts.txt WORKDIR=/shared/runs/keyframes launch/ssh_hosts.sh
#
# The same command resumes the run. HOSTS is a file with a host per line, or the hosts between spaces; the first one
# coordinates. Ctrl-C or SIGTERM saves and stops all. With RESTARTS=N, the run starts again up to N times after a host
# was lost or got SIGTERM. The output of the first host is shown; LOGS/HOST.log has that of every host. Arguments are
# passed on to train.py, e.g. --config.train.data.path=/shared/webvid.
#
# shellcheck disable=SC2029  # commands for the hosts are put together here
set -uo pipefail

: "${HOSTS:?file with a host per line, or hosts, e.g. HOSTS='node0 node1'}"
: "${WORKDIR:?folder of the run, which all hosts see}"
CONFIG=${CONFIG:-configs/full.py}
STAGE=${STAGE:-keyframes}
# Folder of the checkout on every host, relative to the home folder, and the Python with `pip install '.[cuda]'`.
CHECKOUT=${CHECKOUT:-show1_jax}
PYTHON=${PYTHON:-python}
PORT=${PORT:-8476}
LOGS=${LOGS:-logs}
RESTARTS=${RESTARTS:-0}
RESTART_SECONDS=${RESTART_SECONDS:-30}
PROCESS_LOST=75
STOPPED_BY_SIGTERM=143
SSH_FAILED=255

if [[ -f $HOSTS ]]; then
  mapfile -t lines <"$HOSTS"
else
  lines=("$HOSTS")
fi
hosts=()
read -r -d '' -a hosts < <(printf '%s\n' "${lines[@]%%#*}")  # without comments
if ((${#hosts[@]} == 0)); then
  echo "HOSTS=$HOSTS names no host" >&2
  exit 2
fi
mkdir -p "$LOGS" || exit 2
first=${hosts[0]#*@}  # without the user's name
stopping=

# Every host keeps the process id of its training in a file, to stop it: ssh does not pass signals on.
run_id=$(printf '%s' "$WORKDIR" | cksum | cut -d ' ' -f 1)
pid_file() { echo "\${TMPDIR:-/tmp}/show1-$run_id-$1.pid"; }

# shellcheck disable=SC2329  # the trap calls it
stop() {
  local index  # the trap may run within `await`
  stopping=1
  echo "stopping all hosts; they save first" >&2
  for index in "${!hosts[@]}"; do
    ssh "${hosts[index]}" "kill -TERM \$(cat $(pid_file "$index"))" </dev/null &
  done
}
trap stop INT TERM

start() {
  processes=()
  local index command
  for index in "${!hosts[@]}"; do
    printf -v command '%q ' "$PYTHON" train.py --config "$CONFIG" --stage "$STAGE" --workdir "$WORKDIR" \
      --coordinator_address "$first:$PORT" --num_processes "${#hosts[@]}" --process_id "$index" "$@"
    command="cd $(printf '%q' "$CHECKOUT") && echo \$\$ >$(pid_file "$index") && exec $command"
    if ((index == 0)); then
      ssh "${hosts[index]}" "$command" </dev/null > >(tee -a "$LOGS/${hosts[index]}.log") 2>&1 &
    else
      ssh "${hosts[index]}" "$command" </dev/null >>"$LOGS/${hosts[index]}.log" 2>&1 &
    fi
    processes+=($!)
  done
}

# Wait for all processes. Set `status` to the first exit code that is not 0, and `again` if a host was lost or stopped.
await() {
  status=0 again=
  local index code
  for index in "${!hosts[@]}"; do
    while :; do
      wait "${processes[index]}"
      code=$?
      kill -0 "${processes[index]}" 2>/dev/null || break  # it is there: a signal has ended `wait`
    done
    ((code == 0)) || echo "${hosts[index]}: exit code $code" >&2
    ((status == 0)) && status=$code
    case $code in "$PROCESS_LOST" | "$STOPPED_BY_SIGTERM" | "$SSH_FAILED") again=1 ;; esac
  done
}

for ((attempt = 0; ; attempt++)); do
  start "$@"
  await
  if [[ -z $again || -n $stopping ]] || ((attempt >= RESTARTS)); then
    exit "$status"
  fi
  echo "starting again in $RESTART_SECONDS s" >&2
  sleep "$RESTART_SECONDS"
done
