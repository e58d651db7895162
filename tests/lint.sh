#!/bin/sh
# Formatting and what must hold for every file: `make lint` prints the details.
passed=0 failed=0
check() {
    name=$1
    shift
    if "$@"; then
        passed=$((passed + 1)) && echo "ok - $name"
    else
        failed=$((failed + 1)) && echo "not ok - $name"
    fi
}

check "C is formatted" sh -c 'find gen runtime templates/c tests bench -name "*.[ch]" | xargs clang-format --dry-run -Werror'
check "luacheck is clean" luacheck -q --std lua54 gen bench/*.lua bench/compare bench/cuda-model tests/layers.lua
check "no file over 600 lines" sh -c '! find gen runtime templates/c tests bench -type f -not -name "*.md" -not -name "*.txt" -not -name "*.svg" -not -name "*.jsonl" | xargs wc -l | grep -v total | awk "\$1 > 600" | grep .'
check "folders of the runtime use those before them, objects have no cycles" lua5.4 tests/layers.lua build
check "the library neither prints nor exits" sh -c '
    ! nm -u build/libspectraformer.so | grep -wE "exit|abort|_exit|printf|puts|perror|getenv"'
check "only spectra_ is exported, and that is" sh -c '
    nm -D --defined-only build/libspectraformer.so | grep -q " T spectra_attention_forward" &&
    ! nm -D --defined-only build/libspectraformer.so | grep " T " | grep -v " spectra_"'
check "the static library that is installed has no other global names" sh -c '
    nm --defined-only build/install/libspectraformer.a | grep -q " T spectra_attention_forward" &&
    ! nm --defined-only build/install/libspectraformer.a | grep " [A-Z] " | grep -v " spectra_"'
check "a program links it alone and computes what the shared library does" sh tests/cli/installed.sh build
check "generating twice gives the same bytes" sh -c '
    rm -rf build/twice && mkdir -p build/twice &&
    lua5.4 gen/main.lua --base OUT=build/twice/a >/dev/null &&
    lua5.4 gen/main.lua --base OUT=build/twice/b >/dev/null && diff -r -x deps.d build/twice/a build/twice/b'
check "README has the tables of the specs" sh -c '
    lua5.4 gen/main.lua --catalogue >build/catalogue.md &&
    awk "/<!-- end of the tables/ { on = 0 } on; /<!-- tables/ { on = 1 }" README.md | diff - build/catalogue.md'
check "README has the figures of the recorded run" lua5.4 bench/table.lua --check README.md bench/results.jsonl
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
