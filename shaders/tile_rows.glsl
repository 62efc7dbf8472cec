// How rows of halves and their scales lie, for the tiles of matrix units.

// Of each four elements the middle two change places, in rows and in unpacked weights:
// a pair of halves is then made of every other byte of four quants.
uint tile_order(uint i)
{
	return (i & ~3) | (i & 1) << 1 | (i >> 1 & 1);
}

// A row's scale stands there as often as matrix units want it: once for each column of
// an operation's result.
const uint SCALES = 16;
