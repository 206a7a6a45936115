/* Random numbers that depend on a key and a place alone: Philox 4x32-10 (Salmon, Moraes, Dror and Shaw 2011,
   "Parallel random numbers: as easy as 1, 2, 3"). philox.py computes the same bits in torch.

   Compiled without fused operations, which would round otherwise than torch does. */

#include "vectors.h"

#define ROUNDS 10
#define WIDE (2 * LANES) /* blocks of four words that are made at once */

typedef uint32_t words __attribute__((vector_size(4 * LANES), may_alias));
typedef uint64_t pairs __attribute__((vector_size(4 * LANES), may_alias)); /* of which the lower halves are words */

/* Products of words. */
INLINE pairs products(pairs x, uint32_t y) {
#if defined(__AVX512F__)
    return (pairs)_mm512_mul_epu32((__m512i)x, _mm512_set1_epi64(y));
#elif defined(__AVX2__)
    return (pairs)_mm256_mul_epu32((__m256i)x, _mm256_set1_epi64x(y));
#else
    return (x & 0xFFFFFFFFu) * y;
#endif
}

/* What the words of a block become after all rounds; upper halves are anything. */
INLINE void mix(pairs w[4], uint64_t key) {
    uint32_t low = (uint32_t)key, high = (uint32_t)(key >> 32);
    for (int round = 0; round < ROUNDS; round++, low += 0x9E3779B9u, high += 0xBB67AE85u) {
        const pairs a = products(w[0], 0xD2511F53u), b = products(w[2], 0xCD9E8D57u);
        w[0] = (b >> 32) ^ w[1] ^ low;
        w[1] = b;
        w[2] = (a >> 32) ^ w[3] ^ high;
        w[3] = a;
    }
}

/* The same of WIDE blocks, whose first and third words are given. */
static void mix_all(uint32_t w[4][WIDE], uint32_t within, uint32_t drawn, uint64_t key) {
    pairs odd[2][4], even[2][4];
    for (int v = 0; v < 2; v++) {
        even[v][0] = *(pairs *)&w[0][v * LANES], odd[v][0] = even[v][0] >> 32;
        even[v][2] = *(pairs *)&w[2][v * LANES], odd[v][2] = even[v][2] >> 32;
        even[v][1] = odd[v][1] = (pairs){0} + within;
        even[v][3] = odd[v][3] = (pairs){0} + drawn;
    }
    for (int v = 0; v < 2; v++) {
        mix(even[v], key);
        mix(odd[v], key);
        for (int k = 0; k < 4; k++) *(pairs *)&w[k][v * LANES] = (even[v][k] & 0xFFFFFFFFu) | odd[v][k] << 32;
    }
}

/* Two standard normal numbers of two words, by Box and Muller 1958: the second word is an angle in 2^-32 of a turn, and
   its sine and cosine are those of the rest to the nearest quarter, by the polynomials of Moshier's Cephes. */
INLINE void normals(words first, words second, vector *x, vector *y) {
    const vector u = (__builtin_convertvector((mask)(first >> 8), vector) + 1.0f) * 0x1p-24f;
    const vector radius = root_of(logarithm(u) * -2.0f);
    const words turned = second + (1u << 29), quarter = turned >> 30;
    const mask rest = (mask)(turned & ((1u << 30) - 1)) - (1 << 29);
    const vector a = __builtin_convertvector(rest, vector) * 1.46291807926715968e-9f, s = a * a;
    vector sine = s * -1.9515295891e-4f + 8.3321608736e-3f;
    sine = sine * s - 1.6666654611e-1f;
    sine = sine * s * a + a;
    vector cosine = s * 2.443315711809948e-5f - 1.388731625493765e-3f;
    cosine = cosine * s + 4.166664568298827e-2f;
    cosine = cosine * s * s - s * 0.5f + 1.0f;
    const mask odd = -(mask)(quarter & 1);
    const words minus_x = (quarter + 1) >> 1 << 31, minus_y = quarter >> 1 << 31;
    *x = radius * (vector)((words)choose(odd, sine, cosine) ^ minus_x);
    *y = radius * (vector)((words)choose(odd, cosine, sine) ^ minus_y);
}

static void as_floats(uint32_t w[4][WIDE], float x[4][WIDE], int32_t normal) {
    if (!normal) {
        for (int k = 0; k < 4; k++)
            for (int i = 0; i < WIDE; i++) x[k][i] = (float)(int32_t)(w[k][i] >> 8) * 0x1p-24f;
        return;
    }
    for (int k = 0; k < 4; k += 2)
        for (int i = 0; i < WIDE; i += LANES)
            normals(*(words *)&w[k][i], *(words *)&w[k + 1][i], (vector *)&x[k][i], (vector *)&x[k + 1][i]);
}

/* The numbers (rows, count) of draw `*drawn`, which is counted; or, if `within` is not 0, of one within it. Number j of
   a row is made of word j % 4 of block j / 4, of the counter (j / 4, within, first + row, *drawn). */
EXPORT int32_t learned_opt_random(uint64_t key, int64_t *drawn, int32_t within, int64_t first, int64_t rows,
                                  int64_t count, int32_t normal, float *out) {
    const int64_t blocks = (count + 3) / 4, total = rows * blocks;
    int64_t row = 0, block = 0;
    uint32_t w[4][WIDE] __attribute__((aligned(64)));
    float x[4][WIDE] __attribute__((aligned(64)));
    for (int64_t at = 0; at < total; at += WIDE) {
        int64_t to = row * count + 4 * block, left = count - 4 * block;
        for (int i = 0; i < WIDE; i++) {
            w[0][i] = (uint32_t)block, w[2][i] = (uint32_t)(first + row);
            if (++block == blocks) block = 0, row++;
        }
        mix_all(w, (uint32_t)within, (uint32_t)*drawn, key);
        as_floats(w, x, normal);
        if (total - at >= WIDE && count % 4 == 0) {
            for (int i = 0; i < WIDE; i++)
                for (int k = 0; k < 4; k++) out[to + 4 * i + k] = x[k][i];
            continue;
        }
        for (int64_t i = 0; i < WIDE && at + i < total; i++, left = left > 4 ? left - 4 : count)
            for (int64_t k = 0; k < 4 && k < left; k++) out[to++] = x[k][i];
    }
    if (within == 0) ++*drawn;
    return 0;
}
