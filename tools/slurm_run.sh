# Sourced by slurm_train.sh, slurm_job.sh and slurm_test.sh: what they ask Slurm for.
#   slurm_options NAME PARTITION   fills the array "options", which sbatch and srun understand alike
#   slurm_limit                    prints the time limit in "options", in seconds; nothing if there is none
#   slurm_seconds TIME             prints a time of Slurm's in seconds; nothing if it is no time, such as UNLIMITED
#   in_task                        what each task runs: bash -c "$in_task" task SCRIPT [arguments]
. "$(dirname "${BASH_SOURCE[0]}")/launch.sh"

slurm_options() {
  local gpus=${GPUS:-8} cpus=${CPUS_PER_TASK:-5}
  number GPUS "$gpus" 1
  local per_node=${GPUS_PER_NODE:-$((gpus < 8 ? gpus : 8))}
  number GPUS_PER_NODE "$per_node" 0
  number CPUS_PER_TASK "$cpus" 1
  number MASTER_PORT "${MASTER_PORT:-29500}" 1 65535
  options=(--job-name="$1" --partition="$2" --ntasks="$gpus" --cpus-per-task="$cpus")
  # --gpus-per-task=1 would hide the other GPUs of the node from each task, so the node's GPUs are asked for together.
  if [[ $per_node -gt 0 ]]; then options+=(--gres="gpu:$per_node" --ntasks-per-node="$per_node"); fi
  set -f # words, and no names of files
  # shellcheck disable=SC2206
  options+=(${SRUN_ARGS:-})
  set +f
}

slurm_limit() {
  local i time=
  for ((i = 0; i < ${#options[@]}; i++)); do
    case ${options[i]} in
      --time=*) time=${options[i]#--time=} ;;
      --time | -t) time=${options[i + 1]:-} ;;
      -t?*) time=${options[i]#-t} ;;
    esac
  done
  slurm_seconds "$time"
}

slurm_seconds() { # minutes, minutes:seconds, hours:minutes:seconds, days-hours, days-hours:minutes[:seconds]
  local time=$1 days=0 a b c
  [[ $time =~ ^[0-9]{1,9}(-[0-9]{1,9})?(:[0-9]{1,9}){0,2}$ && $time =~ [1-9] ]] || return 0 # 0 is no limit
  if [[ $time == *-* ]]; then
    days=${time%%-*}
    IFS=: read -r a b c <<<"${time#*-}:0:0"
    c=${c%%:*}
  else
    IFS=: read -r a b c <<<"$time"
    if [[ -z $c ]]; then c=${b:-0} b=$a a=0; fi
  fi
  echo $((((10#$days * 24 + 10#$a) * 60 + 10#$b) * 60 + 10#$c))
}

export PYTHON=${PYTHON:-python}
# The port is worked out inside the job, where its id is known: two jobs on one node must not meet.
# shellcheck disable=SC2016
in_task='
export MASTER_PORT=${MASTER_PORT:-$((10000 + SLURM_JOB_ID % 20000))}
if [[ -z ${MASTER_ADDR:-} ]]; then
  if [[ ${SLURM_JOB_NUM_NODES:-1} -eq 1 ]]; then MASTER_ADDR=127.0.0.1
  else MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n1); fi
  if [[ -z $MASTER_ADDR ]]; then
    echo "no scontrol in here (a container?): set MASTER_ADDR to the first node before submitting, see docs/distributed_training.md" >&2
    exit 2
  fi
fi
export MASTER_ADDR
exec "$PYTHON" -u "$@" --launcher slurm'
