#!/bin/sh
# tests/golden/golden.sh RUNNER [--device emu] : the public golden vectors, where they are (SPECTRA_SHARED or ../shared).
index=${SPECTRA_SHARED:-../shared}/golden/index.json
if [ -f "$index" ]; then
    exec "$@" "$index"
fi
echo "skipped: golden vectors, no $index"
echo "0 passed, 0 failed, 1 skipped"
