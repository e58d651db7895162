# Test programs, what is run, and where. A test program is tests/FOLDER/NAME.c with the helpers that
# TEST_WITH_NAME lists and the library; an entry is a command that tests/run.sh runs, in the group of
# its folder. `make test` runs all but the entries of tests/test-all.txt, `make test-all` every one,
# `make test-GROUP` those of a group; ENTRIES="cli lint" names some.

# The object files of these test sources, whichever folder of tests/ they are in.
test_objects = $(foreach n,$(1),$(patsubst %.c,$(O)/%.o,$(wildcard tests/*/$(n).c)))

GRADIENT_NAMES := test_gradient test_gradient_causal
TEST_NAMES := $(filter-out $(GRADIENT_NAMES),$(notdir $(basename $(wildcard tests/*/test_*.c))))
TEST_WITH_test_approx := oracle
TEST_WITH_test_bf16 := oracle attend
TEST_WITH_test_chain := oracle attend
TEST_WITH_test_device := device_case oracle
TEST_WITH_test_device_kernels := device_case oracle attend
TEST_WITH_test_emulator := emulated device_case oracle
TEST_WITH_test_emulator_product := emulated device_case oracle
TEST_WITH_test_causal := oracle attend
TEST_WITH_test_decode := oracle attend
TEST_WITH_test_learned := oracle attend
TEST_WITH_test_maps_device := device_case oracle attend
TEST_WITH_test_model := model_oracle
TEST_WITH_test_model_kernels := checked emulated device_case oracle
TEST_WITH_test_model_journal := checked emulated device_case oracle
TEST_WITH_test_property_attention := oracle attend
TEST_WITH_test_property_estimate := oracle attend
TEST_WITH_test_property_features := oracle attend
TEST_WITH_test_property_matrix := oracle
TEST_WITH_test_property_matrix_law := oracle estimate
TEST_WITH_test_property_matrix_error := oracle estimate
TEST_WITH_test_property_state := oracle attend
TEST_WITH_test_property_convergence := oracle attend
TEST_WITH_test_model_device := device_case oracle
TEST_WITH_test_row := oracle
TEST_WITH_test_products := oracle
TEST_WITH_test_attention_device := attention_case attention_cases attention_exact device_case oracle attend
TEST_ALSO_golden := cli/attend_device
TEST_WITH_golden := golden_attention golden_case golden_model attend

TEST_BIN := $(TEST_NAMES:%=$(B)/tests/%)
LINK_TEST = @mkdir -p $(@D); $(CC) $(CFLAGS) $(SAN) $^ -lcmocka $(LDLIBS) -o $@

define TEST_RULE
$(B)/tests/$(1): $(call test_objects,$(1) limit $(TEST_WITH_$(1))) $(TEST_ALSO_$(1):%=$(O)/runtime/%.o) $(B)/libspectraformer.a
	$$(LINK_TEST)
endef
$(foreach t,$(TEST_NAMES) golden,$(eval $(call TEST_RULE,$(t))))

# Where the mathematics is tested, not the speed: half the time of the shipped flags, which the library
# under test always has. At -O1 gcc takes a vector that is set lane by lane for one that is not set.
BRIEF := -O1 -Wno-maybe-uninitialized

# vec.h and the skeletons alone, once for each instruction set; the skeletons with a positive and a signed
# feature, in float and in double, and forward with pairs of bf16.
ALONE := vec_ulp kernel_stub kernel_signed kernel_double kernel_pairs kernel_pairs_signed
ALONE_WITH := $(O)/runtime/base/cpu.o $(O)/runtime/base/status.o $(call test_objects,limit)
ALONE_BIN := $(foreach t,$(ALONE),$(foreach i,$(ISAS),$(B)/tests/$(t)_$(i)))
define ALONE_RULE
$(O)/tests/$(1)_$(2).o: tests/kernel/$(3).c $(KERNEL_HEADERS) runtime/base/cpu.h
	$$(KERNEL) $(ISA_$(2)) -DISA_NAME=$(2) $(4) -c $$< -o $$@
$(B)/tests/$(1)_$(2): $(O)/tests/$(1)_$(2).o $(ALONE_WITH)
	@mkdir -p $$(@D)
	@$$(CC) $$(CFLAGS) $$(SAN) $$^ -lcmocka -lm -o $$@
endef
$(foreach i,$(ISAS),\
    $(eval $(call ALONE_RULE,vec_ulp,$(i),vec_ulp))\
    $(eval $(call ALONE_RULE,kernel_stub,$(i),kernel_stub,$(BRIEF)))\
    $(eval $(call ALONE_RULE,kernel_signed,$(i),kernel_stub,$(BRIEF) -DSTUB_SIGNED))\
    $(eval $(call ALONE_RULE,kernel_double,$(i),kernel_stub,$(BRIEF) -DREAL=double))\
    $(eval $(call ALONE_RULE,kernel_pairs,$(i),kernel_stub,$(BRIEF) -DPAIRS=1))\
    $(eval $(call ALONE_RULE,kernel_pairs_signed,$(i),kernel_stub,$(BRIEF) -DPAIRS=1 -DSTUB_SIGNED)))

# Everything generated, in double: the verification build.
DOUBLE_C := $(filter build/base/%,$(KERNEL_C))
DOUBLE_O := $(DOUBLE_C:build/base/%.c=$(O)/double/%.o) $(O)/double/features.o $(O)/double/registry.o
$(O)/double/%.o: build/base/%.c $(KERNEL_HEADERS)
	$(KERNEL) $(BRIEF) -DREAL=double -DISA_NAME=portable -c $< -o $@
build/double/registry.c: build/base/registry.inc
	@mkdir -p $(@D)
	@$(LUA) gen/main.lua --registry OUT=$@ build/base
$(O)/double/registry.o: build/double/registry.c $(KERNEL_HEADERS)
	$(COMPILE) -DREAL=double -DPORTABLE_ONLY -c $< -o $@
$(O)/double/test_gradient%.o: tests/kernel/test_gradient%.c tests/kernel/gradient.h $(HEADERS)
	$(COMPILE) -Itests -DREAL=double -c $< -o $@
$(O)/double/test_gradient.o: tests/kernel/test_gradient.c tests/kernel/gradient.h $(HEADERS)
	$(COMPILE) -Itests -DREAL=double -c $< -o $@
$(GRADIENT_NAMES:%=$(B)/tests/%): $(B)/tests/%: $(O)/double/%.o $(call test_objects,oracle) $(DOUBLE_O)
	@mkdir -p $(@D)
	@$(CC) $(CFLAGS) $(SAN) $^ -lcmocka -lm -o $@

$(B)/tests/nvrtc: $(call test_objects,nvrtc nvrtc_load)
	@mkdir -p $(@D)
	@$(CC) $(CFLAGS) $^ -ldl -o $@

$(B)/tests/cuda_resources: $(call test_objects,cuda_resources nvrtc_load)
	@mkdir -p $(@D)
	@$(CC) $(CFLAGS) $^ -ldl -o $@

CUDA_PTX_O := $(call test_objects,cuda_ptx cuda_ptx_run cuda_ptx_check cuda_ptx_maps cuda_case nvrtc_load attend oracle)
$(CUDA_PTX_O): tests/device/cuda_case.h tests/device/cuda_ptx.h tests/device/nvrtc.h
$(B)/tests/cuda_ptx: $(CUDA_PTX_O) $(B)/libspectraformer.a
	@mkdir -p $(@D)
	@$(CC) $(CFLAGS) $(SAN) $^ $(LDLIBS) -o $@

# A driver, an NVRTC and a cuBLAS of our own in one library under three names (tests/fake/fake.h).
FAKE_O := $(call test_objects,fake fake_cuda fake_modules fake_ptx fake_nvrtc fake_cublas nvrtc_load)
FAKE := $(B)/tests/fake
$(FAKE)/libfake.so: $(FAKE_O) $(B)/libspectraformer.a
	@mkdir -p $(@D)
	@$(CC) $(CFLAGS) $(SAN) -shared -Wl,-Bsymbolic $^ $(LDLIBS) -o $@
	@for name in libcuda.so.1 libnvrtc.so.13 libcublas.so.13; do ln -sf libfake.so $(@D)/$$name; done
# hides libraries from dlopen: a machine without NVRTC
$(FAKE)/hide.so: tests/fake/hide.c
	@mkdir -p $(@D)
	@$(CC) $(CFLAGS) -shared $< -ldl -o $@

# texts of the benchmark's models
build/cuda-texts/list: $(GEN_SRC)
	@$(LUA) gen/main.lua --ahead ARCH=sm_80 OUT=$(@D)
	@touch $@

# ---- entries ---------------------------------------------------------------------------------------

programs = $(filter $(TEST_NAMES) $(GRADIENT_NAMES),$(notdir $(basename $(wildcard tests/$(1)/test_*.c))))
FAKE_NAMES := $(filter test_device test_device_kernels test_maps_device test_model_device,$(TEST_NAMES))
# the library's tests under AddressSanitizer and UndefinedBehaviorSanitizer
ASAN_NAMES := $(filter $(TEST_NAMES) $(GRADIENT_NAMES),test_support test_files test_matrix test_data test_softmax test_row \
	test_jit test_property_attention test_property_state test_property_matrix_structure test_chain test_learned \
	test_approx test_emulator test_emulator_product test_curand test_causal test_decode test_device \
	test_device_kernels $(GRADIENT_NAMES))

GROUPS := unit kernel device fake cli golden lua asan
ENTRIES_unit := $(call programs,unit)
ENTRIES_kernel := $(call programs,kernel) $(notdir $(ALONE_BIN))
ENTRIES_device := $(call programs,device) cuda-ptx ptx-kernels ptx-decoding nvrtc cuda-nvcc cuda-table
ENTRIES_fake := device $(FAKE_NAMES:%=fake-%)
ENTRIES_cli := cli jit bench train_device newcomer specs
ENTRIES_golden := golden golden-emu ptx-golden
ENTRIES_lua := lua gen-check lint
ENTRIES_asan := $(ASAN_NAMES:%=asan-%) asan-cli asan-golden

# What only `make test-all` runs.
ALL :=
ONLY_ALL := $(shell sed -n 's/^\([a-z][a-z0-9_+-]*\): .*/\1/p' tests/test-all.txt)
UNKNOWN := $(filter-out $(foreach g,$(GROUPS),$(ENTRIES_$(g))),$(ONLY_ALL))
$(if $(UNKNOWN),$(error tests/test-all.txt names entries that there are not: $(UNKNOWN)))
# The longest first, so that the processors end together.
LONGEST := newcomer asan-cli jit asan-test_jit cli test_property_features device cuda-ptx bench
RUN_GROUPS := $(GROUPS)
ENTRIES = $(filter-out $(if $(ALL),,$(ONLY_ALL)),$(foreach g,$(RUN_GROUPS),$(ENTRIES_$(g))))
ORDERED = $(filter $(LONGEST),$(ENTRIES)) $(filter-out $(LONGEST),$(ENTRIES))

# Commands; an entry without one is the program of its name.
ASAN := build/asan
DEVICE_PTX := sh tests/device/device_ptx.sh $(FAKE) $(B)/tests/cuda_ptx build/cuda-ptx
RUN_cuda-ptx = sh tests/device/cuda_ptx.sh $(B)/tests/cuda_ptx $(LUA) build/cuda-ptx $(if $(ALL),,$(PTX_FEW))
RUN_ptx-kernels := $(DEVICE_PTX) $(B)/tests/test_device_kernels cuda
RUN_ptx-decoding := $(DEVICE_PTX) $(B)/tests/test_attention_device cuda "* trigrf * decoding" "* hrf *M33 * decoding full"
RUN_nvrtc = $(B)/tests/nvrtc $(CUDA_TEXT) build/cuda-texts/*.cu
RUN_cuda-nvcc := sh tests/device/cuda_nvcc.sh $(LUA) build/cuda-nvcc
RUN_cuda-table := $(LUA) tests/device/cuda_table.lua $(B)/tests/cuda_resources build/cuda-table tests/device/cuda_table.txt
RUN_device := KERNEL_CACHE= FAKE=$(FAKE) OBJECTS=$(O) LUA=$(LUA) LIBS="$(LDLIBS)" sh tests/cli/device.sh
RUN_cli = $(if $(ALL),,CLI_SHORT=1) sh tests/cli/cli.sh
RUN_jit := sh tests/cli/jit.sh
RUN_bench := sh tests/cli/bench.sh
RUN_train_device := sh tests/cli/train_device.sh
RUN_newcomer := sh tests/cli/newcomer.sh
RUN_specs := sh tests/cli/specs.sh
RUN_golden := sh tests/golden/golden.sh $(B)/tests/golden
RUN_golden-emu := $(RUN_golden) --device emu
RUN_ptx-golden := $(DEVICE_PTX) $(RUN_golden) --device cuda
RUN_lua := busted --lua=$(LUA) -o plainTerminal tests/lua
RUN_gen-check := $(LUA) gen/main.lua --check
RUN_lint := sh tests/lint.sh
RUN_asan-cli := CLI_SHORT=1 CLI_STEPS=16 SPECTRAFORMER=$(ASAN)/spectraformer sh tests/cli/cli.sh
RUN_asan-golden := sh tests/golden/golden.sh $(ASAN)/tests/golden
$(foreach n,$(FAKE_NAMES),\
    $(eval RUN_fake-$(n) := FAKE_CACHE=$$$$KERNEL_CACHE LD_LIBRARY_PATH=$(FAKE) $(B)/tests/$(n) cuda))
$(foreach n,$(ASAN_NAMES),$(eval RUN_asan-$(n) := $(ASAN)/tests/$(n)))
# rows that are not aligned, bf16 of odd sizes, causal with signs
PTX_FEW := unaligned bf16-odd causal-trigrf

# What entries need built; those of sanitizers are built by `sanitized`.
NEEDED = $(patsubst %,$(B)/tests/%,$(filter $(TEST_NAMES) $(GRADIENT_NAMES) $(notdir $(ALONE_BIN)) nvrtc golden,$(ENTRIES))) \
	$(if $(filter $(ENTRIES_fake) ptx-%,$(ENTRIES)),$(FAKE)/libfake.so $(FAKE)/hide.so $(O)/cubin) \
	$(if $(filter ptx-% cuda-ptx,$(ENTRIES)),$(B)/tests/cuda_ptx) \
	$(patsubst fake-%,$(B)/tests/%,$(filter fake-%,$(ENTRIES))) \
	$(if $(filter ptx-kernels,$(ENTRIES)),$(B)/tests/test_device_kernels) \
	$(if $(filter ptx-decoding device,$(ENTRIES)),$(B)/tests/test_attention_device) \
	$(if $(filter %golden-emu ptx-golden,$(ENTRIES)),$(B)/tests/golden) \
	$(if $(filter nvrtc,$(ENTRIES)),build/cuda-texts/list) \
	$(if $(filter cuda-table,$(ENTRIES)),$(B)/tests/cuda_resources) \
	$(if $(filter $(ENTRIES_cli) $(ENTRIES_fake),$(ENTRIES)),$(B)/spectraformer) \
	$(if $(filter lint,$(ENTRIES)),$(B)/libspectraformer.so $(B)/install/libspectraformer.a)

# Sanitized are the library and, in `make test`, the kernels of one component function for each way
# through the skeletons (positive, signed, several lanes, a linear map, hyperbolic pairs, counts), row
# operators and products, for the widest vectors; other kernels are those of the normal build. A third
# of the time would go to checks of UBSan whose mistakes ASan sees too: accesses beyond an object or to
# NULL, and pointers that leave the address space.
ASAN_FEATURES := posrf trigrf saderf sderf hrf poisrf
ASAN_OWN = $(if $(ALL),%,$(patsubst %,build/base/%.$(WIDEST).o,$(addsuffix /%,$(ASAN_FEATURES) row) dense))
ASAN_SAN := -fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer \
	-fno-sanitize=null,object-size,pointer-overflow
ASAN_BIN = $(patsubst asan-test_%,$(ASAN)/tests/test_%,$(filter asan-test_%,$(ENTRIES))) \
	$(if $(filter asan-golden,$(ENTRIES)),$(ASAN)/tests/golden) $(if $(filter asan-cli,$(ENTRIES)),$(ASAN)/spectraformer)

.PHONY: test test-all $(GROUPS:%=test-%) test-programs sanitized run-tests
test-programs: $(NEEDED)
sanitized: $(KERNEL_O)
	@$(if $(strip $(ASAN_BIN)),$(MAKE) --no-print-directory B=$(ASAN) OPT=-O1 KERNELS_OWN='$(strip $(ASAN_OWN))' \
	    SAN='$(ASAN_SAN)' $(ASAN_BIN))
# The tests share what the emulator compiled. Without kernels of the widest set, the processor is one
# that does not have it.
RUN_ISA := $(if $(filter $(WIDEST),$(ISAS)),,$(or $(filter avx2,$(filter-out $(WIDEST),$(ISAS))),portable))
run-tests: test-programs
	@$(RUN_ISA:%=SPECTRA_ISA=%) KERNEL_CACHE=$(CURDIR)/build/kernels TEST_ALL=$(ALL) DEVICE_CASES=$(if $(ALL),full) sh tests/run.sh \
	    $(foreach e,$(ORDERED),'$(e)=$(or $(RUN_$(e)),$(B)/tests/$(e))')

# Kernels of the portable set and the widest one; of every set where ISAS says so, or in test-all.
test test-all $(GROUPS:%=test-%): deps-test
test: WANTED = $(GROUPS)
test-all: WANTED = $(GROUPS)
test-all: WANTED_ALL = 1
$(foreach g,$(GROUPS),$(eval test-$(g): WANTED = $(g)))
TEST_ISAS = $(if $(or $(WANTED_ALL),$(filter command environment,$(origin ISAS))),$(ISAS),portable $(filter-out portable,$(WIDEST)))
TEST_MAKE = $(MAKE) --no-print-directory -j$(JOBS) ISAS='$(strip $(TEST_ISAS))' ALL=$(WANTED_ALL) \
	$(if $(filter command,$(origin ENTRIES)),,RUN_GROUPS='$(WANTED)')
test test-all $(GROUPS:%=test-%):
	@$(TEST_MAKE) test-programs
	@$(TEST_MAKE) sanitized
	@$(TEST_MAKE) run-tests
