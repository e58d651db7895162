#!/bin/sh
# tests/cuda_nvcc.sh LUA FOLDER : a kernel of each kind through nvcc, whose warnings are other ones than
# NVRTC's; any of them fails. nvcc: $NVCC, or on the PATH, or in /usr/local/cuda.
lua=$1 folder=$2
nvcc=${NVCC:-$(command -v nvcc || echo /usr/local/cuda/bin/nvcc)}
if [ ! -x "$nvcc" ]; then
    echo "skipped: no nvcc on this machine, CUDA kernels not compiled with it"
    echo "0 passed, 0 failed, 1 skipped"
    exit 0
fi
mkdir -p "$folder"
list="posrf attn_queries f32 fixed
hrf attn_keys f32 fixed
sderf attn_queries_bwd bf16 fixed
gerf attn_keys_bwd f32 learn
trigrf attn_causal bf16 fixed
hrf attn_causal_queries_bwd f32 fixed
gerf attn_causal_keys_bwd f32 learn"
echo "$list" | while read -r feature kernel type learn; do
    echo "$folder/$feature.$kernel.cu $feature $kernel 20 24 100 $type float32 $learn"
done | "$lua" tests/cuda_text.lua || exit 1
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
