// Where the registers of matrix operations of 16 x 8 x 16 are, among 32 lanes: as
// workers/vulkan/vk_skinny.c has found with probe_coopmat.comp before it uses any of this.
//
// Of A (16 rows of 16 k) a lane holds rows lane_row and lane_row + 8, of B column
// lane_row, and of each row or column four k: 2 t, 2 t + 1, 2 t + 8, 2 t + 9, where t is
// lane_part. Of their product it holds rows lane_row and lane_row + 8 of columns 2 t and
// 2 t + 1. Which elements of a row these are is for us to say, as long as both
// operands agree: a chunk of 256 elements is 16 operations; lane_part t takes the 64
// elements from 64 t on, two blocks of weights, four elements in each operation.
const uint CHUNK = 256;

uint lane_row(uint lane)
{
	return lane / 4;
}

uint lane_part(uint lane)
{
	return lane % 4;
}

// Rows of halves in the order in which lanes want them, 16 bytes (two operations) each:
// [tile of 8 rows][chunk][8][lane].
uint fragment_at(uint chunks, uint tile, uint chunk, uint s, uint lane)
{
	return ((tile * chunks + chunk) * 8 + s) * 32 + lane;
}
