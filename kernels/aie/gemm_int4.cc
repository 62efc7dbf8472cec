// int4 weights x int8 activations on one compute tile (aie.h: "gemm-int4-32x256x64").
#include <aie_api/aie.hpp>

#include "kernels/aie/aie.h"

namespace {
constexpr unsigned M = GP_AIE_INT4_M, K = GP_AIE_INT4_K, N = GP_AIE_INT4_N;
constexpr unsigned GROUPS = GP_AIE_INT4_GROUPS;
using Product = aie::mmul<4, 16, 8, int8, int4>;
constexpr unsigned KS = K / 16, PER_GROUP = GP_AIE_INT4_GROUP / 16;
static_assert(PER_GROUP == 2, "a group is two products long");

// Two buffers of what is streamed in, two of the result, the stack.
static_assert(2 * (sizeof(gp_aie_int4_x) + sizeof(gp_aie_int4_w) + sizeof(gp_aie_int4_y)) +
              GP_AIE_STACK_BYTES <= GP_AIE_DATA_BYTES, "fits the tile's data memory");
// A memory tile holds two of x, of w and of four results.
static_assert(2 * (sizeof(gp_aie_int4_x) + sizeof(gp_aie_int4_w) + 4 * sizeof(gp_aie_int4_y)) <=
              GP_AIE_MEMORY_TILE_BYTES, "fits the memory tile");

using Sums = aie::accum<acc32, 32>;

inline aie::vector<int8, 64> x_at(const gp_aie_int4_x *x, unsigned m4, unsigned k16)
{
	return aie::load_v<64>((const int8 *)x->q + (m4 * KS + k16) * Product::size_A);
}

inline aie::vector<int4, 128> w_at(const gp_aie_int4_part *w, unsigned n8, unsigned k16)
{
	return aie::load_v<128>((const int4 *)(w->q + (n8 * KS + k16) * (Product::size_B / 2)));
}

// A group's eight scales for four rows.
inline aie::vector<int16, 32> scales_at(const gp_aie_int4_part *w, unsigned n8, unsigned group)
{
	const aie::vector<int16, 8> t = aie::load_v<8>((const int16 *)w->t + (n8 * GROUPS + group) * 8);
	const aie::vector<int16, 16> two = aie::concat(t, t);

	return aie::concat(two, two);
}

// The exact sum of one group fits 16 bits; its scale and the sum over groups 32.
inline void add_group(Sums &sums, const Product &p, const aie::vector<int16, 32> &scales)
{
	sums = aie::mac(sums, p.to_vector<int16>(0), scales);
}

// Two of the rows of four, by eight outputs: y = [y +] sums * (x's scale * w's step).
inline void put_half(float *y, bool first, const aie::vector<int32, 16> &sums, float s0, float s1,
                     const aie::vector<float, 8> &step)
{
	const aie::vector<float, 16> rows = aie::concat(aie::broadcast<float, 8>(s0),
	                                                aie::broadcast<float, 8>(s1));
	const aie::vector<float, 16> scale =
		aie::mul(rows, aie::concat(step, step)).to_vector<float>();
	aie::accum<accfloat, 16> acc(first ? aie::zeros<float, 16>() : aie::load_v<16>(y));

	acc = aie::mac(acc, aie::to_float(sums), scale);
	aie::store_v(y, acc.to_vector<float>());
}

inline void put(gp_aie_int4_y *y, const gp_aie_int4_x *x, const gp_aie_int4_part *w,
                unsigned part, unsigned m4, unsigned n8, const Sums &sums)
{
	const aie::vector<int32, 32> s = sums.to_vector<int32>(0);
	const aie::vector<float, 8> step = aie::load_v<8>(w->step + n8 * 8);
	const float *scale = x->scale + m4 * 4;
	float *to = y->y + ((part * 2 + n8) * (M / 4) + m4) * Product::size_C;
	const bool first = x->header.slice == 0;

	put_half(to, first, s.extract<16>(0), scale[0], scale[1], step);
	put_half(to + 16, first, s.extract<16>(1), scale[2], scale[3], step);
}

// Eight rows by sixteen outputs: four products share what is loaded for two.
inline void block(gp_aie_int4_y *y, const gp_aie_int4_x *x, const gp_aie_int4_part *w,
                  unsigned part, unsigned m4)
{
	Sums s00(aie::zeros<int32, 32>()), s01 = s00, s10 = s00, s11 = s00;

	for (unsigned g = 0; g < GROUPS; g++) {
		Product p00, p01, p10, p11;
		const auto a0 = x_at(x, m4, 2 * g), a1 = x_at(x, m4 + 1, 2 * g);
		const auto b0 = w_at(w, 0, 2 * g), b1 = w_at(w, 1, 2 * g);

		p00.mul(a0, b0);
		p01.mul(a0, b1);
		p10.mul(a1, b0);
		p11.mul(a1, b1);
		const auto c0 = x_at(x, m4, 2 * g + 1), c1 = x_at(x, m4 + 1, 2 * g + 1);
		const auto d0 = w_at(w, 0, 2 * g + 1), d1 = w_at(w, 1, 2 * g + 1);

		p00.mac(c0, d0);
		p01.mac(c0, d1);
		p10.mac(c1, d0);
		p11.mac(c1, d1);
		const auto t0 = scales_at(w, 0, g), t1 = scales_at(w, 1, g);

		add_group(s00, p00, t0);
		add_group(s01, p01, t1);
		add_group(s10, p10, t0);
		add_group(s11, p11, t1);
	}
	put(y, x, w, part, m4, 0, s00);
	put(y, x, w, part, m4, 1, s01);
	put(y, x, w, part, m4 + 1, 0, s10);
	put(y, x, w, part, m4 + 1, 1, s11);
}
} // namespace

extern "C" void gp_aie_gemm_int4(const struct gp_aie_int4_x *x, const struct gp_aie_int4_w *w,
                                 struct gp_aie_int4_y *y)
{
	aie::set_rounding(aie::rounding_mode::conv_even);
	for (unsigned part = 0; part < N / GP_AIE_INT4_PART_N; part++)
		for (unsigned m4 = 0; m4 < M / 4; m4 += 2)
			block(y, x, &w->part[part], part, m4);
}
