#!/usr/bin/env bash
# Test on several GPUs of one or more machines with torchrun.
set -euo pipefail

usage() {
  cat <<EOF
usage: $0 CONFIG CHECKPOINT GPUS [options of tools/test.py]

  CONFIG      config file
  CHECKPOINT  checkpoint trained with it
  GPUS        GPUs to use on this machine

Environment: NNODES (1), NODE_RANK (0), MASTER_ADDR (127.0.0.1), PORT (29500).
EOF
}
if [[ ${1:-} == -h || ${1:-} == --help ]]; then usage; exit 0; fi
if [[ $# -lt 3 ]]; then usage >&2; exit 2; fi

. "$(dirname "$0")/launch.sh"
config=$(path CONFIG "$1")
checkpoint=$(path CHECKPOINT "$2")
gpus=$3
shift 3
torchrun "$gpus" "$(dirname "$0")/test.py" "$config" "$checkpoint" --launcher pytorch "$@"
