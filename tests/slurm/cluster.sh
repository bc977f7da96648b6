#!/usr/bin/env bash
# A Slurm cluster of one node on this machine: cluster.sh start FOLDER | stop FOLDER
# "start" installs Debian's slurm-wlm and munge where they are missing (as root), and prints the path of slurm.conf, to
# be put into SLURM_CONF. Everything else lives in FOLDER; "stop" ends the daemons.
set -euo pipefail

if [[ $# -ne 2 || ! $1 =~ ^(start|stop)$ ]]; then echo "usage: $0 start|stop FOLDER" >&2; exit 2; fi
folder=$2

stop() {
  local name pid
  for name in slurmd slurmctld munged; do
    pid=$(cat "$folder/$name.pid" 2>/dev/null) || continue
    kill "$pid" 2>/dev/null || continue
    for _ in $(seq 50); do kill -0 "$pid" 2>/dev/null || break; sleep 0.1; done
    kill -9 "$pid" 2>/dev/null || true
  done
}
if [[ $1 == stop ]]; then stop; exit; fi

missing=
for program in slurmctld slurmd munged sbatch; do command -v "$program" >/dev/null || missing=1; done
if [[ -n $missing ]]; then
  if [[ $(id -u) -ne 0 ]]; then
    echo "Slurm is not installed. As root: apt-get install slurm-wlm munge" >&2
    exit 1
  fi
  export DEBIAN_FRONTEND=noninteractive
  { apt-get update -qq && apt-get install -qq --no-install-recommends slurm-wlm munge; } >"$folder/apt.log" 2>&1 ||
    { tail "$folder/apt.log" >&2; echo "Slurm could not be installed" >&2; exit 1; }
fi

user=$(id -un) host=$(hostname -s)
port=$((30000 + RANDOM % 10000))
mkdir -p "$folder"/{state,spool}
head -c 1024 /dev/urandom >"$folder/munge.key"
chmod 700 "$folder"
chmod 600 "$folder/munge.key"
cat >"$folder/slurm.conf" <<EOF
ClusterName=test
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$port
SlurmdPort=$((port + 1))
SlurmUser=$user
SlurmdUser=$user
AuthType=auth/munge
AuthInfo=socket=$folder/munge.socket,cred_expire=5
CredType=cred/munge
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
SchedulerParameters=batch_sched_delay=0,sched_interval=2
ReturnToService=2
KillWait=5
NodeName=$host NodeAddr=127.0.0.1 CPUs=4 State=UNKNOWN
PartitionName=test Nodes=$host Default=YES MaxTime=INFINITE State=UP
EOF
export SLURM_CONF=$folder/slurm.conf
munged --force --key-file="$folder/munge.key" --socket="$folder/munge.socket" --pid-file="$folder/munged.pid" \
  --log-file="$folder/munged.log" --seed-file="$folder/munged.seed" 2>/dev/null
slurmctld
slurmd -N "$host"
for _ in $(seq 100); do
  if sinfo --noheader --format=%t 2>/dev/null | grep -q idle; then echo "$folder/slurm.conf"; exit; fi
  sleep 0.2
done
echo "the node did not come up:" >&2
tail -n 5 "$folder"/*.log >&2
stop
exit 1
