# Test programs and how they are run. Each links its own source, tests/FOLDER/NAME.c, the helpers named
# here, the library.

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

# vec.h and the skeletons alone, once for each instruction set; the skeletons with a positive and a signed
# feature, in float and in double, and forward with pairs of bf16.
ALONE := vec_ulp kernel_stub kernel_signed kernel_double kernel_pairs kernel_pairs_signed
ALONE_WITH := $(O)/runtime/base/cpu.o $(O)/runtime/base/status.o $(call test_objects,limit)
ALONE_BIN := $(foreach t,$(ALONE),$(foreach i,$(ISAS),$(B)/tests/$(t)_$(i)))
define ALONE_RULE
$(B)/tests/$(1)_$(2): tests/kernel/$(3).c $(ALONE_WITH) $(KERNEL_HEADERS)
	@mkdir -p $$(@D)
	@$$(CC) $$(CPPFLAGS) $$(CFLAGS) $$(SAN) $(ISA_$(2)) -DISA_NAME=$(2) $(4) $$< $(ALONE_WITH) -lcmocka -lm -o $$@
endef
$(foreach i,$(ISAS),\
    $(eval $(call ALONE_RULE,vec_ulp,$(i),vec_ulp))\
    $(eval $(call ALONE_RULE,kernel_stub,$(i),kernel_stub))\
    $(eval $(call ALONE_RULE,kernel_signed,$(i),kernel_stub,-DSTUB_SIGNED))\
    $(eval $(call ALONE_RULE,kernel_double,$(i),kernel_stub,-DREAL=double))\
    $(eval $(call ALONE_RULE,kernel_pairs,$(i),kernel_stub,-DPAIRS=1))\
    $(eval $(call ALONE_RULE,kernel_pairs_signed,$(i),kernel_stub,-DPAIRS=1 -DSTUB_SIGNED)))

# Everything generated, in double: the verification build.
DOUBLE_C := $(filter build/base/%,$(KERNEL_C))
DOUBLE_O := $(DOUBLE_C:build/base/%.c=$(O)/double/%.o) $(O)/double/features.o $(O)/double/registry.o
$(O)/double/%.o: build/base/%.c $(KERNEL_HEADERS)
	$(COMPILE) -DREAL=double -DISA_NAME=portable -c $< -o $@
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

test-programs: build/cuda-texts/list $(B)/spectraformer $(B)/libspectraformer.so $(TEST_BIN) $(B)/tests/golden $(ALONE_BIN) \
	$(GRADIENT_NAMES:%=$(B)/tests/%) $(B)/tests/nvrtc $(B)/tests/cuda_ptx $(B)/tests/cuda_resources $(FAKE)/libfake.so \
	$(FAKE)/hide.so $(O)/cubin

# The same sources under AddressSanitizer and UndefinedBehaviorSanitizer; the kernels in portable C and
# for the widest vectors that this machine has, which saves a third of the compilation. A third of the
# rest would be checks of UBSan whose mistakes ASan sees too: accesses beyond an object or to NULL, and
# pointers that leave the address space.
ASAN_NAMES := test_support test_files test_matrix test_data test_softmax test_row test_jit \
	test_property_attention test_property_state test_property_matrix_structure test_chain test_learned test_approx \
	test_emulator test_emulator_product test_curand \
	test_causal test_decode test_device test_device_kernels
WIDEST := $(if $(shell grep -m 1 -w avx512vl /proc/cpuinfo),avx512,avx2)
ASAN_LESS = -fno-sanitize=null,object-size,pointer-overflow
ASAN_MAKE = B=build/asan OPT=-O1 $(if $(filter avx2,$(ISAS)),ISAS='portable $(WIDEST)') \
	SAN='-fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer $(ASAN_LESS)'
sanitized:
	@$(MAKE) --no-print-directory $(ASAN_MAKE) $(ASAN_NAMES:%=build/asan/tests/%) build/asan/tests/golden \
	    $(GRADIENT_NAMES:%=build/asan/tests/%) build/asan/spectraformer

DEVICE_PTX = sh tests/device/device_ptx.sh $(FAKE) $(B)/tests/cuda_ptx build/cuda-ptx
# The tests share what the emulator compiled.
run-tests: test-programs
	@KERNEL_CACHE=$(CURDIR)/build/kernels sh tests/run.sh \
	    'newcomer=sh tests/cli/newcomer.sh' \
	    'asan-cli=CLI_SHORT=1 CLI_STEPS=16 SPECTRAFORMER=build/asan/spectraformer sh tests/cli/cli.sh' \
	    'cuda-ptx=sh tests/device/cuda_ptx.sh $(B)/tests/cuda_ptx $(LUA) build/cuda-ptx' \
	    'ptx-golden=$(DEVICE_PTX) sh tests/golden/golden.sh $(B)/tests/golden --device cuda' \
	    'ptx-decoding=$(DEVICE_PTX) $(B)/tests/test_attention_device cuda "* trigrf * decoding" "* hrf *M33 * decoding full"' \
	    'jit=sh tests/cli/jit.sh' \
	    'cli=sh tests/cli/cli.sh' \
	    'bench=sh tests/cli/bench.sh' \
	    'train_device=sh tests/cli/train_device.sh' \
	    'lua=busted --lua=$(LUA) -o plainTerminal tests/lua' \
	    $(foreach t,$(TEST_NAMES) $(GRADIENT_NAMES),'$(t)=$(B)/tests/$(t)') \
	    $(foreach t,$(notdir $(ALONE_BIN)),'$(t)=$(B)/tests/$(t)') \
	    $(foreach t,$(ASAN_NAMES) $(GRADIENT_NAMES),'asan-$(t)=build/asan/tests/$(t)') \
	    'device=KERNEL_CACHE= FAKE=$(FAKE) OBJECTS=$(O) LUA=$(LUA) LIBS="$(LDLIBS)" sh tests/cli/device.sh' \
	    $(foreach t,test_device test_device_kernels test_maps_device test_model_device,'fake-$(t)=FAKE_CACHE=$$KERNEL_CACHE LD_LIBRARY_PATH=$(FAKE) $(B)/tests/$(t) cuda') \
	    $(foreach t,test_attention_device test_maps_device test_model_device test_device_kernels,'full-$(t)=DEVICE_CASES=full $(B)/tests/$(t)') \
	    'golden=sh tests/golden/golden.sh $(B)/tests/golden' \
	    'golden-emu=sh tests/golden/golden.sh $(B)/tests/golden --device emu' \
	    'asan-golden=sh tests/golden/golden.sh build/asan/tests/golden' \
	    'nvrtc=$(B)/tests/nvrtc $(CUDA_TEXT) build/cuda-texts/*.cu' \
	    'cuda-nvcc=sh tests/device/cuda_nvcc.sh $(LUA) build/cuda-nvcc' \
	    'cuda-table=$(LUA) tests/device/cuda_table.lua $(B)/tests/cuda_resources build/cuda-table tests/device/cuda_table.txt' \
	    'ptx-kernels=$(DEVICE_PTX) $(B)/tests/test_device_kernels cuda' \
	    'gen-check=$(LUA) gen/main.lua --check' \
	    'lint=sh tests/lint.sh'
