/* One step of the coordinatewise LSTM rule, fused: features, cell, head and update in one pass; and its derivatives
   by the weights and the LSTM's state, in another that computes the gates anew instead of remembering them.

   The same equations as features.py, lstm_cell.py and lstm.py, for float32 on the CPU.
   A segment is one tensor of one parameter vector. Coordinates go through in blocks that stay in
   the first-level cache; features that are the same for a whole tensor enter as a bias of the gates,
   and only those of a coordinate and its hidden state are multiplied. */

#include "vectors.h"

#define OWN 7        /* features of a coordinate */
#define SHARED 13    /* features of its tensor: statistics, time, facts, and the constant 1 */
#define FEATURES (OWN + SHARED)
#define FACTS 4
#define MAX_HIDDEN 64
#define OUTPUTS 3 /* of the head */

/* A tensor of one parameter vector; addresses come first. */
typedef struct {
    const float *gradient, *parameters, *exp_avg, *exp_avg_slow, *exp_avg_sq, *step, *hidden, *cell;
    float *new_exp_avg, *new_exp_avg_slow, *new_exp_avg_sq, *new_step, *new_hidden, *new_cell, *update;
    const float *cell_weight, *head; /* (4H, FEATURES + H) and (3, H + FEATURES), or (3, H + 1) without skip */
    int64_t size, stride, new_stride; /* coordinates; floats between rows of hidden and cell */
    float facts[FACTS], share, known, lr, rho, skip;
    float correction[3], shared[SHARED], inverse_square, inverse_size; /* filled by observe */
} segment;

static const float FAST = 0.9f, SLOW = 0.99f, SQUARE = 0.999f, EPS = 1e-8f, LIMIT = 5.0f, LARGEST = 1e15f;
static const float TINY = 1.17549435e-38f;

/* The same as load_up_to, and fetch what the next block will load: rows are too many for the processor to foresee. */
static inline vector load_ahead(const float *p, int64_t count) {
    __builtin_prefetch(p + BLOCK);
    return load_up_to(p, count);
}

/* As is_usable of base.py. */
static inline mask is_usable(vector gradient, vector parameter) {
    return (magnitude(gradient) <= LARGEST) & (magnitude(parameter) <= LARGEST);
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
            const moments old = {.fast = load_up_to(s->exp_avg + i, count),
                                 .slow = load_up_to(s->exp_avg_slow + i, count),
                                 .square = load_up_to(s->exp_avg_sq + i, count)};
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
            store_up_to(s->new_exp_avg + i, choose(usable, new.fast, old.fast), count);
            store_up_to(s->new_exp_avg_slow + i, choose(usable, new.slow, old.slow), count);
            store_up_to(s->new_exp_avg_sq + i, choose(usable, new.square, old.square), count);
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

/* Up to BLOCK coordinates of a segment: where they are, and what the rule sees of them. */
typedef struct {
    int64_t at[VECTORS], count[VECTORS];
    mask usable[VECTORS];
    vector unit[VECTORS];
    view seen[VECTORS];
} block;

/* Features of coordinates, then their hidden units, as inputs of the gates. Here and below `size` coordinates take
   `vectors` vectors, both known where a block is whole. */
INLINE void read_block(const segment *s, int hidden, int64_t first, int64_t size, const int vectors, block *b,
                       vector *inputs) {
    for (int v = 0; v < vectors; v++) {
        const int64_t count = b->count[v] = size - v * LANES;
        const int64_t i = b->at[v] = count > 0 ? first + v * LANES : first; /* lanes beyond the end have no effect */
        const vector raw = load_up_to(s->gradient + i, count), raw_p = load_up_to(s->parameters + i, count);
        const mask usable = b->usable[v] = is_usable(raw, raw_p);
        const vector g = choose(usable, raw, all(0)), p = choose(usable, raw_p, all(0));
        const moments now = {.fast = load_up_to(s->new_exp_avg + i, count),
                             .slow = load_up_to(s->new_exp_avg_slow + i, count),
                             .square = load_up_to(s->new_exp_avg_sq + i, count)};
        const view seen = b->seen[v] = look(s, now);
        const vector unit = b->unit[v] = clamp(g * seen.inverse, LIMIT);
        const vector own[OWN] = {
            magnitude(unit),
            magnitude(seen.adam),
            seen.adam * seen.slow_unit,
            logarithm(magnitude(seen.slow_unit) + 1e-3f) / 3.0f + 0.5f,
            clamp(unit * seen.adam, LIMIT),
            logarithm(seen.root * s->inverse_square + 1e-3f) / 3.0f,
            clamp(p * s->inverse_size, LIMIT) * seen.adam,
        };
        for (int k = 0; k < OWN; k++) inputs[k * VECTORS + v] = own[k];
        for (int k = 0; k < hidden; k++) inputs[(OWN + k) * VECTORS + v] = load_ahead(s->hidden + k * s->stride + i, count);
    }
}

/* What the head makes of the features alone. */
INLINE void begin_head(const packed *w, int hidden, const int vectors, const vector *inputs, vector outputs[][OUTPUTS]) {
    for (int v = 0; v < vectors; v++)
        for (int row = 0; row < OUTPUTS; row++) {
            outputs[v][row] = all(w->head_bias[row]);
            for (int k = 0; k < OWN; k++) outputs[v][row] += w->head[row][hidden + k] * inputs[k * VECTORS + v];
        }
}

/* The four gates of a unit before their nonlinearities. */
INLINE void gates_of(const packed *w, int hidden, int unit, const int vectors, const vector *inputs, vector x[][4]) {
    for (int gate = 0; gate < 4; gate++)
        for (int v = 0; v < vectors; v++) x[v][gate] = all(w->bias[4 * unit + gate]);
    const float *weight = w->weight + (int64_t)unit * (OWN + hidden) * 4;
    for (int k = 0; k < OWN + hidden; k++, weight += 4)
        for (int gate = 0; gate < 4; gate++)
            for (int v = 0; v < vectors; v++) x[v][gate] += weight[gate] * inputs[k * VECTORS + v];
}

/* The head's outputs as the update uses them. */
typedef struct {
    vector bounded, scale, now, lasting; /* tanh(a / rho), -lr exp(rho tanh(a / rho)), tanh b, tanh d */
    vector direction;
} decision;

static inline decision decide(const segment *s, const block *b, int v, const vector outputs[OUTPUTS]) {
    const vector adam = b->seen[v].adam, bounded = hyperbolic_tangent(outputs[0] / s->rho);
    const vector now = hyperbolic_tangent(outputs[1]), lasting = hyperbolic_tangent(outputs[2]);
    const vector direction = adam + now * (b->unit[v] - adam) + lasting * (b->seen[v].slow_unit - adam);
    return (decision){bounded, -s->lr * exponential(s->rho * bounded), now, lasting, direction};
}

/* Cell, head and update of `size` coordinates, up to BLOCK, from the given one on. */
INLINE void advance_some(const segment *s, int hidden, const packed *w, int64_t first, const int64_t size,
                         const int vectors) {
    vector inputs[(OWN + MAX_HIDDEN) * VECTORS], outputs[VECTORS][OUTPUTS];
    block b;
    read_block(s, hidden, first, size, vectors, &b, inputs);
    begin_head(w, hidden, vectors, inputs, outputs);
    for (int unit = 0; unit < hidden; unit++) {
        vector x[VECTORS][4];
        gates_of(w, hidden, unit, vectors, inputs, x);
        for (int v = 0; v < vectors; v++) {
            vector cell, output, old = load_ahead(s->cell + unit * s->stride + b.at[v], b.count[v]);
            gates(x[v], old, &cell, &output);
            for (int row = 0; row < OUTPUTS; row++) outputs[v][row] += w->head[row][unit] * output;
            const int64_t j = unit * s->new_stride + b.at[v];
            const vector before = inputs[(OWN + unit) * VECTORS + v];
            store_up_to(s->new_cell + j, choose(b.usable[v], cell, old), b.count[v]);
            store_up_to(s->new_hidden + j, choose(b.usable[v], output, before), b.count[v]);
        }
    }
    for (int v = 0; v < vectors; v++) {
        const decision made = decide(s, &b, v, outputs[v]);
        store_up_to(s->update + b.at[v], choose(b.usable[v], made.scale * made.direction, all(0)), b.count[v]);
    }
}

/* Do something with up to BLOCK of `size` coordinates: that a block is whole spares every load and store its question,
   and a short one is not worked on as if it were whole. `some` is how many, in `vectors`. */
#define IN_VECTORS(size, something)                                               \
    do {                                                                          \
        const int64_t some = size;                                                \
        if (some >= BLOCK) {                                                      \
            const int64_t some = BLOCK;                                           \
            const int vectors = VECTORS;                                          \
            something;                                                            \
        } else if (some > 2 * LANES) {                                            \
            const int vectors = VECTORS;                                          \
            something;                                                            \
        } else if (some > LANES) {                                                \
            const int vectors = 2;                                                \
            something;                                                            \
        } else {                                                                  \
            const int vectors = 1;                                                \
            something;                                                            \
        }                                                                         \
    } while (0)

static void advance_block(const segment *s, int hidden, const packed *w, int64_t first, int64_t size) {
    IN_VECTORS(size, advance_some(s, hidden, w, first, some, vectors));
}

/* Derivatives of one segment's step: given by update, h and c; wanted by h' and c'. */
typedef struct {
    const float *by_update, *by_hidden, *by_cell;
    float *by_old_hidden, *by_old_cell;
} slopes;

/* What the backward pass of one thread works with. Sums over coordinates are kept lane by lane: those by the cell's
   weights, in their packed order, and by the head's over all of a parameter vector, those by the biases over a
   segment. Products by weights are added up for CHUNK blocks at a time. */
typedef struct {
    vector weight[MAX_HIDDEN * (OWN + MAX_HIDDEN) * 4], bias[MAX_HIDDEN * 4];
    vector head[OUTPUTS][MAX_HIDDEN + OWN], head_bias[OUTPUTS];
    vector inputs[CHUNK][(OWN + MAX_HIDDEN) * VECTORS], gates[CHUNK][MAX_HIDDEN * 4 * VECTORS];
    int vectors[CHUNK]; /* of each block, VECTORS where it is whole */
    packed packed;
} workspace;

/* Derivatives by h' of a few units, of those by all gates. */
INLINE void return_to_hidden(const segment *s, const slopes *d, int hidden, const workspace *w, const block *b,
                             const int vectors, const vector *by_gates, int first, const int units) {
    vector sum[4][VECTORS];
    for (int k = 0; k < units; k++)
        for (int v = 0; v < vectors; v++) sum[k][v] = all(0);
    for (int row = 0; row < 4 * hidden; row++) {
        const float *weight = w->packed.weight + ((int64_t)(row / 4) * (OWN + hidden) + OWN + first) * 4 + row % 4;
        for (int k = 0; k < units; k++)
            for (int v = 0; v < vectors; v++) sum[k][v] += weight[4 * k] * by_gates[row * VECTORS + v];
    }
    for (int k = 0; k < units; k++)
        for (int v = 0; v < vectors; v++) {
            const int64_t i = (first + k) * s->stride + b->at[v];
            const vector kept = load_up_to(d->by_hidden + i, b->count[v]);
            store_up_to(d->by_old_hidden + i, choose(b->usable[v], sum[k][v], kept), b->count[v]);
        }
}

/* Derivatives by the gates of up to BLOCK coordinates, into the workspace's given place, and what follows
   from them for each coordinate. */
INLINE void return_some(const segment *s, const slopes *d, int hidden, workspace *w, int64_t first, const int64_t size,
                        const int vectors, int place) {
    vector *inputs = w->inputs[place], *into_gates = w->gates[place], outputs[VECTORS][OUTPUTS];
    const packed *p = &w->packed;
    block b;
    w->vectors[place] = vectors;
    read_block(s, hidden, first, size, vectors, &b, inputs);
    begin_head(p, hidden, vectors, inputs, outputs);
    for (int unit = 0; unit < hidden; unit++)
        for (int v = 0; v < vectors; v++) {
            const vector h = load_ahead(s->new_hidden + unit * s->new_stride + b.at[v], b.count[v]);
            for (int row = 0; row < OUTPUTS; row++) outputs[v][row] += p->head[row][unit] * h;
        }
    for (int v = 0; v < vectors; v++) {
        const decision made = decide(s, &b, v, outputs[v]);
        const vector adam = b.seen[v].adam;
        const vector given = choose(b.usable[v], load_up_to(d->by_update + b.at[v], b.count[v]), all(0)) * made.scale;
        outputs[v][0] = given * made.direction * (1.0f - made.bounded * made.bounded);
        outputs[v][1] = given * (b.unit[v] - adam) * (1.0f - made.now * made.now);
        outputs[v][2] = given * (b.seen[v].slow_unit - adam) * (1.0f - made.lasting * made.lasting);
        for (int row = 0; row < OUTPUTS; row++) {
            w->head_bias[row] += outputs[v][row];
            for (int k = 0; k < OWN; k++) w->head[row][hidden + k] += outputs[v][row] * inputs[k * VECTORS + v];
        }
    }
    for (int unit = 0; unit < hidden; unit++) {
        vector x[VECTORS][4];
        gates_of(p, hidden, unit, vectors, inputs, x);
        for (int v = 0; v < vectors; v++) {
            const int64_t i = unit * s->stride + b.at[v], count = b.count[v];
            const mask usable = b.usable[v];
            const vector old = load_ahead(s->cell + i, count), raw_by_cell = load_ahead(d->by_cell + i, count);
            const vector h = load_up_to(s->new_hidden + unit * s->new_stride + b.at[v], count);
            vector by_hidden = choose(usable, load_ahead(d->by_hidden + i, count), all(0));
            for (int row = 0; row < OUTPUTS; row++) {
                by_hidden += p->head[row][unit] * outputs[v][row];
                w->head[row][unit] += h * outputs[v][row];
            }
            const vector in = reciprocal(1.0f + exponential(clamp(-x[v][0], 28)));
            const vector keep = reciprocal(1.0f + exponential(clamp(-x[v][1], 28)));
            const vector show = reciprocal(1.0f + exponential(clamp(-x[v][2], 28)));
            const vector new = 2.0f * reciprocal(1.0f + exponential(clamp(-2.0f * x[v][3], 28))) - 1.0f;
            const vector cell = keep * old + in * new;
            const vector tanh_c = 2.0f * reciprocal(1.0f + exponential(clamp(-2.0f * cell, 28))) - 1.0f;
            const vector by_cell =
                choose(usable, raw_by_cell, all(0)) + by_hidden * show * (1.0f - tanh_c * tanh_c);
            const vector by_gates[4] = {by_cell * new * in * (1.0f - in), by_cell * old * keep * (1.0f - keep),
                                        by_hidden * tanh_c * show * (1.0f - show), by_cell * in * (1.0f - new * new)};
            for (int gate = 0; gate < 4; gate++) {
                into_gates[(4 * unit + gate) * VECTORS + v] = by_gates[gate];
                w->bias[4 * unit + gate] += by_gates[gate];
            }
            store_up_to(d->by_old_cell + i, choose(usable, by_cell * keep, raw_by_cell), count);
        }
    }
    BY_FOURS(unit, hidden, return_to_hidden(s, d, hidden, w, &b, vectors, into_gates, unit, many));
}

static void return_block(const segment *s, const slopes *d, int hidden, workspace *w, int64_t first, int64_t size,
                         int place) {
    IN_VECTORS(size, return_some(s, d, hidden, w, first, some, vectors, place));
}

/* Add the products of all units' gates' derivatives and of all inputs, over the blocks that the workspace holds. */
static void add_products(int hidden, workspace *w, int blocks) {
    const int64_t of_gates = sizeof w->gates[0] / sizeof(vector), of_inputs = sizeof w->inputs[0] / sizeof(vector);
    for (int unit = 0; unit < hidden; unit++) {
        const vector *gates = w->gates[0] + 4 * unit * VECTORS;
        vector *into = w->weight + (int64_t)unit * (OWN + hidden) * 4;
        BY_FOURS(k, OWN + hidden, add_outer(gates, of_gates, w->inputs[0] + k * VECTORS, of_inputs, blocks, w->vectors,
                                            into + 4 * k, 1, 4, 4, many));
    }
}

/* Update the moments of all segments and describe their tensors: before any learned_opt_advance. */
EXPORT void learned_opt_observe(segment *segments, int64_t count) {
    for (int64_t i = 0; i < count; i++) observe(segments + i);
}

/* Step the coordinates [start, stop), counted through all segments. */
static void advance_range(const segment *segments, int64_t count, int32_t hidden, int64_t start, int64_t stop) {
    packed w;
    for (const segment *s = segments; s < segments + count && stop > 0; start -= s->size, stop -= s->size, s++) {
        const int64_t first = start > 0 ? start : 0, last = stop < s->size ? stop : s->size;
        if (first >= last) continue;
        pack(s, hidden, &w);
        for (int64_t i = first; i < last; i += BLOCK) advance_block(s, hidden, &w, i, last - i);
    }
}

/* Step all coordinates. Threads are OpenMP's, torch's own pool, and change no result; without OpenMP there is one. */
EXPORT void learned_opt_advance(const segment *segments, int64_t count, int32_t hidden, int32_t threads) {
    int64_t size = 0;
    for (int64_t i = 0; i < count; i++) size += segments[i].size;
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (int32_t i = 0; i < threads; i++)
        advance_range(segments, count, hidden, size * i / threads, size * (i + 1) / threads);
}

/* Derivatives of the step of one parameter vector of some segments, by its own copies of the weights, too. */
static void return_vector(const segment *segments, const slopes *given, int64_t tensors, int hidden, workspace *w,
                          float *by_cell_weight, float *by_head) {
    const int columns = FEATURES + hidden, inputs = OWN + hidden, direct = segments->skip ? FEATURES : 1;
    memset(by_cell_weight, 0, sizeof(float) * 4 * hidden * columns);
    memset(by_head, 0, sizeof(float) * OUTPUTS * (hidden + direct));
    memset(w->weight, 0, sizeof(vector) * hidden * inputs * 4);
    memset(w->head, 0, sizeof w->head);
    for (const segment *s = segments; s < segments + tensors; s++, given++) {
        if (s->size == 0) continue;
        memset(w->bias, 0, sizeof(vector) * 4 * hidden);
        memset(w->head_bias, 0, sizeof w->head_bias);
        pack(s, hidden, &w->packed);
        for (int64_t at = 0; at < s->size;) {
            int blocks = 0;
            for (; at < s->size && blocks < CHUNK; at += BLOCK, blocks++)
                return_block(s, given, hidden, w, at, s->size - at, blocks);
            add_products(hidden, w, blocks);
        }
        for (int row = 0; row < 4 * hidden; row++) {
            const float sum = total(w->bias[row / hidden + row % hidden * 4]);
            for (int k = 0; k < SHARED; k++) by_cell_weight[row * columns + OWN + k] += sum * s->shared[k];
        }
        for (int row = 0; row < OUTPUTS; row++) {
            const float sum = total(w->head_bias[row]);
            float *target = by_head + row * (hidden + direct) + hidden;
            if (!s->skip) *target += sum;
            for (int k = 0; s->skip && k < SHARED; k++) target[OWN + k] += sum * s->shared[k];
        }
    }
    for (int unit = 0; unit < hidden; unit++)
        for (int gate = 0; gate < 4; gate++) {
            float *target = by_cell_weight + (int64_t)(gate * hidden + unit) * columns;
            const vector *sums = w->weight + (int64_t)unit * inputs * 4 + gate;
            for (int k = 0; k < OWN; k++) target[k] = total(sums[4 * k]);
            for (int k = 0; k < hidden; k++) target[FEATURES + k] = total(sums[4 * (OWN + k)]);
        }
    for (int row = 0; row < OUTPUTS; row++)
        for (int k = 0; k < hidden + (segments->skip ? OWN : 0); k++)
            by_head[row * (hidden + direct) + k] = total(w->head[row][k]);
}

/* Derivatives of the step of parameter vectors, `tensors` segments each, as learned_opt_advance left them: by their
   old h and c, and by the weights, one vector's after the other's. Threads as there. Returns 1 where memory lacks. */
EXPORT int32_t learned_opt_return(const segment *segments, const slopes *given, int64_t vectors, int64_t tensors,
                                  int32_t hidden, float *by_cell_weight, float *by_head, int32_t threads) {
    const int64_t cell_size = 4 * hidden * (FEATURES + hidden);
    const int64_t head_size = OUTPUTS * (hidden + (segments->skip ? FEATURES : 1));
    int32_t failed = 0;
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        workspace *w = room_for(sizeof(workspace));
#pragma omp for schedule(dynamic)
        for (int64_t i = 0; i < vectors; i++)
            if (w != NULL)
                return_vector(segments + i * tensors, given + i * tensors, tensors, hidden, w,
                              by_cell_weight + i * cell_size, by_head + i * head_size);
            else
                __atomic_store_n(&failed, 1, __ATOMIC_RELAXED);
        free(w);
    }
    return failed;
}
