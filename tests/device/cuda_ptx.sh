#!/bin/sh
# tests/device/cuda_ptx.sh PROGRAM LUA FOLDER [case ...] : the CUDA attention kernels in a PTX interpreter.
. tests/device/ptxrun.sh
program=$1 lua=$2 folder=$3
shift 3
ptxrun "$folder"
exec "$program" "$folder/ptxrun" "$lua" "$folder" "$@"
