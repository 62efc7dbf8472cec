#version 460
#define TILE 1
#define OUTPUTS 4
#include "matmul_int8.glsl"
