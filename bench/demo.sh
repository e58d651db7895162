#!/bin/sh
# `make demo`: makes LRA ListOps data at its real lengths (500 to 2000), trains saderf x qmc for a few
# minutes, evaluates, prints the accuracy beside what always giving the most frequent answer scores.
# DEMO_SECONDS bounds the training; the schedule is made for what two cores do in that time.
set -eu

spectraformer=build/spectraformer
data=build/demo/lra-listops
run=build/demo/run

if [ ! -f "$data/test.safetensors" ]; then
    "$spectraformer" data generate lra-listops --out "$data"
fi
"$spectraformer" train --attn performer --feat saderf --kernel qmc --task lra-listops \
    --data "$data" --run "$run" --overwrite --steps 1500 --eval-every 250 --eval-batches 31 \
    --max-seconds "${DEMO_SECONDS:-330}"
