/* One step of the coordinatewise LSTM rule, fused: features, cell, head and update in one pass.

   The same equations as features.py, cell.py and lstm.py, for float32 on the CPU without gradients.
   A segment is one tensor of one parameter vector. Coordinates go through in blocks that stay in
   the first-level cache; features that are the same for a whole tensor enter as a bias of the gates,
   and only those of a coordinate and its hidden state are multiplied.

   LANES floats make a vector, VECTORS vectors a block; both follow the instruction set. */

#include <math.h>
#include <stdint.h>
#include <string.h>
#if defined(__AVX2__)
#include <immintrin.h>
#endif

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

#define OWN 7        /* features of a coordinate */
#define SHARED 13    /* features of its tensor: statistics, time, facts, and the constant 1 */
#define FEATURES (OWN + SHARED)
#define FACTS 4
#define MAX_HIDDEN 64
#define OUTPUTS 3 /* of the head */
#define EXPORT __attribute__((visibility("default")))

typedef float vector __attribute__((vector_size(4 * LANES)));
typedef int32_t mask __attribute__((vector_size(4 * LANES)));
typedef float loose __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

/* Field for field the records of fused.py. */
typedef struct {
    const float *gradient, *parameters, *fast, *slow, *square, *step, *hidden, *cell;
    float *new_fast, *new_slow, *new_square, *new_step, *new_hidden, *new_cell, *update;
    const float *cell_weight, *head; /* (4H, FEATURES + H) and (3, H + FEATURES), or (3, H + 1) without skip */
    int64_t size, stride, new_stride; /* coordinates; floats between rows of hidden and cell */
    float facts[FACTS], share, known, lr, rho, skip;
    float correction[3], shared[SHARED], inverse_square, inverse_size; /* filled by observe */
} segment;

static const float FAST = 0.9f, SLOW = 0.99f, SQUARE = 0.999f, EPS = 1e-8f, LIMIT = 5.0f, LARGEST = 1e15f;
static const float TINY = 1.17549435e-38f;

static inline vector all(float x) { return (vector){0} + x; }

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

static inline vector choose(mask m, vector yes, vector no) { return (vector)(((mask)yes & m) | ((mask)no & ~m)); }
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

/* As is_usable of base.py. */
static inline mask is_usable(vector gradient, vector parameter) {
    return (magnitude(gradient) <= LARGEST) & (magnitude(parameter) <= LARGEST);
}

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

static inline vector hyperbolic_tangent(vector x) {
    return 1.0f - 2.0f / (1.0f + exponential(clamp(2.0f * x, 28.0f)));
}

/* The moments of some coordinates, and what a rule makes of them. */
typedef struct {
    vector fast, slow, square;
} moments;
typedef struct {
    vector root, inverse, adam, slow_unit;
} view;

static inline view look(const segment *s, moments m) {
    const vector root = root_of(at_least(m.square * s->correction[2], TINY)), inverse = 1.0f / (root + EPS);
    return (view){root, inverse, m.fast * s->correction[0] * inverse, m.slow * s->correction[1] * inverse};
}

/* Moments of one segment, and the features that its coordinates share. */
static void observe(segment *s) {
    const float step = *s->step + 1;
    s->correction[0] = 1 / (1 - powf(FAST, step));
    s->correction[1] = 1 / (1 - powf(SLOW, step));
    s->correction[2] = 1 / (1 - powf(SQUARE, step));
    *s->new_step = step;
    double of_gradient = 0, of_square = 0, of_parameters = 0, of_adam = 0, of_slow = 0;
    for (int64_t start = 0; start < s->size; start += 1024) {
        const int64_t stop = start + 1024 < s->size ? start + 1024 : s->size;
        vector sum_gradient = {0}, sum_square = {0}, sum_parameters = {0}, sum_adam = {0}, sum_slow = {0};
        for (int64_t i = start; i < stop; i += LANES) {
            const int64_t count = stop - i;
            const vector raw_p = load_up_to(s->parameters + i, count);
            const moments old = {.fast = load_up_to(s->fast + i, count),
                                 .slow = load_up_to(s->slow + i, count),
                                 .square = load_up_to(s->square + i, count)};
            const vector raw = load_up_to(s->gradient + i, count);
            const mask usable = is_usable(raw, raw_p);
            const vector p = choose(usable, raw_p, all(0)), g = choose(usable, raw, all(0)), gg = g * g;
            const moments new = {.fast = old.fast + (1 - FAST) * (g - old.fast),
                                 .slow = old.slow + (1 - SLOW) * (g - old.slow),
                                 .square = old.square + (1 - SQUARE) * (gg - old.square)};
            const view seen = look(s, new);
            sum_gradient += gg;
            sum_square += new.square * s->correction[2];
            sum_parameters += p * p;
            sum_adam += seen.adam * seen.adam;
            sum_slow += seen.slow_unit * seen.slow_unit;
            store_up_to(s->new_fast + i, choose(usable, new.fast, old.fast), count);
            store_up_to(s->new_slow + i, choose(usable, new.slow, old.slow), count);
            store_up_to(s->new_square + i, choose(usable, new.square, old.square), count);
        }
        of_gradient += total(sum_gradient), of_square += total(sum_square);
        of_parameters += total(sum_parameters), of_adam += total(sum_adam), of_slow += total(sum_slow);
    }
    const float n = s->size, square = fmaxf(of_square / n, TINY), size = of_parameters / n;
    const float surprise = logf(fmaxf(of_gradient / n, TINY) / square);
    const float shared[SHARED] = {
        logf(of_adam / n + 1e-4f) / 4 + 0.5f,
        logf(of_slow / n + 1e-4f) / 4 + 1,
        fminf(fmaxf(surprise, -5), 5) / 2,
        logf(size + 1e-6f) / 8,
        logf(step) / 6,
        expf(-step / 10),
        s->share,
        s->known,
        s->facts[0], s->facts[1], s->facts[2], s->facts[3],
        1,
    };
    memcpy(s->shared, shared, sizeof shared);
    s->inverse_square = 1 / sqrtf(square);
    s->inverse_size = 1 / sqrtf(size + 1e-6f);
}

/* The cell's weights in the order in which they are read: for each unit and input, its four gates. */
typedef struct {
    float weight[MAX_HIDDEN * (OWN + MAX_HIDDEN) * 4], bias[MAX_HIDDEN * 4];
    float head[OUTPUTS][MAX_HIDDEN + OWN], head_bias[OUTPUTS]; /* of the hidden units, then of the features */
} packed;

static void pack(const segment *s, int hidden, packed *out) {
    const int columns = FEATURES + hidden, inputs = OWN + hidden;
    for (int unit = 0; unit < hidden; unit++) {
        for (int gate = 0; gate < 4; gate++) {
            const float *row = s->cell_weight + (int64_t)(gate * hidden + unit) * columns;
            float bias = 0;
            for (int k = 0; k < SHARED; k++) bias += row[OWN + k] * s->shared[k];
            out->bias[4 * unit + gate] = bias;
            float *target = out->weight + (int64_t)unit * inputs * 4 + gate;
            for (int k = 0; k < OWN; k++) target[4 * k] = row[k];
            for (int k = 0; k < hidden; k++) target[4 * (OWN + k)] = row[FEATURES + k];
        }
    }
    for (int output = 0; output < OUTPUTS; output++) {
        const float *row = s->head + output * (hidden + (s->skip ? FEATURES : 1)), *direct = row + hidden;
        float bias = s->skip ? 0 : *direct;
        for (int k = 0; s->skip && k < SHARED; k++) bias += direct[OWN + k] * s->shared[k];
        for (int k = 0; k < OWN; k++) out->head[output][hidden + k] = s->skip ? direct[k] : 0;
        memcpy(out->head[output], row, sizeof(float) * hidden);
        out->head_bias[output] = bias;
    }
}

/* 1 / x for 1 <= x < 2^126, to the last bit or two: the processor's estimate and one Newton step, which take a
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

/* c' = f c + i g and h' = o tanh c', with e^-x of the gates and e^-2x of the candidate over one denominator each.
   Clamped at 28, where a gate is closed to float precision, the products stay finite. */
static inline void gates(const vector x[4], vector old, vector *cell, vector *hidden) {
    const vector i = 1.0f + exponential(clamp(-x[0], 28)), f = 1.0f + exponential(clamp(-x[1], 28));
    const vector o = 1.0f + exponential(clamp(-x[2], 28)), g = exponential(clamp(-2.0f * x[3], 28));
    const vector ig = i * (1.0f + g), c = (old * ig + (1.0f - g) * f) * reciprocal(ig * f);
    const vector t = exponential(clamp(-2.0f * c, 28));
    *cell = c;
    *hidden = (1.0f - t) * reciprocal(o * (1.0f + t));
}

/* Cell, head and update of up to BLOCK coordinates from the given one on. */
static void advance_block(const segment *s, int hidden, const packed *w, int64_t first, int64_t size) {
    vector inputs[(OWN + MAX_HIDDEN) * VECTORS];
    view seen[VECTORS];
    mask usable[VECTORS];
    vector units[VECTORS], outputs[VECTORS][OUTPUTS];
    int64_t at[VECTORS], count[VECTORS];
    for (int v = 0; v < VECTORS; v++) {
        count[v] = size - v * LANES;
        at[v] = count[v] > 0 ? first + v * LANES : first; /* lanes beyond the end read and write nothing */
        const int64_t i = at[v];
        const vector raw = load_up_to(s->gradient + i, count[v]);
        const vector raw_p = load_up_to(s->parameters + i, count[v]);
        usable[v] = is_usable(raw, raw_p);
        const vector g = choose(usable[v], raw, all(0)), p = choose(usable[v], raw_p, all(0));
        const moments now = {.fast = load_up_to(s->new_fast + i, count[v]),
                             .slow = load_up_to(s->new_slow + i, count[v]),
                             .square = load_up_to(s->new_square + i, count[v])};
        seen[v] = look(s, now);
        const vector unit = units[v] = clamp(g * seen[v].inverse, LIMIT);
        const vector own[OWN] = {
            magnitude(unit),
            magnitude(seen[v].adam),
            seen[v].adam * seen[v].slow_unit,
            logarithm(magnitude(seen[v].slow_unit) + 1e-3f) / 3.0f + 0.5f,
            clamp(unit * seen[v].adam, LIMIT),
            logarithm(seen[v].root * s->inverse_square + 1e-3f) / 3.0f,
            clamp(p * s->inverse_size, LIMIT) * seen[v].adam,
        };
        for (int k = 0; k < OWN; k++) inputs[k * VECTORS + v] = own[k];
        for (int k = 0; k < hidden; k++)
            inputs[(OWN + k) * VECTORS + v] = load_up_to(s->hidden + k * s->stride + i, count[v]);
        for (int output = 0; output < OUTPUTS; output++) {
            outputs[v][output] = all(w->head_bias[output]);
            for (int k = 0; k < OWN; k++) outputs[v][output] += w->head[output][hidden + k] * own[k];
        }
    }
    for (int unit = 0; unit < hidden; unit++) {
        vector x[VECTORS][4];
        for (int gate = 0; gate < 4; gate++)
            for (int v = 0; v < VECTORS; v++) x[v][gate] = all(w->bias[4 * unit + gate]);
        const float *weight = w->weight + (int64_t)unit * (OWN + hidden) * 4;
        for (int k = 0; k < OWN + hidden; k++, weight += 4)
            for (int gate = 0; gate < 4; gate++)
                for (int v = 0; v < VECTORS; v++) x[v][gate] += weight[gate] * inputs[k * VECTORS + v];
        for (int v = 0; v < VECTORS; v++) {
            vector cell, output, old = load_up_to(s->cell + unit * s->stride + at[v], count[v]);
            gates(x[v], old, &cell, &output);
            for (int row = 0; row < OUTPUTS; row++) outputs[v][row] += w->head[row][unit] * output;
            const int64_t j = unit * s->new_stride + at[v];
            store_up_to(s->new_cell + j, choose(usable[v], cell, old), count[v]);
            store_up_to(s->new_hidden + j, choose(usable[v], output, inputs[(OWN + unit) * VECTORS + v]), count[v]);
        }
    }
    for (int v = 0; v < VECTORS; v++) {
        const vector multiplier = exponential(s->rho * hyperbolic_tangent(outputs[v][0] / s->rho));
        const vector now = hyperbolic_tangent(outputs[v][1]), lasting = hyperbolic_tangent(outputs[v][2]);
        const vector adam = seen[v].adam;
        const vector direction = adam + now * (units[v] - adam) + lasting * (seen[v].slow_unit - adam);
        const vector update = -s->lr * multiplier * direction;
        store_up_to(s->update + at[v], choose(usable[v], update, all(0)), count[v]);
    }
}

/* Update the moments of all segments and describe their tensors: before any learned_opt_advance. */
EXPORT void learned_opt_observe(segment *segments, int64_t count) {
    for (int64_t i = 0; i < count; i++) observe(segments + i);
}

/* Step the coordinates [start, stop), counted through all segments. Calls on separate ranges may run at once. */
EXPORT void learned_opt_advance(const segment *segments, int64_t count, int32_t hidden, int64_t start, int64_t stop) {
    packed w;
    for (const segment *s = segments; s < segments + count && stop > 0; start -= s->size, stop -= s->size, s++) {
        const int64_t first = start > 0 ? start : 0, last = stop < s->size ? stop : s->size;
        if (first >= last) continue;
        pack(s, hidden, &w);
        for (int64_t i = first; i < last; i += BLOCK) advance_block(s, hidden, &w, i, last - i);
    }
}

/* For fused.py to check its records against. */
EXPORT int64_t learned_opt_segment_bytes(void) { return sizeof(segment); }
