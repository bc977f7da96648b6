#!/usr/bin/env bash
# The batch job that slurm_train.sh submits: slurm_job.sh IN_TASK SCRIPT [arguments]
# Runs the tasks; goes on from the newest checkpoint where Slurm started the job again; asks Slurm to do that when the
# run exits with 75, which means that it was told to stop and has saved.
set -uo pipefail

in_task=$1
shift
restarts=${SLURM_RESTART_COUNT:-0}
if [[ $restarts -gt 0 ]]; then
  echo "started again by Slurm, for the ${restarts}. time"
  set -- "$@" --resume auto
fi
srun --cpus-per-task="$SLURM_CPUS_PER_TASK" --kill-on-bad-exit=1 bash -c "$in_task" task "$@"
code=$?
if [[ $code -eq 75 ]]; then
  echo "stopped and saved; asking Slurm to start job $SLURM_JOB_ID again"
  scontrol requeue "$SLURM_JOB_ID" || echo "not requeued; submit again with: --resume auto" >&2
fi
exit "$code"
