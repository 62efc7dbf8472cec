#version 460
#define TILE 4
#define OUTPUTS 4
#include "matmul_float.glsl"
