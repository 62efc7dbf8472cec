#include <cpuid.h>
#include <strings.h>

#include "base/base.h"
#include "kernels/kernels.h"

#define LEAF1_FMA (1u << 12)
#define LEAF1_OSXSAVE (1u << 27)
#define LEAF1_F16C (1u << 29)
#define LEAF7_AVX2 (1u << 5)
#define LEAF7_AVX512 (1u << 16 | 1u << 17 | 1u << 30 | 1u << 31) /* F DQ BW VL */
#define XCR0_YMM 0x06u
#define XCR0_ZMM 0xe6u

/* The register state that the operating system saves. */
static unsigned enabled_state(void)
{
	unsigned low, high;

	__asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
	return low;
}

unsigned gp_cpu_flags(void)
{
	const unsigned need = LEAF1_FMA | LEAF1_OSXSAVE | LEAF1_F16C;
	unsigned a, b, c, d, state;

	if (!__get_cpuid(1, &a, &b, &c, &d) || (c & need) != need)
		return 0;
	if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(b & LEAF7_AVX2))
		return 0;
	state = enabled_state();
	if ((state & XCR0_YMM) != XCR0_YMM)
		return 0;
	if ((b & LEAF7_AVX512) != LEAF7_AVX512 || (state & XCR0_ZMM) != XCR0_ZMM)
		return GP_CPU_AVX2;
	return GP_CPU_AVX2 | GP_CPU_AVX512;
}

int gp_cpu_mask(const char *text, unsigned *mask)
{
	if (!text[0])
		*mask = GP_CPU_ALL;
	else if (!strcasecmp(text, "scalar"))
		*mask = 0;
	else if (!strcasecmp(text, "avx2"))
		*mask = GP_CPU_AVX2;
	else if (!strcasecmp(text, "avx512"))
		*mask = GP_CPU_AVX2 | GP_CPU_AVX512;
	else
		return gp_fail(EINVAL,
		               "instruction set \"%s\" is unknown; use scalar, avx2, avx512 or nothing",
		               text);
	return 0;
}

const char *gp_cpu_text(unsigned flags)
{
	if (!(flags & GP_CPU_AVX2))
		return "scalar";
	return flags & GP_CPU_AVX512 ? "AVX-512" : "AVX2";
}
