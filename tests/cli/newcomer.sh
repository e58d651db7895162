#!/bin/sh
# The README's worked examples, done as it says: the code blocks that begin `-- specs/feature/NAME.lua`
# and `-- specs/matrix/NAME.lua` become those files in a copy of the tree; one `make` later they are
# listed, checked, attend, train. Before that the command as it is takes the feature by its path.

root=$(pwd)
tree=build/newcomer
passed=0 failed=0
check() {
    what=$1
    shift
    if "$@" >>"$root/build/log/newcomer-detail.log" 2>&1; then
        passed=$((passed + 1)) && echo "ok - $what"
    else
        failed=$((failed + 1)) && echo "not ok - $what (build/log/newcomer-detail.log)"
    fi
}

mkdir -p build/log "$tree"
: >build/log/newcomer-detail.log
# Objects and generated text come along with their times, so that only what changes is compiled.
rm -rf "$tree"
mkdir -p "$tree/build"
cp -a Makefile gen specs templates runtime tests bench "$tree/"
cp -a build/obj build/base build/*-*/ "$tree/build/" 2>/dev/null
cp -a build/sources.mk build/registry.c build/task_specs.c "$tree/build/"

file=$(sed -n 's/^-- \(specs\/feature\/[a-z0-9_]*\.lua\)$/\1/p' README.md | head -1)
name=$(basename "$file" .lua)
awk -v file="-- $file" '$0 == file { on = 1 } /^```/ { on = 0 } on' README.md >"$tree/$file"
check "README has an example ($file)" test -s "$tree/$file"
file2=$(sed -n 's/^-- \(specs\/matrix\/[a-z0-9_]*\.lua\)$/\1/p' README.md | head -1)
matrix=$(basename "$file2" .lua)
awk -v file="-- $file2" '$0 == file { on = 1 } /^```/ { on = 0 } on' README.md >"$tree/$file2"
check "and another ($file2)" test -s "$tree/$file2"

# A further attention, the mean of the values: its files, and a row of the table.
cp -a tests/cli/newcomer/runtime tests/cli/newcomer/templates "$tree/"
sed -i 's/attention_softmax;/attention_softmax, attention_mean;/; s/^    {NULL, NULL},/    {\&attention_mean, NULL},\n&/' \
    "$tree/runtime/attention/table.c"
diff -rq runtime "$tree/runtime" | sed "s#$tree/##g" >"$tree/changed"
check "an attention is its folder and a row" test "$(cat "$tree/changed")" = \
    "Only in runtime/attention: mean
Files runtime/attention/table.c and runtime/attention/table.c differ"

cd "$tree" || exit 1
export SPECTRA_CACHE_DIR="$PWD/cache"
check "arrays to attend to" sh -c "
    $root/build/spectraformer matrix --kernel gaus --m 256 --d 16 --seed 1 --out x.npy &&
    lua5.4 -e '
      local f = assert(io.open(\"x.npy\", \"rb\")); local s = f:read(\"a\"); f:close()
      local h = s:sub(11, 10 + s:byte(9) + 256 * s:byte(10))
      local n = h:gsub(\"%(256, 16%)\", \"(1, 2, 128, 16)\")
      n = n:gsub(\"%s+\$\", \"\"); n = n .. (\" \"):rep(#h - #n - 1) .. \"\\n\"
      local g = assert(io.open(\"q.npy\", \"wb\")); g:write(s:sub(1, 10), n, s:sub(11 + #h)); g:close()'"
mkdir installed && cp "$root/build/spectraformer" "$file" installed
check "the command runs the file, without make and tree" sh -c "
    cd installed && ./spectraformer attend --attn performer --feat ./$name.lua --kernel orf --m 64 \
        --q ../q.npy --k ../q.npy --v ../q.npy --out ../jit.npy && test -s ../jit.npy"
check "its derivatives pass gen --check" lua5.4 gen/main.lua --check "$name"
check "one make builds it" make --no-print-directory -j2 build/spectraformer
check "list knows both" sh -c "build/spectraformer list | grep -q '$name' &&
    build/spectraformer list | grep -q '$matrix'"
check "the catalogue too" sh -c "lua5.4 gen/main.lua --catalogue | grep -q '$matrix'"
check "attend runs them" sh -c "
    build/spectraformer attend --attn performer --feat $name --kernel $matrix --m 64 \
        --q q.npy --k q.npy --v q.npy --out o.npy && test -s o.npy"
check "data to train on" sh -c "
    build/spectraformer data generate lra-listops --rows 96,64,64 --out d >/dev/null"
check "train runs them" sh -c "
    build/spectraformer train --task lra-listops --feat $name --kernel $matrix --m 16 --batch 4 \
        --steps 2 --eval-batches 1 --data d --run r >/dev/null"
check "list shows the attention and its setting" sh -c "build/spectraformer list | grep -A1 '^  mean ' | grep -q -e --scale"
check "so does train --help" sh -c "build/spectraformer train --help | grep -q -e '--scale X'"
for device in cpu emu; do
    check "it attends, forward and backward, on $device" build/spectraformer attend --attn mean --scale 2 \
        --q q.npy --k q.npy --v q.npy --dout q.npy --out "o-$device.npy" --dq "dq-$device.npy" --dk "dk-$device.npy" \
        --dv "dv-$device.npy" --device "$device"
    check "it trains on $device" sh -c "
        build/spectraformer train --attn mean --scale 2 --data d --layers 1 --batch 2 --steps 3 --eval-every 3 \
            --eval-batches 1 --device $device --run mean-$device >/dev/null &&
        grep -q '\"scale\": 2.0' mean-$device/config.json"
done
for x in o dq dk dv; do
    check "$x is the same bits on both" cmp "$x-cpu.npy" "$x-emu.npy"
done
mkdir golden && lua5.4 tests/cli/newcomer/index.lua q.npy golden
check "the golden runner takes it" sh -c "
    make --no-print-directory -j2 build/tests/golden && build/tests/golden golden/index.json | grep '1 passed, 0 failed'"
check "and on a device" sh -c "
    KERNEL_CACHE=cache build/tests/golden --device emu golden/index.json | grep '1 passed, 0 failed'"
check "gradients pass in double" sh -c "
    make --no-print-directory -j2 build/tests/test_gradient && build/tests/test_gradient"
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
