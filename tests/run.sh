#!/bin/sh
# tests/run.sh NAME=COMMAND ... : runs the commands, as many at a time as there are processors, and adds
# up what they counted. Prints a line for each as it ends, its skipped tests by name, the ten that took
# longest, and `N passed, N failed, N skipped`. A command that fails without counting a failure counts
# as one. The output of a failing command is shown whole; logs stay in build/log.

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

# What was skipped: plain lines "skipped: why", and the tests that cmocka names.
skips() {
    grep -i '^skipped' "$1"
    sed -n 's/^\[  SKIPPED \] \([a-z_].*\)/skipped: \1/p' "$1" | sort -u
}

# Seconds of the processors, user and system, from the output of `times`; its second line is of commands.
used() {
    awk 'NR == 2 { gsub(/[ms]/, " "); printf "%.1f", $1 * 60 + $2 + $3 * 60 + $4 }' "$1"
}

one() { # one NAME COMMAND
    name=$1 log=build/log/$1.log start=$(date +%s)
    sh -c "$2" >"$log" 2>&1
    code=$?
    times >"build/log/$name.times" # not in $(...), where no command has run
    cpu=$(used "build/log/$name.times") wall=$(($(date +%s) - start))
    # shellcheck disable=SC2046
    set -- $(count "$log")
    p=$1 f=$2 s=$3 mark=ok
    [ "$code" -eq 0 ] || [ "$f" -gt 0 ] || f=1
    [ "$f" -eq 0 ] || mark=FAILED
    echo "$p $f $s $wall $cpu $name" >"build/log/$name.count"
    {
        printf '%-6s %-28s %4d passed %3d failed %3d skipped  %4d s %6.1f s of processor\n' "$mark" "$name" \
            "$p" "$f" "$s" "$wall" "$cpu"
        [ "$f" -eq 0 ] || cat "$log"
        [ "$f" -gt 0 ] || skips "$log"
    } >"build/log/$name.line"
    cat "build/log/$name.line"
}

if [ "$1" = --one ]; then
    one "${2%%=*}" "${2#*=}"
    exit 0
fi

# More threads than processors are here, of several programs: those that wait do not spin.
export OMP_WAIT_POLICY=passive
rm -rf build/log
mkdir -p build/log
for item in "$@"; do printf '%s\0' "$item"; done | xargs -0 -n 1 -P "${JOBS:-$(nproc)}" sh "$0" --one
echo "the ten that took longest:"
cat build/log/*.count | sort -k4,4nr -k5,5nr | head -10 |
    awk '{ printf "%5d s %7.1f s of processor  %s\n", $4, $5, $6 }'
cat build/log/*.count | awk -v wanted=$# '
    { p += $1; f += $2; s += $3; cpu += $5 }
    END {
        f += wanted - NR
        printf "%.0f s of processor\n%d passed, %d failed, %d skipped\n", cpu, p, f, s
        exit f > 0
    }'
