#!/bin/sh
# tests/device/device_ptx.sh FAKE COMPILER FOLDER COMMAND ... : a command that uses a GPU, on the fake one whose kernels
# are interpreted as PTX (tests/fake/fake_ptx.c). FAKE is the folder of the fake libraries, COMPILER tests/cuda_ptx,
# FOLDER keeps the interpreter. Fails where nothing was interpreted.
. tests/device/ptxrun.sh
fake=$1 compiler=$2 folder=$3
shift 3
ptxrun "$folder"
"$compiler" --compile /dev/null /dev/null >/dev/null || skip "no libnvrtc on this machine"
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
libraries=${LD_LIBRARY_PATH:-}
FAKE_PTX_LIBRARIES=$libraries FAKE_PTX=$folder/ptxrun FAKE_PTX_COMPILER=$compiler FAKE_PTX_FOLDER=$work \
    FAKE_ARCH=80 FAKE_TRUST=1 FAKE_CACHE=${KERNEL_CACHE:-} LD_LIBRARY_PATH=$fake "$@" >"$work/log" 2>&1
code=$?
cat "$work/log"
grep -q 'launches interpreted' "$work/log" || { echo "0 passed, 1 failed: nothing was interpreted"; exit 1; }
exit $code
