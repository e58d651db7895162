#!/bin/sh
# A spec that is wrong ends the build with the generator's sentence, whatever the target is and although
# an older build is there. A line a check; ends with "N passed, N failed".

. "$(dirname "$0")/checks.sh"
top=$OLDPWD
mkdir -p tree/build
(cd "$top" && cp -r Makefile README.md gen specs templates runtime tests bench "$work/tree" &&
    cp -a build/base build/sources.mk build/registry.c build/task_specs.c build/task_bases.c \
        "$work/tree/build")
cd tree || exit 1
# the checker of tasks is built; the rest is not begun
make build/obj/tasks >../make.out 2>&1
verdict $? "the tree as it is" "$(tail -1 ../make.out)"

refused() { # refused PATTERN TARGET ... : make fails, its only other line says why, nothing is made
    pattern=$1
    shift
    touch ../before
    make --no-print-directory "$@" CC=false >../make.out 2>&1
    code=$?
    [ $code -ne 0 ] && grep -q -e "$pattern" ../make.out && [ -z "$(find build -name '*.o' -newer ../before)" ]
    verdict $? "make $*: $pattern" "exit $code: $(tail -2 ../make.out)"
}
# broken FILE SCRIPT : a copy of the spec is put aside, and a new one made by sed
broken() {
    file=specs/$1
    cp "$file" ../kept
    sed "$2" ../kept >"$file"
}
mended() { cp ../kept "$file"; }

broken feature/posrf.lua 's/^  phi = /  phy = /'
refused "specs/feature/posrf.lua:[0-9]*: unknown field 'phy', did you mean 'phi'?"
for target in gen build/spectraformer build/libspectraformer.so install test-programs run-tests build/tests/test_support \
    "gen FEAT=posrf KERNEL=orf" build/sources.mk; do
    # shellcheck disable=SC2086
    refused "unknown field 'phy'" $target
done
mended
broken feature/posrf.lua 's/^return {/return {{/'
refused "specs/feature/posrf.lua:[0-9]*: .* expected" all
mended
broken matrix/orf.lua 's/^  name = /  nam = /'
refused "specs/matrix/orf.lua:[0-9]*: unknown field 'nam', did you mean 'name'?" all
mended
broken matrix/orf.lua 's/^}/)/'
refused "specs/matrix/orf.lua:[0-9]*: unexpected symbol" all
mended
broken row/gelu.lua 's/^  doc = /  dock = /'
refused "specs/row/gelu.lua:[0-9]*: unknown field 'dock', did you mean 'doc'?" all
mended
broken row/gelu.lua 's/^return {/return [/'
refused "specs/row/gelu.lua:[0-9]*: .* near" all
mended
broken task/lra-text.lua 's/^  vocab = /  vocap = /'
refused "specs/task/lra-text.lua: unknown field 'vocap', did you mean 'vocab'?" build/task_specs.c
mended
broken task/lra-text.lua 's/^return {/return {{/'
refused "specs/task/lra-text.lua:[0-9]*: .* expected" build/task_specs.c
mended
broken task/lra-text.lua 's/^  length = .*/  length = "two",/'
refused "specs/task/lra-text.lua: length.*'two'" build/task_specs.c
mended
# what tasks share is checked with each of them, by a checker that contains it
refused_base() { # refused_base PATTERN
    make --no-print-directory build/task_specs.c >../make.out 2>&1
    code=$?
    [ $code -ne 0 ] && grep -q -e "$1" ../make.out
    verdict $? "make build/task_specs.c: $1" "exit $code: $(tail -2 ../make.out)"
}
broken base/lra.lua 's/^  heads = .*/  heads = "two",/'
refused_base "heads.*'two'"
mended
broken base/lra.lua 's/^return {/return {{/'
refused_base "specs/base/lra.lua:[0-9]*: .* expected"
mended
make --no-print-directory build/sources.mk build/task_specs.c >../make.out 2>&1
verdict $? "and goes on when it is mended" "$(tail -2 ../make.out)"
totals
