# Sourced by slurm_train.sh and slurm_test.sh: run_on_slurm PARTITION JOB_NAME SCRIPT [arguments]
run_on_slurm() {
  local partition=$1 name=$2
  shift 2
  local gpus=${GPUS:-8}
  local per_node=${GPUS_PER_NODE:-$((gpus < 8 ? gpus : 8))}
  local gres=(--gres="gpu:$per_node" --ntasks-per-node="$per_node")
  if [[ $per_node -eq 0 ]]; then gres=(); fi
  # --gpus-per-task=1 would hide the other GPUs of the node from each task, so the node's GPUs are asked for together.
  # The port is worked out inside the job, where its id is known: two jobs on one node must not meet.
  # shellcheck disable=SC2086,SC2016
  PYTHON=${PYTHON:-python} exec srun --partition="$partition" --job-name="$name" \
    --ntasks="$gpus" "${gres[@]}" --cpus-per-task="${CPUS_PER_TASK:-5}" --kill-on-bad-exit=1 ${SRUN_ARGS:-} \
    bash -c 'export MASTER_PORT=${MASTER_PORT:-$((10000 + SLURM_JOB_ID % 20000))}; exec "$PYTHON" -u "$@"' \
    slurm_run "$@" --launcher slurm
}
