#!/bin/sh
# `make demo`: makes LRA ListOps data at its real lengths, trains saderf x qmc for a few minutes,
# evaluates, and prints the accuracy beside what always guessing the most frequent answer would score.
set -eu

spectraformer=build/spectraformer
data=build/demo/lra-listops
run=build/demo/run
seconds=${DEMO_SECONDS:-330}

if [ ! -f "$data/test.safetensors" ]; then
    "$spectraformer" data generate lra-listops --out "$data" --rows 24000,2000,2000 --seed 42
fi
"$spectraformer" train --attn performer --feat saderf --kernel qmc --task lra-listops \
    --data "$data" --run "$run" --overwrite --max-seconds "$seconds" ${DEMO_ARGS:-}
