#!/bin/sh
# tests/run.sh NAME=COMMAND ... : runs each command, adds up what the test runners counted, prints a
# line each and `N passed, N failed, N skipped` at the end. A command that fails without counting a
# failure counts as one. Output of a failing command is shown whole; logs stay in build/log.

mkdir -p build/log
passed=0 failed=0 skipped=0

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

for item in "$@"; do
    name=${item%%=*}
    log=build/log/$name.log
    start=$(date +%s)
    sh -c "${item#*=}" >"$log" 2>&1
    code=$?
    # shellcheck disable=SC2046
    set -- $(count "$log")
    p=$1 f=$2 s=$3
    [ "$code" -eq 0 ] || [ "$f" -gt 0 ] || f=1
    passed=$((passed + p)) failed=$((failed + f)) skipped=$((skipped + s))
    mark=ok
    [ "$f" -eq 0 ] || mark=FAILED
    printf '%-6s %-22s %4d passed %3d failed %3d skipped  %4d s\n' "$mark" "$name" "$p" "$f" "$s" \
        $(($(date +%s) - start))
    [ "$f" -eq 0 ] || cat "$log"
    [ "$f" -gt 0 ] || grep -i '^skipped' "$log"
done

echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" -eq 0 ]
