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

config=$1 checkpoint=$2 gpus=$3
shift 3
exec "${PYTHON:-python}" -m torch.distributed.run \
  --nnodes="${NNODES:-1}" --node-rank="${NODE_RANK:-0}" --nproc-per-node="$gpus" \
  --master-addr="${MASTER_ADDR:-127.0.0.1}" --master-port="${PORT:-29500}" \
  "$(dirname "$0")/test.py" "$config" "$checkpoint" --launcher pytorch "$@"
