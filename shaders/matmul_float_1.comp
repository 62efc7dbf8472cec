#version 460
#define TILE 1
#define OUTPUTS 2
#include "matmul_float.glsl"
