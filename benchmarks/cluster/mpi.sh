#!/usr/bin/env bash
# Two processes of Open MPI: as one cluster that trains, and as two shares of a prediction.
#
#   apt-get install openmpi-bin
#   PYTHON=.venv/bin/python benchmarks/cluster/mpi.sh
set -euo pipefail
# shellcheck source-path=SCRIPTDIR
source "$(dirname "$0")/common.sh"
trap '[[ -n $KEPT ]] || rm -rf "$WORK"' EXIT
MPIRUN=(mpirun --allow-run-as-root --oversubscribe --bind-to none -n 2)

mpirun --version | sed 1q
by_hand

say "mpirun -n 2 python -m diffad_jax.main --mode train"
"${MPIRUN[@]}" "${TRAIN[@]}" --workdir "$WORK/mpi" 2> "$WORK/mpi.log" || cat "$WORK/mpi.log"
grep -o 'process [01] of 2' "$WORK/mpi.log" | sort | sed 's/^/  /'
check "weights, log and scores are those of two processes by hand" same "$WORK/hand" "$WORK/mpi"

say "mpirun -n 2 python -m diffad_jax.main --mode predict, then --mode merge"
PREDICT=("$PYTHON" -m diffad_jax.main --mode predict --workdir "$WORK/mpi"
  --input "$WORK/data/a/test" --maps none)
"${MPIRUN[@]}" "${PREDICT[@]}" --output "$WORK/shares" 2> "$WORK/predict.log" \
  || cat "$WORK/predict.log"
"$PYTHON" -m diffad_jax.main --mode merge --output "$WORK/shares" 2>> "$WORK/predict.log"
(cd "$WORK/shares" && ls) | sed 's/^/  /'
for share in 0 1; do
  check "share $share of 2 wrote its table" test -s "$WORK/shares/predictions-$share-of-2.parquet"
done
"${PREDICT[@]}" --output "$WORK/alone" 2> "$WORK/alone.log"
check "predictions.csv is that of one process" \
  cmp "$WORK/alone/predictions.csv" "$WORK/shares/predictions.csv"
ended
