#!/usr/bin/env bash
# What scripts/tpu.py asks of one TPU host. Everything lies below the home folder.
#
#   host.sh install [EXTRAS]       metro_jax in metro_env, from the wheel and constraints.txt in metro_setup
#   host.sh start [NAME=VALUE ...] -- ARGUMENTS
#                                  python -m metro_jax.train --multihost ARGUMENTS in the background, in metro_run, with
#                                  its log, pid and, when it has ended, status
#   host.sh status                 says "running", "exit STATUS" or "none"
#   host.sh stop                   SIGTERM: the run saves a checkpoint after its step and ends
set -euo pipefail
setup=$HOME/metro_setup environment=$HOME/metro_env run=$HOME/metro_run

running() { [ -e "$run/pid" ] && kill -0 "$(cat "$run/pid")" 2>/dev/null; }

install() {
  local wheel
  wheel=$(ls "$setup"/metro_jax-*.whl)
  # The images of TPU hosts have Python 3.10; uv brings the 3.11 that constraints.txt was tested with.
  python3 -m pip install --quiet --user uv
  python3 -m uv venv --quiet --allow-existing --python 3.11 "$environment"
  # The wheel's version may be that of one already installed, and its content another.
  python3 -m uv pip install --quiet --python "$environment/bin/python" --reinstall-package metro_jax \
    -c "$setup/constraints.txt" "$wheel[${1:-train,tpu}]"
  "$environment/bin/python" -c 'import jax, metro_jax; print("metro_jax", metro_jax.__version__, "jax", jax.__version__)'
}

start() {
  local variables=()
  while [ "$#" -gt 0 ] && [ "$1" != -- ]; do
    variables+=("$1")
    shift
  done
  shift
  if running; then
    echo "a run is still going on here: stop it first" >&2
    exit 1
  fi
  mkdir -p "$run"
  cd "$run"
  rm -f pid status
  # shellcheck disable=SC2016 # the inner shell expands these
  nohup setsid bash -c '"$@" & echo $! > pid; wait $!; echo $? > status' training env "${variables[@]}" \
    "$environment/bin/python" -m metro_jax.train --multihost "$@" >> log 2>&1 < /dev/null &
  # A status that is asked for at once should find it.
  while [ ! -e pid ]; do sleep 0.1; done
}

status() {
  if [ -e "$run/status" ]; then
    echo "exit $(cat "$run/status")"
  elif running; then
    echo running
  else
    echo none
  fi
}

stop() {
  if running; then kill -TERM "$(cat "$run/pid")"; fi
}

case ${1:-} in
  install | start | status | stop) "$@" ;;
  *)
    echo "usage: host.sh install | start [NAME=VALUE ...] -- ARGUMENTS | status | stop" >&2
    exit 2
    ;;
esac
