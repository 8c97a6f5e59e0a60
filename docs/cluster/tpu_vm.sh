#!/usr/bin/env bash
# Cloud TPU: makes a slice of several hosts, trains one model on all of them, and removes the slice.
# Not run here. NAME, ZONE, TYPE, VERSION, CODE (git), DATA and WORKDIR (gs://) are variables.
set -euo pipefail
NAME=${NAME:-diffad} ZONE=${ZONE:-us-west4-a} TYPE=${TYPE:-v5litepod-16}
VERSION=${VERSION:-v2-alpha-tpuv5-lite}
: "${CODE:?address of the repository}" "${DATA:?gs:// folder of pictures}" "${WORKDIR:?gs:// folder}"
tpu() { gcloud compute tpus tpu-vm "$1" "$NAME" --zone="$ZONE" "${@:2}"; }

tpu describe > /dev/null 2>&1 || tpu create --accelerator-type="$TYPE" --version="$VERSION" --spot
trap 'tpu delete --quiet' EXIT

# Every host needs the program and the same pictures; it has Python of its own.
tpu ssh --worker=all --command="
  set -e
  git clone --depth 1 '$CODE' code 2> /dev/null || true
  python3.11 -m venv venv && venv/bin/pip install -q './code[gcs]' 'jax[tpu]'
  mkdir -p pictures && gsutil -qm rsync -r '$DATA' pictures"

# The same command on every host: JAX asks the machine for its neighbours. Again after a preemption:
# start this script again, it goes on from the newest checkpoint.
tpu ssh --worker=all --command="
  venv/bin/diffad --config default --config.data.root=pictures --config.data.category=screw \
    --config.train.batch_size=64 --workdir '$WORKDIR'"
