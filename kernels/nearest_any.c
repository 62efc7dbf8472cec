#define NEAREST gp_nearest_any
#include "kernels/nearest.h"
