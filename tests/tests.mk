# Test programs and how they are run. Each links tests/NAME.c, the helpers named here, the library.

TEST_NAMES := $(filter-out test_gradient,$(patsubst tests/%.c,%,$(wildcard tests/test_*.c)))
TEST_WITH_test_model := model_oracle
TEST_WITH_test_property_attention := oracle attend
TEST_WITH_test_property_estimate := oracle attend
TEST_WITH_test_property_matrix := oracle
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

ALONE := $(filter vec_ulp kernel_stub,$(patsubst tests/%.c,%,$(wildcard tests/*.c)))
# vec.h and the skeletons alone, once for each instruction set
ALONE_BIN := $(foreach t,$(ALONE),$(foreach i,$(ISAS),$(B)/tests/$(t)_$(i)))
$(foreach i,$(ISAS),$(eval $(B)/tests/vec_ulp_$(i) $(B)/tests/kernel_stub_$(i): CFLAGS += $(ISA_$(i)) -DISA_NAME=$(i)))
$(B)/tests/vec_ulp_% $(B)/tests/kernel_stub_%: $(HEADERS) $(wildcard templates/c/*.c) $(ALONE:%=tests/%.c)
	@mkdir -p $(@D)
	@$(CC) $(CPPFLAGS) $(CFLAGS) $(SAN) $(patsubst $(B)/tests/%_$*,tests/%.c,$@) -lcmocka -lm -o $@

# Everything generated, in double: the verification build.
DOUBLE_C := $(filter build/base/%,$(KERNEL_C))
DOUBLE_O := $(DOUBLE_C:build/base/%.c=$(O)/double/%.o) $(O)/double/features.o $(O)/double/registry.o
$(O)/double/%.o: build/base/%.c $(HEADERS)
	$(COMPILE) -DREAL=double -DISA_NAME=portable -c $< -o $@
build/double/registry.c: build/base/registry.inc
	@mkdir -p $(@D)
	@$(LUA) gen/main.lua --registry OUT=$@ build/base
$(O)/double/registry.o: build/double/registry.c $(HEADERS)
	$(COMPILE) -DREAL=double -DPORTABLE_ONLY -c $< -o $@
$(O)/double/test_gradient.o: tests/test_gradient.c $(HEADERS)
	$(COMPILE) -Itests -DREAL=double -c $< -o $@
$(B)/tests/test_gradient: $(O)/double/test_gradient.o $(O)/tests/oracle.o $(DOUBLE_O)
	@mkdir -p $(@D)
	@$(CC) $(CFLAGS) $(SAN) $^ -lcmocka -lm -o $@

$(B)/tests/nvrtc: tests/nvrtc.c
	@mkdir -p $(@D)
	@$(CC) $(CPPFLAGS) $(CFLAGS) $^ -ldl -o $@

test-programs: $(B)/spectraformer $(B)/libspectraformer.so $(TEST_BIN) $(B)/tests/golden $(ALONE_BIN) \
	$(B)/tests/test_gradient $(B)/tests/nvrtc

# The same sources under AddressSanitizer and UndefinedBehaviorSanitizer.
ASAN_NAMES := test_support test_files test_matrix test_data test_softmax test_row test_property_attention \
	test_property_state
ASAN_MAKE := B=build/asan OPT=-O1 SAN='-fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer'
sanitized:
	@$(MAKE) --no-print-directory $(ASAN_MAKE) $(ASAN_NAMES:%=build/asan/tests/%) build/asan/tests/golden \
	    build/asan/tests/test_gradient build/asan/spectraformer

run-tests: test-programs
	@sh tests/run.sh \
	    'lint=sh tests/lint.sh' \
	    'lua=busted --lua=$(LUA) -o plainTerminal tests/lua' \
	    'gen-check=$(LUA) gen/main.lua --check' \
	    'nvrtc=$(B)/tests/nvrtc $(CUDA_TEXT)' \
	    $(foreach t,$(TEST_NAMES) test_gradient,'$(t)=$(B)/tests/$(t)') \
	    $(foreach t,$(notdir $(ALONE_BIN)),'$(t)=$(B)/tests/$(t)') \
	    'golden=sh tests/golden.sh $(B)/tests/golden' \
	    'cli=sh tests/cli.sh' \
	    $(foreach t,$(ASAN_NAMES) test_gradient,'asan-$(t)=build/asan/tests/$(t)') \
	    'asan-golden=sh tests/golden.sh build/asan/tests/golden' \
	    'asan-cli=SPECTRAFORMER=build/asan/spectraformer sh tests/cli.sh' \
	    'newcomer=sh tests/newcomer.sh'
