/* One step of the coordinatewise LSTM rule, fused: features, cell, head and update in one pass; and its derivatives
   by the weights and the LSTM's state, in another that computes the gates anew instead of remembering them.

   The same equations as features.py, lstm_cell.py and lstm.py, for float32 on the CPU.
   A segment is one tensor of one parameter vector. Coordinates go through in blocks that stay in
   the first-level cache; features that are the same for a whole tensor enter as a bias of the gates,
   and only those of a coordinate and its hidden state are multiplied. */

#define OWN 7     /* features of a coordinate */
#define SHARED 13 /* features of its tensor: statistics, time, facts, and the constant 1 */
#define OUTPUTS 3 /* of the head */
#include "lstm.h"

#define FACTS 4

/* A tensor of one parameter vector; addresses come first. */
typedef struct {
    const float *gradient, *parameters, *exp_avg, *exp_avg_slow, *exp_avg_sq, *step, *hidden, *cell;
    float *new_exp_avg, *new_exp_avg_slow, *new_exp_avg_sq, *new_step, *new_hidden, *new_cell, *update;
    const float *cell_weight, *head; /* (4H, FEATURES + H) and (3, H + FEATURES), or (3, H + 1) without skip */
    int64_t size, stride, new_stride; /* coordinates; floats between rows of hidden and cell */
    float facts[FACTS], share, known, lr, rho, skip, in_place; /* whether the update is added to what is there */
    float correction[3], shared[SHARED], inverse_square, inverse_size; /* filled by observe */
} segment;

static const float FAST = 0.9f, SLOW = 0.99f, SQUARE = 0.999f, EPS = 1e-8f, LIMIT = 5.0f;

/* The moments of some coordinates, and what a rule makes of them. */
typedef struct {
    vector fast, slow, square;
} moments;
typedef struct {
    vector root, inverse, adam, slow_unit;
} view;

static inline view look(const segment *s, moments m) {
    const vector root = root_of(at_least(m.square * s->correction[2], TINY)), inverse = reciprocal(root + EPS);
    return (view){root, inverse, m.fast * s->correction[0] * inverse, m.slow * s->correction[1] * inverse};
}

/* Coordinates of one segment that a thread works on at a time; what it reads of them twice stays in its second-level
   cache. */
#define PIECE 8192
typedef struct {
    segment *owner;
    int64_t start, stop;
    double gradient, square, parameters, adam, slow; /* sums of squares over the piece, but of "square" itself */
} piece;

static void begin(segment *s) {
    const float step = *s->step + 1;
    s->correction[0] = 1 / (1 - powf(FAST, step));
    s->correction[1] = 1 / (1 - powf(SLOW, step));
    s->correction[2] = 1 / (1 - powf(SQUARE, step));
    *s->new_step = step;
}

/* Update the moments of a piece, and add up what its tensor's features are made of. */
static void observe(piece *all_of) {
    const segment *s = all_of->owner;
    piece sums = {.owner = all_of->owner, .start = all_of->start, .stop = all_of->stop};
    for (int64_t start = sums.start; start < sums.stop; start += 1024) {
        const int64_t stop = start + 1024 < sums.stop ? start + 1024 : sums.stop;
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
        sums.gradient += total(sum_gradient), sums.square += total(sum_square);
        sums.parameters += total(sum_parameters), sums.adam += total(sum_adam), sums.slow += total(sum_slow);
    }
    *all_of = sums;
}

/* The features that the coordinates of a segment share, of the sums over its pieces. */
static void describe(const piece *pieces, int64_t count) {
    segment *s = pieces->owner;
    piece sums = *pieces;
    for (const piece *p = pieces + 1; p < pieces + count; p++) {
        sums.gradient += p->gradient, sums.square += p->square, sums.parameters += p->parameters;
        sums.adam += p->adam, sums.slow += p->slow;
    }
    const float n = s->size, step = *s->new_step;
    const float square = fmaxf(sums.square / n, TINY), size = sums.parameters / n;
    const float surprise = logf(fmaxf(sums.gradient / n, TINY) / square);
    const float shared[SHARED] = {
        logf(sums.adam / n + 1e-4f) / 4 + 0.5f,
        logf(sums.slow / n + 1e-4f) / 4 + 1,
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

/* Up to SPAN coordinates of a segment, in whole pairs of vectors; lanes beyond the end have no effect. */
typedef struct {
    int64_t first, size;
    int vectors;
    mask usable[WIDE];
    row unit, adam, slow_unit, inputs[OWN + MAX_HIDDEN], shown[MAX_HIDDEN]; /* shown: h' */
} block;

/* Loads and stores of the v-th vector of a block's coordinates. */
INLINE vector get(const block *b, const float *p, int v) {
    __builtin_prefetch(p + b->first + SPAN + v * LANES); /* rows are too many for the processor to foresee */
    return load_up_to(p + b->first + v * LANES, b->size - v * LANES);
}
INLINE void put(const block *b, float *p, int v, vector x) {
    store_up_to(p + b->first + v * LANES, x, b->size - v * LANES);
}

/* Features of the coordinates from the given one on, then their hidden units, as inputs of the gates. */
INLINE void read_block(const segment *s, int hidden, int64_t first, int64_t stop, block *b) {
    b->first = first, b->size = stop - first < SPAN ? stop - first : SPAN;
    b->vectors = (b->size + 2 * LANES - 1) / (2 * LANES) * 2;
    for (int v = 0; v < b->vectors; v++) {
        const vector raw = get(b, s->gradient, v), raw_p = get(b, s->parameters, v);
        const mask usable = b->usable[v] = is_usable(raw, raw_p);
        const vector g = choose(usable, raw, all(0)), p = choose(usable, raw_p, all(0));
        const moments now = {.fast = get(b, s->new_exp_avg, v),
                             .slow = get(b, s->new_exp_avg_slow, v),
                             .square = get(b, s->new_exp_avg_sq, v)};
        const view seen = look(s, now);
        const vector unit = clamp(g * seen.inverse, LIMIT);
        b->unit[v] = unit, b->adam[v] = seen.adam, b->slow_unit[v] = seen.slow_unit;
        const vector own[OWN] = {
            magnitude(unit),
            magnitude(seen.adam),
            seen.adam * seen.slow_unit,
            logarithm(magnitude(seen.slow_unit) + 1e-3f) * (1 / 3.0f) + 0.5f,
            clamp(unit * seen.adam, LIMIT),
            logarithm(seen.root * s->inverse_square + 1e-3f) * (1 / 3.0f),
            clamp(p * s->inverse_size, LIMIT) * seen.adam,
        };
        for (int k = 0; k < OWN; k++) b->inputs[k][v] = own[k];
    }
    for (int k = 0; k < hidden; k++)
        for (int v = 0; v < b->vectors; v++) b->inputs[OWN + k][v] = get(b, s->hidden + k * s->stride, v);
}

/* The head's outputs as the update uses them. */
typedef struct {
    vector bounded, scale, now, lasting; /* tanh(a / rho), -lr exp(rho tanh(a / rho)), tanh b, tanh d */
    vector direction;
} decision;

static inline decision decide(const segment *s, const block *b, int v, const row outputs[OUTPUTS]) {
    const vector adam = b->adam[v], bounded = hyperbolic_tangent(outputs[0][v] * (1 / s->rho));
    const vector now = hyperbolic_tangent(outputs[1][v]), lasting = hyperbolic_tangent(outputs[2][v]);
    const vector direction = adam + now * (b->unit[v] - adam) + lasting * (b->slow_unit[v] - adam);
    return (decision){bounded, -s->lr * exponential(s->rho * bounded), now, lasting, direction};
}

/* Cell, head and update of the coordinates of a piece. */
INLINE void advance_piece(const piece *p, int hidden, const packed *w) {
    const segment *s = p->owner;
    block b;
    for (int64_t first = p->start; first < p->stop; first += SPAN) {
        read_block(s, hidden, first, p->stop, &b);
        for (int unit = 0; unit < hidden; unit++) {
            row x[4], cells, inverse;
            gates_of(w, hidden, unit, b.vectors, b.inputs, x);
            for (int v = 0; v < b.vectors; v++) {
                const vector old = get(&b, s->cell + unit * s->stride, v);
                cells[v] = next_cell(x, v, old, &inverse[v]);
                put(&b, s->new_cell + unit * s->new_stride, v, choose(b.usable[v], cells[v], old));
            }
            for (int v = 0; v < b.vectors; v++) {
                const vector h = b.shown[unit][v] = next_hidden(cells[v], inverse[v]);
                put(&b, s->new_hidden + unit * s->new_stride, v, choose(b.usable[v], h, b.inputs[OWN + unit][v]));
            }
        }
        row outputs[OUTPUTS];
        head_of(w, hidden, b.vectors, b.inputs, b.shown, outputs);
        for (int v = 0; v < b.vectors; v++) {
            const decision made = decide(s, &b, v, outputs);
            const vector change = choose(b.usable[v], made.scale * made.direction, all(0));
            put(&b, s->update, v, s->in_place ? get(&b, s->update, v) + change : change);
        }
    }
}

static void advance(const piece *p, int hidden, packed *w) {
    const segment *s = p->owner;
    pack(s->cell_weight, s->head, s->shared, hidden, s->skip != 0, w);
    advance_piece(p, hidden, w);
}

/* Derivatives of one segment's step: given by update, h and c; wanted by h' and c'. */
typedef struct {
    const float *by_update, *by_hidden, *by_cell;
    float *by_old_hidden, *by_old_cell;
} slopes;

/* What the backward pass of one thread works with. Sums over coordinates are kept lane by lane: those by the cell's
   weights and by the head's, in their packed order, over all of a parameter vector, those by the biases over a
   segment. */
typedef struct {
    vector weight[MAX_HIDDEN * (OWN + MAX_HIDDEN) * 4], bias[MAX_HIDDEN * 4];
    vector head[(OWN + MAX_HIDDEN) * OUTPUTS], head_bias[OUTPUTS];
    row gates[MAX_HIDDEN * 4];
    packed packed;
    block block;
} workspace;

/* Add the products of `rows` rows and each of some inputs, lane by lane, to sums that lie in the packed order. */
INLINE void add_products(const block *b, const row *slopes, const int rows, const row *inputs, int count, vector *sums) {
#define ADD_PRODUCTS(many)                                                                         \
    do {                                                                                           \
        vector sum[2][4];                                                                          \
        for (int i = 0; i < many; i++)                                                             \
            for (int r = 0; r < rows; r++) sum[i][r] = sums[i * rows + r];                         \
        for (int v = 0; v < b->vectors; v++)                                                       \
            for (int i = 0; i < many; i++)                                                         \
                for (int r = 0; r < rows; r++) sum[i][r] += slopes[r][v] * inputs[i][v];           \
        for (int i = 0; i < many; i++)                                                             \
            for (int r = 0; r < rows; r++) sums[i * rows + r] = sum[i][r];                         \
        inputs += many, count -= many, sums += many * rows;                                        \
    } while (0)
    while (count >= 2) ADD_PRODUCTS(2);
    while (count) ADD_PRODUCTS(1);
#undef ADD_PRODUCTS
}

/* Derivatives by h' of a unit and the next, or of it alone, of those by all gates. */
INLINE void return_to_hidden(const segment *s, const slopes *d, int hidden, const workspace *w, int first,
                             const int units) {
    const block *b = &w->block;
    for (int v = 0; v < b->vectors; v += 2) {
        vector sum[2][2];
        for (int k = 0; k < units; k++)
            for (int i = 0; i < 2; i++) sum[k][i] = all(0);
        const float *weight = w->packed.weight + (OWN + first) * 4;
#pragma GCC unroll 1
        for (int unit = 0; unit < hidden; unit++, weight += 4 * (OWN + hidden))
            for (int gate = 0; gate < 4; gate++)
                for (int k = 0; k < units; k++)
                    for (int i = 0; i < 2; i++) sum[k][i] += weight[4 * k + gate] * w->gates[4 * unit + gate][v + i];
        for (int k = 0; k < units; k++)
            for (int i = 0; i < 2; i++) {
                const int64_t at = (first + k) * s->stride;
                const vector kept = get(b, d->by_hidden + at, v + i);
                put(b, d->by_old_hidden + at, v + i, choose(b->usable[v + i], sum[k][i], kept));
            }
    }
}

/* Derivatives by the gates, times SCALE as they are, of up to SPAN coordinates, and what follows from them. */
INLINE void return_block(const segment *s, const slopes *d, int hidden, workspace *w, int64_t first) {
    const packed *p = &w->packed;
    block *b = &w->block;
    row outputs[OUTPUTS];
    read_block(s, hidden, first, s->size, b);
    for (int unit = 0; unit < hidden; unit++)
        for (int v = 0; v < b->vectors; v++) b->shown[unit][v] = get(b, s->new_hidden + unit * s->new_stride, v);
    head_of(p, hidden, b->vectors, b->inputs, b->shown, outputs);
    for (int v = 0; v < b->vectors; v++) {
        const decision made = decide(s, b, v, outputs);
        const vector adam = b->adam[v];
        const vector given = choose(b->usable[v], get(b, d->by_update, v), all(0)) * made.scale;
        outputs[0][v] = given * made.direction * (1.0f - made.bounded * made.bounded);
        outputs[1][v] = given * (b->unit[v] - adam) * (1.0f - made.now * made.now);
        outputs[2][v] = given * (b->slow_unit[v] - adam) * (1.0f - made.lasting * made.lasting);
        for (int r = 0; r < OUTPUTS; r++) w->head_bias[r] += outputs[r][v];
    }
    add_products(b, outputs, OUTPUTS, b->inputs, OWN, w->head);
    add_products(b, outputs, OUTPUTS, b->shown, hidden, w->head + OWN * OUTPUTS);
    for (int unit = 0; unit < hidden; unit++) {
        const float *head = p->head + (OWN + unit) * OUTPUTS;
        row x[4], *by_gates = w->gates + 4 * unit;
        vector bias[4];
        gates_of(p, hidden, unit, b->vectors, b->inputs, x);
        for (int gate = 0; gate < 4; gate++) bias[gate] = w->bias[4 * unit + gate];
        for (int v = 0; v < b->vectors; v++) {
            const int64_t at = unit * s->stride;
            const mask usable = b->usable[v];
            const vector old = get(b, s->cell + at, v), raw_by_cell = get(b, d->by_cell + at, v);
            vector by_hidden = choose(usable, get(b, d->by_hidden + at, v), all(0));
            for (int r = 0; r < OUTPUTS; r++) by_hidden += head[r] * outputs[r][v];
            const vector in = reciprocal(1.0f + power(x[0][v])), keep = reciprocal(1.0f + power(x[1][v]));
            const vector show = reciprocal(1.0f + power(x[2][v]));
            const vector new = 2.0f * reciprocal(1.0f + power(x[3][v])) - 1.0f, cell = keep * old + in * new;
            const vector tanh_c = 2.0f * reciprocal(1.0f + power(SCALE[3] * cell)) - 1.0f;
            const vector by_cell =
                choose(usable, raw_by_cell, all(0)) + by_hidden * show * (1.0f - tanh_c * tanh_c);
            const vector scaled = by_cell * (1 / SCALE[0]);
            by_gates[0][v] = scaled * new * in * (1.0f - in);
            by_gates[1][v] = scaled * old * keep * (1.0f - keep);
            by_gates[2][v] = by_hidden * (1 / SCALE[0]) * tanh_c * show * (1.0f - show);
            by_gates[3][v] = scaled * 0.5f * in * (1.0f - new * new);
            for (int gate = 0; gate < 4; gate++) bias[gate] += by_gates[gate][v];
            put(b, d->by_old_cell + at, v, choose(usable, by_cell * keep, raw_by_cell));
        }
        for (int gate = 0; gate < 4; gate++) w->bias[4 * unit + gate] = bias[gate];
        add_products(b, by_gates, 4, b->inputs, OWN + hidden, w->weight + (int64_t)unit * (OWN + hidden) * 4);
    }
    int unit = 0;
    for (; unit + 2 <= hidden; unit += 2) return_to_hidden(s, d, hidden, w, unit, 2);
    if (unit < hidden) return_to_hidden(s, d, hidden, w, unit, 1);
}

static int64_t pieces_of(const segment *s) { return (s->size + PIECE - 1) / PIECE; }

/* Step some segments; all threads come here. What one piece holds is stepped as soon as it is observed, larger segments
   when all of their pieces are, the last ones first, which the cache may still have. */
static void step_together(piece *pieces, int64_t n, int hidden, packed *w) {
#pragma omp for schedule(dynamic)
    for (int64_t i = 0; i < n; i++) {
        observe(pieces + i);
        if (pieces[i].owner->size <= PIECE) describe(pieces + i, 1), advance(pieces + i, hidden, w);
    }
#pragma omp single
    for (int64_t i = 0; i < n; i += pieces_of(pieces[i].owner))
        if (pieces[i].owner->size > PIECE) describe(pieces + i, pieces_of(pieces[i].owner));
#pragma omp for schedule(dynamic)
    for (int64_t i = n - 1; i >= 0; i--)
        if (pieces[i].owner->size > PIECE) advance(pieces + i, hidden, w);
}

/* Step all segments. Threads are OpenMP's, torch's own pool, and change no result; without OpenMP there is one, which
   steps one segment after the other, while the cache has it. Returns 1 where memory lacks. */
EXPORT int32_t learned_opt_step(segment *segments, int64_t count, int32_t hidden, int32_t threads) {
    int64_t total = 0, n = 0;
    for (int64_t i = 0; i < count; i++) total += pieces_of(segments + i);
    piece *pieces = malloc(sizeof(piece) * (total + 1));
    if (pieces == NULL) return 1;
    for (segment *s = segments; s < segments + count; s++) {
        begin(s);
        for (int64_t start = 0; start < s->size; start += PIECE)
            pieces[n++] = (piece){.owner = s, .start = start, .stop = start + PIECE < s->size ? start + PIECE : s->size};
    }
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        FLUSH_DENORMALS;
        packed w;
        w.cell_weight = NULL;
        for (int64_t i = 0, some; i < total; i += some) {
            some = threads > 1 ? total : pieces_of(pieces[i].owner);
            step_together(pieces + i, some, hidden, &w);
        }
    }
    free(pieces);
    return 0;
}

/* Derivatives of the step of one parameter vector of some segments, by its own copies of the weights, too. */
static void return_vector(const segment *segments, const slopes *given, int64_t tensors, int hidden, workspace *w,
                          float *by_cell_weight, float *by_head) {
    const int columns = FEATURES + hidden, inputs = OWN + hidden, direct = segments->skip ? FEATURES : 1;
    memset(by_cell_weight, 0, sizeof(float) * 4 * hidden * columns);
    memset(by_head, 0, sizeof(float) * OUTPUTS * (hidden + direct));
    w->packed.cell_weight = NULL;
    memset(w->weight, 0, sizeof(vector) * hidden * inputs * 4);
    memset(w->head, 0, sizeof w->head);
    for (const segment *s = segments; s < segments + tensors; s++, given++) {
        if (s->size == 0) continue;
        memset(w->bias, 0, sizeof(vector) * 4 * hidden);
        memset(w->head_bias, 0, sizeof w->head_bias);
        pack(s->cell_weight, s->head, s->shared, hidden, s->skip != 0, &w->packed);
        for (int64_t at = 0; at < s->size; at += SPAN) return_block(s, given, hidden, w, at);
        for (int row = 0; row < 4 * hidden; row++) {
            const float sum = SCALE[row / hidden] * total(w->bias[row / hidden + row % hidden * 4]);
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
            for (int k = 0; k < OWN; k++) target[k] = SCALE[gate] * total(sums[4 * k]);
            for (int k = 0; k < hidden; k++) target[FEATURES + k] = SCALE[gate] * total(sums[4 * (OWN + k)]);
        }
    for (int row = 0; row < OUTPUTS; row++) {
        float *target = by_head + row * (hidden + direct);
        const vector *sums = w->head + row;
        for (int k = 0; k < hidden; k++) target[k] = total(sums[OUTPUTS * (OWN + k)]);
        for (int k = 0; segments->skip && k < OWN; k++) target[hidden + k] = total(sums[OUTPUTS * k]);
    }
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
        FLUSH_DENORMALS;
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
