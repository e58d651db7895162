#!/bin/sh
# tests/device/cuda_nvcc.sh LUA FOLDER : a kernel of each kind through nvcc, whose warnings are other ones than
# NVRTC's; any of them fails. nvcc: $NVCC, or on the PATH, or in /usr/local/cuda.
lua=$1 folder=$2
nvcc=${NVCC:-$(command -v nvcc || echo /usr/local/cuda/bin/nvcc)}
if [ ! -x "$nvcc" ]; then
    echo "skipped: no nvcc on this machine, CUDA kernels not compiled with it"
    echo "0 passed, 0 failed, 1 skipped"
    exit 0
fi
mkdir -p "$folder"
list="posrf attn_queries 20 24 100 f32 fixed
hrf attn_keys 20 24 100 f32 fixed
sderf attn_queries_bwd 20 24 100 bf16 fixed
gerf attn_keys_bwd 20 24 100 f32 learn
posrf attn_keys_bwd 256 256 100 f32 fixed
trigrf attn_causal 20 24 100 bf16 fixed
hrf attn_causal_queries_bwd 20 24 100 f32 fixed
gerf attn_causal_keys_bwd 20 24 100 f32 learn
aderf attn_maps 20 24 100 f32 fixed
sderf attn_products 20 24 100 bf16 fixed"
echo "$list" | while read -r feature kernel D DV M type learn; do
    echo "$folder/$feature.$kernel.cu $feature $kernel $D $DV $M $type float32 $learn"
done | "$lua" tests/device/cuda_text.lua || exit 1
passed=0 failed=0
for file in "$folder"/*.cu; do
    if "$nvcc" -cubin -arch=sm_90 -Werror all-warnings -o "$folder/out.cubin" "$file"; then
        passed=$((passed + 1))
    else
        echo "FAILED $file"
        failed=$((failed + 1))
    fi
done
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
