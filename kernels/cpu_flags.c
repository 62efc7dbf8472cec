#include <cpuid.h>
#include <stdlib.h>
#include <strings.h>

#include "base/base.h"
#include "kernels/kernels.h"

#define LEAF1_FMA (1u << 12)
#define LEAF1_OSXSAVE (1u << 27)
#define LEAF1_F16C (1u << 29)
#define LEAF7_AVX2 (1u << 5)
#define LEAF7_AVX512 (1u << 16 | 1u << 17 | 1u << 30 | 1u << 31) /* F DQ BW VL */
#define LEAF7_C_VNNI (1u << 11)
#define LEAF7_1_A_BF16 (1u << 5)
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
	unsigned a, b, c, d, state, flags = GP_CPU_AVX2;

	if (!__get_cpuid(1, &a, &b, &c, &d) || (c & need) != need)
		return 0;
	if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(b & LEAF7_AVX2))
		return 0;
	state = enabled_state();
	if ((state & XCR0_YMM) != XCR0_YMM)
		return 0;
	if ((b & LEAF7_AVX512) != LEAF7_AVX512 || (state & XCR0_ZMM) != XCR0_ZMM)
		return flags;
	flags |= GP_CPU_AVX512;
	if (!(c & LEAF7_C_VNNI))
		return flags;
	flags |= GP_CPU_AVX512VNNI;
	if (__get_cpuid_count(7, 1, &a, &b, &c, &d) && (a & LEAF7_1_A_BF16))
		flags |= GP_CPU_AVX512BF16;
	return flags;
}

/* Each set comes with those before it. */
static const struct {
	const char *word, *text;
	unsigned flags;
} sets[] = {
	{ "scalar", "scalar", 0 },
	{ "avx2", "AVX2", 0x1 },
	{ "avx512", "AVX-512", 0x3 },
	{ "avx512vnni", "AVX-512 VNNI", 0x7 },
	{ "avx512bf16", "AVX-512 VNNI BF16", 0xf },
};

int gp_cpu_mask(const char *text, unsigned *mask)
{
	if (!text[0]) {
		*mask = GP_CPU_ALL;
		return 0;
	}
	for (size_t i = 0; i < GP_ARRAY_LEN(sets); i++)
		if (!strcasecmp(text, sets[i].word)) {
			*mask = sets[i].flags;
			return 0;
		}
	return gp_fail(EINVAL,
	               "instruction set \"%s\" is unknown; use scalar, avx2, avx512, "
	               "avx512vnni, avx512bf16 or nothing", text);
}

int gp_cpu_mask_wanted(unsigned *mask)
{
	const char *text = getenv("GP_CPU");
	const int rc = gp_cpu_mask(text ? text : "", mask);

	return rc < 0 ? gp_fail_in(rc, "GP_CPU") : 0;
}

const char *gp_cpu_text(unsigned flags)
{
	const char *text = sets[0].text;

	for (size_t i = 0; i < GP_ARRAY_LEN(sets); i++)
		if ((flags & sets[i].flags) == sets[i].flags)
			text = sets[i].text;
	return text;
}
