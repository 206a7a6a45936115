/* Vectors of floats in the processor's own width, and the few functions that the compiled code needs of them. */

#ifndef LEARNED_OPT_VECTORS_H
#define LEARNED_OPT_VECTORS_H

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

/* LANES floats make a vector, and VECTORS vectors are worked on at once: as many as registers hold the sums of. */
#if defined(__AVX512F__)
#define LANES 16
#define VECTORS 4
#elif defined(__AVX2__)
#define LANES 8
#define VECTORS 2
#else
#define LANES 4
#define VECTORS 2
#endif

#define BLOCK (LANES * VECTORS)
#define EXPORT __attribute__((visibility("default")))
#define INLINE static inline __attribute__((always_inline))

/* For native.py to check that this is what the sources say: setup.py gives their checksum. */
EXPORT int32_t learned_opt_source(void) { return SOURCE; }

typedef float vector __attribute__((vector_size(4 * LANES)));
typedef int32_t mask __attribute__((vector_size(4 * LANES)));
typedef float loose __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

static inline vector all(float x) { return (vector){0} + x; }

/* `FLUSH_DENORMALS;` at the beginning of a block has numbers below float's normal range count as 0 in it, on the thread
   that runs it, and puts back how it was. The moments of a coordinate that no gradient reaches any more fall there
   within some 800 steps and would stay: a step then takes ten times as long. */
#if defined(__x86_64__)
#define FLUSHING 0x8040u /* results and operands, in MXCSR */
typedef uint32_t float_mode;
static inline float_mode mode_of_floats(void) { return _mm_getcsr(); }
static inline void set_mode_of_floats(float_mode mode) { _mm_setcsr(mode); }
#elif defined(__aarch64__)
#define FLUSHING (1ull << 24) /* FZ, in FPCR */
typedef uint64_t float_mode;
static inline float_mode mode_of_floats(void) {
    float_mode mode;
    __asm__ volatile("mrs %0, fpcr" : "=r"(mode));
    return mode;
}
static inline void set_mode_of_floats(float_mode mode) { __asm__ volatile("msr fpcr, %0" : : "r"(mode)); }
#else
#define FLUSHING 0u
typedef uint32_t float_mode;
static inline float_mode mode_of_floats(void) { return 0; }
static inline void set_mode_of_floats(float_mode mode) { (void)mode; }
#endif
static inline float_mode flushing(void) {
    const float_mode before = mode_of_floats();
    set_mode_of_floats(before | FLUSHING);
    __asm__ volatile("" : : : "memory"); /* no arithmetic on memory moves past */
    return before;
}
static inline void put_back(const float_mode *before) {
    __asm__ volatile("" : : : "memory");
    set_mode_of_floats(*before);
}
#define FLUSH_DENORMALS __attribute__((cleanup(put_back), unused)) const float_mode before_flushing = flushing()

/* Memory for vectors, or NULL; sizes must be multiples of the alignment. */
static inline void *room_for(size_t bytes) { return aligned_alloc(64, (bytes + 63) / 64 * 64); }

/* Up to LANES floats; lanes beyond the end read as 0 and are not written. */
static inline vector load_up_to(const float *p, int64_t count) {
    if (count >= LANES) return *(const loose *)p;
    vector x = {0};
    if (count > 0) memcpy(&x, p, sizeof(float) * count);
    return x;
}
static inline void store_up_to(float *p, vector x, int64_t count) {
    if (count >= LANES)
        *(loose *)p = x;
    else if (count > 0)
        memcpy(p, &x, sizeof(float) * count);
}
static inline float total(vector x) {
    float sum = 0;
    for (int i = 0; i < LANES; i++) sum += x[i];
    return sum;
}

/* Squares of SIDE × SIDE numbers in memory, rows `pitch` and `to_pitch` floats apart, turned so that rows become columns. */
#if defined(__AVX2__)
#define SIDE 8
static inline void transpose(const float *from, int64_t pitch, float *to, int64_t to_pitch) {
    __m256 x[8], y[8];
    for (int i = 0; i < 8; i += 2) { /* pairs of rows, lane by lane */
        const __m256 even = _mm256_loadu_ps(from + i * pitch), odd = _mm256_loadu_ps(from + (i + 1) * pitch);
        x[i] = _mm256_unpacklo_ps(even, odd), x[i + 1] = _mm256_unpackhi_ps(even, odd);
    }
    for (int i = 0; i < 8; i += 4) /* four of them */
        for (int j = 0; j < 2; j++) {
            y[i + 2 * j] = _mm256_shuffle_ps(x[i + j], x[i + j + 2], 0x44);
            y[i + 2 * j + 1] = _mm256_shuffle_ps(x[i + j], x[i + j + 2], 0xee);
        }
    for (int i = 0; i < 4; i++) {
        _mm256_storeu_ps(to + i * to_pitch, _mm256_permute2f128_ps(y[i], y[i + 4], 0x20));
        _mm256_storeu_ps(to + (i + 4) * to_pitch, _mm256_permute2f128_ps(y[i], y[i + 4], 0x31));
    }
}
#else
#define SIDE 4
static inline void transpose(const float *from, int64_t pitch, float *to, int64_t to_pitch) {
    for (int i = 0; i < SIDE; i++)
        for (int k = 0; k < SIDE; k++) to[k * to_pitch + i] = from[i * pitch + k];
}
#endif

#define CHUNK 4 /* blocks whose products are added up together */

/* Do something for all of n things: for four at a time, then one by one; `many` is which, known to the compiler. */
#define BY_FOURS(i, n, something)                                                 \
    do {                                                                          \
        int64_t i = 0;                                                            \
        for (; i + 4 <= (n); i += 4) {                                            \
            const int many = 4;                                                   \
            something;                                                            \
        }                                                                         \
        for (; i < (n); i++) {                                                    \
            const int many = 1;                                                   \
            something;                                                            \
        }                                                                         \
    } while (0)

#if defined(__AVX2__) && !defined(__AVX512F__)
static inline vector choose(mask m, vector yes, vector no) {
    return (vector)_mm256_blendv_ps((__m256)no, (__m256)yes, (__m256)m);
}
#else
static inline vector choose(mask m, vector yes, vector no) { return (vector)(((mask)yes & m) | ((mask)no & ~m)); }
#endif
/* NaN stays NaN in both: of x86's minimum and maximum, NaN yields the second operand. */
#if defined(__AVX512F__)
static inline vector at_most(vector x, float high) { return (vector)_mm512_min_ps((__m512)all(high), (__m512)x); }
static inline vector at_least(vector x, float low) { return (vector)_mm512_max_ps((__m512)all(low), (__m512)x); }
#elif defined(__AVX2__)
static inline vector at_most(vector x, float high) { return (vector)_mm256_min_ps((__m256)all(high), (__m256)x); }
static inline vector at_least(vector x, float low) { return (vector)_mm256_max_ps((__m256)all(low), (__m256)x); }
#else
static inline vector at_most(vector x, float high) { return choose(x > all(high), all(high), x); }
static inline vector at_least(vector x, float low) { return choose(x < all(low), all(low), x); }
#endif
static inline vector clamp(vector x, float limit) { return at_least(at_most(x, limit), -limit); }
static inline vector magnitude(vector x) { return (vector)((mask)x & 0x7fffffff); }

static inline vector root_of(vector x) {
    vector y;
    for (int i = 0; i < LANES; i++) y[i] = sqrtf(x[i]);
    return y;
}

/* e^x for |x| < 80: x = n ln 2 + y, and for |y| <= ln 2 / 2 the polynomial with e^0 = 1 whose largest relative
   error is least (9e-8). */
static inline vector exponential(vector x) {
    const float shift = 12582912.0f + 127; /* 1.5 * 2^23 rounds a sum to an integer; 127 is the exponent of 1 */
    const vector rounded = x * 1.44269504f + shift, y = x - (rounded - shift) * 0.693147181f;
    vector e = y * 0.0082903f + 0.04189798f;
    e = e * y + 0.16667637f;
    e = e * y + 0.49999149f;
    e = e * y + 0.99999971f;
    e = e * y + 1.0f;
    return e * (vector)((mask)rounded << 23);
}

/* 2^x for |x| < 120, as `exponential`. */
static inline vector power_of_two(vector x) {
    const float shift = 12582912.0f;
    const vector rounded = x + shift, y = x - (rounded - shift);
    vector e = y * 0.001326470365f + 0.009671524344f;
    e = e * y + 0.05550734011f;
    e = e * y + 0.2402224183f;
    e = e * y + 0.6931469795f;
    e = e * y + 1.0f;
    return (vector)((mask)e + ((mask)rounded << 23));
}

/* log x for normal x > 0: x = 2^k m with m in [sqrt(1/2), sqrt 2), log m = 2 artanh((m - 1) / (m + 1)). */
static inline vector logarithm(vector x) {
    mask bits = (mask)x;
    mask k = (bits - 0x3f3504f3) >> 23;
    vector m = (vector)(bits - (k << 23));
    vector s = (m - 1.0f) / (m + 1.0f), t = s * s;
    vector series = t * (1 / 9.0f) + 1 / 7.0f;
    series = series * t + 1 / 5.0f;
    series = series * t + 1 / 3.0f;
    series = series * t + 1.0f;
    return 2.0f * s * series + __builtin_convertvector(k, vector) * 0.693147181f;
}

/* 1 / x for 2^-126 < x < 2^126, to the last bit or two: the processor's estimate and one Newton step, which take a
   quarter of the time of its division. */
static inline vector reciprocal(vector x) {
#if defined(__AVX512F__)
    const vector estimate = (vector)_mm512_rcp14_ps((__m512)x);
#elif defined(__AVX2__)
    const vector estimate = (vector)_mm256_rcp_ps((__m256)x);
#else
    return 1.0f / x;
#endif
#if defined(__AVX2__)
    return estimate * (2.0f - x * estimate);
#endif
}

static inline vector hyperbolic_tangent(vector x) {
    return 1.0f - 2.0f * reciprocal(1.0f + exponential(clamp(2.0f * x, 28.0f)));
}

#endif
