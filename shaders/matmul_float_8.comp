#version 460
#define TILE 8
#define OUTPUTS 4
#include "matmul_float.glsl"
