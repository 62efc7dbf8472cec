// The part of AMD's AIE API that kernels/aie uses, for the host's compiler: AIE-ML types,
// vector sizes and matrix shapes. What AIE-ML has no instruction for does not compile here
// either. Values are exact for integers; float32 products and sums round one by one, where
// the hardware builds a float32 product from bfloat16 ones and adds a matrix product's
// terms in an order of its own.
// Source: the AIE API user guide (AMD; "aie::mmul", "Supported Data Types"), AM020.
#ifndef GP_EMULATED_AIE_API
#define GP_EMULATED_AIE_API

#include <stdint.h>
#include <string.h>

#define GP_AIE_EMULATED 1

typedef int8_t int8;
typedef int16_t int16;
typedef int32_t int32;

struct int4 {};                 // only ever two in a byte, behind pointers and in vectors
struct bfloat16 { uint16_t bits; };
struct acc32 {};
struct accfloat {};

namespace aie {

enum class rounding_mode { floor, conv_even };

namespace emulated {
// A core begins with floor; kernels have to ask for the other.
inline thread_local rounding_mode rounding = rounding_mode::floor;

template <class T> struct traits;
template <> struct traits<int4> { using held = int8_t; static constexpr unsigned bits = 4; };
template <> struct traits<int8> { using held = int8_t; static constexpr unsigned bits = 8; };
template <> struct traits<int16> { using held = int16_t; static constexpr unsigned bits = 16; };
template <> struct traits<int32> { using held = int32_t; static constexpr unsigned bits = 32; };
template <> struct traits<float> { using held = float; static constexpr unsigned bits = 32; };
template <> struct traits<bfloat16> {
	using held = bfloat16;
	static constexpr unsigned bits = 16;
};
template <> struct traits<acc32> { using held = int32_t; static constexpr unsigned bits = 32; };
template <> struct traits<accfloat> { using held = float; static constexpr unsigned bits = 32; };

inline float widen(bfloat16 b)
{
	const uint32_t u = (uint32_t)b.bits << 16;
	float f;

	memcpy(&f, &u, sizeof f);
	return f;
}

inline bfloat16 narrow(float f)
{
	uint32_t u;

	memcpy(&u, &f, sizeof u);
	if (rounding == rounding_mode::conv_even)
		u += 0x7fff + (u >> 16 & 1);
	else if (f < 0) // towards minus infinity
		u += 0xffff;
	return bfloat16{ (uint16_t)(u >> 16) };
}

template <class To, class From> inline To saturate(From v)
{
	constexpr int64_t top = ((int64_t)1 << (8 * sizeof(To) - 1)) - 1;
	const int64_t x = v;

	return (To)(x > top ? top : x < -top - 1 ? -top - 1 : x);
}
} // namespace emulated

inline void set_rounding(rounding_mode m) { emulated::rounding = m; }

// ---- vectors --------------------------------------------------------------------
template <class T, unsigned N> struct vector {
	using held = typename emulated::traits<T>::held;
	static constexpr unsigned bits = N * emulated::traits<T>::bits;
	static_assert(bits == 128 || bits == 256 || bits == 512 || bits == 1024,
	              "AIE-ML has vectors of 128, 256, 512 and 1024 bits");
	held v[N];

	held get(unsigned i) const { return v[i]; }
	template <unsigned M> vector<T, M> extract(unsigned i) const
	{
		vector<T, M> r;

		memcpy(r.v, v + i * M, sizeof r.v);
		return r;
	}
	template <unsigned M> vector &insert(unsigned i, const vector<T, M> &x)
	{
		memcpy(v + i * M, x.v, sizeof x.v);
		return *this;
	}
};

template <unsigned N, class T> inline vector<T, N> load_v(const T *p)
{
	vector<T, N> r;

	if constexpr (emulated::traits<T>::bits == 4) {
		const uint8_t *b = reinterpret_cast<const uint8_t *>(p);

		for (unsigned i = 0; i < N / 2; i++) {
			r.v[2 * i] = (int8_t)((int8_t)(b[i] << 4) >> 4);
			r.v[2 * i + 1] = (int8_t)((int8_t)b[i] >> 4);
		}
	} else {
		memcpy(r.v, p, sizeof r.v);
	}
	return r;
}

template <class T, unsigned N> inline void store_v(T *p, const vector<T, N> &x)
{
	static_assert(emulated::traits<T>::bits >= 8, "no single int4 can be stored");
	memcpy(p, x.v, sizeof x.v);
}

template <class T, unsigned N> inline vector<T, N> broadcast(T x)
{
	vector<T, N> r;

	for (unsigned i = 0; i < N; i++)
		r.v[i] = x;
	return r;
}

template <class T, unsigned N> inline vector<T, N> zeros()
{
	vector<T, N> r;

	memset(r.v, 0, sizeof r.v);
	return r;
}

template <class T, unsigned N> inline vector<T, 2 * N> concat(const vector<T, N> &a,
                                                              const vector<T, N> &b)
{
	vector<T, 2 * N> r;

	return r.insert(0, a).insert(1, b);
}

inline vector<int8, 32> unpack(const vector<int4, 32> &x)
{
	vector<int8, 32> r;

	memcpy(r.v, x.v, sizeof r.v);
	return r;
}

// ---- accumulators ----------------------------------------------------------------
template <class A, unsigned N> struct accum {
	using held = typename emulated::traits<A>::held;
	static_assert(N == 8 || N == 16 || N == 32, "AIE-ML has accumulators of 8, 16 and 32 lanes");
	held v[N];

	accum() = default;
	template <class T> explicit accum(const vector<T, N> &x) { from_vector(x); }
	template <class T> void from_vector(const vector<T, N> &x, int = 0)
	{
		for (unsigned i = 0; i < N; i++)
			v[i] = (held)x.v[i];
	}
	template <class T> vector<T, N> to_vector(int shift = 0) const
	{
		vector<T, N> r;

		static_assert(sizeof(T) > 0, "a type");
		(void)shift; // no kernel here shifts
		for (unsigned i = 0; i < N; i++) {
			if constexpr (emulated::traits<T>::bits == 16 && sizeof(held) == 4 &&
			              !__is_same(T, int16))
				r.v[i] = emulated::narrow(v[i]);
			else if constexpr (__is_same(held, float))
				r.v[i] = v[i];
			else
				r.v[i] = emulated::saturate<T>(v[i]);
		}
		return r;
	}
};

// int16 x int16 into 32 bits, 32 lanes: one instruction.
inline accum<acc32, 32> mul(const vector<int16, 32> &a, const vector<int16, 32> &b)
{
	accum<acc32, 32> r;

	for (unsigned i = 0; i < 32; i++)
		r.v[i] = (int32_t)a.v[i] * b.v[i];
	return r;
}

inline accum<acc32, 32> mac(accum<acc32, 32> acc, const vector<int16, 32> &a,
                            const vector<int16, 32> &b)
{
	for (unsigned i = 0; i < 32; i++)
		acc.v[i] += (int32_t)a.v[i] * b.v[i];
	return acc;
}

// float32: built from nine products of bfloat16.
template <unsigned N> inline accum<accfloat, N> mul(const vector<float, N> &a,
                                                    const vector<float, N> &b)
{
	accum<accfloat, N> r;

	for (unsigned i = 0; i < N; i++)
		r.v[i] = a.v[i] * b.v[i];
	return r;
}

template <unsigned N> inline accum<accfloat, N> mac(accum<accfloat, N> acc,
                                                    const vector<float, N> &a,
                                                    const vector<float, N> &b)
{
	for (unsigned i = 0; i < N; i++)
		acc.v[i] += a.v[i] * b.v[i];
	return acc;
}

inline accum<accfloat, 16> mac(accum<accfloat, 16> acc, const vector<bfloat16, 16> &a,
                               const vector<bfloat16, 16> &b)
{
	for (unsigned i = 0; i < 16; i++)
		acc.v[i] += emulated::widen(a.v[i]) * emulated::widen(b.v[i]);
	return acc;
}

template <unsigned N> inline vector<float, N> add(const vector<float, N> &a,
                                                  const vector<float, N> &b)
{
	vector<float, N> r;

	for (unsigned i = 0; i < N; i++)
		r.v[i] = a.v[i] + b.v[i];
	return r;
}

template <unsigned N> inline vector<float, N> to_float(const vector<int32, N> &x, int = 0)
{
	vector<float, N> r;

	for (unsigned i = 0; i < N; i++)
		r.v[i] = (float)x.v[i];
	return r;
}

template <class To, unsigned N> inline vector<To, N> to_float(const vector<int8, N> &x, int = 0)
{
	static_assert(__is_same(To, bfloat16), "");
	vector<bfloat16, N> r;

	for (unsigned i = 0; i < N; i++)
		r.v[i] = emulated::narrow((float)x.v[i]); // 8 bits: exact
	return r;
}

// ---- matrix products ----------------------------------------------------------------
namespace emulated {
template <unsigned M, unsigned K, unsigned N, class A, class B> struct native {
	static constexpr bool value = false;
};
template <> struct native<4, 16, 8, int8, int4> { static constexpr bool value = true; };
template <> struct native<4, 8, 8, int8, int8> { static constexpr bool value = true; };
template <> struct native<4, 8, 4, bfloat16, bfloat16> { static constexpr bool value = true; };

// c += a b, upwards in k.
template <unsigned M, unsigned K, unsigned N>
inline void multiply(float *c, const bfloat16 *a, const bfloat16 *b)
{
	float fa[M * K], fb[K * N];

	for (unsigned i = 0; i < M * K; i++)
		fa[i] = widen(a[i]);
	for (unsigned i = 0; i < K * N; i++)
		fb[i] = widen(b[i]);
	for (unsigned m = 0; m < M; m++)
		for (unsigned k = 0; k < K; k++)
			for (unsigned n = 0; n < N; n++)
				c[m * N + n] += fa[m * K + k] * fb[k * N + n];
}

// |a b| <= 2^14 and 16 of int8 x int4 fit 16 bits, which hosts multiply faster.
template <unsigned K, unsigned N> inline void row(int32_t *c, const int8_t *a, const int8_t *b)
{
	if constexpr (K == 16) {
		int16_t s[N] = {};

		for (unsigned k = 0; k < K; k++)
			for (unsigned n = 0; n < N; n++)
				s[n] = (int16_t)(s[n] + (int16_t)(a[k] * b[k * N + n]));
		for (unsigned n = 0; n < N; n++)
			c[n] += s[n];
	} else {
		for (unsigned k = 0; k < K; k++)
			for (unsigned n = 0; n < N; n++)
				c[n] += a[k] * b[k * N + n];
	}
}
template <unsigned M, unsigned K, unsigned N>
inline void multiply(int32_t *c, const int8_t *a, const int8_t *b)
{
	for (unsigned m = 0; m < M; m++)
		row<K, N>(c + m * N, a + m * K, b);
}
} // namespace emulated

template <unsigned M, unsigned K, unsigned N, class A, class B> struct mmul {
	static_assert(emulated::native<M, K, N, A, B>::value,
	              "AIE-ML has no matrix product of this shape and these types");
	static constexpr unsigned size_A = M * K, size_B = K * N, size_C = M * N;
	static constexpr bool is_float = __is_same(A, bfloat16);
	template <bool F, class X = void> struct pick { using type = acc32; };
	template <class X> struct pick<true, X> { using type = accfloat; };
	using accum_type = accum<typename pick<is_float>::type, size_C>;
	accum_type acc;

	mmul() = default;
	explicit mmul(const accum_type &a) : acc(a) {}
	void mul(const vector<A, size_A> &a, const vector<B, size_B> &b)
	{
		memset(acc.v, 0, sizeof acc.v);
		mac(a, b);
	}
	void mac(const vector<A, size_A> &a, const vector<B, size_B> &b)
	{
		emulated::multiply<M, K, N>(acc.v, a.v, b.v);
	}
	template <class T> vector<T, size_C> to_vector(int shift = 0) const
	{
		return acc.template to_vector<T>(shift);
	}
	accum_type to_accum() const { return acc; }
};

} // namespace aie

#endif
