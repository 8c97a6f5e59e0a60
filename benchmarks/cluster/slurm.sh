#!/usr/bin/env bash
# Slurm on this one machine: two processes as one cluster; an array of two categories and what
# depends on it; a job that is preempted, requeued, warned of its time limit, and cancelled.
#
#   apt-get install slurm-wlm munge, as root
#   PYTHON=.venv/bin/python benchmarks/cluster/slurm.sh
set -euo pipefail
# shellcheck source-path=SCRIPTDIR
source "$(dirname "$0")/common.sh"
S=$(mktemp -d)  # configuration, sockets, logs and state of the daemons
export SLURM_CONF=$S/slurm.conf
daemons=()
stop() {
  scancel --user="$USER" 2> /dev/null || true  # of this Slurm, by SLURM_CONF
  sleep 1
  kill "${daemons[@]}" 2> /dev/null || true
  wait
  if [[ -z $KEPT ]]; then rm -rf "$WORK" "$S"; else echo "kept: $WORK and $S"; fi
}
USER=${USER:-$(id -un)}
trap stop EXIT

host=$(hostname -s)
cat > "$SLURM_CONF" << END
ClusterName=tiny
SlurmctldHost=$host(127.0.0.1)
SlurmUser=$USER
SlurmdUser=$USER
AuthType=auth/munge
AuthInfo=socket=$S/munge.socket
CredType=cred/munge
StateSaveLocation=$S/state
SlurmdSpoolDir=$S/spool
SlurmctldPidFile=$S/slurmctld.pid
SlurmdPidFile=$S/slurmd.pid
SlurmctldPort=16817
SlurmdPort=16818
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
SchedulerParameters=batch_sched_delay=1,sched_interval=2,bf_interval=2,preempt_send_user_signal
ReturnToService=2
JobRequeue=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
KillWait=60
NodeName=$host NodeAddr=127.0.0.1 CPUs=4
PartitionName=low Nodes=$host Default=YES PriorityTier=1 GraceTime=60
PartitionName=high Nodes=$host PriorityTier=2 PreemptMode=OFF
END
mkdir "$S/state" "$S/spool"
chmod 755 "$S"
head -c 128 /dev/urandom > "$S/munge.key"
chmod 400 "$S/munge.key"
munged --foreground --force --key-file="$S/munge.key" --socket="$S/munge.socket" \
  --pid-file="$S/munge.pid" --log-file="$S/munge.log" --seed-file="$S/munge.seed" 2> "$S/munge.err" &
daemons+=($!)
until [[ -S $S/munge.socket ]]; do sleep 0.1; done
slurmctld -D > "$S/slurmctld.log" 2>&1 &
daemons+=($!)
slurmd -D -N "$host" > "$S/slurmd.log" 2>&1 &
daemons+=($!)
for _ in {1..60}; do
  if sinfo -h -o %T 2> /dev/null | grep -q idle; then break; fi
  sleep 1
done
sinfo --version
sinfo

state() { scontrol show job "$1" | grep -o 'JobState=[A-Z_]*\|Restarts=[0-9]*' | paste -sd ' '; }
over() { [[ $(state "$1") =~ COMPLETED|CANCELLED|FAILED|TIMEOUT|NODE_FAIL ]]; }
waiting() { until over "$1"; do sleep 1; done; }
line() { tail -n 1 "$1/metrics.jsonl" 2> /dev/null | grep -o '"step": [0-9]*' | tr -dc 0-9; }
hurry() {  # Slurm starts what is requeued after two minutes; this, at once
  if [[ $(scontrol show job "$1") == *Reason=BeginTime* ]]; then
    scontrol update JobId="$1" StartTime=now
  fi
}
reached() {  # reached JOB RUN STEP: waits until the job has made that step, or has ended
  until [[ $(line "$2") -ge $3 ]] || over "$1"; do
    sleep 0.3
    hurry "$1"
  done
}

again() {  # again JOB N: waits until the job has been started again for the Nth time, or has ended
  until [[ $(state "$1") == *RUNNING*Restarts=$2 ]] || over "$1"; do
    sleep 0.3
    hurry "$1"
  done
}

cluster() {
  by_hand
  say "srun -n 2 python -m diffad_jax.main --mode train"
  srun -n 2 "${TRAIN[@]}" --workdir "$WORK/srun" 2> "$WORK/srun.log" || cat "$WORK/srun.log"
  grep -o 'process [01] of 2' "$WORK/srun.log" | sort | sed 's/^/  /'
  check "weights, log and scores are those of two processes by hand" same "$WORK/hand" "$WORK/srun"
}

SBATCH=(sbatch --parsable --output="$WORK/%x-%A_%a.log")
FILE=docs/cluster/slurm_array.sbatch
export DIFFAD="$PYTHON -m diffad_jax.main" CONFIG=configs/test.py ROOT=$WORK/data RUNS

array() {
  RUNS=$WORK/array
  say "sbatch --array=0-1 $FILE; sbatch --dependency=afterok --wrap 'diffad --mode compare'"
  local job after
  job=$("${SBATCH[@]}" --array=0-1 --job-name=array "$FILE" "${TINY[@]}")
  after=$("${SBATCH[@]}" --dependency="afterok:$job" --job-name=compare \
    --wrap "$DIFFAD --mode compare --workdir $RUNS")
  squeue -o '%.7F %.4K %.8j %.9T %R' | sed 's/^/  /'
  waiting "$after"
  sed -n '/^|/p' "$RUNS/comparison.md" | cut -c 1-100 | sed 's/^/  /'
  check "each job trained its category" test -d "$RUNS/a/eval/$STEPS" -a -d "$RUNS/b/eval/$STEPS"
  check "the comparison came after both" grep -q '^| *b ' "$RUNS/comparison.md"
}

preempted() {
  RUNS=$WORK/preempted
  say "sbatch --array=0-0 $FILE, which is stopped three times"
  local job rival
  job=$("${SBATCH[@]}" --array=0-0 --cpus-per-task=4 --job-name=preempted "$FILE" "${TINY[@]}")_0
  reached "$job" "$RUNS/a" 2
  rival=$("${SBATCH[@]}" --partition=high --cpus-per-task=4 --wrap "sleep 2")
  echo "  preempted after step $(line "$RUNS/a") by job $rival of another partition"
  again "$job" 1
  reached "$job" "$RUNS/a" $(($(line "$RUNS/a") + 1))
  echo "  scontrol requeue after step $(line "$RUNS/a"): $(state "$job")"
  scontrol requeue "$job"
  again "$job" 2
  reached "$job" "$RUNS/a" $(($(line "$RUNS/a") + 1))
  echo "  scancel --signal=TERM --batch after step $(line "$RUNS/a"), as before the time limit:" \
    "$(state "$job")"
  scancel --signal=TERM --batch "$job" || true
  again "$job" 3
  reached "$job" "$RUNS/a" "$STEPS"
  waiting "$job"
  echo "  $(state "$job")"
  grep -o "told to stop: saving step [0-9]*\\|steps [0-9]* to $STEPS" "$WORK/preempted-${job%_0}_0.log" \
    | sed 's/^/  /'
  check "it ended well" grep -q JobState=COMPLETED <(state "$job")
  check "weights, log and scores are those of the job of the array that was left alone" \
    same "$WORK/array/a" "$RUNS/a"
}

cancelled() {
  RUNS=$WORK/cancelled
  say "scancel"
  local job
  job=$("${SBATCH[@]}" --array=0-0 --job-name=cancelled "$FILE" "${TINY[@]}")_0
  until [[ $(state "$job") == *RUNNING* ]]; do sleep 0.5; done
  sleep 3
  scancel "$job"
  waiting "$job"
  sleep 5
  echo "  $(state "$job")"
  check "what is cancelled stays cancelled" grep -q JobState=CANCELLED <(state "$job")
}

cases=("$@")  # all, or those named
((${#cases[@]})) || cases=(cluster array preempted cancelled)
for case in "${cases[@]}"; do "$case"; done
ended
