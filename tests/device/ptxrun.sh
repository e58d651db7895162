# shellcheck shell=sh
# tests/device/ptxrun.sh, to be read by others: `ptxrun FOLDER` builds the PTX interpreter of $SPECTRA_SHARED/tools
# or ../shared/tools into FOLDER, or says that the kernels are skipped, and why, and ends the script.
ptxrun() {
    source=${SPECTRA_SHARED:-../shared}/tools/ptxrun/ptxrun.cpp
    [ -f "$source" ] || skip "no PTX interpreter at $source"
    command -v g++ >/dev/null || skip "no g++ to build the PTX interpreter with"
    mkdir -p "$1" || exit 1
    [ -z "$(find "$1/ptxrun" -newer "$source" 2>/dev/null)" ] || return 0
    g++ -O2 -std=c++17 -frounding-math -o "$1/ptxrun.$$" "$source" && mv "$1/ptxrun.$$" "$1/ptxrun" || exit 1
}
skip() {
    echo "skipped: $1, the CUDA kernels were not interpreted"
    echo "0 passed, 0 failed, 1 skipped"
    exit 0
}
