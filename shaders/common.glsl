// What all shaders share. Buffers are reached by address (Vulkan 1.2), so there are
// no descriptors, and no limit on a buffer's range applies.
#extension GL_EXT_buffer_reference : require
#extension GL_EXT_buffer_reference_uvec2 : require
#extension GL_EXT_scalar_block_layout : require
#extension GL_EXT_shader_16bit_storage : require
#extension GL_EXT_shader_8bit_storage : require
#extension GL_EXT_shader_explicit_arithmetic_types : require
#extension GL_EXT_control_flow_attributes : enable

layout(buffer_reference, scalar, buffer_reference_align = 4) buffer Floats { float v[]; };
layout(buffer_reference, scalar, buffer_reference_align = 16) buffer Vectors { vec4 v[]; };
layout(buffer_reference, scalar, buffer_reference_align = 4) buffer Words { uint v[]; };
layout(buffer_reference, scalar, buffer_reference_align = 2) buffer Halves { float16_t v[]; };
layout(buffer_reference, scalar, buffer_reference_align = 4) readonly buffer Uints { uint v[]; };
layout(buffer_reference, scalar, buffer_reference_align = 8) readonly buffer Addresses { uint64_t v[]; };
layout(buffer_reference, scalar, buffer_reference_align = 2) readonly buffer Bytes { uint8_t v[]; };
layout(buffer_reference, scalar, buffer_reference_align = 2) readonly buffer Shorts { uint16_t v[]; };

// As workers/vulkan/vulkan_device.h.
struct Row {
	uint pos;
	uint first[2];    // position that is seen first, by kind of layer
	uint table[2];    // where the sequence's blocks begin among the addresses
	uint token;
	uint tiled;       // 1: attention takes it in a tile
};
struct Tile {
	uint first, rows; // of one sequence, at positions that follow each other
};
layout(buffer_reference, scalar, buffer_reference_align = 8) readonly buffer Tiles { Tile v[]; };
layout(buffer_reference, scalar, buffer_reference_align = 16) readonly buffer Step {
	uint64_t tables;          // addresses of KV blocks
	uint64_t tiles;
	uint rows, logit_rows;
	uint part_blocks[2];      // of a part of attention, by kind of layer
	uint groups[2][3];        // of attention
	uint tile_groups[3];
	uint rope_groups[3];      // of the norm and rotation before, where there are tiles
	Row row[];
};
