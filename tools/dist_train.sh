#!/usr/bin/env bash
# Train on several GPUs of one or more machines with torchrun.
set -euo pipefail

usage() {
  cat <<EOF
usage: $0 CONFIG GPUS [options of tools/train.py]

  CONFIG   config file
  GPUS     GPUs to use on this machine

Environment: NNODES (1), NODE_RANK (0), MASTER_ADDR (127.0.0.1), PORT (29500).
EOF
}
if [[ ${1:-} == -h || ${1:-} == --help ]]; then usage; exit 0; fi
if [[ $# -lt 2 ]]; then usage >&2; exit 2; fi

. "$(dirname "$0")/launch.sh"
config=$(path CONFIG "$1")
gpus=$2
shift 2
torchrun "$gpus" "$(dirname "$0")/train.py" "$config" --launcher pytorch "$@"
