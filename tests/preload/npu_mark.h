/* What a program for the simulated array has in place of the vendor's configuration (its
 * PDI). The fake device takes nothing else, and no real device takes this. */
#ifndef GP_NPU_MARK_H
#define GP_NPU_MARK_H

#define NPU_MARK "GEMPIPE SIMULATED NPU PROGRAM\n\0" /* 32 bytes with its end */

struct npu_mark {
	char text[32];
	char program[48];       /* "gemm-int4-32x256x64", zeros behind */
};
_Static_assert(sizeof NPU_MARK == 32, "the mark fills its field");

#endif
