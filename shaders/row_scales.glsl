// A row's scale stands there as often as matrix units want it: once for each column of
// an operation's result.
const uint SCALES = 16;
