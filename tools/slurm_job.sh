#!/usr/bin/env bash
# The batch job that slurm_train.sh submits: slurm_job.sh TOOLS WORK_DIR SAVE_AHEAD [arguments of train.py]
# Runs the tasks; goes on from the newest checkpoint where Slurm started the job again; asks Slurm to do that when the
# run was told to stop and has saved. The run says so with exit code 75 and with the file WORK_DIR/resume_me, which holds
# the job's id: a task that is killed on its way out changes the code and not the file.
set -uo pipefail

tools=$1 work_dir=$2 save_ahead=$3
shift 3
. "$tools/slurm_run.sh"

limit=$(slurm_seconds "$(squeue --noheader --jobs="$SLURM_JOB_ID" --format=%l 2>/dev/null)")
if [[ -n $limit && $limit -le $save_ahead ]]; then
  echo "the time limit of the job, $limit s, leaves no time to train: the run saves $save_ahead s (SAVE_AHEAD) ahead" \
    "of it. Submit with a longer SRUN_ARGS=--time=... or a smaller SAVE_AHEAD" >&2
  exit 2
fi
if [[ ${SLURM_RESTART_COUNT:-0} =~ ^[1-9] ]]; then
  echo "started again by Slurm, for the $SLURM_RESTART_COUNT. time"
  set -- "$@" --restarted
fi
rm -f "$work_dir/resume_me"
srun --cpus-per-task="$SLURM_CPUS_PER_TASK" --kill-on-bad-exit=1 bash -c "$in_task" task "$tools/train.py" "$@"
code=$?
if [[ $code -eq 75 || $(cat "$work_dir/resume_me" 2>/dev/null) == "$SLURM_JOB_ID" ]]; then
  echo "stopped and saved (exit code $code); asking Slurm to start job $SLURM_JOB_ID again"
  scontrol requeue "$SLURM_JOB_ID" || echo "not requeued; submit again with: --resume auto" >&2
elif [[ $code -ne 0 ]]; then
  echo "exit code $code without a new checkpoint from a signal: not queued again" >&2
fi
exit "$code"
