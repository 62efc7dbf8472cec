// The vendor's runtime (XRT 2.18 or newer) behind npu.h. XRT has no C interface for
// hardware contexts, so this is C++, in a shared object of its own. No exception leaves it:
// every function of the table runs in guard(), which makes it a negative errno and one line.
//
// The flow is that of Phoenix, as AMD's examples have it (Xilinx/mlir-aie, runtime_lib/
// test_lib): an xclbin is registered, its kernel MLIR_AIE* opened in a hardware context;
// a run's arguments are the opcode 3, the instruction words, their count, data buffers.
#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <memory>
#include <new>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

#include <unistd.h>

#include <xrt/xrt_bo.h>
#include <xrt/xrt_device.h>
#include <xrt/xrt_hw_context.h>
#include <xrt/xrt_kernel.h>
#include <xrt/experimental/xrt_ini.h>
#include <xrt/experimental/xrt_version.h>
#include <xrt/experimental/xrt_xclbin.h>

extern "C" {
#include "workers/npu/npu.h"
}

namespace {

constexpr const char *kernel_prefix = "MLIR_AIE";
constexpr uint64_t opcode_transaction = 3;
constexpr int instruction_argument = 1, count_argument = 2, first_data_argument = 3;

gp_npu_fail *fail;

uint64_t now_ns()
{
	// The clock of gp_now_ns: CLOCK_MONOTONIC.
	return static_cast<uint64_t>(std::chrono::duration_cast<std::chrono::nanoseconds>(
		std::chrono::steady_clock::now().time_since_epoch()).count());
}

} // namespace

struct gp_npu_context {
	xrt::hw_context hardware;
	xrt::kernel kernel;
	xrt::run run;
};

struct gp_npu_buffer {
	xrt::bo memory;
};

struct gp_npu {
	xrt::device device;
	std::vector<std::unique_ptr<gp_npu_context>> contexts;
	std::vector<std::unique_ptr<gp_npu_buffer>> buffers;
	gp_npu_context *running = nullptr;
	uint64_t submitted_ns = 0;
	bool wedged = false;
};

namespace {

// ---- exceptions --------------------------------------------------------------

enum class step { open, program, context, buffer, sync, submit, wait };

// The errno of an exception: its code, or what XRT's driver part writes into its text.
// Both occur with either sign; 0: none is known.
int errno_of(const std::exception &e)
{
	int code = 0;

	if (const auto *system = dynamic_cast<const std::system_error *>(&e))
		code = system->code().value();
	if (const char *at = std::strstr(e.what(), "err="))
		code = std::atoi(at + 4);
	else if (dynamic_cast<const std::bad_alloc *>(&e))
		code = ENOMEM;
	return std::abs(code);
}

// A line of the exception's text.
std::string line_of(const std::exception &e)
{
	std::string text = e.what();

	text = text.substr(0, text.find('\n'));
	return text.substr(0, 120);
}

int failed_open(int code, const std::string &why)
{
	switch (code) {
	case EACCES:
	case EPERM:
		return fail(EACCES, "NPU: no permission to use it (%s): usermod -aG render USER, then log in again",
		            why.c_str());
	case EAGAIN:
		return fail(EPERM, "NPU: memory cannot be locked (%s): raise ulimit -l, in "
		            "/etc/security/limits.conf: USER - memlock unlimited", why.c_str());
	case ENOMEM:
		return fail(ENOMEM, "NPU: no memory for the device's heap of 64 MiB (%s): close other programs",
		            why.c_str());
	}
	return fail(ENODEV, "NPU: XRT finds no device that it can open (%s): install the package of its NPU "
	            "driver (libxrt-npu2), and see xrt-smi examine", why.c_str());
}

int failed_context(int code, const std::string &why)
{
	switch (code) {
	case ENOSPC:
	case EBUSY:
	case EAGAIN:
		return fail(EBUSY, "NPU: all of its %u contexts are taken (%s): close other programs that use it; "
		            "xrt-smi examine -r aie-partitions lists them", GP_NPU_MAX_CONTEXTS, why.c_str());
	case ENODEV:
		return fail(ECONNRESET, "NPU: the device is gone (%s): see dmesg | grep amdxdna", why.c_str());
	}
	return fail(EPROTO, "NPU: firmware and driver do not take the program (%s): update firmware and kernel "
	            "together, build the program for npu1; dmesg | grep amdxdna says more", why.c_str());
}

int failed_buffer(int code, const std::string &why)
{
	switch (code) {
	case EAGAIN:
	case EPERM:
		return fail(EPERM, "NPU: memory cannot be locked (%s): raise ulimit -l, in "
		            "/etc/security/limits.conf: USER - memlock unlimited", why.c_str());
	case ENODEV:
		return fail(ECONNRESET, "NPU: the device is gone (%s): see dmesg | grep amdxdna", why.c_str());
	}
	return fail(ENOMEM, "NPU: no memory for a buffer (%s): lower --device-memory npu=SIZE", why.c_str());
}

int failed(step at, int code, const std::string &why)
{
	switch (at) {
	case step::open:
		return failed_open(code, why);
	case step::program:
		return fail(EINVAL, "NPU: no program of this device (%s): build it with kernels/aie/build", why.c_str());
	case step::context:
		return failed_context(code, why);
	case step::buffer:
		return failed_buffer(code, why);
	case step::sync:
	case step::submit:
	case step::wait:
		break;
	}
	// EINVAL, ENOENT: the kernel does not know the context any more.
	return fail(ECONNRESET, "NPU: the context is lost, by a suspend or a reset of the device (%s): "
	            "the worker starts anew; dmesg | grep amdxdna says why", why.c_str());
}

// Runs f, which returns an int as npu.h has it.
template <typename F> int guard(step at, F f) noexcept
{
	try {
		try {
			return f();
		} catch (const xrt::run::command_error &e) {
			return fail(EIO, "NPU: a command ended in state %d (%s): dmesg | grep amdxdna says why",
			            static_cast<int>(e.get_command_state()), line_of(e).c_str());
		} catch (const std::exception &e) {
			return failed(at, errno_of(e), line_of(e));
		}
	} catch (...) {
		return fail(EIO, "NPU: XRT failed without a reason");
	}
}

// After these the device is left alone: what XRT's destructors would ask of it can fail or
// not come back, and a destructor that fails ends the process.
int remember(gp_npu *npu, int rc) noexcept
{
	if (rc == -ECONNRESET || rc == -EIO || rc == -ETIMEDOUT)
		npu->wedged = true;
	return rc;
}

int refuse_wedged() noexcept
{
	return fail(EIO, "NPU: the device is wedged or lost: the worker has to start anew");
}

// ---- the table -----------------------------------------------------------------

int open_device(gp_npu **npu) noexcept
{
	return guard(step::open, [&] {
		auto n = std::make_unique<gp_npu>();

		// What XRT would print, the message has.
		xrt::ini::set("Runtime.verbosity", 0);
		n->device = xrt::device{0u};
		*npu = n.release();
		return 0;
	});
}

// What a wedged device still works on can't be given back without waiting for it.
void close_device(gp_npu *npu) noexcept
{
	if (!npu || npu->wedged || npu->running)
		return;
	(void)guard(step::open, [&] { delete npu; return 0; });
}

// XRT copies, or refuses, what is not in the memory that the kernel's argument names:
// the number in the program's list of memories, and above it the context, which does not
// matter. Without a context: the first memory (HOST) is for data, the second (SRAM) for
// instructions, as mlir-aie writes the list and kernels/aie/build too.
uint32_t group_of(const gp_npu *npu, const gp_npu_context *context, gp_npu_use use)
{
	const bool instructions = use == GP_NPU_INSTRUCTIONS;

	if (!context && !npu->contexts.empty())
		context = npu->contexts.front().get();
	if (!context)
		return instructions ? 1 : 0;
	return static_cast<uint32_t>(context->kernel.group_id(
		instructions ? instruction_argument : first_data_argument));
}

int alloc_buffer(gp_npu *npu, gp_npu_context *context, gp_npu_use use, size_t bytes,
                 gp_npu_buffer **buffer, void **host) noexcept
{
	if (npu->wedged)
		return refuse_wedged();
	return remember(npu, guard(step::buffer, [&] {
		const auto flags = use == GP_NPU_INSTRUCTIONS ? xrt::bo::flags::cacheable : xrt::bo::flags::host_only;
		auto b = std::make_unique<gp_npu_buffer>();

		b->memory = xrt::bo{npu->device, bytes, flags, group_of(npu, context, use)};
		void *at = b->memory.map();
		std::memset(at, 0, bytes);
		b->memory.sync(XCL_BO_SYNC_BO_TO_DEVICE, bytes, 0);
		npu->buffers.push_back(std::move(b));
		*buffer = npu->buffers.back().get();
		*host = at;
		return 0;
	}));
}

template <typename T> void erase(std::vector<std::unique_ptr<T>> &all, T *one)
{
	all.erase(std::remove_if(all.begin(), all.end(), [&](auto &p) { return p.get() == one; }), all.end());
}

void free_buffer(gp_npu *npu, gp_npu_buffer *buffer) noexcept
{
	if (buffer && !npu->wedged)
		(void)guard(step::buffer, [&] { erase(npu->buffers, buffer); return 0; });
}

int sync_buffer(gp_npu *npu, gp_npu_buffer *buffer, gp_npu_direction to, size_t offset, size_t bytes) noexcept
{
	if (npu->wedged)
		return refuse_wedged();
	return remember(npu, guard(step::sync, [&] {
		buffer->memory.sync(to == GP_NPU_TO_DEVICE ? XCL_BO_SYNC_BO_TO_DEVICE : XCL_BO_SYNC_BO_FROM_DEVICE,
		                    bytes, offset);
		return 0;
	}));
}

int load_context(gp_npu *npu, const xrt::xclbin &program, const std::string &kernel, gp_npu_context **context)
{
	return guard(step::context, [&] {
		auto c = std::make_unique<gp_npu_context>();

		npu->device.register_xclbin(program);
		c->hardware = xrt::hw_context{npu->device, program.get_uuid()};
		c->kernel = xrt::kernel{c->hardware, kernel};
		c->run = xrt::run{c->kernel};
		npu->contexts.push_back(std::move(c));
		*context = npu->contexts.back().get();
		return 0;
	});
}

int load_program(gp_npu *npu, const gp_npu_program *program, gp_npu_context **context) noexcept
{
	if (npu->wedged)
		return refuse_wedged();
	return remember(npu, guard(step::program, [&] {
		if (!program->path || access(program->path, R_OK) != 0)
			return fail(ENOENT, "NPU: the program %s cannot be read from %s: build it with kernels/aie/build",
			            program->name, program->path ? program->path : "a file");
		const xrt::xclbin file{std::string{program->path}};
		for (const auto &kernel : file.get_kernels())
			if (kernel.get_name().rfind(kernel_prefix, 0) == 0)
				return load_context(npu, file, kernel.get_name(), context);
		return fail(EINVAL, "%s: no kernel %s* in it: build it with kernels/aie/build", program->path,
		            kernel_prefix);
	}));
}

void unload_program(gp_npu *npu, gp_npu_context *context) noexcept
{
	if (context && !npu->wedged)
		(void)guard(step::context, [&] { erase(npu->contexts, context); return 0; });
}

int submit_command(gp_npu *npu, const gp_npu_command *command) noexcept
{
	if (npu->wedged)
		return refuse_wedged();
	if (npu->running)
		return fail(EBUSY, "NPU: a command is running already");
	return remember(npu, guard(step::submit, [&] {
		xrt::run &run = command->context->run;

		run.set_arg(0, opcode_transaction);
		run.set_arg(instruction_argument, command->instructions->memory);
		run.set_arg(count_argument, command->words);
		for (uint32_t i = 0; i < command->n_buffers; i++)
			run.set_arg(first_data_argument + static_cast<int>(i), command->buffers[i]->memory);
		npu->submitted_ns = now_ns();
		run.start();
		npu->running = command->context;
		return 0;
	}));
}

// true: it has ended well. Its end in any other state is an exception. Asks the command's
// memory alone: XRT's wait with a time throws when that is over ("unexpected command
// state", 2.25), the one without does not come back from a wedged array.
bool ended(const xrt::run &run)
{
	switch (run.state()) {
	case ERT_CMD_STATE_NEW:
	case ERT_CMD_STATE_QUEUED:
	case ERT_CMD_STATE_RUNNING:
	case ERT_CMD_STATE_SUBMITTED:
		return false;
	default:
		run.wait2();
		return true;
	}
}

// How long until it is worth asking again: a command takes 0.1 ms at the least, and most
// some of them; a late answer costs less than 5 % of its time.
std::chrono::nanoseconds pause_after(uint64_t ns)
{
	return std::chrono::nanoseconds{std::clamp<uint64_t>(ns / 20, 10000, 1000000)};
}

int time_out(const gp_npu *npu)
{
	const uint64_t ms = (now_ns() - npu->submitted_ns) / 1000000;

	return fail(ETIMEDOUT, "NPU: a command did not end in %llu ms, so the array counts as wedged: the worker "
	            "starts anew; if it happens again: modprobe -r amdxdna && modprobe amdxdna",
	            static_cast<unsigned long long>(ms));
}

int wait_for(gp_npu *npu, uint64_t deadline_ns, const volatile bool *cancelled)
{
	const bool only_asks = now_ns() >= deadline_ns;

	while (!ended(npu->running->run)) {
		const uint64_t now = now_ns();

		if (only_asks)
			return -EAGAIN;
		if (cancelled && *cancelled)
			return fail(ECANCELED, "NPU: waiting was cancelled");
		if (now >= deadline_ns)
			return time_out(npu);
		std::this_thread::sleep_for(pause_after(now - npu->submitted_ns));
	}
	return 0;
}

int wait_command(gp_npu *npu, uint64_t deadline_ns, const volatile bool *cancelled,
                 gp_npu_result *result) noexcept
{
	if (npu->wedged)
		return refuse_wedged();
	if (!npu->running)
		return fail(EINVAL, "NPU: no command is running");
	const int rc = remember(npu, guard(step::wait, [&] { return wait_for(npu, deadline_ns, cancelled); }));
	if (rc == -EAGAIN || rc == -ECANCELED || rc == -ETIMEDOUT)
		return rc;
	npu->running = nullptr;
	*result = gp_npu_result{};
	result->ns = now_ns() - npu->submitted_ns;
	return rc;
}

const gp_npu_driver driver = {
	"xrt", false, nullptr, open_device, close_device, alloc_buffer, free_buffer, sync_buffer,
	load_program, unload_program, submit_command, wait_command,
};

} // namespace

extern "C" __attribute__((visibility("default")))
const gp_npu_driver *gempipe_npu_shim(uint32_t abi, gp_npu_fail *gp_fail)
{
	fail = gp_fail;
	return abi == GP_NPU_ABI ? &driver : nullptr;
}

// "2.25"; for reports.
extern "C" __attribute__((visibility("default"))) void gempipe_npu_xrt_version(char text[32])
{
	std::snprintf(text, 32, "%u.%u", xrt::version::major(), xrt::version::minor());
}
