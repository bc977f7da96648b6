#!/usr/bin/env bash
# Test under Slurm, one task a GPU.
set -euo pipefail

usage() {
  cat <<EOF
usage: $0 PARTITION JOB_NAME CONFIG CHECKPOINT [options of tools/test.py]

Environment:
  GPUS           GPUs in all (8)
  GPUS_PER_NODE  GPUs a node (8, or GPUS if that is less); 0 runs on CPUs
  CPUS_PER_TASK  CPU cores a task, for its data loaders (5)
  SRUN_ARGS      further options of srun
  MASTER_PORT    port of the first task (derived from the job's id)
EOF
}
if [[ ${1:-} == -h || ${1:-} == --help ]]; then usage; exit 0; fi
if [[ $# -lt 4 ]]; then usage >&2; exit 2; fi

here=$(cd "$(dirname "$0")" && pwd)
. "$here/slurm_run.sh"
partition=$1 name=$2
config=$(path CONFIG "$3")
checkpoint=$(path CHECKPOINT "$4")
shift 4
slurm_options "$name" "$partition"
exec srun "${options[@]}" --kill-on-bad-exit=1 bash -c "$in_task" task "$here/test.py" "$config" "$checkpoint" "$@"
