# For slurm.sh and mpi.sh: settings of a tiny run, and the same two processes started by hand.
# shellcheck shell=bash disable=SC2034

PYTHON=${PYTHON:-python}
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
KEPT=${WORK:-}                 # a folder that is given is kept, and what is in it is used again
WORK=${WORK:-$(mktemp -d)}
mkdir -p "$WORK"
cd "$HERE" || exit

export PYTHONPATH=$HERE
export JAX_PLATFORMS=cpu JAX_DISABLE_MOST_OPTIMIZATIONS=1  # compiles in a third of the time
export JAX_COMPILATION_CACHE_DIR=$WORK/compiled
export JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=0 JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES=-1
export TF_CPP_MIN_LOG_LEVEL=2

STEPS=40  # enough for a run to be stopped three times on its way
TINY=(
  "--config.data.cache_dir=$WORK/cache"
  "--config.model.unet_multipliers=(1,)" "--config.model.attention_widths=()"
  --config.train.steps=$STEPS --config.train.log_every=1 --config.train.image_every=100
  --config.train.checkpoint_every=5
)
TRAIN=(
  "$PYTHON" -m diffad_jax.main --config configs/test.py "${TINY[@]}"
  --config.data.root="$WORK/data" --config.data.category=a
)

say() { printf '\n== %s (%s s)\n' "$*" "$SECONDS"; }
failures=0
check() {  # check TEXT COMMAND ...: says whether the command succeeds
  local text=$1
  shift
  if "$@"; then echo "ok: $text"; else
    echo "FAILED: $text"
    failures=$((failures + 1))
  fi
}
same() { "$PYTHON" -m benchmarks.cluster.check same "$@"; }
ended() { echo "$failures checks failed, after $SECONDS s"; ((failures == 0)); }

by_hand() {  # the run that those of a scheduler must equal
  if [[ -d $WORK/hand/eval ]]; then return; fi
  say "two processes by hand: --coordinator localhost:9911 --num_processes 2 --process_id 0 and 1"
  local other
  "${TRAIN[@]}" --workdir "$WORK/hand" --coordinator localhost:9911 --num_processes 2 \
    --process_id 1 2> "$WORK/hand.1.log" &
  other=$!
  "${TRAIN[@]}" --workdir "$WORK/hand" --coordinator localhost:9911 --num_processes 2 \
    --process_id 0 2> "$WORK/hand.0.log"
  wait "$other"
}

[[ -d $WORK/data ]] || "$PYTHON" -m benchmarks.cluster.check pictures "$WORK/data" a b
