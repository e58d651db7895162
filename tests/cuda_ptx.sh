#!/bin/sh
# tests/cuda_ptx.sh PROGRAM LUA FOLDER [case ...] : the CUDA attention kernels in a PTX interpreter, which
# is built into FOLDER from $SPECTRA_SHARED/tools or ../shared/tools. Without it, g++ or NVRTC a line says
# what was skipped.
program=$1 lua=$2 folder=$3
shift 3
source=${SPECTRA_SHARED:-../shared}/tools/ptxrun/ptxrun.cpp
skip() {
    echo "skipped: $1, the CUDA kernels were not interpreted"
    echo "0 passed, 0 failed, 1 skipped"
    exit 0
}
[ -f "$source" ] || skip "no PTX interpreter at $source"
command -v g++ >/dev/null || skip "no g++ to build the PTX interpreter with"
mkdir -p "$folder"
if [ -z "$(find "$folder/ptxrun" -newer "$source" 2>/dev/null)" ]; then
    g++ -O2 -std=c++17 -frounding-math -o "$folder/ptxrun" "$source" || exit 1
fi
exec "$program" "$folder/ptxrun" "$lua" "$folder" "$@"
