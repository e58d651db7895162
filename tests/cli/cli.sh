#!/bin/sh
# The command line from outside: bad input, exit codes, what is left behind, resuming, determinism.
# SPECTRAFORMER names the binary; CLI_ATTN="--attn softmax" CLI_STEPS=4 tries another attention;
# CLI_SHORT=1 leaves out repetitions.
# A line a check; ends with "N passed, N failed, N skipped".

. "$(dirname "$0")/checks.sh"

export SPECTRA_CACHE_DIR="$work/cache"

pair=${CLI_ATTN:---attn performer --feat saderf --kernel qmc}
small="--layers 1 --batch 8 --steps ${CLI_STEPS:-40} --eval-every 10 --eval-batches 2 --seed 7"
# shellcheck disable=SC2086
train() { quiet train $pair $small --data data "$@"; }

# ---- arrays: the numbers come from a drawn matrix ------------------------------------------------

is "matrix writes a file" "$bin" matrix --kernel gaus --m 256 --d 64 --out w.npy
tail -c $((4 * 256 * 64)) w.npy >floats
is "matrix with row weights" "$bin" matrix --kernel ssr --m 9 --d 4 --out w9.npy --row-weights r9.npy
is "they add up to m" sh -c "tail -c 36 r9.npy | lua5.4 -e '
    local sum, text = 0, io.read(\"a\")
    for i = 1, 36, 4 do sum = sum + string.unpack(\"<f\", text, i) end
    os.exit(math.abs(sum - 9) < 1e-4 and string.unpack(\"<f\", text) ~= 1)'"
npy "2, 2, 70, 8" 2240 q.npy
npy "2, 2, 70, 8" 2240 k.npy 2240
npy "2, 2, 70, 8" 2240 v.npy 4480
npy "2, 2, 70, 8" 2240 do.npy 6720
npy "2, 2, 33, 8" 1056 k33.npy 2240
npy "2, 2, 70, 9" 2520 wide.npy
npy "4, 70, 8" 2240 flat.npy
npy "2, 33" 66 mask33.npy
npy "2, 70" 140 mask.npy
npy "2, 2, 70, 8" 100 short.npy
printf 'no array' >junk.npy

# ---- wrong usage: 2 ------------------------------------------------------------------------------

says 2 "no command"
says 2 "did you mean 'train'" trian
says 2 "did you mean --attn" train --atn softmax
says 2 "train has no option --q" train --q q.npy
says 2 "'abc', allowed is a whole number from 1" train --steps abc
says 2 "'0', allowed is a whole number from 1" train --steps 0
says 2 "'fast', allowed is a number from 0" train --lr fast
says 2 "'nan'" train --lr nan
says 2 "needs a value" train --steps
says 2 "needs a value" train --run --resume
says 2 "takes no value" train --resume=yes
says 2 "softmax|gaussian" train --target gauss
says 2 "did you mean 'saderf'" train --feat sadref
says 2 "did you mean 'qmc'" train --kernel qmx
says 2 "did you mean 'performer'" train --attn performr
says 2 "did you mean 'lra-listops'" train --task lra-listop
says 2 "both component functions" train --feat saderf --kernel posrf
says 2 "both weight matrices" train --feat orf --kernel qmc
says 2 "no meaning for softmax" train --attn softmax --feat posrf
says 2 "exclude each other" train --resume --overwrite
says 2 "is not an option" train lra-listops
says 2 "train|dev|test" eval --split tset
says 2 "data needs a verb" data
says 2 "did you mean 'generate'" data generat lra-listops
says 2 "did you mean 'lra-listops'" data generate lra-listop
says 2 "three numbers" data generate lra-listops --rows 10,10
says 2 "A|B" data generate lra-listops --tokens C
says 2 "needs --from" data prepare lra-listops
says 2 "no option --from" data generate lra-listops --from .
says 2 "needs --kernel" matrix --out w2.npy
says 2 "from 1 to 1024" matrix --kernel qmc --m 2000 --out w2.npy
says 1 "cannot go with sorf" attend --feat poisrf --kernel sorf --q q.npy --k k.npy --v v.npy --out o.npy
says 2 "no official behaviour" attend --feat sderf --kernel orf --official --q q.npy --k k.npy --v v.npy --out o.npy
says 1 "official behaviour) cannot be causal" attend --feat posrf --kernel orf --causal --official --q q.npy --k k.npy --v v.npy --out o.npy
says 1 "gradient through computed" attend --feat oprf --kernel orf --causal --through --q q.npy --k k.npy --v v.npy --out o.npy
says 2 "parameter A would be computed.*--input A=FILE" attend --feat oprf --kernel orf --causal --q q.npy --k k.npy --v v.npy --out o.npy
says 2 "linear map" attend --feat sderf --kernel orf --causal --q q.npy --k k.npy --v v.npy --out o.npy
says 1 "as many queries as keys, here are 70 and 33" attend --attn softmax --causal --q q.npy --k k33.npy --v k33.npy --out o.npy
says 2 "train has no option --causal" train --causal
says 2 "attend has no option --train-scalars" attend --train-scalars
says 1 "fast is of devices" attend --feat posrf --kernel orf --precision fast --q q.npy --k k.npy --v v.npy --out o.npy
says 1 "causal attention has no products of bf16" attend --feat posrf --kernel orf --causal --precision bf16 --q q.npy --k k.npy --v v.npy --out o.npy
says 1 "softmax has no products of bf16" attend --attn softmax --precision bf16 --q q.npy --k k.npy --v v.npy --out o.npy
says 1 "constants" attend --feat aderf --kernel orf --through --q q.npy --k k.npy --v v.npy --out o.npy
says 1 "must be\|needs m > d" matrix --kernel mm --m 8 --d 16 --out w2.npy
says 2 "needs --q" attend --attn softmax --out o.npy
says 2 "NAME=FILE" attend --q q.npy --k k.npy --v v.npy --out o.npy --input W
says 2 "no input\|did you mean\|unknown" attend --q q.npy --k k.npy --v v.npy --out o.npy --input Z=w.npy
says 2 "go together" attend --attn softmax --q q.npy --k k.npy --v v.npy --out o.npy --dq g.npy
says 2 "did you mean 'saderf'" approx --feat posrf,sadref
says 2 "did you mean 'orf'" approx --kernel off
says 2 "unknown" approx --feat posrf,
says 2 "'64x', allowed are whole numbers from 1 to 1024" approx --m 64x
says 2 "'2000', allowed are whole numbers" approx --m 64,2000
says 2 "from 2 to" approx --trials 1
says 2 "needs --k" approx --q q.npy
says 2 "input-std has no meaning with --q" approx --q q.npy --k k.npy --input-std 2
says 2 "layer has no meaning without --q and --k or --run" approx --layer 1
says 2 "no antithetic form" approx --feat trigrf --antithetic
says 2 "did you mean 'forward'" bench --kinds forwrd
says 2 "did you mean 'posrf'" bench --features posrff
says 2 "did you mean 'gaus'" bench --features posrf --kernels gaos
says 2 "--n has '0', allowed are whole numbers from 1 to" bench --n 64,0
says 2 "--d has '300', allowed are whole numbers from 1 to 256" bench --d 300
says 2 "portable|avx2|avx512" bench --target avx
says 2 "from 3 to 1000" bench --repeat 2
says 2 "bench has no option --q" bench --q q.npy
says 1 "absent/b.jsonl" bench --json absent/b.jsonl
says 2 "--n has '', allowed are whole numbers" bench --n=
says 2 "--dv has '', allowed are whole numbers" bench --dv=
says 2 "--json has '', allowed are" bench --json=
export OMP_THREAD_LIMIT=1
says 2 "--threads has '2', allowed are 1 to 1 here" bench --threads 1,2
unset OMP_THREAD_LIMIT
says 2 "has no features" features --attn softmax --x q.npy --y k.npy --out f

# ---- instruction sets ----------------------------------------------------------------------------

# What a processor without these instructions does is seen on those that have them too.
bf16="attend --feat posrf --kernel orf --precision bf16 --q q.npy --k k.npy --v v.npy"
# shellcheck disable=SC2086
{
    SPECTRA_ISA=avx says 2 "SPECTRA_ISA is 'avx', allowed is portable|avx2|avx512" info
    SPECTRA_ISA=portable is "portable instructions" sh -c "'$bin' info | grep -q '^instructions  portable'"
    SPECTRA_ISA=portable is "and no products of bf16" sh -c "'$bin' info | grep -q '^bf16 products no'"
    SPECTRA_ISA=portable says 1 "--target avx2: .* no more than portable" bench --target avx2
    SPECTRA_ISA=portable is "but a model of them" "$bin" $bf16 --out bf16.portable
    if machine_has avx2 && machine_has fma; then
        SPECTRA_ISA=avx2 is "AVX2" sh -c "'$bin' info | grep -q '^instructions  avx2'"
        SPECTRA_ISA=avx2 says 1 "need a CPU with AVX512_BF16; this one's instructions are avx2" $bf16 --out o.npy
        SPECTRA_ISA=avx2 says 1 "--target avx512: .* no more than avx2" bench --target avx512
    else
        SPECTRA_ISA=avx2 says 2 "'avx2', this processor has no more than portable" info
        skipped 3 "no AVX2 on this machine: its instructions were not chosen"
    fi
    if machine_has avx512vl; then
        SPECTRA_ISA=avx512 is "AVX-512" sh -c "'$bin' info | grep -q '^instructions  avx512'"
    else
        SPECTRA_ISA=avx512 says 2 "'avx512', this processor has no more than" info
    fi
    if machine_has avx512_bf16; then
        SPECTRA_ISA=avx512 is "products of bf16" "$bin" $bf16 --out bf16.avx512
    else
        skipped 1 "no AVX512_BF16 on this machine: attend --precision bf16 not run with it"
    fi
}
is "random numbers are those of any instructions" sh -c "
    SPECTRA_ISA=portable '$bin' matrix --kernel gaus --m 256 --d 64 --out w.portable && cmp w.npy w.portable"

# ---- bad files: 1 --------------------------------------------------------------------------------

attend="attend --attn softmax --out o.npy"
# shellcheck disable=SC2086
{
    says 1 "absent.npy" $attend --q absent.npy --k k.npy --v v.npy
    says 1 "junk.npy" $attend --q junk.npy --k k.npy --v v.npy
    says 1 "short.npy" $attend --q q.npy --k short.npy --v v.npy
    says 1 "(4, 70, 8)" $attend --q flat.npy --k k.npy --v v.npy
    says 1 "(2, 2, 70, 9)" $attend --q q.npy --k wide.npy --v v.npy
    says 1 "(2, 2, 33, 8)" $attend --q q.npy --k k33.npy --v v.npy
    says 1 "allowed is (2, 70)" $attend --q q.npy --k k.npy --v v.npy --mask mask33.npy
    says 1 "shape of the result" $attend --q q.npy --k k.npy --v v.npy --dout k33.npy --dq g.npy
}
says 1 "(128, 8)" attend --q q.npy --k k.npy --v v.npy --out o.npy --input W=w.npy
says 1 "m > d\|rows" matrix --kernel mm --m 8 --d 16 --out w2.npy
says 1 "lra-text" data generate lra-text
says 1 "basic_train.tsv" data prepare lra-listops --from absent --out p
says 1 "poisrf cannot go with sorf: counts are made from" approx --feat poisrf --kernel sorf --out a.html
says 1 "nothing to measure: matrix mm needs m > d" approx --feat posrf --kernel mm --m 8 --out a.html
says 1 "(2, 2, 70, 9)" approx --q q.npy --k wide.npy --out a.html
says 1 "(4, 70, 8)" approx --q q.npy --k flat.npy --out a.html
says 1 "short.npy" approx --q q.npy --k k.npy --v short.npy --out a.html
says 1 "floats/a.html" approx --feat posrf --kernel orf --out floats/a.html
says 1 "is 'r0' the folder of a run" approx --run r0 --out a.html
is "nothing was left by failures" test ! -e a.html -a ! -e o.npy -a ! -e w2.npy -a ! -e p -a ! -e g.npy

# ---- data ----------------------------------------------------------------------------------------

is "data generate" "$bin" data generate lra-listops --out data --rows 64,24,16 --keep-tsv
says 2 "overwrite" data generate lra-listops --out data --rows 64,24,16
is "data generate again" "$bin" data generate lra-listops --out again --rows 64,24,16
is "the same seed gives the same bytes" cmp data/train.safetensors again/train.safetensors
mkdir lf
for f in train val test; do tr -d '\r' <data/basic_$f.tsv >lf/basic_$f.tsv; done
is "data prepare, LF" "$bin" data prepare lra-listops --from lf --out p1
is "data prepare, CRLF" "$bin" data prepare lra-listops --from data --out p2
is "line ends make no difference" cmp p1/dev.safetensors p2/dev.safetensors
is "data info" "$bin" data info p1
sed '3s/.$/x/' data/basic_val.tsv | tr -d '\r' >lf/basic_val.tsv
says 1 "lf/basic_val.tsv:3: Target" data prepare lra-listops --from lf --out p3
awk 'NR == 4 { $NF = ($NF + 1) % 10 } { print }' FS='\t' OFS='\t' p=1 data/basic_test.tsv |
    tr -d '\r' >lf/basic_test.tsv
tr -d '\r' <data/basic_val.tsv >lf/basic_val.tsv
says 1 "lf/basic_test.tsv:4: Target is .*, the expression's value is" \
    data prepare lra-listops --from lf --out p3
is "a refused file leaves nothing" test ! -e p3

mkdir bad
cp data/*.safetensors bad
head -c 1000 data/dev.safetensors >bad/dev.safetensors
# shellcheck disable=SC2086
{
    says 1 "data generate" train $pair --data nowhere --run r0
    says 1 "bad/dev.safetensors" train $pair --data bad --run r0
    printf 'junk' >bad/dev.safetensors
    says 1 "bad/dev.safetensors" train $pair --data bad --run r0
    says 1 "less than a batch of 32" train $pair --data data --run r0
    says 2 "does not divide" train $pair --data data --batch 4 --accumulate 3 --run r0
    says 1 "is 'r0' the folder of a run" train $pair --resume --run r0
    says 1 "is 'r0' the folder of a run" eval --run r0
    says 1 "floats" train $pair $small --data data --run floats
    says 1 "floats/r" train $pair $small --data data --run floats/r
}
is "a failed start leaves no folder" test ! -e r0

# ---- attention -----------------------------------------------------------------------------------

# shellcheck disable=SC2086
attend() { # attend OUT OPTIONS ...
    out=$1
    shift
    quiet attend $pair --seed 5 --q q.npy --k k.npy --v v.npy --mask mask.npy --dout do.npy \
        --out "$out.o" --dq "$out.q" --dk "$out.k" --dv "$out.v" "$@"
}
same() { for x in o q k v; do cmp "$1.$x" "$2.$x" || return 1; done; }
is "attend" attend a1
is "attend again" attend a2 --threads 1
is "attend, two threads" attend a3 --threads 2
is "attend is reproducible" same a1 a2
is "attend does not depend on threads" same a2 a3
case $pair in *performer*)
    # shellcheck disable=SC2086
    is "matrix of a seed" "$bin" matrix --kernel qmc --m 128 --d 8 --seed 5 --out w5.npy
    is "attend with W from a file" attend a4 --seed 9 --input W=w5.npy
    is "it is the W of the seed" same a1 a4
    attend a5 --seed 9
    is "another seed, another result" sh -c '! cmp -s a1.o a5.o'
    is "features" "$bin" features --feat saderf --kernel qmc --x q.npy --y k33.npy --out f
    is "features writes its five files" \
        test -s f/log_x.npy -a -s f/sign_x.npy -a -s f/log_y.npy -a -s f/sign_y.npy -a -s f/row_weight.npy
    ;;
esac
npy "2, 2, 70, 8" 2240 other.npy 8000
for x in k v; do # head 0 of sequence 0: the first 35 tokens of one, the others of the other
    { head -c $((128 + 4 * 280)) $x.npy; tail -c +$((129 + 4 * 280)) other.npy; } >$x.later.npy
done
for attn in "--attn softmax" "--feat posrf --kernel orf" "--feat posrf --kernel orf --antithetic"; do
    # shellcheck disable=SC2086
    {
        is "causal $attn" "$bin" attend $attn --causal --q q.npy --k k.npy --v v.npy --mask mask.npy --out c1.npy \
            --dout do.npy --dq c.q --dk c.k --dv c.v
        is "of other later tokens" "$bin" attend $attn --causal --q q.npy --k k.later.npy --v v.later.npy \
            --mask mask.npy --out c2.npy
    }
    is "later tokens change nothing before" sh -c "
        head -c $((128 + 4 * 280)) c1.npy >c1.first && head -c $((128 + 4 * 280)) c2.npy | cmp - c1.first"
    is "but something after" sh -c '! cmp -s c1.npy c2.npy'
done
is "keys may be fewer than queries" \
    "$bin" attend --attn softmax --q q.npy --k k33.npy --v k33.npy --mask mask33.npy --out o33.npy

# ---- the approximation lab ------------------------------------------------------------------------

lab="--m 16,32 --trials 3 --tokens 40 --d 8"
# shellcheck disable=SC2086
{
    is "approx" sh -c "'$bin' approx --feat posrf,poisrf --kernel orf,sorf $lab --out a.html >a.txt 2>a.err"
    is "its table has the pairs" sh -c 'grep -q "^posrf  *orf  *16 " a.txt && grep -q "^posrf  *sorf  *32 " a.txt'
    is "and not the one that is not legal" sh -c '! grep -q "^poisrf  *sorf" a.txt && grep -q "2 of 8 left out" a.err'
    is "the page has a cell for each number" sh -c '[ "$(grep -c "<td" a.html)" -eq 16 ] && tail -1 a.html | grep -q "</html>"'
    is "it says why a cell is empty" sh -c 'grep -q "<td class=x title=.poisrf × sorf, m = 16&#10;counts are made from" a.html'
    is "the page refers to nothing outside" sh -c '! grep -E "https?:|src=|<link|@import" a.html'
    is "approx --json" sh -c "'$bin' approx --kernel posrf,oprf --feat gaus --antithetic $lab --json >a.json 2>/dev/null"
    is "approx of arrays" sh -c "'$bin' approx --q q.npy --k k33.npy --v k33.npy --feat saderf --kernel qmc --m 32 \
        --trials 3 --json >q.json"
    is "threads change no number" sh -c "'$bin' approx --q q.npy --k k33.npy --v k33.npy --feat saderf --kernel qmc \
        --m 32 --trials 3 --threads 2 --json >q2.json && grep -v -e _ns -e seconds -e '\"ns\"' q.json >q.same &&
        grep -v -e _ns -e seconds -e '\"ns\"' q2.json | cmp q.same -"
    is "values may be random" sh -c "'$bin' approx --q q.npy --k k33.npy --feat posrf+ --kernel orf --m 8 --trials 2 |
        grep -q '^posrf+  *orf'"
}
is "JSON of every cell" lua5.4 - a.json q.json <<'LUA'
-- No parser of JSON is at hand: names, numbers and punctuation become those of Lua.
local function read(path)
  local text = assert(io.open(path)):read("a"):gsub("null", "0/0")
  text = text:gsub('("[%w_]+"): ', "[%1] = "):gsub("%[(%s*[{%]])", "{%1"):gsub("{%]", "{}"):gsub("}(%s*)%]", "}%1}")
  return assert(load("return " .. text))()
end
local a, q = read(arg[1]), read(arg[2])
assert(#a.cells == 8 and a.cells[1].feature == "posrf" and a.cells[2].feature == "posrf+" and a.cells[8].m == 32)
assert(a.trials == 3 and a.queries == 40 and #a.skipped == 0)
for _, c in ipairs(a.cells) do
  assert(c.matrix == "gaus" and c.error_10 <= c.error and c.error <= c.error_90)
  assert(c.variance > 0 and c.variance_iid > 0 and c.bias_error > 0 and c.ns > 0)
end
assert(#q.cells == 1 and q.batch == 2 and q.heads == 2 and q.keys == 33 and q.d == 8 and q.cells[1].error < 3)
LUA

# ---- training ------------------------------------------------------------------------------------

is "train" train --run a --threads 1
is "progress of a pipe has no escapes" sh -c '! grep -q "$(printf "\\033")" quiet.err'
is "a run's files" test -s a/config.json -a -s a/log.jsonl -a -s a/checkpoint.safetensors \
    -a -s a/best.safetensors -a -s a/report.html
is "the report refers to nothing outside" sh -c '! grep -E "https?:|src=|<link|@import" a/report.html'
is "eval" "$bin" eval --run a --split dev --json
# shellcheck disable=SC2086
says 2 "resume goes on" train $pair $small --data data --run a

is "train with two threads" train --run b --threads 2
is "threads change no bit" cmp a/checkpoint.safetensors b/checkpoint.safetensors

is "train, stopped at 13" train --run c --stop-at 13
# shellcheck disable=SC2086
says 2 "lr" train $pair $small --lr 0.01 --data data --run c --resume
is "resume" quiet train --resume --run c
is "resuming changes no bit" cmp a/checkpoint.safetensors c/checkpoint.safetensors
is "nor of the kept parameters" cmp a/best.safetensors c/best.safetensors
numbers() { sed -n 's/\("step":[0-9]*,"split":"[trainsdev]*","loss":[^,]*\).*/\1/p' "$1/log.jsonl"; }
numbers a >a.numbers
numbers c >c.numbers
is "nor of the logged losses" cmp a.numbers c.numbers

# Matrices that are trained, that are made of counts, weighted rows, trained scalars: whole and in parts.
few="--layers 1 --batch 4 --steps 6 --eval-every 3 --eval-batches 1 --seed 7 --m 24 --data data"
[ -n "$CLI_SHORT" ] || set -- "oprf gmm" "saderf bbq" "trigrf dgm" "posrf+ inn" "hrf orf" "cderf simrf --antithetic"
for made in "$@" "posrf fastfood_learnable" "poisrf qmc" "aderf ssr" "posrf fastfood_learnable --rng curand" \
    "gerf orf --learn"; do
    # shellcheck disable=SC2086
    set -- $made
    feat=$1 kernel=$2
    shift 2
    # shellcheck disable=SC2086
    is "train $made" quiet train --feat "$feat" --kernel "$kernel" "$@" $few --run whole --overwrite
    # shellcheck disable=SC2086
    is "train $made, stopped at 3" quiet train --feat "$feat" --kernel "$kernel" "$@" $few --run part \
        --overwrite --stop-at 3
    is "resuming changes no bit of $made" sh -c "'$bin' train --resume --run part >/dev/null 2>&1 &&
        cmp whole/checkpoint.safetensors part/checkpoint.safetensors"
done
is "train with cuRAND's numbers" quiet train --feat posrf --kernel gaus --rng curand $few --run curand
is "with ours" quiet train --feat posrf --kernel gaus $few --run ours
is "config.json tells whose" sh -c "grep -q '\"rng\": \"curand\"' curand/config.json && grep -q '\"rng\": \"philox\"' ours/config.json"
is "other numbers, another result" sh -c '! cmp -s curand/best.safetensors ours/best.safetensors'
says 2 "rng" train --feat posrf --kernel gaus --rng philox $few --run curand --resume
is "eval draws what training did" sh -c "'$bin' eval --run curand --split dev --json >curand.json &&
    grep -q accuracy curand.json"
grep -v '"rng"' ours/config.json >config && mv config ours/config.json
is "a run of before is one with ours" sh -c "'$bin' eval --run ours --split dev --json | grep -q accuracy"
is "matrix of cuRAND's numbers" "$bin" matrix --kernel gaus --m 16 --d 8 --rng curand --out curand.npy
is "attend draws the same" sh -c "'$bin' attend --feat posrf --kernel gaus --m 16 --rng curand --q q.npy --k q.npy --v q.npy --out c1.npy &&
    '$bin' attend --feat posrf --kernel gaus --m 16 --input W=curand.npy --q q.npy --k q.npy --v q.npy --out c2.npy && cmp c1.npy c2.npy"
is "eval with what was trained" "$bin" eval --run whole --split dev --json
says 1 "exactly N(0, I)" train --feat geomrf --kernel ssr --data data --run r0
says 1 "has no scalar that is trained" train --feat posrf --kernel orf --learn --data data --run r0
says 1 "no antithetic form" train --feat trigrf --kernel orf --antithetic --data data --run r0

# shellcheck disable=SC2086
env --default-signal=INT "$bin" train $pair $small --data data --run d >/dev/null 2>int.err &
pid=$!
lines=0
while [ "$lines" -lt 2 ] && kill -0 $pid 2>/dev/null; do
    sleep 0.02
    [ ! -f d/log.jsonl ] || lines=$(wc -l <d/log.jsonl)
done
kill -INT $pid
wait $pid
code=$?
[ $code -eq 130 ] && grep -q 'interrupted after step' int.err
verdict $? "SIGINT -> 130, after a checkpoint" "exit $code: $(tail -1 int.err)"
is "resume after SIGINT" quiet train --resume --run d
is "an interruption changes no bit" cmp a/checkpoint.safetensors d/checkpoint.safetensors

is "--max-seconds" train --run e --max-seconds 0.1
is "the log says why it ended" grep -q '"reason":"time"' e/log.jsonl
is "approx of a trained run" sh -c "'$bin' approx --run a --feat posrf --kernel orf --m 16 --trials 2 --tokens 50 |
    grep -q 'a, layer 0, 50 tokens of the first dev example'"
says 2 "has no layer 1, allowed are 0 to 0" approx --run a --layer 1
is "overwrite" train --run e --overwrite --stop-at 1
is "overwriting starts anew" sh -c '[ "$(grep -c train e/log.jsonl)" -eq 1 ]'

cp -r c t
head -c 5000 c/checkpoint.safetensors >t/checkpoint.safetensors
says 1 "t/checkpoint.safetensors" train --resume --run t
# NaN into the first parameters of the checkpoint: data begins behind 8 bytes and the header.
cp -r e n
header=$(od -An -t u4 -N 4 e/checkpoint.safetensors | tr -d ' ')
printf '\000\000\300\177' >nan
while [ "$(wc -c <nan)" -lt 4096 ]; do cat nan nan >nan2 && mv nan2 nan; done
dd if=nan of=n/checkpoint.safetensors bs=1 seek=$((8 + header)) conv=notrunc \
    2>/dev/null
quiet train --resume --run n
code=$?
[ $code -eq 3 ] && grep -q 'step 2' quiet.err
verdict $? "NaN -> 3, with the step" "exit $code: $(tail -1 quiet.err)"

# shellcheck disable=SC2086
"$bin" --mode train $pair $small --data data --run s1 --stop-at 1 >/dev/null 2>&1
"$bin" --mode train --attn performer --feat qmc --kernel_type saderf --layers 1 --batch 8 \
    --steps "${CLI_STEPS:-40}" --eval_every 10 --eval_batches 2 --random 7 --task lra-listops \
    --data data --run s2 --stop-at 1 >/dev/null 2>&1
case $pair in *performer*)
    is "the reference's spelling means the same" cmp s1/config.json s2/config.json
    is "and trains the same" cmp s1/checkpoint.safetensors s2/checkpoint.safetensors
    ;;
esac

# ---- generated text ------------------------------------------------------------------------------

is "gen writes a pair" "$bin" gen --feat oprf --kernel sorf --d 16 --dv 8 --m 24 --out pair
is "the same bytes as the generator of the tree" sh -c "(cd '$OLDPWD' &&
    lua5.4 gen/main.lua FEAT=oprf KERNEL=sorf D=16 DV=8 M=24 OUT='$work/tree') && diff -r -x deps.d pair tree"
is "gen of an antithetic form" sh -c "'$bin' gen --feat posrf --antithetic --kernel orf --out anti | grep -q attn_bwd.c"
says 2 "did you mean 'oprf'" gen --feat oprv --kernel orf --out refused
says 2 "needs --out" gen --feat oprf --kernel orf
says 2 "f32|f64" gen --feat oprf --kernel orf --dtype f16 --out refused
is "a refusal leaves no folder" test ! -e refused

# ---- no room -------------------------------------------------------------------------------------

(
    ulimit -f 100
    # shellcheck disable=SC2086
    exec "$bin" train $pair $small --data data --run full
) >/dev/null 2>full.err
code=$?
[ $code -eq 1 ] && grep -q 'full/.*safetensors' full.err
verdict $? "a full disk -> 1" "exit $code: $(tail -1 full.err)"
is "nothing half-written" sh -c '! ls full | grep -v -e config.json -e log.jsonl -e events.out'
"$bin" list >/dev/full 2>full.err
code=$?
[ $code -eq 1 ] && grep -q 'standard output' full.err
verdict $? "a full standard output -> 1" "exit $code"

# ---- help ----------------------------------------------------------------------------------------

for c in train eval attend features matrix approx data list info gen jit bench; do
    is "$c --help" sh -c "'$bin' $c --help | grep -q 'usage: spectraformer $c'"
done
is "--help" sh -c "'$bin' --help | grep -q kernel_type"
is "--version" "$bin" --version
is "list says what may be causal" sh -c "'$bin' list --json | grep -q '\"causal\": *\"with parameters given\"'"
is "list says what a matrix is" sh -c "'$bin' list | grep 'sorf  .*(rows of one length, biased)'"
is "list --json" sh -c "'$bin' list --json | grep -q '\"saderf\"'"
is "info" sh -c "'$bin' info --json | grep -q instructions"

totals
