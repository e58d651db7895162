#!/bin/sh
# spectraformer bench from outside: records, busy machines, and what the scripts of bench/ make of records.
# A line a check; ends with "N passed, N failed, N skipped".

. "$(dirname "$0")/checks.sh"

tree=$OLDPWD
export SPECTRA_CACHE_DIR="$work/cache" SPECTRA_JIT=never # what was built ahead will do
small="--b 1 --h 2 --n 96 --repeat 3 --seconds 0.05 --allow-busy"

cat >records.lua <<'LUA'
-- lua records.lua TREE FILE CHUNK: runs the chunk with `records`, all of the file; it must return true
package.path = arg[1] .. "/bench/?.lua"
local records = require("json").need(arg[2])
local machine, cases = records[1], table.move(records, 2, #records, 1, {})
os.exit(load(arg[3], "=chunk", "t", { m = machine, c = cases, ipairs = ipairs, type = type, math = math })() and true or false)
LUA
records() { lua5.4 records.lua "$tree" "$@"; }

# shellcheck disable=SC2086
{
    is "shapes x threads x kinds" "$bin" bench $small --n 64,96 --threads 1,2 --json all.jsonl \
        --kinds forward,backward,causal,causal_backward,step,softmax,softmax_backward
    is "the first record is of the machine" records all.jsonl '
        return m.record == "machine" and m.processors >= 1 and m.fma_gflops[m.isa]["1"] > 0 and m.read_gbs["2"] > 0 and
            type(m.busy) == "boolean" and type(m.others) == "number"'
    is "then one a case" records all.jsonl '
        local ok = #c == 2 * (2 * 6 + 1) -- a step has one token
        for _, r in ipairs(c) do
            ok = ok and r.record == "case" and r.repeats >= 3 and r.ns_p10 <= r.ns and r.ns <= r.ns_p90 and r.ns > 0 and
                r.flops > 0 and r.floor_ns > 0 and r.fma_gflops > 0 and r.share > 0
        end
        return ok'
    is "floors are those of the mathematics" records all.jsonl '
        local f, b = c[1], c[3]
        return f.flops == 4 * 32 * 128 + 4 * 128 * 32 + 3 * 128 and b.flops == 2 * f.flops and f.exponentials == 256 and
            f.bytes == 512 and b.bytes == 1024'
    is "kernels and row operators alone" "$bin" bench $small --features posrf,trigrf --kinds kernels,rows --threads 1 \
        --json kernels.jsonl
    is "each of them, those of the matrix twice" records kernels.jsonl 'return #c == 2 * 14 + 11'
    is "kernels alone do not wait for memory" records kernels.jsonl '
        for _, r in ipairs(c) do
            if r.floor_ns > 0 and r.floor ~= "multiply-adds" then return false end
        end
        return true'
    is "bytes of row operators, shared ones once" records kernels.jsonl '
        local want, seen = { layernorm = 8 + 8 / 120, layernorm_bwd = 16 + 16 / 120, cross_entropy = 4 + 8 / 64,
            cross_entropy_bwd = 8 + 12 / 64, adamw = 28 }, 0
        for _, r in ipairs(c) do
            local bytes = want[r.kind:match("^row%.(.*)")]
            if bytes then
                seen = seen + 1
                if math.abs(r.bytes - bytes) > 1e-9 then return false end
            end
        end
        return seen == 5'
    is "every component function" sh -c "'$bin' bench $small --features all --threads 1 --json - >features.jsonl"
    is "what does not count is not repeated" sh -c "'$bin' bench $small --n 64,96 --h 1,2 --threads 1,2 --json once.jsonl \
        --kinds step,softmax,fwd.merge,row.gelu >once.out && grep -q '^row.gelu  *-  *-  *-  *-  *-  *-  *-  *-  *1 ' once.out"
    is "nor recorded" records once.jsonl '
        local n = {}
        for _, r in ipairs(c) do n[r.kind] = (n[r.kind] or 0) + 1 end
        for _, r in ipairs(c) do
            if r.kind == "row.gelu" and (r.B or r.H or r.N or r.D or r.DV or r.M) then return false end
            if r.kind == "step" and (r.N or not r.H) or r.kind == "fwd.merge" and (r.B or r.H or r.N or not r.M) or
                r.kind == "softmax" and (r.M or not r.N) then return false end
        end
        return n.step == 4 and n.softmax == 8 and n["fwd.merge"] == 2 and n["row.gelu"] == 2'
    is "a training step" "$bin" bench $small --n 64,96 --kinds training --task lra-listops --json step.jsonl --threads 1
    is "once, with the sizes of its task" records step.jsonl '
        return #c == 1 and c[1].N == 2048 and c[1].B == 1 and c[1].exact == nil and c[1].chain == nil'
    is "and a floor" records step.jsonl 'return c[1].floor_ns > 0 and (m.busy or c[1].floor_ns < c[1].ns) and c[1].share == c[1].floor_ns / c[1].ns'
    is "its memory adds up" records step.jsonl '
        local sum, r = 0, c[1]
        for _, x in ipairs { "parameters", "gradients", "optimiser'"'"'s moments" } do sum = sum + r.buffers[x] end
        return sum == 4 * 4 * r.parameters and r.peak_bytes > sum and r.outside_over_attention > 0 and
            r.attention_ms < r.step_ms and r.unit == "sequence"'
    is "the best instructions are a limit" "$bin" bench $small --target portable --json portable.jsonl
    is "and are recorded" records portable.jsonl 'return c[1].isa == "portable" and m.isa == "portable"'
    is "what cannot go together is said" sh -c "
        '$bin' bench $small --features sderf,posrf --kinds causal 2>left.err | grep -q '^causal  *posrf' &&
            grep -q 'causal of sderf x gaus is left out: its linear map' left.err"
    is "nothing to measure -> 1" sh -c "'$bin' bench $small --features poisrf --kernels sorf 2>none.err >/dev/null
        [ \$? -eq 1 ] && grep -q 'nothing to measure' none.err"
    is "a kernel from scratch" env SPECTRA_JIT=auto "$bin" bench $small --kinds compile --features posrf \
        --threads 1,2 --json compile.jsonl
    is "its record" records compile.jsonl 'return c[1].unit == "kernel" and c[1].ns > 1e7 and c[1].share == nil'
    SPECTRA_JIT=auto "$bin" bench $small --kinds compile --features posrf >/dev/null 2>again.err
    verdict $(($? == 2 ? 0 : 1)) "which is not cold again" "$(cat again.err)"
    for json in "--json -" ""; do
        "$bin" bench $small $json 2>full.err >/dev/full
        code=$?
        grep -q 'standard output: cannot write' full.err
        verdict $(($? == 0 && code == 1 ? 0 : 1)) "a full disk ${json:-as text} -> 1" "exit $code: $(cat full.err)"
    done
}

# ---- others use the machine -----------------------------------------------------------------------

processors=$(nproc)
pids=
i=0
while [ $i -lt "$processors" ]; do
    (while :; do :; done) &
    pids="$pids $!"
    i=$((i + 1))
done
"$bin" bench --b 1 --n 96 --repeat 3 --seconds 0.3 --threads 1 --json busy.jsonl >busy.out 2>busy.err
code=$?
"$bin" bench --b 1 --n 96 --repeat 3 --seconds 0.3 --threads 1 --json marked.jsonl --allow-busy >marked.out 2>marked.err
marked=$?
# shellcheck disable=SC2086
kill $pids
verdict $((code == 4 ? 0 : 1)) "a busy machine -> 4" "exit $code: $(cat busy.err)"
is "it says so" grep -q '2 of 2 cases were measured while others used the machine' busy.err
is "cases are marked" sh -c '[ "$(grep -c "busy (others" busy.out)" -eq 2 ]'
is "so is what is known of the machine" records busy.jsonl 'return m.busy and m.rates_others > 0.05'
is "and the share of the cores" records marked.jsonl 'return m.rates_cores >= 0 and c[1].cores >= 0 and c[1].cores < 1'
is "and have no percentage" records busy.jsonl 'return c[1].busy and c[1].others > 0.05 and not c[1].share and c[1].ns > 0'
verdict $((marked == 0 ? 0 : 1)) "--allow-busy -> 0" "exit $marked: $(cat marked.err)"
is "with percentages, marked" records marked.jsonl 'return c[1].busy and c[1].share > 0'

# ---- what is made of records ----------------------------------------------------------------------

compare="$tree/bench/compare"
is "compare" sh -c "'$compare' all.jsonl all.jsonl | grep -q '26 cases, B is 1.000 times as fast'"
sed 's/"processors":[0-9]*/"processors":999/' all.jsonl >other.jsonl
is "of other machines" sh -c "! '$compare' all.jsonl other.jsonl 2>other.err && grep -q 'another machine' other.err"
is "when told" "$compare" all.jsonl other.jsonl --any-machine
is "no case in common" sh -c "! '$compare' all.jsonl step.jsonl 2>common.err && grep -q 'no case in common' common.err"
echo '{"record": "case", "ns": }' >broken.jsonl
is "broken lines are named" sh -c "! '$compare' all.jsonl broken.jsonl 2>broken.err && grep -q 'broken.jsonl:1' broken.err"
shape='"feat": "posrf", "kernel": "gaus", "B": 16, "H": 2, "N": 4096, "D": 32, "DV": 32, "M": 128, "threads": 2'
peer='"library": "PyTorch", "version": "2", "allocator": "kept"'
machine='"record": "machine", "cpu": "x", "processors": 2, "memory_bytes": 1, "isa": "avx2", "read_gbs": {"2": 9}'
{
    echo "{$machine, \"blas\": \"none\", \"fma_gflops\": {\"avx2\": {\"2\": 99}}, \"others\": 0.01, \"busy\": false}"
    for kind in forward forward+backward; do
        for ratio in 9.5 1.5 4.5; do # as often as the time of the unfused side
            echo "{\"record\": \"unfused\", \"kind\": \"$kind\", $shape, \"ns\": $ratio, \"ratio\": $ratio," \
                '"others": 0.02, "busy": false}'
        done
    done
    for seconds in 1.25 1 1.75; do
        echo "{\"record\": \"case\", \"kind\": \"compile\", \"feat\": \"posrf\", \"ns\": ${seconds}e9, \"busy\": false}"
    done
    for form in eager compiled; do
        echo "{\"record\": \"peer\", \"form\": \"$form\", \"kind\": \"forward\", $shape, \"ns\": 7," \
            "$peer, \"others\": 0.02, \"busy\": false}"
    done
} >quiet.jsonl
sed '/unfused/s/0.02, "busy": false/0.3, "busy": true/' quiet.jsonl >loud.jsonl
sed '/"ratio": 9.5/s/0.02, "busy": false/0.3, "busy": true/' quiet.jsonl >partly.jsonl
table="$tree/bench/table.lua"
is "of repeats the median counts" sh -c "lua5.4 '$table' quiet.jsonl >quiet.txt && grep -q 'pass  *4.50x / 4.50x$' quiet.txt &&
    grep -q 'The machine was idle: others used 2.0 %' quiet.txt"
{
    cat quiet.jsonl
    for kind in forward backward; do
        echo "{\"record\": \"case\", \"kind\": \"$kind\", $shape, \"isa\": \"avx2\", \"precision\": \"float32\", \"ns\": 2," \
            '"floor_ns": 1, "share": 0.5, "others": 0.02, "busy": false}'
        echo "{\"record\": \"peer\", \"form\": \"eager\", \"kind\": \"forward+backward\", $shape, \"ns\": 7," \
            "$peer, \"others\": 0.02, \"busy\": false}"
    done
} >floors.jsonl
is "what the floor allows" sh -c "lua5.4 '$table' floors.jsonl | grep -q 'eager .*3.5x / 1.8x (PyTorch 2, kept); at the floor 7.0x / 3.5x$'"
is "of cold compilations the slowest" grep -q 'pass  *1.75 s at most of 3$' quiet.txt
is "busy repeats do not" sh -c "lua5.4 '$table' partly.jsonl | grep -q 'pass  *4.50x / 4.50x$'"
is "nor do busy ones alone" sh -c "lua5.4 '$table' loud.jsonl >loud.txt && ! grep -q -e 4.50x -e 'machine was idle' loud.txt &&
    grep -q 'Others used the machine during 6 of 9 measurements, up to 30.0 %' loud.txt &&
    grep -q 'OpenBLAS.* not measured (the machine was busy)' loud.txt"
is "unless allowed, marked" sh -c "BENCH_ALLOW_BUSY=1 lua5.4 '$table' loud.jsonl | grep -q 'pass (busy)  *4.50x / 4.50x$'"
is "a load that is not known is not 0 %" sh -c "sed 's/0.02, \"busy\": false/-1, \"busy\": true/' quiet.jsonl >unknown.jsonl &&
    lua5.4 '$table' unknown.jsonl | head -1 | grep -q 'What others used of the machine is not known'"
is "compare takes repeats and forms alike" sh -c "'$compare' quiet.jsonl partly.jsonl >pair.txt && grep -q '^5 cases' pair.txt &&
    [ \"\$(grep -c '^forward compiled  *posrf' pair.txt)\" -eq 1 ] && grep -q '^forward  *posrf .* 4.50 .* 4.50 ' pair.txt"
is "a table of targets" sh -c "lua5.4 '$tree/bench/table.lua' all.jsonl >table.txt &&
    [ \"\$(grep -c -e 'not measured (' -e 'pass' -e 'falls short' table.txt)\" -eq 14 ]"
printf 'a\n<!-- bench: make readme-bench -->\nsomething stale\n<!-- end of bench -->\nz\n' >readme.md
cp readme.md stale.md
lua5.4 "$table" --readme readme.md loud.jsonl 2>loud.err
code=$?
cmp -s readme.md stale.md
verdict $(($? == 0 && code == 4 ? 0 : 1)) "a busy run is not for the README" "exit $code: $(cat loud.err)"
is "and says which" grep -q 'loud.jsonl: others used the machine while 1 of 14 rows were measured' loud.err
is "nor busy rates" sh -c "sed '/machine/s/\"busy\": false/\"busy\": true/' quiet.jsonl >rates.jsonl
    ! lua5.4 '$table' --readme readme.md rates.jsonl 2>rates.err && grep -q 'its rates were measured' rates.err"
sed -i 's/"busy":true/"busy":false/' all.jsonl # what the checks of the README's text need
is "unless allowed, with its marks" sh -c "cp stale.md allowed.md && BENCH_ALLOW_BUSY=1 lua5.4 '$table' --readme allowed.md loud.jsonl &&
    grep -q '4.50x / 4.50x | pass (busy) |' allowed.md && grep -q 'figures marked busy are of those' allowed.md &&
    lua5.4 '$table' --check allowed.md loud.jsonl"
mkdir readme.md.part
is "a README that cannot be written stays" sh -c "! lua5.4 '$table' --readme readme.md all.jsonl 2>part.err &&
    cmp readme.md stale.md && [ \"\$(wc -l <part.err)\" -eq 1 ]"
rmdir readme.md.part
is "the README's table" sh -c "lua5.4 '$tree/bench/table.lua' --readme readme.md all.jsonl && grep -q '^| ' readme.md &&
    [ \"\$(head -1 readme.md)\" = a ] && [ \"\$(tail -1 readme.md)\" = z ] && ! grep -q stale readme.md"
is "is checked" lua5.4 "$tree/bench/table.lua" --check readme.md all.jsonl
sed -i 's/^| posrf x gaus forward.*/| posrf x gaus forward | 99 % | | pass |/' readme.md
is "typed figures are found" sh -c "! lua5.4 '$tree/bench/table.lua' --check readme.md all.jsonl 2>/dev/null"
is "a picture" sh -c "lua5.4 '$tree/bench/roofline.lua' all.jsonl >roof.svg && head -1 roof.svg | grep -q '^<svg' &&
    tail -1 roof.svg | grep -q '</svg>' && [ \"\$(grep -c '<circle' roof.svg)\" -gt 4 ]"

# ---- make bench, of commands that measure nothing -------------------------------------------------

mkdir -p made/bench
script() { # script FILE: a command whose text is standard input
    { echo '#!/bin/sh'; cat; } >"made/$1"
    chmod +x "made/$1"
}
script python3 <<'SH' # has no PyTorch
exit 1
SH
script lua <<SH
echo used >"$work/lua.used"
exec lua5.4 "\$@"
SH
script spectraformer <<SH
while [ \$# -gt 0 ]; do
    [ "\$1" = --json ] && head -1 "$work/quiet.jsonl" >"\$2"
    shift
done
SH
echo "grep structured '$work/quiet.jsonl' || :" | script bench/structured
make_bench() { # make_bench FILE CODE: attn_bench prints records of FILE; the exit code
    echo "grep unfused '$work/$1'" | script bench/attn_bench
    (cd "$tree" && PATH="$work/made:$PATH" PYTHON='' CC=no-compiler B="$work/made" LUA="$work/made/lua" \
        sh bench/run.sh) >made.out 2>&1
    [ $? -eq "$2" ]
}
is "make bench" make_bench quiet.jsonl 0
is "with the Makefile's B and LUA" sh -c "[ -s made/bench/results.jsonl ] && [ -s lua.used ]"
is "a busy machine is not only the command's" make_bench loud.jsonl 4
BENCH_ALLOW_BUSY=1
export BENCH_ALLOW_BUSY
is "unless allowed" make_bench loud.jsonl 0
unset BENCH_ALLOW_BUSY

totals
