#!/bin/sh
# Devices from the command line: a machine without a GPU, and with one that is not real (tests/fake/fake.h):
# drivers and compilers that are old, missing or hidden; kernels compiled ahead. FAKE is the folder of
# the fake libraries, OBJECTS that of objects. A line a check; ends with "N passed, N failed, N skipped".

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

lua=${LUA:-lua5.4}
"$lua" "$top/gen/main.lua" --cuda FEAT=saderf D=32 DV=32 M=32 OUT="$work/phi.cu"
printf 'phi.cu sm_80\nphi.cu sm_90a\n' >list
cubin() { "$objects/cubin" "$@" >cubin.out 2>cubin.err; }
cubin_fails() { # cubin_fails PATTERN ARGUMENTS ...
    pattern=$1
    shift
    ! cubin "$@" && [ "$(wc -l <cubin.err)" -eq 1 ] && grep -q -e "$pattern" cubin.err
}
mkdir tree && (cd "$top" && cp -r Makefile gen specs templates runtime tests bench "$work/tree")
make_gen() { # make_gen ARCH FEAT KERNEL
    make -C tree gen ARCH="$1" FEAT="$2" KERNEL="$3" D=32 DV=32 M=32 >make.out 2>make.err
}
make_gen_fails() { # make_gen_fails PATTERN ARCH : one sentence, and nothing of the pair
    ! make_gen "$2" posrf orf && [ "$(grep -c -v '^make' make.err)" -eq 1 ] && grep -q "^cubin: $1" make.err &&
        [ ! -e tree/build/posrf-orf ] && [ ! -e tree/build/base/ahead ]
}
hidden libnvrtc is "make gen ARCH without NVRTC fails with that sentence" make_gen_fails 'NVRTC.* was not found' sm_80
hidden libnvrtc is "without NVRTC one sentence" cubin_fails "NVRTC.* was not found" none.inc list
is "and no file" test ! -e none.inc
if "$bin" info | grep -q '^NVRTC  *none'; then
    skipped 2 "no NVRTC on this machine: no machine code made ahead"
else
    is "machine code of two kinds of GPU" cubin real.inc list
    is "as files beside the text" sh -c 'for a in sm_80 sm_90a; do head -c 4 phi.$a.cubin | grep -q ELF || exit 1; done'
fi
says 2 "arch goes with --warm" jit --list --arch sm_80

# All of a pair, by the fake NVRTC, which takes any text: the fake GPU compiles what it is given.
export FAKE_TRUST=1
unknown() { with_gpu make_gen_fails "unknown architecture '$1'; NVRTC 13.99 compiles for sm_80 .*sm_90a" "$2"; }
is "an architecture that there is none of" unknown sm_12 "sm_80 sm_12"
is "and no architecture at all" unknown foo foo
with_gpu says 2 "unknown architecture 'sm_81'" jit --warm --feat saderf --kernel gaus --arch sm_80,sm_81
with_gpu is "make gen ARCH" make_gen "sm_80 sm_90a sm_100a" saderf qmc
ahead=tree/build/saderf-qmc/ahead
is "writes machine code beside the text" test -s $ahead/attn_keys.sm_80.cubin -a -s $ahead/attn_cluster-90.sm_90a.cubin \
    -a -s tree/build/base/ahead/model.sm_80.cubin -a -s tree/build/base/ahead/layernorm-64-4.sm_90a.cubin
is "of the runtime's text" cmp phi.cu $ahead/phi.cu
is "a class of GPUs has one text" test -s $ahead/attn_keys-90.sm_100a.cubin -a ! -e $ahead/attn_keys-100.cu
is "no clusters where there are none" test ! -e $ahead/attn_cluster.cu
is "for the library" make -C tree build/cubins.c
warm() {
    SPECTRA_CACHE_DIR="$work/ahead" with_gpu "$bin" jit --warm --feat saderf --kernel qmc --d 32 --m 32 --arch sm_90a >warm.out
}
warmed() { # warmed N : of all texts N were compiled
    warm && [ "$(sed 's/^.*  \([0-9]*\) compiled, .*/\1/' warm.out | paste -sd+)" = "$1" ]
}
count() { grep -c 'sm_90a$' "$1/list"; }
is "into the cache" warmed "$(count tree/build/base/ahead)+$(count $ahead)"
is "once" warmed 0+0

# A command with machine code of the fake GPU in it needs neither compiler nor cache.
# shellcheck disable=SC2086
link() { # link OUT CUBINS.c OBJECTS ...
    out=$1
    shift
    cc -I"$top/runtime" -I"$top/templates/c" -fopenmp "$@" "${objects%/obj}/libspectraformer.a" \
        -lcmocka ${LIBS:--llua5.4 -ljansson -lmd -ldl -lm} -o "$out"
}
is "which is linked" link built tree/build/cubins.c "$objects"/runtime/cli/*.o
ordinary=$bin
bin=$work/built
alone() { SPECTRA_JIT=never SPECTRA_CACHE_DIR="$work/none" with_gpu hidden libnvrtc "$@"; }
npy "1, 2, 9, 32" 576 q.npy 0
npy "1, 2, 9, 32" 576 g.npy 576
mv floats normal
for _ in $(seq 64); do printf '\000\000\200\077'; done >floats # ones
npy "2, 32" 64 psi.npy && head -c 8 /dev/zero >floats && npy "2" 2 A.npy && mv normal floats
given="--causal --input A=A.npy --input psi=psi.npy"
attend() { # attend OPTIONS ... : with gradients
    "$bin" attend --attn performer --feat saderf --kernel qmc --m 32 --device cuda --q q.npy --k q.npy --v q.npy \
        --out o.npy --dout g.npy --dq dq.npy --dk dk.npy --dv dv.npy "$@" 2>attend.err
}
trained="--device cuda --task lra-listops --data data --layers 1 --batch 2 --warmup 1 --eval-every 1 --eval-batches 1"
is "data" quiet data generate lra-listops --rows 4,2,2 --out data
# shellcheck disable=SC2086
{
    alone is "features with nothing else" "$bin" features --feat saderf --kernel qmc --m 32 --x q.npy --y q.npy \
        --out aot --device cuda
    alone is "attention" attend
    alone is "its products of one part" attend --precision fast
    alone is "in bf16, causal" attend --precision bf16 $given
    alone is "causal" attend $given
    alone is "of the reference's behaviour" attend --official
    alone is "training" quiet train $trained --attn performer --feat saderf --kernel qmc --m 32 --steps 1 --run p
    alone is "exact attention" quiet train $trained --attn softmax --steps 1 --run s
    alone says 1 "no kernel of attn_keys for sm_90a was built" attend --attn performer --feat saderf \
        --kernel qmc --m 48 --device cuda --q q.npy --k q.npy --v q.npy --out none.npy
    FAKE_ARCH=120 alone says 1 "for sm_120a was built" train $trained --attn softmax --steps 1 --run none
}
bin=$ordinary

# Decoding has no command: its test, with machine code for the sizes it has.
decoding="posrf-orf:48 posrf-orf:272 posrf-gmm:33 geomrf_plus-orf:32 trigrf-orf:64 hrf-orf:33"
for case in $decoding; do
    pair=${case%:*}
    "$lua" "$top/gen/main.lua" --ahead FEAT="${pair%-*}" KERNEL="${pair#*-}" D=16 DV=16 M="${case#*:}" ARCH=sm_90a \
        OUT="$work/$case" && with_gpu cubin "$case.inc" "$case/list"
    verdict $? "ahead for $case" "$(head -c 300 cubin.err)"
done
# shellcheck disable=SC2046
"$lua" "$top/gen/cubins.lua" decoding.c $(for case in $decoding; do echo "$case.inc"; done)
is "a test of decoding is linked" link decoding decoding.c $(for o in test_attention_device attention_case attention_cases \
    attention_exact device_case oracle attend; do
    echo "$objects"/tests/*/$o.o; done)
alone is "it runs with nothing else" ./decoding cuda "* D16 DV16 * decoding*" \
    "* T100 S100 D16 DV16 * masked causal*"

totals
