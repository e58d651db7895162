# spectraformer. `make help` lists the targets. Settings on top, no configure step.

FEAT   ?=
KERNEL ?=
D      ?= 32
DV     ?= 32
M      ?= 128
DTYPE  ?= f32
ARCH   ?=
PAIRS  ?= saderf-qmc
PREFIX ?= /usr/local
CC     ?= gcc
LUA    ?= lua5.4
OPT    ?= -O3
B      ?= build
JOBS   ?= $(shell nproc)
CCACHE ?= $(if $(findstring ccache,$(CC)),,$(shell command -v ccache))
SHARED ?= ../shared

# B is where compiled things go (build/asan for the sanitizer build); generated text is in build/.
# ---- nothing below needs changing ------------------------------------------------------------------

VERSION := 0.1.0
O := $(B)/obj
WARN := -Wall -Wextra -Wshadow -Wundef -Wvla -Wdouble-promotion -Wstrict-prototypes \
	-Wmissing-prototypes -Wwrite-strings -Wpointer-arith
WERROR :=
# for kernels built ahead and, through runtime/kernel/cc.c, for those compiled at run time
KERNEL_FLAGS := -std=gnu11 $(OPT) -fPIC -fopenmp -fvisibility=hidden -ffp-contract=fast -fno-math-errno \
	-fno-trapping-math
CFLAGS := $(KERNEL_FLAGS) -g $(WARN) $(WERROR)
LUA_CFLAGS = $(shell pkg-config --cflags lua5.4 2>/dev/null || echo -I/usr/include/lua5.4)
CPPFLAGS := -Iruntime -Itemplates/c -DSPECTRA_VERSION='"$(VERSION)"'
LDLIBS := -llua5.4 -ljansson -lmd -ldl -lm
SAN :=
ISA_portable :=
ISA_avx2 := -mavx2 -mfma
ISA_avx512 := -mavx2 -mfma -mavx512f -mavx512dq -mavx512bw -mavx512vl -mprefer-vector-width=512
MACHINE := $(shell uname -m)
ISAS := portable $(if $(filter x86_64,$(MACHINE)),avx2 avx512)
# the widest that this machine runs, as base/cpu.c decides it
FLAGS_OF_CPU := $(shell grep -m 1 '^flags' /proc/cpuinfo)
HAS_avx2 := $(if $(filter-out $(FLAGS_OF_CPU),avx2 fma),,avx2)
HAS_avx512 := $(if $(filter-out $(FLAGS_OF_CPU),avx512f avx512dq avx512bw avx512vl),,avx512)
WIDEST := $(if $(HAS_avx2),$(or $(HAS_avx512),avx2),portable)
# a second checkout finds what the first one compiled
export CCACHE_NOHASHDIR := 1

GEN_SRC := $(wildcard gen/*.lua specs/*/*.lua templates/c/* templates/cuda/*) runtime/matrix/primitives.h
RUNTIME := runtime/ $(sort $(dir $(wildcard runtime/*/*.[ch] runtime/*/*/*.[ch])))
HEADERS := $(wildcard $(RUNTIME:%=%*.h) templates/c/*.h templates/cuda/*.h)
KERNEL_HEADERS := runtime/kernel/kernel.h $(wildcard templates/c/*.h)
# pairs made earlier stay part of the build until `make clean`
ALL_PAIRS := $(sort $(PAIRS) $(patsubst build/%/registry.inc,%,$(wildcard build/*-*/registry.inc)))

.DELETE_ON_ERROR:
.SUFFIXES:
.PHONY: all gen deps deps-test deps-all demo bench readme-bench gpu approx install dist clean help format lint run-demo run-bench run-approx diff-gen
all:

# ---- targets that install what they need first, then call make again ----------------------------

# test, test-all and test-GROUP are in tests/tests.mk

demo: deps
	@$(MAKE) --no-print-directory -j$(JOBS) gen FEAT=saderf KERNEL=qmc
	@$(MAKE) --no-print-directory -j$(JOBS) all
	@$(MAKE) --no-print-directory run-demo

BENCH_BIN = $(B)/spectraformer $(B)/bench/attn_bench $(B)/bench/structured
bench: deps
	@$(MAKE) --no-print-directory gen FEAT=posrf KERNEL=gaus
	@$(MAKE) --no-print-directory -j$(JOBS) $(BENCH_BIN)
	@$(MAKE) --no-print-directory run-bench

gpu: deps-test
	@$(MAKE) --no-print-directory -j$(JOBS) test-programs $(B)/bench/attn_device
	@sh tests/device/gpu.sh $(B)

approx: deps
	@$(MAKE) --no-print-directory -j$(JOBS) $(B)/spectraformer
	@$(MAKE) --no-print-directory run-approx

# what `make demo` needs, what `make test` needs besides, what `make test-all` makes use of where it is there
PACKAGES_deps := gcc libc6-dev make pkg-config lua5.4 liblua5.4-dev libjansson-dev libmd-dev libopenblas0-pthread
PACKAGES_deps-test := $(PACKAGES_deps) libcmocka-dev lua-busted lua-check clang-format xz-utils
PACKAGES_deps-all := $(PACKAGES_deps-test) g++ ccache time valgrind
deps deps-test deps-all:
	@if ! command -v dpkg-query >/dev/null; then \
	    echo "make $@: not a Debian system; needed are the equivalents of: $(PACKAGES_$@)"; exit 0; fi; \
	missing=; for p in $(PACKAGES_$@); do \
	    dpkg-query -W -f='$${Status}' $$p 2>/dev/null | grep -q 'ok installed' || missing="$$missing $$p"; \
	done; \
	if [ -n "$$missing" ]; then \
	    sudo=; [ "$$(id -u)" = 0 ] || sudo=sudo; \
	    mkdir -p build; echo "make $@: installing$$missing ($$sudo apt-get install)"; \
	    $$sudo apt-get update -q >/dev/null && \
	    $$sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends $$missing \
	        >build/deps.log 2>&1 || { tail -5 build/deps.log; rm -f build/deps.log; exit 1; }; \
	    rm -f build/deps.log; \
	fi

help:
	@echo "make                 the library and build/spectraformer"
	@echo "make demo            install what is missing, generate saderf x qmc, train ListOps, show the result"
	@echo "make test            install what is missing, run the tests: some minutes"
	@echo "make test-all        all of them, for every instruction set (tests/test-all.txt says what only this proves)"
	@echo "make test-unit       a group alone: $(GROUPS)"
	@echo "make deps            what demo needs; deps-test what test needs besides, deps-all what test-all can use"
	@echo "make gen FEAT=saderf KERNEL=qmc [D=32 DV=32 M=128 DTYPE=f32]"
	@echo "                     kernels of a pair for fixed sizes into build/saderf-qmc/; the next make links them"
	@echo "make gen ARCH=\"sm_80 sm_90a\" FEAT=saderf KERNEL=qmc"
	@echo "                     the same, and all that these GPUs are asked for with the pair (attention in every"
	@echo "                     precision, causal too, its backward, decoding) and by training, compiled; the next make"
	@echo "                     links it, so that nothing is compiled where it runs (needs NVRTC, no GPU)"
	@echo "make bench           every target of bench/table.lua measured on this machine: a table, build/bench/results.jsonl"
	@echo "make readme-bench    the README's table and picture from that run"
	@echo "make gpu             on a machine with an NVIDIA GPU: everything about CUDA for real, and times"
	@echo "make approx          error, bias, variance and time of every pair, heat maps in build/approx/report.html"
	@echo "make install         into PREFIX=$(PREFIX): command, library, header"
	@echo "make lint            clang-format and luacheck;  make format rewrites"
	@echo "make diff-gen        what an edit of gen/, specs/ or templates/ does to generated text"
	@echo "make clean           removes build/"

clean:
	rm -rf build

# ---- generation -----------------------------------------------------------------------------------

# Not -include: a spec that the generator refuses ends the build, also where an older one is there.
GOALS := $(or $(MAKECMDGOALS),all)
WITHOUT_SOURCES := deps% test test-% demo bench readme-bench gpu approx help clean format lint
ifneq ($(filter-out $(WITHOUT_SOURCES),$(GOALS))$(filter test-programs,$(GOALS)),)
include build/sources.mk
endif

# nothing stays of a file that is no longer generated
build/base/registry.inc: $(GEN_SRC)
	@rm -rf build/base && mkdir -p build/base
	$(LUA) gen/main.lua --base OUT=build/base
	@touch $@

# Pairs keep the sizes they were made with: `make gen` writes them into the folder's args.
build/%/registry.inc: $(GEN_SRC)
	@mkdir -p $(@D)
	@test -f $(@D)/args || echo "FEAT=$(word 1,$(subst -, ,$*)) KERNEL=$(word 2,$(subst -, ,$*)) D=$(D) DV=$(DV) M=$(M) DTYPE=$(DTYPE)" >$(@D)/args
	@rm -f $(@D)/*.c $(@D)/*.cu
	$(LUA) gen/main.lua $$(cat $(@D)/args) OUT=$(@D)
	@touch $@

build/sources.mk: build/base/registry.inc $(ALL_PAIRS:%=build/%/registry.inc)
	$(LUA) gen/main.lua --registry OUT=build/registry.c build/base $(ALL_PAIRS:%=build/%)
	@{ echo "KERNEL_C := $$(find build/base $(ALL_PAIRS:%=build/%) -mindepth 1 -name '*.c' \
	    ! -name features.c ! -name matrices.c | sort | tr '\n' ' ')"; \
	   echo "CUDA_TEXT := $$(find build/base $(ALL_PAIRS:%=build/%) -name '*.cu' ! -path '*/ahead/*' | sort | tr '\n' ' ')"; } >$@

gen:
ifneq ($(ARCH),)
	@$(MAKE) --no-print-directory $(O)/cubin
	@$(O)/cubin "$(ARCH)"
endif
ifneq ($(FEAT)$(KERNEL),)
	@mkdir -p build
	@$(LUA) gen/main.lua FEAT=$(FEAT) KERNEL=$(KERNEL) D=$(D) DV=$(DV) M=$(M) DTYPE=$(DTYPE) OUT=build/$(FEAT)-$(KERNEL)
	@echo "FEAT=$(FEAT) KERNEL=$(KERNEL) D=$(D) DV=$(DV) M=$(M) DTYPE=$(DTYPE)" >build/$(FEAT)-$(KERNEL)/args
else
	@echo "generated: build/base $(ALL_PAIRS:%=build/%)"
endif
ifneq ($(ARCH),)
	@for pair in base $(if $(FEAT)$(KERNEL),$(FEAT)-$(KERNEL),$(ALL_PAIRS)); do \
	    rm -rf build/$$pair/ahead build/$$pair/cubins.inc; \
	    $(LUA) gen/main.lua --ahead ARCH="$(ARCH)" $$(test $$pair = base || cat build/$$pair/args) OUT=build/$$pair/ahead && \
	    $(O)/cubin build/$$pair/cubins.inc build/$$pair/ahead/list || exit 1; done
endif

diff-gen:
	@rm -rf build/diff-gen && mkdir -p build/diff-gen/old build/diff-gen/new
	@git archive HEAD gen specs templates runtime | tar -x -C build/diff-gen/old
	@cd build/diff-gen/old && $(LUA) gen/main.lua --base OUT=out >/dev/null
	@cp -r gen specs templates runtime build/diff-gen/new
	@cd build/diff-gen/new && $(LUA) gen/main.lua --base OUT=out >/dev/null
	@diff -ru build/diff-gen/old/out build/diff-gen/new/out && echo "generated text unchanged"

# ---- compilation ----------------------------------------------------------------------------------

CLI_C := $(wildcard runtime/cli/*.c)
LIB_C := $(filter-out $(CLI_C),$(wildcard $(RUNTIME:%=%*.c))) build/task_specs.c build/task_bases.c build/jit_sources.c build/cubins.c
TABLE_C := build/base/features.c build/base/matrices.c build/registry.c
# AVX2 has no products of bf16
KERNELS_avx2 := $(filter-out %/attn_bf16.c,$(KERNEL_C))
KERNEL_NAMES := $(foreach i,$(ISAS),$(patsubst %.c,%.$(i).o,$(or $(KERNELS_$(i)),$(KERNEL_C))))
# A build in another folder may compile these kernels alone, and take the others of build/.
KERNELS_OWN := %
KERNEL_O := $(addprefix $(O)/,$(filter $(KERNELS_OWN),$(KERNEL_NAMES))) \
	$(addprefix build/obj/,$(filter-out $(KERNELS_OWN),$(KERNEL_NAMES)))
LIB_O := $(LIB_C:%.c=$(O)/%.o) $(TABLE_C:%.c=$(O)/%.o) $(KERNEL_O)
CLI_O := $(CLI_C:%.c=$(O)/%.o)
COMPILE = @mkdir -p $(@D); $(CCACHE) $(CC) $(CPPFLAGS) $(LUA_CFLAGS) $(CFLAGS) $(SAN)
# lines but no variables for the debugger: those take a fifth of the time, half of it with sanitizers
KERNEL = $(COMPILE) -g1

# refused by the parser that the command has
TASK_CHECK_O := $(patsubst %,$(O)/%.o,gen/tasks runtime/data/task runtime/base/settings runtime/base/status) $(O)/build/task_bases.o
$(O)/tasks: $(TASK_CHECK_O)
	@$(CC) $(CFLAGS) $(SAN) $^ $(LDLIBS) -o $@
build/task_specs.c: gen/embed.lua $(wildcard specs/task/*.lua specs/base/*.lua) | $(O)/tasks
	@mkdir -p build
	@$(O)/tasks $(wildcard specs/task/*.lua)
	$(LUA) gen/embed.lua $@ task_spec $(wildcard specs/task/*.lua)
build/task_bases.c: gen/embed.lua $(wildcard specs/base/*.lua)
	@mkdir -p build
	$(LUA) gen/embed.lua $@ task_base $(wildcard specs/base/*.lua)

# machine code of GPUs, part of the library so that an installed one finds it: `make gen ARCH=...`
build/cubins.c: gen/cubins.lua $(wildcard build/*/cubins.inc)
	@mkdir -p build
	@$(LUA) gen/cubins.lua $@ $(wildcard build/*/cubins.inc)
	@touch $@
CUBIN_O := $(patsubst %,$(O)/runtime/%.o,device/cuda/nvrtc base/bytes base/library base/outfile base/status)
$(O)/cubin: $(O)/gen/cubin.o $(CUBIN_O)
	@$(CC) $(CFLAGS) $(SAN) $^ -lmd -ldl -o $@

# what a kernel is generated from at run time
JIT_SOURCES := $(sort $(filter-out gen/main.lua gen/check.lua gen/embed.lua gen/cubins.lua gen/files.lua,$(wildcard gen/*.lua)) \
	$(wildcard specs/*/*.lua templates/c/* templates/cuda/*) \
	runtime/kernel/kernel.h runtime/matrix/primitives.h runtime/device/emulator/abi.h runtime/device/emulator/rt.h)
build/jit_sources.c: Makefile gen/embed.lua $(JIT_SOURCES)
	@mkdir -p build
	@$(LUA) gen/embed.lua --paths $@ jit_source $(JIT_SOURCES)
$(O)/runtime/kernel/cc.o: CPPFLAGS += -DKERNEL_FLAGS='"$(KERNEL_FLAGS)"' \
	-DKERNEL_FLAGS_ISA='{"$(ISA_portable)", "$(ISA_avx2)", "$(ISA_avx512)"}'
# what was linked last: another choice of kernels is linked anew
$(O)/kernels: FORCE
	@mkdir -p $(@D); echo '$(ISAS) $(KERNELS_OWN)' | cmp -s - $@ || echo '$(ISAS) $(KERNELS_OWN)' >$@
FORCE:
# the registry names kernels of these instruction sets only
$(O)/build/registry.o: $(O)/kernels
$(O)/build/registry.o: CPPFLAGS += $(patsubst %,-DWITHOUT_%,$(filter-out $(ISAS),avx2 avx512))
$(O)/runtime/device/emulator/emulator.o: CPPFLAGS += -DEMULATOR_CHECKED='"$(SAN)"'

$(O)/%.portable.o: %.c $(KERNEL_HEADERS)
	$(KERNEL) $(ISA_portable) -DISA_NAME=portable -c $< -o $@
$(O)/%.avx2.o: %.c $(KERNEL_HEADERS)
	$(KERNEL) $(ISA_avx2) -DISA_NAME=avx2 -c $< -o $@
$(O)/%.avx512.o: %.c $(KERNEL_HEADERS)
	$(KERNEL) $(ISA_avx512) -DISA_NAME=avx512 -c $< -o $@
$(O)/%.o: %.c $(HEADERS)
	$(COMPILE) -c $< -o $@
$(O)/tests/%.o $(O)/bench/%.o: CFLAGS += -Itests
# the same bits whether or not the machine can fuse
$(O)/runtime/math/rng_curand.o: CFLAGS += -ffp-contract=off

$(B)/spectraformer: $(CLI_O) $(B)/libspectraformer.a
	@$(CC) $(CFLAGS) $(SAN) $^ $(LDLIBS) -o $@
# for the command and the tests, with everything the library has inside
$(B)/libspectraformer.a: $(LIB_O) $(O)/kernels
	@rm -f $@; ar rcs $@ $(LIB_O)
# what is installed: one object whose only global names are the public ones
$(B)/install/libspectraformer.a: $(LIB_O) $(O)/kernels
	@mkdir -p $(@D)
	@ld -r -d $(LIB_O) -o $(@D)/spectraformer.o
	@objcopy --wildcard --keep-global-symbol='spectra_*' --strip-unneeded $(@D)/spectraformer.o
	@rm -f $@; ar rcs $@ $(@D)/spectraformer.o; rm -f $(@D)/spectraformer.o
$(B)/libspectraformer.so: $(LIB_O) $(O)/kernels
	@$(CC) $(CFLAGS) -shared -Wl,-soname,libspectraformer.so.0 $(LIB_O) $(LDLIBS) -o $@

all: $(B)/spectraformer $(B)/libspectraformer.so $(B)/install/libspectraformer.a
	@echo "built $(B)/spectraformer ($(words $(KERNEL_C)) generated kernels for $(ISAS))"

install: all
	install -d $(addprefix $(DESTDIR)$(PREFIX)/,bin lib/pkgconfig include)
	install $(B)/spectraformer $(DESTDIR)$(PREFIX)/bin
	install -m 644 $(B)/install/libspectraformer.a $(DESTDIR)$(PREFIX)/lib
	install $(B)/libspectraformer.so $(DESTDIR)$(PREFIX)/lib/libspectraformer.so.0
	ln -sf libspectraformer.so.0 $(DESTDIR)$(PREFIX)/lib/libspectraformer.so
	install -m 644 runtime/spectraformer.h $(DESTDIR)$(PREFIX)/include
	printf '%s\n' 'prefix=$(PREFIX)' 'Name: spectraformer' 'Version: $(VERSION)' \
	    'Description: random-feature linear attention, fused' 'Cflags: -I$${prefix}/include' \
	    'Libs: -L$${prefix}/lib -lspectraformer' 'Libs.private: $(LDLIBS) -fopenmp' \
	    >$(DESTDIR)$(PREFIX)/lib/pkgconfig/spectraformer.pc

dist:
	@mkdir -p build
	git archive --prefix=spectraformer-$(VERSION)/ -o build/spectraformer-$(VERSION).tar.gz HEAD

# ---- tests ----------------------------------------------------------------------------------------

include tests/tests.mk

# ---- demonstration and measurement ----------------------------------------------------------------

run-demo: $(B)/spectraformer
	@sh bench/demo.sh

BENCH_O := $(O)/bench/attn_bench.o $(foreach i,$(ISAS),$(O)/bench/bench_elementwise.$(i).o)
# the limit of instructions that the environment asks for is the tests'
BENCH_LIMIT := $(O)/tests/support/limit.o
$(B)/bench/attn_bench: $(BENCH_O) $(BENCH_LIMIT) $(B)/libspectraformer.a
	@mkdir -p $(@D)
	@$(CC) $(CFLAGS) $(SAN) $^ $(LDLIBS) -o $@

$(B)/bench/structured $(B)/bench/attn_device: $(B)/bench/%: $(O)/bench/%.o $(BENCH_LIMIT) $(B)/libspectraformer.a
	@mkdir -p $(@D)
	@$(CC) $(CFLAGS) $(SAN) $^ $(LDLIBS) -o $@

run-bench: $(BENCH_BIN)
	@B='$(B)' LUA='$(LUA)' CC='$(CC)' sh bench/run.sh

# bench/results.jsonl is the run that the README's figures come from; lint checks that they do. Nothing is
# replaced before the run has been accepted.
RESULTS = $(B)/bench/results.jsonl
readme-bench:
	@test -f $(RESULTS) || { echo "make readme-bench: no $(RESULTS); make bench writes it"; exit 1; }
	@$(LUA) bench/roofline.lua $(RESULTS) >$(B)/bench/roofline.svg
	@$(LUA) bench/table.lua --readme README.md $(RESULTS)
	@cp $(RESULTS) bench/results.jsonl.part && mv bench/results.jsonl.part bench/results.jsonl
	@cp $(B)/bench/roofline.svg bench/roofline.svg.part && mv bench/roofline.svg.part bench/roofline.svg

APPROX := --antithetic --input-std 0.5 --trials 256
run-approx: $(B)/spectraformer
	@mkdir -p build/approx
	$(B)/spectraformer approx $(APPROX) --out build/approx/report.html --json >build/approx/report.json.part
	@mv build/approx/report.json.part build/approx/report.json
	@echo "build/approx/report.html and report.json"

# ---- style ----------------------------------------------------------------------------------------

C_FILES = $(shell find gen runtime templates/c tests bench -name '*.[ch]' | sort)
format:
	clang-format -i $(C_FILES)
lint:
	clang-format --dry-run -Werror $(C_FILES)
	luacheck -q --std lua54 gen bench/*.lua bench/compare bench/cuda-model tests/layers.lua
	$(LUA) bench/table.lua --check README.md bench/results.jsonl
