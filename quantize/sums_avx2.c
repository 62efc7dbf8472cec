#define SUMS gp_grid_sums_avx2
#define SQUARES gp_grid_squares_avx2
#include "quantize/sums.h"
