#!/usr/bin/env bash
# A cluster of one machine on loopback, for tests: munged, slurmctld and slurmd with generic GPUs declared, without slurmdbd.
#   start.sh get DIR     lay Debian's packages out under DIR/root: nothing is installed, no root needed
#   start.sh up DIR      start munged, slurmctld and slurmd; DIR/bin, put first in PATH, holds sbatch and the others
#   start.sh controller DIR | node DIR     start that one again, after it was killed
#   start.sh down DIR    end all three
# DIR is short (a socket lies in it: 107 characters at most) and this user's alone. Exit code 3: Slurm cannot be had here.
set -euo pipefail
what=${1:?get, up, controller, node or down}; dir=$(mkdir -p "${2:?a folder}" && cd "$2" && pwd)
root=$dir/root; arch=$(uname -m)-linux-gnu; lib=$root/usr/lib/$arch
packages="libhwloc15 liblua5.1-0 libmunge2 munge slurm-wlm-basic-plugins slurm-client slurmd slurmctld"

get() {
  [ -x "$root/usr/sbin/slurmctld" ] && return
  command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null || { echo "no apt-get or dpkg-deb: Slurm is laid out from Debian's packages only" >&2; exit 3; }
  mkdir -p "$dir/packages"
  # shellcheck disable=SC2086
  (cd "$dir/packages" && apt-get -q download $packages) >"$dir/get.log" 2>&1 ||
    { echo "apt-get cannot download $packages (apt-get update first?): $(grep -m1 '^E:' "$dir/get.log")" >&2; exit 3; }
  for p in "$dir"/packages/*.deb; do dpkg-deb -x "$p" "$root"; done
  # they ask by their own name whether they are the controller: under Debian's, slurmctld-wlm, generic resources are lost
  for d in slurmctld slurmd slurmstepd; do ln -sf "$d-wlm" "$root/usr/sbin/$d"; done
}

settings() {
  user=$(id -un) host=$(hostname -s)
  mkdir -p "$dir"/{munge,controller,node,log}
  chmod 700 "$dir/munge"
  [ -f "$dir/munge/key" ] || (umask 077; head -c 1024 /dev/urandom >"$dir/munge/key")
  # two free ports, kept for as long as DIR lives
  [ -f "$dir/ports" ] || python3 -c 'import socket
s = [socket.socket() for _ in range(2)]
for x in s: x.bind(("127.0.0.1", 0))
print(*(x.getsockname()[1] for x in s))' >"$dir/ports"
  read -r p1 p2 <"$dir/ports"
  cat >"$dir/slurm.conf" <<CONF
ClusterName=loopback
SlurmctldHost=$host(127.0.0.1)
SlurmUser=$user
SlurmdUser=$user
SlurmctldPort=$p1
SlurmdPort=$p2
AuthType=auth/munge
AuthInfo=socket=$dir/munge/socket
CredType=cred/munge
PluginDir=$lib/slurm-wlm
StateSaveLocation=$dir/controller
SlurmdSpoolDir=$dir/node
SlurmctldPidFile=$dir/controller.pid
SlurmdPidFile=$dir/node.pid
SlurmctldLogFile=$dir/log/controller.log
SlurmdLogFile=$dir/log/node.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SchedulerType=sched/backfill
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=2
GresTypes=gpu
ReturnToService=2
SlurmctldTimeout=10
SlurmdTimeout=30
InactiveLimit=0
KillWait=2
MinJobAge=300
JobRequeue=1
SlurmdParameters=config_overrides
NodeName=$host NodeAddr=127.0.0.1 CPUs=${CPUS:-4} RealMemory=${MEMORY:-8000} Gres=gpu:${GPUS:-4} State=UNKNOWN
PartitionName=all Nodes=$host Default=YES MaxTime=INFINITE State=UP OverSubscribe=NO
CONF
  for i in $(seq 0 $((${GPUS:-4} - 1))); do : >"$dir/gpu$i"; done     # a file in the place of each device
  echo "AutoDetect=off
NodeName=$host Name=gpu File=$dir/gpu[0-$((${GPUS:-4} - 1))]" >"$dir/gres.conf"
  printf 'CgroupPlugin=cgroup/v1\nConstrainCores=no\n' >"$dir/cgroup.conf"
  # commands that know their cluster by themselves: Snakemake's plugin takes SLURM_CONF from the environment of its jobs
  mkdir -p "$dir/bin"
  for c in sacct sbatch scancel scontrol sinfo squeue srun; do       # the plugin wants sacct to be there, though it has nothing to say
    printf '#!/bin/sh\nSLURM_CONF=%s LD_LIBRARY_PATH=%s exec %s "$@"\n' "$dir/slurm.conf" "$lib:$lib/slurm-wlm" "$root/usr/bin/$c" >"$dir/bin/$c"
    chmod +x "$dir/bin/$c"
  done
}

found() { LD_LIBRARY_PATH=$lib:$lib/slurm-wlm "$@"; }
controller() { found "$root/usr/sbin/slurmctld" -f "$dir/slurm.conf"; }
node() { found "$root/usr/sbin/slurmd" -f "$dir/slurm.conf" -N "$(hostname -s)" -d "$root/usr/sbin/slurmstepd"; }
guard() {
  found "$root/usr/sbin/munged" --force --key-file="$dir/munge/key" --socket="$dir/munge/socket" --pid-file="$dir/munge/pid" \
    --log-file="$dir/munge/log" --seed-file="$dir/munge/seed" --num-threads=2
}

case $what in
  get) get ;;
  up)
    get; settings
    guard; controller; node
    for _ in $(seq 100); do
      "$dir/bin/sinfo" -h -o %T 2>/dev/null | grep -q idle && exit 0
      sleep .2
    done
    echo "the node did not become idle:" >&2; tail -5 "$dir"/log/*.log >&2; exit 1 ;;
  controller|node) "$what" ;;
  down)
    for pid in "$dir"/node.pid "$dir"/controller.pid "$dir"/munge/pid; do
      [ -s "$pid" ] && kill "$(cat "$pid")" 2>/dev/null || true
    done ;;
  *) echo "received $what; allowed are get, up, controller, node, down" >&2; exit 2 ;;
esac
