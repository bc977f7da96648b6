#!/usr/bin/env bash
# Submit training to Slurm, one task a GPU.
set -euo pipefail

usage() {
  cat <<EOF
usage: $0 PARTITION JOB_NAME CONFIG WORK_DIR [options of tools/train.py]

Submits a batch job whose log is WORK_DIR/slurm-JOBID.log. Ahead of its time limit, or when it is preempted, the run
saves and Slurm starts it again from there.

Environment:
  GPUS           GPUs in all (8)
  GPUS_PER_NODE  GPUs a node (8, or GPUS if that is less); 0 runs on CPUs
  CPUS_PER_TASK  CPU cores a task, for its data loaders (5)
  SRUN_ARGS      further options of sbatch, such as "--time=24:00:00 --account=vision"
  SAVE_AHEAD     seconds before the time limit at which the run saves and stops (300); the limit
                 must be longer
  MASTER_PORT    port of the first task (derived from the job's id)
EOF
}
if [[ ${1:-} == -h || ${1:-} == --help ]]; then usage; exit 0; fi
if [[ $# -lt 4 ]]; then usage >&2; exit 2; fi

here=$(cd "$(dirname "$0")" && pwd)
. "$here/slurm_run.sh"
partition=$1 name=$2
config=$(path CONFIG "$3")
work_dir=$(path WORK_DIR "$4")
shift 4
if [[ $work_dir == *\\* ]]; then refuse "Slurm writes no log into a WORK_DIR with a backslash, got $(printf %q "$work_dir")"; fi
slurm_options "$name" "$partition"
save_ahead=${SAVE_AHEAD:-300}
number SAVE_AHEAD "$save_ahead" 1 65535
limit=$(slurm_limit)
if [[ -n $limit && $limit -le $save_ahead ]]; then
  refuse "a time limit of $limit s leaves no time to train: the run saves $save_ahead s (SAVE_AHEAD) ahead of it. Give a \
longer --time in SRUN_ARGS, or a smaller SAVE_AHEAD"
fi
mkdir -p "$work_dir"
job=$(sbatch --parsable --requeue --signal="USR1@$save_ahead" --open-mode=append \
  --output="${work_dir//%/%%}/slurm-%j.log" "${options[@]}" \
  "$here/slurm_job.sh" "$here" "$work_dir" "$save_ahead" "$config" --work-dir "$work_dir" "$@")
echo "submitted job $job; tail -F $work_dir/slurm-${job%%;*}.log"
