// bfloat16 on one compute tile (aie.h: "gemm-bf16-64x64x64").
#include <aie_api/aie.hpp>

#include "kernels/aie/aie.h"

namespace {
constexpr unsigned M = GP_AIE_BF16_M, K = GP_AIE_BF16_K, N = GP_AIE_BF16_N;
using Product = aie::mmul<4, 8, 4, bfloat16, bfloat16>;
constexpr unsigned KS = K / 8;

// Two buffers of what is streamed in, one of the result (it is given away once for all of
// K, so a second one would save little), the stack.
static_assert(2 * (sizeof(gp_aie_bf16_x) + sizeof(gp_aie_bf16_w)) + sizeof(gp_aie_bf16_y) +
              GP_AIE_STACK_BYTES <= GP_AIE_DATA_BYTES, "fits the tile's data memory");
static_assert(2 * (sizeof(gp_aie_bf16_x) + sizeof(gp_aie_bf16_w) + 4 * sizeof(gp_aie_bf16_y)) <=
              GP_AIE_MEMORY_TILE_BYTES, "fits the memory tile");

inline aie::vector<bfloat16, 32> x_at(const gp_aie_bf16_x *x, unsigned m4, unsigned k8)
{
	return aie::load_v<32>((const bfloat16 *)x->x + (m4 * KS + k8) * Product::size_A);
}

inline aie::vector<bfloat16, 32> w_at(const gp_aie_bf16_w *w, unsigned n4, unsigned k8)
{
	return aie::load_v<32>((const bfloat16 *)w->w + (n4 * KS + k8) * Product::size_B);
}

inline float *y_at(gp_aie_bf16_y *y, unsigned m4, unsigned n4)
{
	return y->y + (n4 * (M / 4) + m4) * Product::size_C;
}

inline Product begin(const float *y, bool first)
{
	return Product(aie::accum<accfloat, 16>(first ? aie::zeros<float, 16>() : aie::load_v<16>(y)));
}

// Eight rows by eight outputs: four products share what is loaded for two.
inline void block(gp_aie_bf16_y *y, const gp_aie_bf16_x *x, const gp_aie_bf16_w *w, unsigned m4,
                  unsigned n4)
{
	const bool first = x->header.slice == 0;
	float *y00 = y_at(y, m4, n4), *y01 = y_at(y, m4, n4 + 1);
	float *y10 = y_at(y, m4 + 1, n4), *y11 = y_at(y, m4 + 1, n4 + 1);
	Product p00 = begin(y00, first), p01 = begin(y01, first);
	Product p10 = begin(y10, first), p11 = begin(y11, first);

	for (unsigned k8 = 0; k8 < KS; k8++) {
		const auto a0 = x_at(x, m4, k8), a1 = x_at(x, m4 + 1, k8);
		const auto b0 = w_at(w, n4, k8), b1 = w_at(w, n4 + 1, k8);

		p00.mac(a0, b0);
		p01.mac(a0, b1);
		p10.mac(a1, b0);
		p11.mac(a1, b1);
	}
	aie::store_v(y00, p00.to_vector<float>());
	aie::store_v(y01, p01.to_vector<float>());
	aie::store_v(y10, p10.to_vector<float>());
	aie::store_v(y11, p11.to_vector<float>());
}
} // namespace

extern "C" void gp_aie_gemm_bf16(const struct gp_aie_bf16_x *x, const struct gp_aie_bf16_w *w,
                                 struct gp_aie_bf16_y *y)
{
	aie::set_rounding(aie::rounding_mode::conv_even);
	for (unsigned n4 = 0; n4 < N / 4; n4 += 2)
		for (unsigned m4 = 0; m4 < M / 4; m4 += 2)
			block(y, x, w, m4, n4);
}
