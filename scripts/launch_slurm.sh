#!/usr/bin/env bash
# `unet-jax train` in all tasks of a SLURM job, requeued when it is preempted or its time is up. See --help.
#SBATCH --job-name=unet-jax
#SBATCH --output=unet-jax-%j.log
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=TERM@120
set -euo pipefail

usage() {
    cat <<'TEXT'
usage: sbatch --nodes=N --ntasks-per-node=G --gpus-per-node=G [SBATCH OPTIONS] launch_slurm.sh \
           train PRESET --data.root DATA --out RUN [...]

One task for each GPU (jax gives every task the one of its own number), or one for each node without GPUs. The tasks
find each other; data and run must lie where all of them see them. Two minutes before the time is up, or when the job
is preempted, SLURM sends SIGTERM: the step under way is saved, all tasks end with status 75, and the job goes back
into the queue, to continue there. Any other status ends the job.

  UNET_JAX=PATH      the command: unet-jax
  MAX_RESTARTS=N     1000
TEXT
}

case ${1:-} in
    -h | --help) usage && exit 0 ;;
    "") usage >&2 && exit 2 ;;
esac
if [ -z "${SLURM_JOB_ID:-}" ]; then
    echo "launch_slurm.sh: this is no SLURM job; give this script to sbatch." >&2
    usage >&2
    exit 2
fi

trap : TERM  # it is meant for the tasks; ignoring it would be inherited
status=0
# The tasks end together by themselves; the first one's status must not be a reason to kill those that still write.
srun --kill-on-bad-exit=0 --wait=120 "${UNET_JAX:-unet-jax}" "$@" || status=$?
if [ "$status" -eq 75 ] && [ "${SLURM_RESTART_COUNT:-0}" -lt "${MAX_RESTARTS:-1000}" ]; then
    echo "launch_slurm.sh: told to stop; requeued to continue" >&2
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
