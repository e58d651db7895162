#!/bin/sh
# The static library that is installed: a program links it alone, and gets the bits of the shared one; so
# does the example of the README.
# installed.sh BUILD
set -e
build=$1 out=$1/installed
mkdir -p "$out"
cc=${CC:-cc}
libraries="-llua5.4 -ljansson -lmd -ldl -lm -fopenmp"
# shellcheck disable=SC2086 # words of compiler and libraries
$cc -std=c11 -O1 -Iruntime tests/cli/installed.c "$build/install/libspectraformer.a" $libraries -o "$out/static"
# shellcheck disable=SC2086
$cc -std=c11 -O1 -Iruntime tests/cli/installed.c "$build/libspectraformer.so" $libraries -o "$out/shared"
"$out/static" >"$out/static.txt"
ln -sf ../libspectraformer.so "$out/libspectraformer.so.0"
LD_LIBRARY_PATH=$out "$out/shared" >"$out/shared.txt"
[ "$(wc -l <"$out/static.txt")" -eq 680 ]
cmp "$out/static.txt" "$out/shared.txt"
# the README's example in C
awk '/^```c$/ { on = 1; next } /^```/ { if (on) exit } on' README.md >"$out/example.c"
# shellcheck disable=SC2086
$cc -std=c11 -O1 -Wall -Werror -Iruntime "$out/example.c" "$build/install/libspectraformer.a" $libraries -o "$out/example"
"$out/example" | grep -q "^the first output is "
