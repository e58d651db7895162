#!/bin/sh
# Everything about CUDA for real, on a machine with an NVIDIA GPU: `make gpu` builds what this needs
# and runs it, or sh tests/device/gpu.sh [build].
# Prints a line a check and "N passed, N failed, N skipped"; without a GPU it says so and fails, since
# there is nothing it could show. What it needs: the driver, NVRTC and cuBLAS; compute-sanitizer if there.
set -u
cd "$(dirname "$0")/../.." || exit 1
build=${1:-build}
bin=$build/spectraformer
out=$build/gpu
passed=0 failed=0 skipped=0

check() { # check NAME COMMAND ...
    name=$1
    shift
    if "$@" >"$out/log" 2>&1; then
        passed=$((passed + 1))
        echo "ok      $name"
    else
        failed=$((failed + 1))
        echo "FAILED  $name"
        tail -n 15 "$out/log" | sed 's/^/        /'
    fi
}

if [ ! -x "$bin" ]; then
    echo "gpu: $bin is not there: make gpu builds it"
    exit 1
fi
rm -rf "$out" && mkdir -p "$out" || exit 1
"$bin" info | sed -n '/evices/,$p'

# Test programs that run on the emulator in `make test`, on the GPU here, with all their cases.
export DEVICE_CASES=full
for name in test_device test_device_kernels test_maps_device test_attention_device test_model_device; do
    check "$name" "$build/tests/$name" cuda
done

# Inputs of one attention with gradients, of a size that fits no tile.
lua5.4 - "$out" <<'LUA' || exit 1
local out, seed = arg[1], 1
local function write(name, B, H, T, D)
  local head = ("{'descr': '<f4', 'fortran_order': False, 'shape': (%d, %d, %d, %d), }"):format(B, H, T, D)
  head = head .. (" "):rep((64 - (#head + 11) % 64) % 64) .. "\n"
  local f = assert(io.open(out .. "/" .. name .. ".npy", "wb"))
  f:write("\147NUMPY\1\0", string.pack("<I2", #head), head)
  for _ = 1, B * H * T * D do
    seed = (seed * 1664525 + 1013904223) % 4294967296
    f:write(string.pack("<f", seed / 2147483648 - 1))
  end
  f:close()
end
for _, name in ipairs { "q", "k", "v", "do" } do write(name, 2, 2, 1000, 32) end
LUA
attend() { # attend NAME OPTION ...
    to=$out/$1
    shift
    mkdir -p "$to"
    "$bin" attend --attn performer --m 128 --seed 3 --q "$out/q.npy" --k "$out/k.npy" --v "$out/v.npy" \
        --dout "$out/do.npy" --out "$to/o.npy" --dq "$to/dq.npy" --dk "$to/dk.npy" --dv "$to/dv.npy" "$@"
}
same() {
    for f in o dq dk dv; do
        cmp "$out/$1/$f.npy" "$out/$2/$f.npy" || return 1
    done
}
repeats() {
    attend first --device cuda "$@" || return 1
    for i in $(seq 30); do
        attend again --device cuda "$@" && same first again || return 1
    done
}
for feat in posrf trigrf saderf hrf; do
    check "$feat: the same bits 30 times" repeats --feat "$feat" --kernel orf
done
check "causal: the same bits 30 times" repeats --feat posrf --kernel orf --causal
check "bf16: the same bits 30 times" repeats --feat posrf --kernel orf --precision bf16

if command -v compute-sanitizer >/dev/null; then
    for tool in memcheck racecheck initcheck synccheck; do
        for feat in posrf trigrf saderf hrf; do
            check "$tool $feat" compute-sanitizer --tool "$tool" --error-exitcode 1 \
                "$bin" attend --device cuda --attn performer --feat "$feat" --kernel orf --m 128 \
                --q "$out/q.npy" --k "$out/k.npy" --v "$out/v.npy" --dout "$out/do.npy" \
                --out "$out/o.npy" --dq "$out/dq.npy"
        done
        check "$tool causal" compute-sanitizer --tool "$tool" --error-exitcode 1 \
            "$bin" attend --device cuda --attn performer --feat posrf --kernel orf --m 128 --causal \
            --q "$out/q.npy" --k "$out/k.npy" --v "$out/v.npy" --dout "$out/do.npy" \
            --out "$out/o.npy" --dq "$out/dq.npy"
    done
else
    skipped=$((skipped + 1))
    echo "skipped compute-sanitizer: not on PATH"
fi

echo
echo "time against the floor (bench/cuda-model says what the kernels themselves must move):"
check "times" "$build/bench/attn_device" cuda
cat "$out/log"
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" -eq 0 ]
