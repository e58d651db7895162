#!/bin/sh
# Devices from the command line: a machine without a GPU, and with one that is not real (tests/fake.h):
# drivers and compilers that are old, missing or hidden; kernels compiled ahead. FAKE is the folder of
# the fake libraries, OBJECTS that of objects. A line a check; ends with "N passed, N failed".

top=$PWD
fake=$PWD/${FAKE:-build/tests/fake}
objects=$PWD/${OBJECTS:-build/obj}
. "$(dirname "$0")/checks.sh"
unset SPECTRA_JIT CC
export SPECTRA_CACHE_DIR="$work/cache" FAKE_CACHE="$work/fake-cache"

with_gpu() { LD_LIBRARY_PATH=$fake "$@"; }
hidden() { # hidden NAME COMMAND ... : without the libraries of that name
    HIDE=$1
    shift
    HIDE=$HIDE LD_PRELOAD=$fake/hide.so "$@"
}
entries() { find cache -name '*.kernel' 2>/dev/null | wc -l; }
info() { "$bin" info >info.out 2>&1 && grep -q -e "$1" info.out; }
lists() { "$bin" jit --list | grep -q -e "$1"; }
skipped() { echo "skipped: $1"; }

"$bin" matrix --kernel gaus --m 64 --d 64 --out w.npy && tail -c $((4 * 64 * 64)) w.npy >floats
npy "1, 2, 9, 16" 288 x.npy 0
npy "1, 2, 7, 16" 224 y.npy 288
arguments="features --feat saderf --kernel gaus --m 48 --x x.npy --y y.npy"
# shellcheck disable=SC2086
features() { # features OUT OPTIONS ...
    out=$1
    shift
    "$bin" $arguments --out "$out" "$@" 2>features.err
}
# shellcheck disable=SC2086
refused() { # refused CODE PATTERN OPTIONS ... : one sentence, and no result
    rm -rf refused
    code=$1 pattern=$2
    shift 2
    says "$code" "$pattern" $arguments --out refused "$@"
    is "and nothing is written" test ! -e refused/log_x.npy
}
same() { cmp "$1/log_x.npy" "$2/log_x.npy" && cmp "$1/sign_y.npy" "$2/sign_y.npy"; }

# ---- without a GPU -------------------------------------------------------------------------------

hidden libcuda is "info says what is missing" info '^driver  *none: the NVIDIA driver was not found (tried libcuda.so.1)'
hidden libnvrtc is "of NVRTC too" info '^NVRTC  *none: .* was not found'
hidden libcublas is "of cuBLAS too" info '^cuBLAS  *none: cuBLAS was not found'
CC=no-such-cc is "of the emulator's compiler too" info "^emulator  *none: there is no C compiler 'no-such-cc'"
hidden libcuda refused 1 "no CUDA device: the NVIDIA driver was not found" --device cuda
refused 2 "device is 'gpu', allowed is cpu|cuda|emu" --device gpu
says 2 "cpu|cuda|emu" attend --device gpu
is "nothing was compiled for these" test "$(entries)" -eq 0
is "the CPU" features cpu
is "the CPU by its name" features cpu2 --device cpu
is "gives the same bits" same cpu cpu2
is "the emulator" features emu --device emu
is "its kernel is kept" lists '^phi of saderf .* emulator '
SPECTRA_JIT=never refused 1 "SPECTRA_JIT=never" --device emu
CC=no-such-cc SPECTRA_CACHE_DIR="$work/empty" refused 1 "no C compiler 'no-such-cc'" --device emu

# ---- with one ------------------------------------------------------------------------------------

with_gpu is "info names the GPU" info '^GPU 0  *Fake GPU 0, sm_90, 1024 MiB'
with_gpu is "and the driver" info '^driver  *CUDA 13.99'
with_gpu is "and NVRTC" info '^NVRTC  *13.99 for sm_75 80 86'
FAKE_DEVICES=2 with_gpu is "a second one is not used" info '^GPU 1 .*(not used)'
"$bin" info --json | grep -q '"driver"'
verdict $? "info --json has them"
before=$(entries)
with_gpu is "features on it" features cuda --device cuda
is "what the emulator gives" same emu cuda
is "one entry more" test "$(entries)" -eq $((before + 1))
is "for its architecture" lists '^phi of saderf .* sm_90a '
with_gpu is "again" features again --device cuda
is "from the cache" test "$(entries)" -eq $((before + 1))
with_gpu hidden libnvrtc is "a warm start needs no NVRTC" features warm --device cuda
is "and gives the same bits" same cuda warm
with_gpu hidden libnvrtc refused 1 "no kernel of phi of posrf for sm_90a was built, and NVRTC.* not found" \
    --device cuda --feat posrf
SPECTRA_JIT=never with_gpu refused 1 "SPECTRA_JIT=never" --device cuda
FAKE_DEVICES=0 with_gpu refused 1 "driver for CUDA 13.99 is there, but no GPU" --device cuda
FAKE_DRIVER=11000 with_gpu refused 1 "driver is for CUDA 11.0; needed is one for 11.4 or newer" --device cuda
FAKE_ARCH=75 with_gpu refused 1 "Fake GPU 0 is a GPU of compute capability 7.5; needed is 8.0" --device cuda
FAKE_MEMORY=5000 with_gpu refused 1 "an allocation of .* MiB left" --device cuda
FAKE_ARCH=120 FAKE_ARCHS="80 90" with_gpu is "a GPU that NVRTC does not know" features ptx --device cuda
is "gets text for the newest it knows" lists '^phi of saderf .* compute_90 '
is "and computes the same" same cuda ptx
FAKE_ARCH=120 FAKE_ARCHS="80 90" FAKE_NVRTC=14000 with_gpu refused 1 \
    "unsupported toolchain.* compiled for compute_90 by NVRTC 14.0, on a driver for CUDA 13.99" --device cuda
FAKE_ARCHS="75" with_gpu refused 1 "NVRTC 13.99 compiles for no GPU of compute capability 9.0" --device cuda

# ---- ahead ---------------------------------------------------------------------------------------


"${LUA:-lua5.4}" "$top/gen/main.lua" --cuda FEAT=saderf D=16 DV=16 M=48 OUT="$work/phi.cu"
cubin() { "$objects/cubin" "$@" >cubin.out 2>cubin.err; }
cubin_fails() { # cubin_fails PATTERN ARGUMENTS ...
    pattern=$1
    shift
    ! cubin "$@" && [ "$(wc -l <cubin.err)" -eq 1 ] && grep -q -e "$pattern" cubin.err
}
mkdir tree && (cd "$top" && cp -r Makefile gen specs templates runtime tests bench "$work/tree")
make_gen() { make -C tree gen ARCH="$1" FEAT=saderf KERNEL=qmc D=16 DV=16 M=48 >make.out 2>make.err; }
make_gen_fails() { ! make_gen sm_80 && grep -q '^cubin: NVRTC.* was not found' make.err; }
hidden libnvrtc is "make gen ARCH without NVRTC fails with that sentence" make_gen_fails
hidden libnvrtc is "without NVRTC one sentence" cubin_fails "NVRTC.* was not found" none.inc sm_80 phi.cu
is "and no file" test ! -e none.inc
if "$bin" info | grep -q '^NVRTC  *none'; then
    skipped "no NVRTC on this machine: no machine code made ahead"
else
    is "machine code of two kinds of GPU" cubin real.inc "sm_80 sm_90a" phi.cu
    is "as files beside the text" sh -c 'for a in sm_80 sm_90a; do head -c 4 phi.$a.cubin | grep -q ELF || exit 1; done'
    is "an architecture it does not know" cubin_fails "unknown architecture 'sm_12'.*sm_80" none.inc sm_12 phi.cu
    is "make gen ARCH" make_gen "sm_80 sm_90a"
    is "writes machine code beside the text" test -s tree/build/saderf-qmc/phi.sm_80.cubin -a \
        -s tree/build/saderf-qmc/phi.sm_90a.cubin -a -s tree/build/base/row/layernorm.sm_80.cubin
    is "the same as cubin" cmp phi.sm_80.cubin tree/build/saderf-qmc/phi.sm_80.cubin
    is "for the library" make -C tree build/cubins.c
    is "with the text's key" grep -q "$(sed 's/.*, \(.*\))/\1/;q' real.inc)" tree/build/cubins.c
    SPECTRA_CACHE_DIR="$work/ahead" is "into the cache" "$bin" jit --warm --feat saderf --kernel gaus --arch sm_80,sm_90a
    SPECTRA_CACHE_DIR="$work/ahead" is "twice" lists "^2 kernels"
    says 2 "unknown architecture 'sm_81'" jit --warm --feat saderf --kernel gaus --arch sm_81
fi
says 2 "arch goes with --warm" jit --list --arch sm_80

# A command with machine code of the fake GPU in it needs neither compiler nor cache.
with_gpu is "machine code of the fake GPU" cubin fake.inc sm_90a "$work/phi.cu"
(cd "$top" && "${LUA:-lua5.4}" gen/cubins.lua "$work/cubins.c" "$work/fake.inc") 2>lua.err
verdict $? "goes into the library" "$(head -c 200 lua.err)"
# shellcheck disable=SC2086
is "which is linked" cc -I"$top/runtime" -I"$top/templates/c" -fopenmp cubins.c "$objects"/runtime/cli*.o \
    "$objects/runtime/main.o" "${objects%/obj}/libspectraformer.a" ${LIBS:--llua5.4 -ljansson -lmd -ldl -lm} -o built
ordinary=$bin
bin=$work/built
SPECTRA_JIT=never SPECTRA_CACHE_DIR="$work/none" with_gpu hidden libnvrtc is "it runs with nothing else" \
    features aot --device cuda
is "and gives the same bits" same cuda aot
FAKE_ARCH=100 SPECTRA_JIT=never with_gpu refused 1 "for sm_100a was built" --device cuda
bin=$ordinary

echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
