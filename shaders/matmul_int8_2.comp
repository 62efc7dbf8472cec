#version 460
#define TILE 2
#define OUTPUTS 4
#include "matmul_int8.glsl"
