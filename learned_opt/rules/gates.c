/* What stands between the matrix products of the LSTM cell, forward and backward, in one pass each.

   The same equations as cell.py. Rows are hidden units, columns coordinates; rows of different arrays may lie
   differently far apart. */

#include <stdint.h>
#include <string.h>

#if defined(__AVX512F__)
#define LANES 16
#elif defined(__AVX2__)
#define LANES 8
#else
#define LANES 4
#endif
#define EXPORT __attribute__((visibility("default")))

typedef float vector __attribute__((vector_size(4 * LANES)));
typedef int32_t mask __attribute__((vector_size(4 * LANES)));
typedef float loose __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

/* Up to LANES floats; lanes beyond the end read as 0 and are not written. */
static inline vector load(const float *p, int64_t count) {
    if (count >= LANES) return *(const loose *)p;
    vector x = {0};
    memcpy(&x, p, sizeof(float) * count);
    return x;
}
static inline void store(float *p, vector x, int64_t count) {
    if (count >= LANES)
        *(loose *)p = x;
    else
        memcpy(p, &x, sizeof(float) * count);
}
static inline vector all(float x) { return (vector){0} + x; }
static inline vector choose(mask m, vector yes, vector no) { return (vector)(((mask)yes & m) | ((mask)no & ~m)); }

/* e^x within 2e-7 of itself for |x| < 87, bounded beyond: x = n ln 2 + y, and Cephes' polynomial in y. NaN stays. */
static inline vector exponential(vector x) {
    const float shift = 12582912.0f + 127; /* 1.5 * 2^23 rounds a sum to an integer; 127 is the exponent of 1 */
    x = choose(x > 87.0f, all(87.0f), x);
    x = choose(x < -87.0f, all(-87.0f), x);
    const vector rounded = x * 1.44269504f + shift, n = rounded - shift;
    const vector y = (x - n * 0.693359375f) + n * 2.12194440e-4f;
    vector e = y * 1.9875691500e-4f + 1.3981999507e-3f;
    e = e * y + 8.3334519073e-3f;
    e = e * y + 4.1665795894e-2f;
    e = e * y + 1.6666665459e-1f;
    e = e * y + 5.0000001201e-1f;
    e = e * y * y + y + 1.0f;
    return e * (vector)((mask)rounded << 23);
}
static inline vector sigmoid(vector x) { return 1.0f / (1.0f + exponential(-x)); }
static inline vector tanh_of(vector x) { return 2.0f / (1.0f + exponential(-2.0f * x)) - 1.0f; }

/* c = f c' + i g and h = o tanh(c), from the gates before their nonlinearities: i, f, o, g, H rows each. */
EXPORT void learned_opt_cell_forward(const float *gates, int64_t gate_stride, const float *old, float *cell,
                                     float *hidden, int64_t stride, int64_t units, int64_t columns) {
    for (int64_t u = 0; u < units; u++) {
        const float *restrict i = gates + u * gate_stride, *restrict f = i + units * gate_stride;
        const float *restrict o = f + units * gate_stride, *restrict g = o + units * gate_stride;
        const float *restrict before = old + u * stride;
        float *restrict c = cell + u * stride, *restrict h = hidden + u * stride;
        for (int64_t n = 0; n < columns; n += LANES) {
            const int64_t left = columns - n;
            const vector keep = sigmoid(load(f + n, left)), in = sigmoid(load(i + n, left));
            const vector now = keep * load(before + n, left) + in * tanh_of(load(g + n, left));
            store(c + n, now, left);
            store(h + n, sigmoid(load(o + n, left)) * tanh_of(now), left);
        }
    }
}

/* Derivatives by the gates, in their place, and by c', from those by h and c. */
EXPORT void learned_opt_cell_backward(float *gates, int64_t gate_stride, const float *old, const float *by_hidden,
                                      const float *by_cell, float *by_old, int64_t stride, int64_t units,
                                      int64_t columns) {
    for (int64_t u = 0; u < units; u++) {
        float *restrict i = gates + u * gate_stride, *restrict f = i + units * gate_stride;
        float *restrict o = f + units * gate_stride, *restrict g = o + units * gate_stride;
        const float *restrict before = old + u * stride, *restrict dh = by_hidden + u * stride;
        const float *restrict dc = by_cell + u * stride;
        float *restrict out = by_old + u * stride;
        for (int64_t n = 0; n < columns; n += LANES) {
            const int64_t left = columns - n;
            const vector in = sigmoid(load(i + n, left)), keep = sigmoid(load(f + n, left));
            const vector show = sigmoid(load(o + n, left)), new = tanh_of(load(g + n, left));
            const vector was = load(before + n, left), by_h = load(dh + n, left);
            const vector tanh_c = tanh_of(keep * was + in * new);
            const vector d = load(dc + n, left) + by_h * show * (1.0f - tanh_c * tanh_c);
            store(i + n, d * new * in * (1.0f - in), left);
            store(f + n, d * was * keep * (1.0f - keep), left);
            store(o + n, by_h * tanh_c * show * (1.0f - show), left);
            store(g + n, d * in * (1.0f - new * new), left);
            store(out + n, d * keep, left);
        }
    }
}
