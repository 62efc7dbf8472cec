#define SUMS gp_grid_sums_any
#define SQUARES gp_grid_squares_any
#include "quantize/sums.h"
