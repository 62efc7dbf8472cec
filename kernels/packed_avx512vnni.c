/* vpdpbusd multiplies unsigned by signed bytes and adds four products to 32
 * bits without saturation: 4 x 255 x 127 x 8 is far from their end. */
#include "kernels/packed_x16.h"

enum { SIGNED_QUANTS = 0, DOT_STEP = 1 };

INLINE vi dot(vi acc, const vi *q, const unsigned n, const int8_t *x, const unsigned most)
{
	(void)most;
#pragma GCC unroll 8
	for (unsigned v = 0; v < n; v++)
		acc = _mm512_dpbusd_epi32(acc, q[v], v_broadcast(x + 4 * v));
	return acc;
}

#include "kernels/packed_tiles.h"

void gp_matmul_packed_avx512vnni(float *y, size_t y_stride, const struct gp_q8 *x,
                                 uint32_t rows, const void *w, enum gp_type type, uint32_t k,
                                 uint32_t n0, uint32_t n1)
{
	matmul_packed(y, y_stride, x, rows, w, type, k, n0, n1);
}
