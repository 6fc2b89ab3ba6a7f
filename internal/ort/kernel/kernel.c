#include "kernel.h"

#include <stdlib.h>
#include <string.h>

#if defined(__x86_64__)

#include <immintrin.h>
#include <math.h>
#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>

#define AVX2 __attribute__((target("avx2,fma,f16c")))

int kernel_supported(void) {
	return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
}

enum { SCALES = 2 * COLUMNS }; // bytes of a tile's scales; as many again as COLUMNS are its zero points

static size_t blocks_of(int k) { return ((size_t)k + BLOCK - 1) / BLOCK; }
static size_t head_of(int zeros) { return SCALES + (zeros ? COLUMNS : 0); }
static size_t step_of(int bits, int zeros) { return head_of(zeros) + COLUMNS * BLOCK * bits / 8; } // bytes of a tile's block

int kernel_tiles(const struct matrix *w) { return (w->n + COLUMNS - 1) / COLUMNS; }

// put spreads one column's block over a tile's quads.
AVX2 static void put(uint8_t *quads_of, int column, const uint8_t *q, int bits) {
	uint32_t quads[8];
	if (bits == 8) {
		__m256i v = _mm256_loadu_si256((const __m256i *)q);
		_mm256_storeu_si256((__m256i *)quads, _mm256_xor_si256(v, _mm256_set1_epi8((char)0x80)));
	} else {
		__m128i v = _mm_loadu_si128((const __m128i *)q), nibble = _mm_set1_epi8(15);
		__m128i even = _mm_and_si128(v, nibble), odd = _mm_and_si128(_mm_srli_epi16(v, 4), nibble);
		__m128i first = _mm_unpacklo_epi8(even, odd), second = _mm_unpackhi_epi8(even, odd); // k 0..15, 16..31
		_mm_storeu_si128((__m128i *)quads, _mm_or_si128(first, _mm_slli_epi16(second, 4)));
	}
	for (int i = 0; i < bits; i++) memcpy(quads_of + 32 * i + 4 * column, quads + i, 4);
}

struct pack {
	const struct matrix *w;
	const uint8_t *q;
	const float *scales;
	const uint8_t *zeros;
	size_t from, to; // tiles
	int wrong;
};

AVX2 static void *pack(void *arg) {
	struct pack *p = arg;
	const struct matrix *w = p->w;
	size_t blocks = blocks_of(w->k), raw = BLOCK * w->bits / 8, step = step_of(w->bits, w->zeros), head = head_of(w->zeros);
	uint8_t *to = w->packed + p->from * blocks * step, none[BLOCK];
	memset(none, w->bits == 8 ? 0x80 : 0x88, sizeof none);
	for (size_t t = p->from; t < p->to; t++) {
		for (size_t b = 0; b < blocks; b++, to += step) {
			float s[COLUMNS] = {0};
			for (int c = 0; c < COLUMNS; c++) {
				size_t column = t * COLUMNS + c, at = column * blocks + b;
				if (column < (size_t)w->n) s[c] = p->scales[at];
				if (!(fabsf(s[c]) <= 65504)) p->wrong = 1;
				put(to + head, c, column < (size_t)w->n ? p->q + at * raw : none, w->bits);
				if (w->zeros) to[SCALES + c] = column < (size_t)w->n ? p->zeros[column * ((blocks + 1) / 2) + b / 2] >> 4 * (b % 2) & 15 : 8;
			}
			_mm_storeu_si128((__m128i *)to, _mm256_cvtps_ph(_mm256_loadu_ps(s), _MM_FROUND_TO_NEAREST_INT));
		}
	}
	return NULL;
}

int kernel_pack(struct matrix *w, const uint8_t *q, const float *scales, const uint8_t *zeros, const float *bias) {
	enum { THREADS = 8, HUGE_PAGE = 2 << 20 };
	size_t tiles = kernel_tiles(w), bytes = tiles * blocks_of(w->k) * step_of(w->bits, w->zeros);
	w->packed = NULL;
	w->bias = NULL;
	if (bias) {
		if (!(w->bias = calloc(tiles * COLUMNS, sizeof(float)))) return 1;
		memcpy(w->bias, bias, w->n * sizeof(float));
	}
	size_t page = bytes < HUGE_PAGE ? 64 : HUGE_PAGE;
	if (posix_memalign((void **)&w->packed, page, bytes)) return 1;
#ifdef MADV_HUGEPAGE
	if (page == HUGE_PAGE) madvise(w->packed, bytes, MADV_HUGEPAGE); // fewer faults and address look-ups; no matter if refused
#endif
	// The weights may not have been read from the disk yet: several readers are
	// faster there too.
	long n = bytes < 1 << 20 ? 1 : sysconf(_SC_NPROCESSORS_ONLN);
	n = n < 1 ? 1 : n > THREADS ? THREADS : n;
	struct pack parts[THREADS];
	pthread_t threads[THREADS];
	int wrong = 0, begun[THREADS] = {0};
	for (long i = n - 1; i >= 0; i--) {
		parts[i] = (struct pack){w, q, scales, zeros, tiles * i / n, tiles * (i + 1) / n, 0};
		begun[i] = i > 0 && !pthread_create(&threads[i], NULL, pack, &parts[i]);
		if (!begun[i]) pack(&parts[i]);
	}
	for (long i = 0; i < n; i++) {
		if (begun[i]) pthread_join(threads[i], NULL);
		wrong |= parts[i].wrong;
	}
	return wrong ? 2 : 0;
}

// A block of a quantised row: its scale, the sum of its bytes, the bytes.
struct block {
	float scale, sum;
	int8_t x[BLOCK];
};

size_t kernel_row_bytes(int k) { return blocks_of(k) * sizeof(struct block); }

AVX2 void kernel_quantise(uint8_t *dst, const float *x, int k) {
	struct block *to = (struct block *)dst;
	const __m256 magnitude = _mm256_castsi256_ps(_mm256_set1_epi32(0x7fffffff));
	for (int i = 0; i < k; i += BLOCK, to++) {
		float tail[BLOCK] = {0};
		const float *v = x + i;
		if (i + BLOCK > k) v = memcpy(tail, v, (k - i) * sizeof(float));
		__m256 a = _mm256_loadu_ps(v), b = _mm256_loadu_ps(v + 8), c = _mm256_loadu_ps(v + 16), d = _mm256_loadu_ps(v + 24);
		__m256 m = _mm256_max_ps(_mm256_max_ps(_mm256_and_ps(a, magnitude), _mm256_and_ps(b, magnitude)),
		                         _mm256_max_ps(_mm256_and_ps(c, magnitude), _mm256_and_ps(d, magnitude)));
		__m128 h = _mm_max_ps(_mm256_castps256_ps128(m), _mm256_extractf128_ps(m, 1));
		h = _mm_max_ps(h, _mm_movehl_ps(h, h));
		h = _mm_max_ss(h, _mm_shuffle_ps(h, h, 1));
		float most = _mm_cvtss_f32(h);
		__m256 nan = _mm256_or_ps(_mm256_or_ps(_mm256_cmp_ps(a, a, _CMP_UNORD_Q), _mm256_cmp_ps(b, b, _CMP_UNORD_Q)),
		                          _mm256_or_ps(_mm256_cmp_ps(c, c, _CMP_UNORD_Q), _mm256_cmp_ps(d, d, _CMP_UNORD_Q)));
		to->scale = _mm256_movemask_ps(nan) ? NAN : most / 127; // what is broken stays visible
		__m256 f = _mm256_set1_ps(most > 0 ? 127 / most : 0);
		__m256i p = _mm256_cvtps_epi32(_mm256_mul_ps(a, f)), q = _mm256_cvtps_epi32(_mm256_mul_ps(b, f));
		__m256i r = _mm256_cvtps_epi32(_mm256_mul_ps(c, f)), s = _mm256_cvtps_epi32(_mm256_mul_ps(d, f));
		__m256i sum = _mm256_add_epi32(_mm256_add_epi32(p, q), _mm256_add_epi32(r, s));
		__m128i t = _mm_add_epi32(_mm256_castsi256_si128(sum), _mm256_extracti128_si256(sum, 1));
		t = _mm_add_epi32(t, _mm_shuffle_epi32(t, 0x4e));
		t = _mm_add_epi32(t, _mm_shuffle_epi32(t, 0xb1));
		to->sum = (float)_mm_cvtsi128_si32(t);
		__m256i bytes = _mm256_packs_epi16(_mm256_packs_epi32(p, q), _mm256_packs_epi32(r, s));
		bytes = _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
		_mm256_storeu_si256((__m256i *)to->x, bytes);
	}
}

enum { ROWS = 4 }; // that go through a tile together

#define EACH_ROW _Pragma("GCC unroll 4") for (int r = 0; r < R; r++)
#define INLINE AVX2 static inline __attribute__((always_inline))

INLINE __m256i quad(const struct block *x, int i) {
	int32_t v;
	memcpy(&v, x->x + 4 * i, 4);
	return _mm256_set1_epi32(v);
}

// A product of two bytes is at most 15 * 127, so 16 of them fit 16 bits: a
// column's whole block in two lanes.
INLINE void tile4(__m256 acc[ROWS], const uint8_t *tile, const struct block *const x[ROWS], int blocks, const int zeros, const int R) {
	const __m256i nibble = _mm256_set1_epi8(15), ones = _mm256_set1_epi16(1);
	EACH_ROW acc[r] = _mm256_setzero_ps();
	for (int b = 0; b < blocks; b++, tile += step_of(4, zeros)) {
		__m256i sum[ROWS];
		_mm_prefetch((const char *)tile + 1024, _MM_HINT_T0);
		_mm_prefetch((const char *)tile + 1088, _MM_HINT_T0);
		_Pragma("GCC unroll 4") for (int i = 0; i < 4; i++) {
			__m256i w = _mm256_loadu_si256((const __m256i *)(tile + head_of(zeros) + 32 * i));
			__m256i low = _mm256_and_si256(w, nibble), high = _mm256_and_si256(_mm256_srli_epi16(w, 4), nibble);
			EACH_ROW {
				__m256i p = _mm256_add_epi16(_mm256_maddubs_epi16(low, quad(x[r] + b, i)), _mm256_maddubs_epi16(high, quad(x[r] + b, i + 4)));
				sum[r] = i ? _mm256_add_epi16(sum[r], p) : p;
			}
		}
		__m256 scale = _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)tile));
		__m256 zero = zeros ? _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(tile + SCALES)))) : _mm256_set1_ps(8);
		EACH_ROW { // whole numbers below 2^24 until the last line
			__m256 dot = _mm256_cvtepi32_ps(_mm256_madd_epi16(sum[r], ones));
			dot = _mm256_fnmadd_ps(zero, _mm256_set1_ps(x[r][b].sum), dot);
			acc[r] = _mm256_fmadd_ps(dot, _mm256_mul_ps(scale, _mm256_set1_ps(x[r][b].scale)), acc[r]);
		}
	}
}

// The instruction multiplies unsigned by signed bytes: |w| by x with w's sign.
INLINE void tile8(__m256 acc[ROWS], const uint8_t *tile, const struct block *const x[ROWS], int blocks, const int R) {
	const __m256i ones = _mm256_set1_epi16(1);
	EACH_ROW acc[r] = _mm256_setzero_ps();
	for (int b = 0; b < blocks; b++, tile += SCALES + 256) {
		__m256i sum[ROWS];
		_Pragma("GCC unroll 8") for (int i = 0; i < 8; i++) {
			if (i % 2 == 0) _mm_prefetch((const char *)tile + 1536 + 32 * i, _MM_HINT_T0);
			__m256i w = _mm256_loadu_si256((const __m256i *)(tile + SCALES + 32 * i)), size = _mm256_abs_epi8(w);
			EACH_ROW {
				__m256i p = _mm256_madd_epi16(_mm256_maddubs_epi16(size, _mm256_sign_epi8(quad(x[r] + b, i), w)), ones);
				sum[r] = i ? _mm256_add_epi32(sum[r], p) : p;
			}
		}
		__m256 scale = _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)tile));
		EACH_ROW acc[r] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sum[r]), _mm256_mul_ps(scale, _mm256_set1_ps(x[r][b].scale)), acc[r]);
	}
}

// exponential is e^x to 2 units in the last place, for |x| <= 88.
INLINE __m256 exponential(__m256 x) {
	x = _mm256_min_ps(_mm256_max_ps(x, _mm256_set1_ps(-87.3f)), _mm256_set1_ps(88.3f));
	__m256 n = _mm256_round_ps(_mm256_mul_ps(x, _mm256_set1_ps(1.44269504f)), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
	__m256 r = _mm256_fnmadd_ps(n, _mm256_set1_ps(0.693359375f), x);
	r = _mm256_fnmadd_ps(n, _mm256_set1_ps(-2.12194440e-4f), r);
	__m256 p = _mm256_set1_ps(1.9875691500e-4f);
	p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.3981999507e-3f));
	p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(8.3334519073e-3f));
	p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(4.1665795894e-2f));
	p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.6666665459e-1f));
	p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(5.0000001201e-1f));
	p = _mm256_add_ps(_mm256_fmadd_ps(_mm256_mul_ps(r, r), p, r), _mm256_set1_ps(1));
	__m256i e = _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23);
	return _mm256_mul_ps(p, _mm256_castsi256_ps(e));
}

INLINE __m256 silu(__m256 x) {
	__m256 one = _mm256_set1_ps(1);
	return _mm256_div_ps(x, _mm256_add_ps(one, exponential(_mm256_sub_ps(_mm256_setzero_ps(), x))));
}

INLINE void product(__m256 acc[ROWS], const struct matrix *w, const struct block *const x[ROWS], int t, int blocks, const int bits, const int zeros, const int R) {
	const uint8_t *tile = w->packed + (size_t)t * blocks * step_of(bits, zeros);
	if (bits == 4) tile4(acc, tile, x, blocks, zeros, R);
	else tile8(acc, tile, x, blocks, R);
	if (w->bias) EACH_ROW acc[r] = _mm256_add_ps(acc[r], _mm256_loadu_ps(w->bias + t * COLUMNS));
}

INLINE void rows(float *y, const uint8_t *q, size_t row, const struct matrix *w, const struct matrix *up, int t, int blocks, const int bits, const int zeros, const int R) {
	const struct block *x[ROWS];
	__m256 acc[ROWS], other[ROWS];
	EACH_ROW x[r] = (const struct block *)(q + r * row);
	product(acc, w, x, t, blocks, bits, zeros, R);
	if (up) {
		product(other, up, x, t, blocks, bits, zeros, R);
		EACH_ROW acc[r] = _mm256_mul_ps(silu(acc[r]), other[r]);
	}
	int columns = w->n - t * COLUMNS;
	EACH_ROW {
		float *to = y + (size_t)r * w->n + t * COLUMNS;
		if (columns >= COLUMNS) {
			_mm256_storeu_ps(to, acc[r]);
			continue;
		}
		float all[COLUMNS];
		_mm256_storeu_ps(all, acc[r]);
		memcpy(to, all, columns * sizeof(float));
	}
}

typedef void rows_func(float *, const uint8_t *, size_t, const struct matrix *, const struct matrix *, int, int);

#define ROWS_FUNC(kind, bits, zeros, R)                                                                                       \
	AVX2 static void kind##R(float *y, const uint8_t *q, size_t row, const struct matrix *w, const struct matrix *up, int t, int blocks) { \
		rows(y, q, row, w, up, t, blocks, bits, zeros, R);                                                                      \
	}
#define ROWS_FUNCS(kind, bits, zeros) \
	ROWS_FUNC(kind, bits, zeros, 1)     \
	ROWS_FUNC(kind, bits, zeros, 2)     \
	ROWS_FUNC(kind, bits, zeros, 3)     \
	ROWS_FUNC(kind, bits, zeros, 4)
ROWS_FUNCS(int4_, 4, 0)
ROWS_FUNCS(int4_zeros_, 4, 1)
ROWS_FUNCS(int8_, 8, 0)

void kernel_matmul(float *y, const uint8_t *q, int m, const struct matrix *w, const struct matrix *up, int from, int to) {
	static rows_func *const funcs[3][ROWS] = {
	    {int4_1, int4_2, int4_3, int4_4}, {int4_zeros_1, int4_zeros_2, int4_zeros_3, int4_zeros_4}, {int8_1, int8_2, int8_3, int8_4}};
	rows_func *const *f = funcs[w->bits == 8 ? 2 : w->zeros];
	int blocks = (int)blocks_of(w->k);
	size_t row = kernel_row_bytes(w->k);
	int part = (int)(262144 / row) / ROWS * ROWS; // rows that stay in the second cache
	if (part < ROWS) part = ROWS;
	for (int first = 0; first < m; first += part) {
		int end = first + part < m ? first + part : m;
		for (int t = from; t < to; t++) {
			for (int r = first; r < end; r += ROWS) {
				int n = end - r < ROWS ? end - r : ROWS;
				f[n - 1](y + (size_t)r * w->n, q + r * row, row, w, up, t, blocks);
			}
		}
	}
}

AVX2 void kernel_norm(float *norm, float *sum, const float *x, const float *skip, const float *weight, int k, float eps) {
	__m256 squares = _mm256_setzero_ps();
	float rest = 0;
	int i = 0;
	for (; i + 8 <= k; i += 8) {
		__m256 v = _mm256_loadu_ps(x + i);
		if (skip) {
			v = _mm256_add_ps(v, _mm256_loadu_ps(skip + i));
			_mm256_storeu_ps(sum + i, v);
		}
		squares = _mm256_fmadd_ps(v, v, squares);
	}
	for (; i < k; i++) {
		float v = x[i];
		if (skip) sum[i] = v += skip[i];
		rest += v * v;
	}
	__m128 h = _mm_add_ps(_mm256_castps256_ps128(squares), _mm256_extractf128_ps(squares, 1));
	h = _mm_add_ps(h, _mm_movehl_ps(h, h));
	h = _mm_add_ss(h, _mm_shuffle_ps(h, h, 1));
	const float *v = skip ? sum : x;
	float f = 1 / sqrtf((_mm_cvtss_f32(h) + rest) / k + eps);
	for (i = 0; i < k; i++) norm[i] = v[i] * f * weight[i];
}

#else // no kernels: onnxruntime's own operators run

int kernel_supported(void) { return 0; }
int kernel_pack(struct matrix *w, const uint8_t *q, const float *scales, const uint8_t *zeros, const float *bias) { return 2; }
int kernel_tiles(const struct matrix *w) { return 0; }
size_t kernel_row_bytes(int k) { return 0; }
void kernel_quantise(uint8_t *dst, const float *x, int k) {}
void kernel_matmul(float *y, const uint8_t *q, int m, const struct matrix *w, const struct matrix *up, int from, int to) {}
void kernel_norm(float *norm, float *sum, const float *x, const float *skip, const float *weight, int k, float eps) {}

#endif

void kernel_free(struct matrix *w) {
	free(w->packed);
	free(w->bias);
	w->packed = NULL;
	w->bias = NULL;
}
