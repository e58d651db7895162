#!/bin/sh
# `make bench`: everything that bench/table.lua judges, to build/bench/results.jsonl, then the table.
# BENCH_ALLOW_BUSY=1 quotes figures of a machine that others use, marked; BENCH_QUICK=1 is a small rehearsal;
# PYTHON names an interpreter that has PyTorch, B and LUA are the Makefile's.
set -u

build=${B:-build}
spectraformer=$build/spectraformer out=$build/bench
parts=$out/parts
rm -rf "$parts" && mkdir -p "$parts" || exit 1
flags="--repeat 9"
repeat=9
[ -n "${BENCH_QUICK:-}" ] && flags="--repeat 3 --seconds 0.1" repeat=3
[ -n "${BENCH_ALLOW_BUSY:-}" ] && flags="$flags --allow-busy"
failed=0 busy=0 number=10

# part NAME COMMAND ...: its standard output is shown; busy (4) is told at the end, anything else fails
part() {
    name=$1
    shift
    echo "== $name"
    number=$((number + 1))
    "$@"
    case $? in
        0) ;;
        4) busy=1 ;;
        *) failed=1 && echo "$name failed" >&2 ;;
    esac
}
# shellcheck disable=SC2086
bench() { "$spectraformer" bench $flags --json "$parts/$number.jsonl" "$@"; }
lines() { # likewise of what writes records to standard output and does not say that the machine was busy
    "$@" >"$parts/$number.jsonl" || return 1
    cat "$parts/$number.jsonl"
    [ -n "${BENCH_ALLOW_BUSY:-}" ] || ! grep -q '"busy": *true' "$parts/$number.jsonl" || return 4
}
skipped() { # skipped WHAT WHY
    echo "== $1: skipped, $2"
    printf '{"record": "skipped", "what": "%s", "why": "%s"}\n' "$1" "$2" >>"$parts/90-skipped.jsonl"
}

part "posrf x gaus" bench --threads 1,2 --kinds forward,backward
"$spectraformer" info | grep -q '^bf16 products yes' && part "products of bf16" bench --kinds forward.bf16 --threads 2
part "training step" bench --kinds training --task lra-text --b 8 --threads 2
part "against unfused" lines env OMP_NUM_THREADS=2 "$out/attn_bench" --threads 2 --repeat $repeat --json
part "threads, 64 heads" bench --b 32 --threads 1,2
part "threads, 2 heads" bench --b 1 --threads 1,2
part "every component function" bench --features all --threads 2
part "causal, decoding, exact" bench --kinds causal,causal_backward,step,softmax --threads 2
part "structured matrices" lines env OMP_NUM_THREADS=2 "$out/structured" --json
part "kernels" bench --kinds kernels,rows --threads 1
case $("$spectraformer" info | sed -n 's/^instructions *//p') in
    avx512) part "AVX2 kernels" bench --target avx2 --threads 2 ;;
esac
if command -v "${CC:-cc}" >/dev/null; then
    for i in 1 2 3; do
        cache=$(mktemp -d) || exit 1
        # shellcheck disable=SC2086
        part "cold compilation $i" env SPECTRA_JIT=auto SPECTRA_CACHE_DIR="$cache" \
            "$spectraformer" bench $flags --kinds compile --threads 1 --json "$parts/$number-compile-$i.jsonl"
        rm -rf "$cache"
    done
else
    skipped compile "no C compiler"
fi

python=
for p in ${PYTHON:-} python3; do
    [ -z "$python" ] && "$p" -c 'import torch' 2>/dev/null && python=$p
done
if [ -n "$python" ]; then
    part "PyTorch, attention" lines "$python" bench/peers/attention.py ${BENCH_QUICK:+--quick}
    part "PyTorch, training step" lines "$python" bench/peers/step.py ${BENCH_QUICK:+--quick}
else
    skipped peers "no PyTorch here"
fi

cat "$parts"/*.jsonl >"$out/results.jsonl" || exit 1
echo
"${LUA:-lua5.4}" bench/table.lua "$out/results.jsonl" || failed=1
[ "$busy" -eq 0 ] || echo "others used the machine during some of it: BENCH_ALLOW_BUSY=1 quotes figures all the same, marked" >&2
[ "$failed" -eq 0 ] || exit 1
[ "$busy" -eq 0 ] || exit 4
