# Read by the tests of the command line (`. "$(dirname "$0")/checks.sh"`): finds the binary that
# SPECTRAFORMER names, goes to an empty folder, counts checks, a line each.

bin=${SPECTRAFORMER:-build/spectraformer}
case $bin in /*) ;; *) bin=$PWD/$bin ;; esac
[ -x "$bin" ] || { echo "not ok - $bin is not there"; echo "0 passed, 1 failed"; exit 1; }
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
cd "$work" || exit 1

passed=0 failed=0 skipped=0
verdict() { # verdict CODE NAME [DETAIL]
    if [ "$1" -eq 0 ]; then
        passed=$((passed + 1))
        echo "ok - $2"
    else
        failed=$((failed + 1))
        echo "not ok - $2${3:+: $3}"
    fi
}
is() { # is NAME COMMAND ... : the command succeeds
    name=$1
    shift
    "$@" >is.out 2>&1
    verdict $? "$name" "$(head -c 300 is.out)"
}
says() { # says CODE PATTERN ARGUMENT ... : exit code, and one sentence on stderr alone
    code=$1 pattern=$2
    shift 2
    "$bin" "$@" >says.out 2>says.err
    got=$?
    [ "$got" -eq "$code" ] && [ "$(wc -l <says.err)" -eq 1 ] && [ ! -s says.out ] &&
        grep -q -e "$pattern" says.err
    verdict $? "$* -> $code" "exit $got: $(head -c 300 says.err)"
}
skipped() { # skipped COUNT WHY : checks that this machine does not allow
    skipped=$((skipped + $1))
    echo "skipped: $2"
}
machine_has() { grep -q -w "$1" /proc/cpuinfo; } # machine_has FLAG : of the processor
totals() {
    echo "$passed passed, $failed failed, $skipped skipped"
    [ "$failed" -eq 0 ]
}
quiet() { "$bin" "$@" >/dev/null 2>quiet.err; }

# An array of COUNT numbers of the file `floats`, from number SKIP on.
npy() { # npy "2, 2, 5, 8" COUNT FILE [SKIP]
    printf '\223NUMPY\001\000\166\000' >"$3"
    printf '%-117s\n' "{'descr': '<f4', 'fortran_order': False, 'shape': ($1), }" >>"$3"
    tail -c +$((1 + 4 * ${4:-0})) floats | head -c $((4 * $2)) >>"$3"
}
