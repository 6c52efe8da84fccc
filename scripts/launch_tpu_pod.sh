#!/usr/bin/env bash
# `unet-jax train` on every host of a Cloud TPU slice, and again after each preemption, until it is done. See --help.
set -euo pipefail

usage() {
    cat <<'TEXT'
usage: launch_tpu_pod.sh --tpu NAME --zone ZONE [OPTIONS] -- train PRESET --data.root gs://... --out gs://... [...]

Runs `unet-jax train ...` on all hosts of a TPU slice by `gcloud compute tpus tpu-vm ssh --worker=all`. The hosts find
each other; data and run must lie where all of them see them, as in a bucket. What is told to stop (exit status 75) or
loses its connection is started again, and continues from its newest checkpoint. Any other status ends the script.

  --tpu NAME         the slice (or TPU_NAME)
  --zone ZONE        where it is (or ZONE)
  --project PROJECT  by default gcloud's own (or PROJECT)
  --unet-jax PATH    the command on the hosts: unet-jax (or UNET_JAX)
  --create COMMAND   run here when the slice is not ready, to make it anew (or CREATE)
  --max-starts N     1000 (or MAX_STARTS)
  --wait SECONDS     before a new start: 30 (or WAIT)
TEXT
}

refuse() {
    echo "launch_tpu_pod.sh: $1" >&2
    usage >&2
    exit 2
}

tpu=${TPU_NAME:-} zone=${ZONE:-} project=${PROJECT:-} command=${UNET_JAX:-unet-jax} create=${CREATE:-}
max_starts=${MAX_STARTS:-1000} wait_s=${WAIT:-30}
while [ $# -gt 0 ]; do
    case $1 in
        -h | --help) usage && exit 0 ;;
        --) shift && break ;;
        --tpu | --zone | --project | --unet-jax | --create | --max-starts | --wait)
            [ $# -ge 2 ] || refuse "$1 needs a value."
            case $1 in
                --tpu) tpu=$2 ;;
                --zone) zone=$2 ;;
                --project) project=$2 ;;
                --unet-jax) command=$2 ;;
                --create) create=$2 ;;
                --max-starts) max_starts=$2 ;;
                --wait) wait_s=$2 ;;
            esac
            shift 2
            ;;
        *) refuse "$1 is not an option; the training command comes after --." ;;
    esac
done
[ -n "$tpu" ] && [ -n "$zone" ] || refuse "--tpu and --zone are needed."
[ $# -gt 0 ] || refuse "nothing to run: give -- train PRESET ..."

slice=("$tpu" --zone "$zone")
[ -z "$project" ] || slice+=(--project "$project")
# gcloud does not say what each host's command ended with, so each says it itself.
printf -v remote '%q ' "$command" "$@"
# shellcheck disable=SC2016  # for the hosts to expand
remote+='; status=$?; echo "unet-jax ended with status $status"; exit $status'
state() {
    gcloud compute tpus tpu-vm describe "${slice[@]}" --format='value(state)' || echo "not there"
}

log=$(mktemp)
trap 'rm -f "$log"' EXIT

for ((start = 1; start <= max_starts; start++)); do
    found=$(state)
    if [ "$found" != READY ]; then
        echo "launch_tpu_pod.sh: $tpu is $found" >&2
        if [ -n "$create" ]; then
            bash -c "$create" || true
        fi
        sleep "$wait_s"
        continue
    fi
    echo "launch_tpu_pod.sh: start $start on $tpu" >&2
    if gcloud compute tpus tpu-vm ssh "${slice[@]}" --worker=all --command "$remote" 2>&1 | tee "$log"; then
        exit 0
    fi
    # A host that was taken away says nothing; the others then end with what jax makes of it.
    said=$(sed -n 's/.*unet-jax ended with status \([0-9]*\).*/\1/p' "$log" | sort -nu | tr '\n' ' ')
    sleep "$wait_s"
    case " $said" in
        *" 75 "*) continue ;;
        *" 2 "* | *" 130 "*) ;;
        *" 1 "*) [ "$(state)" = READY ] || continue ;;  # hosts whose neighbour was taken away fail, too
        *) continue ;;
    esac
    echo "launch_tpu_pod.sh: not started again: it ended with status ${said% }" >&2
    exit 1
done
echo "launch_tpu_pod.sh: gave up after $max_starts starts" >&2
exit 1
