#!/bin/sh
# tests/run.sh NAME=COMMAND ... : runs the commands, as many at a time as there are processors, adds up
# what the test runners counted, prints a line each as it ends and `N passed, N failed, N skipped` at
# the end. A command that fails without counting a failure counts as one. Output of a failing command is
# shown whole; logs stay in build/log.

# Totals of a log, "passed failed skipped": plain lines, cmocka, busted.
count() {
    awk '
        /^[0-9]+ passed, [0-9]+ failed/ { p += $1; f += $3; if ($6 ~ /^skipped/) s += $5 }
        /\[  PASSED  \] [0-9]+ test/    { p += $4 }
        /\[  FAILED  \] [0-9]+ test/    { f += $4 }
        /\[  SKIPPED \] [0-9]+ test/    { s += $4 }
        /^[0-9]+ success(es)? \/ [0-9]+ failure/ { p += $1; f += $4 + $7; s += $10 }
        END { print p + 0, f + 0, s + 0 }' "$1"
}

one() { # one NAME COMMAND
    name=$1 log=build/log/$1.log start=$(date +%s)
    sh -c "$2" >"$log" 2>&1
    code=$?
    # shellcheck disable=SC2046
    set -- $(count "$log")
    p=$1 f=$2 s=$3 mark=ok
    [ "$code" -eq 0 ] || [ "$f" -gt 0 ] || f=1
    [ "$f" -eq 0 ] || mark=FAILED
    echo "$p $f $s" >"build/log/$name.count"
    {
        printf '%-6s %-22s %4d passed %3d failed %3d skipped  %4d s\n' "$mark" "$name" "$p" "$f" "$s" \
            $(($(date +%s) - start))
        [ "$f" -eq 0 ] || cat "$log"
        [ "$f" -gt 0 ] || grep -i '^skipped' "$log"
    } >"build/log/$name.line"
    cat "build/log/$name.line"
}

if [ "$1" = --one ]; then
    one "${2%%=*}" "${2#*=}"
    exit 0
fi

rm -rf build/log
mkdir -p build/log
for item in "$@"; do printf '%s\0' "$item"; done | xargs -0 -n 1 -P "${JOBS:-$(nproc)}" sh "$0" --one
cat build/log/*.count | awk -v wanted=$# '
    { p += $1; f += $2; s += $3 }
    END { f += wanted - NR; printf "%d passed, %d failed, %d skipped\n", p, f, s; exit f > 0 }'
