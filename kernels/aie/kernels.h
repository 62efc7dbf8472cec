/* What runs on a compute tile for each pair of tiles that it gets. Pointers are aligned to
 * 64 bytes. y is set by slice 0 (x's header tells) and added to by the others. Compiled by
 * the vendor's compiler for the NPU, by the host's over emulation/ for the simulated array
 * and the tests. No state, any thread. */
#ifndef GP_AIE_KERNELS_H
#define GP_AIE_KERNELS_H

#include "kernels/aie/aie.h"

#ifdef __cplusplus
extern "C" {
#endif
void gp_aie_gemm_int4(const struct gp_aie_int4_x *x, const struct gp_aie_int4_w *w,
                      struct gp_aie_int4_y *y);
void gp_aie_gemm_bf16(const struct gp_aie_bf16_x *x, const struct gp_aie_bf16_w *w,
                      struct gp_aie_bf16_y *y);
void gp_aie_gemv_int4(const struct gp_aie_gemv_x *x, const struct gp_aie_int4_part *w,
                      struct gp_aie_gemv_y *y);
#ifdef __cplusplus
}
#endif

#endif
