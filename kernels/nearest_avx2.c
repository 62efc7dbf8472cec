#define NEAREST gp_nearest_avx2
#include "kernels/nearest.h"
