// One row of activations by int4 weights, which the tile unpacks to bfloat16 (aie.h:
// "gemv-int4-1x256x64"). Sixteen lanes are two elements of K by eight outputs.
#include <aie_api/aie.hpp>

#include "kernels/aie/aie.h"

namespace {
constexpr unsigned K = GP_AIE_INT4_K, GROUP = GP_AIE_INT4_GROUP, GROUPS = GP_AIE_INT4_GROUPS;

static_assert(2 * (sizeof(gp_aie_gemv_x) + sizeof(gp_aie_int4_part) + sizeof(gp_aie_gemv_y)) +
              GP_AIE_STACK_BYTES <= GP_AIE_DATA_BYTES, "fits the tile's data memory");

// x[0] eight times, x[1] eight times.
inline aie::vector<bfloat16, 16> two_of(const bfloat16 *x)
{
	return aie::concat(aie::broadcast<bfloat16, 8>(x[0]), aie::broadcast<bfloat16, 8>(x[1]));
}

// x times one group of eight outputs' codes, which bfloat16 holds exactly.
inline aie::vector<float, 8> group_sums(const bfloat16 *x, const uint8_t *q)
{
	aie::accum<accfloat, 16> acc(aie::zeros<float, 16>());

	for (unsigned k = 0; k < GROUP; k += 4) {
		const aie::vector<int8, 32> codes =
			aie::unpack(aie::load_v<32>((const int4 *)(q + k * 4)));

		acc = aie::mac(acc, two_of(x + k), aie::to_float<bfloat16>(codes.extract<16>(0)));
		acc = aie::mac(acc, two_of(x + k + 2), aie::to_float<bfloat16>(codes.extract<16>(1)));
	}
	const aie::vector<float, 16> sums = acc.to_vector<float>();

	return aie::add(sums.extract<8>(0), sums.extract<8>(1));
}

inline aie::vector<float, 8> group_scales(const gp_aie_int4_part *w, unsigned n8, unsigned group)
{
	const aie::vector<int16, 8> t = aie::load_v<8>((const int16 *)w->t + (n8 * GROUPS + group) * 8);
	const aie::accum<acc32, 16> wide(aie::concat(t, t));
	const aie::vector<float, 16> scales = aie::to_float(wide.to_vector<int32>(0));

	return aie::mul(scales.extract<8>(0), aie::load_v<8>(w->step + n8 * 8)).to_vector<float>();
}
} // namespace

extern "C" void gp_aie_gemv_int4(const struct gp_aie_gemv_x *x, const struct gp_aie_int4_part *w,
                                 struct gp_aie_gemv_y *y)
{
	aie::set_rounding(aie::rounding_mode::conv_even);
	for (unsigned n8 = 0; n8 < GP_AIE_INT4_PART_N / 8; n8++) {
		float *to = y->y + n8 * 8;
		aie::accum<accfloat, 8> acc(x->header.slice ? aie::load_v<8>(to) : aie::zeros<float, 8>());

		for (unsigned g = 0; g < GROUPS; g++)
			acc = aie::mac(acc, group_sums((const bfloat16 *)x->x + g * GROUP,
			                               w->q + (n8 * K + g * GROUP) * 4),
			               group_scales(w, n8, g));
		aie::store_v(to, acc.to_vector<float>());
	}
}
