// tanh of large arguments is 1; the exponential in it would overflow.
float gelu(float x)
{
	const float y = 0.7978845608028654 * (x + 0.044715 * x * x * x);

	return 0.5 * x * (1.0 + tanh(clamp(y, -15.0, 15.0)));
}
