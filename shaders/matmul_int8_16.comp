#version 460
#define TILE 16
#define OUTPUTS 2
#include "matmul_int8.glsl"
