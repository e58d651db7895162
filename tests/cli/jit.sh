#!/bin/sh
# Kernels compiled at run time, from outside: a cache that many processes fill at once, entries that
# are damaged, folders that cannot be used, no compiler, a component function of one's own in every
# command. SPECTRAFORMER names the binary. A line a check; ends with "N passed, N failed, N skipped".

. "$(dirname "$0")/checks.sh"
mkdir tmp
unset SPECTRA_JIT CC
export SPECTRA_CACHE_DIR="$work/cache" TMPDIR="$work/tmp"

entries() { find cache -name '*.kernel' | wc -l; }
entry() { find cache -name '*.kernel' | head -1; }

# Programs the command line needs, without a compiler.
mkdir no-compiler
for program in wc head grep; do ln -s "$(command -v $program)" no-compiler/; done
without_compiler() { PATH="$work/no-compiler" "$@"; }

"$bin" matrix --kernel gaus --m 256 --d 64 --out w.npy && tail -c $((4 * 256 * 64)) w.npy >floats
npy "1, 2, 70, 16" 2240 q.npy 0
npy "1, 2, 70, 16" 2240 k.npy 2240
npy "1, 2, 70, 32" 4480 v.npy 4480
npy "1, 2, 70, 32" 4480 g.npy 8960
arrays="--q q.npy --k k.npy --v v.npy"
cat >mine.lua <<'LUA'
-- PosRF under another name.
return {
  name = "mine",
  doc = "positive features once more",
  source = "tests/cli/jit.sh",
  phi = function(u, x2)
    return { log = u - x2 / 2 }
  end,
}
LUA
attend() { # attend OUT OPTIONS ... : the same arrays and sizes
    out=$1
    shift
    # shellcheck disable=SC2086
    "$bin" attend --kernel orf --m 48 --seed 3 $arrays --out "$out.o" --dout g.npy --dq "$out.q" \
        --dk "$out.k" --dv "$out.v" "$@" 2>"$out.err"
}
warned() { # warned OUT PATTERN : exactly one warning
    [ "$(grep -c warning "$1.err")" -eq 1 ] && grep -q -e "$2" "$1.err"
}
same() { for x in o q k v; do cmp "$1.$x" "$2.$x" || return 1; done; }

# ---- policies ------------------------------------------------------------------------------------

is "auto uses the kernel for any size" attend any --feat posrf
is "and compiles nothing" test "$(find cache -name '*.kernel' 2>/dev/null | wc -l)" -eq 0
SPECTRA_JIT=always attend first --feat posrf
verdict $? "always compiles" "$(cat first.err)"
is "one entry" test "$(entries)" -eq 1
is "no warning" test ! -s first.err
is "nothing left of compiling" test -z "$(ls -A tmp)"
is "the folder is for its owner alone" test "$(stat -c %a cache)" = 700
SPECTRA_JIT=always without_compiler attend warm --feat posrf
verdict $? "a warm start needs no compiler" "$(cat warm.err)"
is "and gives the same bits" same first warm
printf '#!/bin/sh\nexit 1\n' >no-compiler/cc
chmod +x no-compiler/cc
SPECTRA_JIT=always without_compiler attend other --feat posrf
verdict $((! $?)) "an entry of another compiler is not used where there is one"
rm no-compiler/cc
SPECTRA_JIT=sometimes says 2 "never|auto|always" list
SPECTRA_JIT=never says 1 "SPECTRA_JIT=never forbids" jit --warm
# shellcheck disable=SC2086
{
    SPECTRA_JIT=never says 1 \
        "mine x orf for head size 16, value size 32 and 48 features.*SPECTRA_JIT=auto" \
        attend --feat ./mine.lua --kernel orf --m 48 $arrays --out o.npy
    CC=no-such-cc says 1 "no C compiler 'no-such-cc'.*install gcc" \
        attend --feat ./mine.lua --kernel orf --m 48 $arrays --out o.npy
    without_compiler says 1 "no C compiler 'cc'" \
        attend --feat ./mine.lua --kernel orf --m 48 $arrays --out o.npy
    CC=false says 1 "false failed with code 1" \
        attend --feat ./mine.lua --kernel orf --m 48 $arrays --out o.npy
}
is "failures leave nothing" test "$(entries)" -eq 1 -a -z "$(ls -A tmp)" -a ! -e o.npy

# ---- bits ----------------------------------------------------------------------------------------

# saderf x qmc is built ahead for 32/32/128; saderf x orf, with its matrix, is not.
npy "1, 2, 70, 32" 4480 q32.npy 0
npy "1, 2, 70, 32" 4480 k32.npy 4480
pair() { # pair OUT KERNEL
    CC=gcc SPECTRA_JIT=always "$bin" attend --feat saderf --kernel "$2" --input W=w32.npy \
        --q q32.npy --k k32.npy --v v.npy --out "$1.o" --dout g.npy --dq "$1.q" --dk "$1.k" \
        --dv "$1.v" ${3:+"$3"}
}
"$bin" matrix --kernel qmc --m 128 --d 32 --out w32.npy
before=$(entries)
is "built ahead" pair ahead qmc
is "nothing was compiled for it" test "$(entries)" -eq "$before"
is "compiled now" pair now orf
is "it was" test "$(entries)" -eq $((before + 1))
case $bin in *asan*) ;; *) is "the same bits" same ahead now ;; esac
pair ahead qmc --official && pair now orf --official
case $bin in *asan*) ;; *) is "the official behaviour too" same ahead now ;; esac

# ---- many at once --------------------------------------------------------------------------------

is "clear" "$bin" jit --clear
i=0
pids=
while [ $i -lt 8 ]; do
    SPECTRA_JIT=always attend many$i --feat posrf &
    pids="$pids $!"
    i=$((i + 1))
done
bad=0
for pid in $pids; do wait "$pid" || bad=$((bad + 1)); done
is "eight processes on a cold cache succeed" test $bad -eq 0
is "none warns" test -z "$(cat many?.err)"
is "one entry is left" test "$(entries)" -eq 1
is "and nothing else" test "$(find cache -type f | wc -l)" -eq 1 -a -z "$(ls -A tmp)"
bad=0
for i in 0 1 2 3 4 5 6 7; do same first many$i || bad=$((bad + 1)); done
is "all have the same bits" test $bad -eq 0

# ---- damage --------------------------------------------------------------------------------------

good=$(entry)
cp "$good" kept
recovers() { # recovers NAME PATTERN : after what was done to the entry
    SPECTRA_JIT=always attend hurt --feat posrf
    verdict $? "$1: recovered" "$(cat hurt.err)"
    is "$1: one warning" warned hurt "$2"
    is "$1: the entry is whole again" cmp "$good" kept
    is "$1: the same bits" same first hurt
    SPECTRA_JIT=always attend again --feat posrf
    is "$1: then silence" test ! -s again.err
}
# Compiling twice gives the same bytes, which "whole again" rests on.
head -c 20000 kept >"$good"
recovers truncated "length is wrong"
: >"$good"
recovers empty "too short"
head -c 100 kept >"$good"
recovers "cut in its header" "too short"
printf x | dd of="$good" bs=1 seek=9000 conv=notrunc 2>/dev/null
recovers "another byte" "hash is wrong"
rm "$good" && mkdir "$good"
recovers "a folder in its place" "is no file"
rm "$good" && ln -s /etc/passwd "$good"
recovers "a link in its place" "is no file"
if [ "$(id -u)" -ne 0 ]; then
    chmod 000 "$good"
    recovers "unreadable" "cannot be read"
else
    skipped 5 "root reads every file: an entry that cannot be read was not tried"
fi
"$bin" jit --clear >/dev/null
"$bin" jit --warm --feat gerf --d 16 --dv 32 --m 48 >/dev/null
mv "$(entry)" "$good"
recovers "the entry of another kernel" "of another kernel"
# Its hash is right, but it is no shared object.
head -c 440 kept | tail -c +73 >body
head -c $(($(wc -c <kept) - 440)) /dev/zero >>body
{ head -c 8 kept && sha256sum body | head -c 64 && cat body; } >"$good"
recovers "no shared object" "removed (loading a kernel"

# ---- folders -------------------------------------------------------------------------------------

: >file
for place in "$work/file/below" "$work/file" /proc/nowhere; do
    SPECTRA_CACHE_DIR=$place SPECTRA_JIT=always attend hurt --feat posrf
    verdict $? "cache at ${place#"$work"/}: goes on" "$(cat hurt.err)"
    is "cache at ${place#"$work"/}: one warning" warned hurt "cannot keep"
    is "cache at ${place#"$work"/}: the same bits" same first hurt
done
mkdir -m 777 open
SPECTRA_CACHE_DIR=$work/open SPECTRA_JIT=always attend hurt --feat posrf
is "others' folder is not trusted" warned hurt "others can write"
is "nothing is put there" test -z "$(ls -A open)"
if [ "$(id -u)" -ne 0 ]; then
    mkdir -m 500 shut
    SPECTRA_CACHE_DIR=$work/shut SPECTRA_JIT=always attend hurt --feat posrf
    is "read-only: one warning" warned hurt "is not kept"
else
    skipped 1 "root writes to every folder: a cache that is read-only was not tried"
fi
(
    unset SPECTRA_CACHE_DIR
    XDG_CACHE_HOME=$work/xdg HOME=$work/home SPECTRA_JIT=always attend hurt --feat posrf
    unset XDG_CACHE_HOME
    HOME=$work/home SPECTRA_JIT=always attend hurt --feat posrf
    unset HOME
    SPECTRA_JIT=always attend hurt --feat posrf && test ! -s hurt.err
)
verdict $? "without any folder, silently"
is "XDG_CACHE_HOME" test "$(find xdg/spectraformer -name '*.kernel' | wc -l)" -eq 1
is "HOME" test "$(find home/.cache/spectraformer -name '*.kernel' | wc -l)" -eq 1

# ---- list, clear, warm ---------------------------------------------------------------------------

"$bin" jit --clear >/dev/null
is "warm, one" "$bin" jit --warm --feat trigrf --kernel qmc --d 16 --m 8
is "warm again" sh -c "'$bin' jit --warm --feat trigrf --d 16 --m 8 | grep -q 'is there'"
is "list" sh -c "'$bin' jit --list | grep -q 'trigrf  *any  *16  *16  *8 '"
is "warm, its causal kernels" "$bin" jit --warm --feat trigrf --kernel qmc --d 16 --m 8 --causal
is "an entry of their own" sh -c "test $(entries) -eq 2 && '$bin' jit --list | grep -q 'trigrf causal  *any  *16  *16  *8 '"
is "list --json" sh -c "'$bin' jit --list --json | grep -q '\"M\": 8'"
if [ -n "$TEST_ALL" ]; then # a minute of compiling
    is "warm, every one" "$bin" jit --warm --m 16
    specs=$OLDPWD/specs/feature
    is "a kernel each, and of each antithetic form" test "$(entries)" -eq $((2 + $(find "$specs" -name "*.lua" | wc -l) + \
        $(grep -l "antithetic = true" "$specs"/*.lua | wc -l)))
fi
echo keep >cache/notes.txt
echo keep >cache/x.kernel
says 2 "one of --list, --clear, --warm" jit
says 2 "one of --list, --clear, --warm" jit --list --clear
n=$(($(entries) - 1))
is "clear says how many" sh -c "'$bin' jit --clear | grep -qx '$n kernels removed'"
is "and leaves what is not its own" test -f cache/notes.txt -a -f cache/x.kernel
rm cache/notes.txt cache/x.kernel

# ---- a component function of one's own -----------------------------------------------------------

is "attend --feat ./mine.lua" attend own --feat ./mine.lua
SPECTRA_JIT=always attend first --feat posrf
is "its bits are posrf's" same own first
is "again, without a compiler" without_compiler attend own2 --feat ./mine.lua
is "the same bits" same own own2
is "from elsewhere" attend own3 --feat "$work/mine.lua"
is "the place of the file is not in the key" test "$(entries)" -eq 2
is "features --feat ./mine.lua" \
    "$bin" features --feat ./mine.lua --kernel orf --m 48 --x q.npy --y k.npy --out f
is "jit --warm --feat ./mine.lua" "$bin" jit --warm --feat ./mine.lua --d 8 --m 24
# shellcheck disable=SC2086
{
    says 2 "official" attend --feat ./mine.lua --official $arrays --out o.npy
    says 1 "absent.lua: cannot read" attend --feat ./absent.lua $arrays --out o.npy
    sed 's/log = u/log = v/' mine.lua >wrong.lua
    says 1 "wrong.lua:3: 'name' must be 'wrong'" attend --feat ./wrong.lua $arrays --out o.npy
    sed 's/"mine"/"wrong"/' wrong.lua >wrong2.lua && mv wrong2.lua wrong.lua
    says 1 "^spectraformer: ./wrong.lua:7: 'v' is not available" \
        attend --feat ./wrong.lua $arrays --out o.npy
    sed 's/"mine"/"posrf"/' mine.lua >posrf.lua
    says 1 "built-in component function" attend --feat ./posrf.lua $arrays --out o.npy
    says 2 "both component functions" attend --feat ./mine.lua --kernel posrf $arrays --out o.npy
    says 2 "did you mean 'qmc'" attend --feat ./mine.lua --kernel qmx $arrays --out o.npy
}

"$bin" data generate lra-listops --out data --rows 64,24,16 >/dev/null
small="--layers 1 --batch 8 --steps 4 --eval-every 2 --eval-batches 1 --seed 7 --data data"
# shellcheck disable=SC2086
train() { "$bin" train --kernel orf --m 48 $small "$@"; }
is "train --feat ./mine.lua" train --feat ./mine.lua --run a
is "the run knows the file" grep -q "\"path\": \"$work/mine.lua\"" a/config.json
is "train, stopped" train --feat ./mine.lua --run b --stop-at 2
mkdir elsewhere && cd elsewhere || exit 1
is "resume, from another folder" "$bin" train --resume --run ../b --data ../data
cd .. || exit 1
is "resuming changes no bit" cmp a/checkpoint.safetensors b/checkpoint.safetensors
is "eval" "$bin" eval --run a
is "eval without a compiler" without_compiler "$bin" eval --run a
is "train posrf, exact sizes first" train --feat posrf --run p
is "they are in the cache" sh -c "'$bin' jit --list | grep -q 'posrf  *any  *32  *32  *48 '"
is "the same training" cmp a/checkpoint.safetensors p/checkpoint.safetensors
without_compiler train --feat posrf --m 49 --run n >/dev/null 2>n.err
verdict $? "train without a compiler goes on" "$(cat n.err)"
is "and says nothing of it" sh -c '! grep -q -i -e warning -e compiler n.err'
train --feat ./mine.lua --run c --stop-at 2 >/dev/null 2>&1
cp mine.lua elsewhere/mine.lua
echo '-- changed' >>mine.lua
says 2 "mine.lua has changed" eval --run a
says 2 "mine.lua has changed" train --resume --run c
says 2 "mine.lua has changed" train --resume --run c --feat ./mine.lua
is "the file may have moved" "$bin" train --resume --run c --feat ./elsewhere/mine.lua
is "no bit has changed" cmp a/checkpoint.safetensors c/checkpoint.safetensors
rm mine.lua
says 1 "mine.lua: cannot read" eval --run a
is "nothing left of compiling" test -z "$(ls -A tmp)"

totals
