# Test programs and how they are run. Each links tests/NAME.c, the helpers named here, the library.

TEST_NAMES := $(filter-out test_gradient,$(patsubst tests/%.c,%,$(wildcard tests/test_*.c)))
TEST_WITH_test_approx := oracle
TEST_WITH_test_chain := oracle attend
TEST_WITH_test_learned := oracle attend
TEST_WITH_test_model := model_oracle
TEST_WITH_test_property_attention := oracle attend
TEST_WITH_test_property_estimate := oracle attend
TEST_WITH_test_property_features := oracle attend
TEST_WITH_test_property_matrix := oracle
TEST_WITH_test_property_matrix_law := oracle estimate
TEST_WITH_test_property_matrix_error := oracle estimate
TEST_WITH_test_property_state := oracle attend
TEST_WITH_test_property_convergence := oracle attend
TEST_WITH_test_row := oracle
TEST_WITH_golden := golden_attention golden_case golden_model attend

TEST_BIN := $(TEST_NAMES:%=$(B)/tests/%)
LINK_TEST = @mkdir -p $(@D); $(CC) $(CFLAGS) $(SAN) $^ -lcmocka $(LDLIBS) -o $@

define TEST_RULE
$(B)/tests/$(1): $(O)/tests/$(1).o $(TEST_WITH_$(1):%=$(O)/tests/%.o) $(B)/libspectraformer.a
	$$(LINK_TEST)
endef
$(foreach t,$(TEST_NAMES) golden,$(eval $(call TEST_RULE,$(t))))

# vec.h and the skeletons alone, once for each instruction set; the skeletons with a positive and a signed
# feature, in float and in double.
ALONE := vec_ulp kernel_stub kernel_signed kernel_double
ALONE_BIN := $(foreach t,$(ALONE),$(foreach i,$(ISAS),$(B)/tests/$(t)_$(i)))
define ALONE_RULE
$(B)/tests/$(1)_$(2): tests/$(3).c $(HEADERS) $(wildcard templates/c/*.c)
	@mkdir -p $$(@D)
	@$$(CC) $$(CPPFLAGS) $$(CFLAGS) $$(SAN) $(ISA_$(2)) -DISA_NAME=$(2) $(4) $$< -lcmocka -lm -o $$@
endef
$(foreach i,$(ISAS),\
    $(eval $(call ALONE_RULE,vec_ulp,$(i),vec_ulp))\
    $(eval $(call ALONE_RULE,kernel_stub,$(i),kernel_stub))\
    $(eval $(call ALONE_RULE,kernel_signed,$(i),kernel_stub,-DSTUB_SIGNED))\
    $(eval $(call ALONE_RULE,kernel_double,$(i),kernel_stub,-DREAL=double)))

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
$(O)/double/test_gradient.o: tests/test_gradient.c $(HEADERS)
	$(COMPILE) -Itests -DREAL=double -c $< -o $@
$(B)/tests/test_gradient: $(O)/double/test_gradient.o $(O)/tests/oracle.o $(DOUBLE_O)
	@mkdir -p $(@D)
	@$(CC) $(CFLAGS) $(SAN) $^ -lcmocka -lm -o $@

$(B)/tests/nvrtc: $(O)/tests/nvrtc.o $(O)/tests/nvrtc_load.o
	@mkdir -p $(@D)
	@$(CC) $(CFLAGS) $^ -ldl -o $@

$(B)/tests/cuda_resources: $(O)/tests/cuda_resources.o $(O)/tests/nvrtc_load.o
	@mkdir -p $(@D)
	@$(CC) $(CFLAGS) $^ -ldl -o $@

CUDA_PTX_O := $(patsubst %,$(O)/tests/%.o,cuda_ptx cuda_ptx_run cuda_ptx_check cuda_case nvrtc_load attend oracle)
$(CUDA_PTX_O): tests/cuda_case.h tests/cuda_ptx.h tests/nvrtc.h
$(B)/tests/cuda_ptx: $(CUDA_PTX_O) $(B)/libspectraformer.a
	@mkdir -p $(@D)
	@$(CC) $(CFLAGS) $(SAN) $^ $(LDLIBS) -o $@

test-programs: $(B)/spectraformer $(B)/libspectraformer.so $(TEST_BIN) $(B)/tests/golden $(ALONE_BIN) \
	$(B)/tests/test_gradient $(B)/tests/nvrtc $(B)/tests/cuda_ptx \
	$(B)/tests/cuda_resources

# The same sources under AddressSanitizer and UndefinedBehaviorSanitizer; the kernels in portable C and
# for the widest vectors, which saves a third of the compilation.
ASAN_NAMES := test_support test_files test_matrix test_data test_softmax test_row test_jit \
	test_property_attention test_property_state test_property_matrix_structure test_chain test_learned test_approx
ASAN_MAKE := B=build/asan OPT=-O1 $(if $(filter avx2,$(ISAS)),ISAS='portable avx512') \
	SAN='-DWITHOUT_avx2 -fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer'
sanitized:
	@$(MAKE) --no-print-directory $(ASAN_MAKE) $(ASAN_NAMES:%=build/asan/tests/%) build/asan/tests/golden \
	    build/asan/tests/test_gradient build/asan/spectraformer

run-tests: test-programs
	@sh tests/run.sh \
	    'newcomer=sh tests/newcomer.sh' \
	    'asan-cli=CLI_SHORT=1 SPECTRAFORMER=build/asan/spectraformer sh tests/cli.sh' \
	    'jit=sh tests/jit.sh' \
	    'cli=sh tests/cli.sh' \
	    'lua=busted --lua=$(LUA) -o plainTerminal tests/lua' \
	    $(foreach t,$(TEST_NAMES) test_gradient,'$(t)=$(B)/tests/$(t)') \
	    $(foreach t,$(notdir $(ALONE_BIN)),'$(t)=$(B)/tests/$(t)') \
	    $(foreach t,$(ASAN_NAMES) test_gradient,'asan-$(t)=build/asan/tests/$(t)') \
	    'golden=sh tests/golden.sh $(B)/tests/golden' \
	    'asan-golden=sh tests/golden.sh build/asan/tests/golden' \
	    'nvrtc=$(B)/tests/nvrtc $(CUDA_TEXT)' \
	    'cuda-nvcc=sh tests/cuda_nvcc.sh $(LUA) build/cuda-nvcc' \
	    'cuda-table=$(LUA) tests/cuda_table.lua $(B)/tests/cuda_resources build/cuda-table tests/cuda_table.txt' \
	    'cuda-ptx=sh tests/cuda_ptx.sh $(B)/tests/cuda_ptx $(LUA) build/cuda-ptx' \
	    'gen-check=$(LUA) gen/main.lua --check' \
	    'lint=sh tests/lint.sh'
