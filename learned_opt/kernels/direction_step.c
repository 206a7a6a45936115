/* One step of DirectionLSTM for several parameter vectors: moments and sums in a first pass over a tensor, the cell and
   the direction in a second, and the tensor's length in a third. The same equations as direction_lstm.py, for float32. */

#define OWN 9     /* features of a coordinate */
#define SHARED 10 /* features of its tensor: statistics, the learning rate, facts, and the constant 1 */
#define OUTPUTS 7 /* of the head */
#include "lstm.h"

#define FACTS 4

/* B parameter vectors of L tensors, N coordinates in all; (B, N) unless said otherwise. Weights are one for all
   vectors, with a stride of 0, or one for each. */
typedef struct {
    const float *gradient, *parameters, *exp_avg, *exp_avg_slow, *exp_avg_sq, *exp_avg_sq_fast, *exp_avg_sq_fastest;
    const float *step, *hidden, *cell; /* (B, L), (B, H, N) */
    float *new_exp_avg, *new_exp_avg_slow, *new_exp_avg_sq, *new_exp_avg_sq_fast, *new_exp_avg_sq_fastest;
    float *new_step, *new_hidden, *new_cell, *update;
    const float *cell_weight, *head; /* (4H, FEATURES + H), (OUTPUTS, H + FEATURES) */
    const int64_t *sizes;            /* (L,) */
    const float *facts;              /* (FACTS, L) */
    const float *numbers;            /* (B, 3) */
    int64_t cell_weight_stride, head_stride, vectors, tensors, coordinates, hidden_size;
} direction;
enum { LEARNING_RATE, BOUND, KEEP };

static const float FAST = 0.9f, SLOW = 0.99f, LIMIT = 5.0f, EPS = 1e-8f, MAX_LOG_SHARE = 2.30258509f;
static const float USUAL_RATE = 1e-3f;
static const float SQUARES[3] = {0.999f, 0.99f, 0.95f};
enum { FAST_CORRECTION, SLOW_CORRECTION, SQUARE_CORRECTION };

/* A tensor: its place in vectors, corrections of its moments, and what its coordinates share. */
typedef struct {
    int64_t first, size;
    float corrections[5], shared[SHARED], inverse_square, inverse_size;
} tensor;

/* The moments of some coordinates, and what the rule makes of them. */
typedef struct {
    vector fast, slow, square[3];
} moments;
typedef struct {
    vector divisor, adam, slow_unit, log_ratio[2];
} view;

INLINE vector divisor_of(const tensor *t, const moments *m, int which) {
    return root_of(at_least(m->square[which] * t->corrections[SQUARE_CORRECTION + which], TINY)) + EPS;
}

INLINE view look(const tensor *t, const moments *m) {
    const vector divisor = divisor_of(t, m, 0), inverse = reciprocal(divisor);
    view seen = {.divisor = divisor, .adam = m->fast * t->corrections[FAST_CORRECTION] * inverse};
    seen.slow_unit = m->slow * t->corrections[SLOW_CORRECTION] * inverse;
    for (int k = 0; k < 2; k++) seen.log_ratio[k] = logarithm(divisor_of(t, m, 1 + k) * inverse);
    return seen;
}

INLINE moments moments_at(const direction *d, int64_t at, int64_t count) {
    return (moments){load_up_to(d->new_exp_avg + at, count),
                     load_up_to(d->new_exp_avg_slow + at, count),
                     {load_up_to(d->new_exp_avg_sq + at, count), load_up_to(d->new_exp_avg_sq_fast + at, count),
                      load_up_to(d->new_exp_avg_sq_fastest + at, count)}};
}

INLINE vector followed(const float *from, float *to, int64_t at, int64_t count, vector x, float decay, mask usable) {
    const vector old = load_up_to(from + at, count), new = old + (1 - decay) * (x - old);
    store_up_to(to + at, choose(usable, new, old), count);
    return new;
}

/* Moments after the step, and the features that the tensor's coordinates share; returns the mean square of Adam's
   step. */
static float observe(const direction *d, tensor *t, int64_t learner, int64_t place) {
    const float step = d->step[learner * d->tensors + place] + 1;
    const float decays[5] = {FAST, SLOW, SQUARES[0], SQUARES[1], SQUARES[2]};
    for (int k = 0; k < 5; k++) t->corrections[k] = 1 / (1 - powf(decays[k], step));
    d->new_step[learner * d->tensors + place] = step;
    double by_gradient = 0, by_square = 0, by_parameters = 0, by_adam = 0, by_slow = 0;
    for (int64_t start = 0; start < t->size; start += 1024) {
        const int64_t stop = start + 1024 < t->size ? start + 1024 : t->size;
        vector sums[5] = {0};
        for (int64_t i = start; i < stop; i += LANES) {
            const int64_t count = stop - i, at = learner * d->coordinates + t->first + i;
            const vector raw = load_up_to(d->gradient + at, count), raw_p = load_up_to(d->parameters + at, count);
            const mask usable = is_usable(raw, raw_p);
            const vector g = choose(usable, raw, all(0)), p = choose(usable, raw_p, all(0)), gg = g * g;
            const moments now = {followed(d->exp_avg, d->new_exp_avg, at, count, g, FAST, usable),
                                 followed(d->exp_avg_slow, d->new_exp_avg_slow, at, count, g, SLOW, usable),
                                 {followed(d->exp_avg_sq, d->new_exp_avg_sq, at, count, gg, SQUARES[0], usable),
                                  followed(d->exp_avg_sq_fast, d->new_exp_avg_sq_fast, at, count, gg, SQUARES[1], usable),
                                  followed(d->exp_avg_sq_fastest, d->new_exp_avg_sq_fastest, at, count, gg, SQUARES[2],
                                           usable)}};
            const vector divisor = divisor_of(t, &now, 0), inverse = reciprocal(divisor);
            const vector adam = choose(usable, now.fast * t->corrections[FAST_CORRECTION] * inverse, all(0));
            const vector slow = now.slow * t->corrections[SLOW_CORRECTION] * inverse;
            const mask there = i + LANES <= stop ? all(0) == all(0) : lanes_below(count);
            sums[0] += gg, sums[1] += choose(there, divisor * divisor, all(0)), sums[2] += p * p;
            sums[3] += adam * adam, sums[4] += slow * slow;
        }
        by_gradient += total(sums[0]), by_square += total(sums[1]), by_parameters += total(sums[2]);
        by_adam += total(sums[3]), by_slow += total(sums[4]);
    }
    const float n = t->size > 0 ? t->size : 1, square = fmaxf(by_square / n, TINY), size = by_parameters / n;
    const float surprise = logf(fmaxf(by_gradient / n, TINY) / square);
    const float rate = logf(fmaxf(d->numbers[3 * learner + LEARNING_RATE], TINY) / USUAL_RATE);
    const float shared[SHARED] = {
        logf(by_adam / n + 1e-4f) / 4 + 0.5f,
        logf(by_slow / n + 1e-4f) / 4 + 1,
        fminf(fmaxf(surprise, -5), 5) / 2,
        logf(size + 1e-6f) / 8,
        fminf(fmaxf(rate, -LIMIT), LIMIT) / 2,
        d->facts[place], d->facts[d->tensors + place], d->facts[2 * d->tensors + place], d->facts[3 * d->tensors + place],
        1,
    };
    memcpy(t->shared, shared, sizeof shared);
    t->inverse_square = 1 / sqrtf(square), t->inverse_size = 1 / sqrtf(size + 1e-6f);
    return by_adam / n;
}

/* Up to SPAN coordinates of a tensor. */
typedef struct {
    mask usable[WIDE];
    row unit, adam, slow_unit, log_ratio[2], inputs[OWN + MAX_HIDDEN], shown[MAX_HIDDEN];
} block;

INLINE void read_block(const direction *d, const tensor *t, int64_t learner, int64_t first, int64_t size, int vectors,
                       block *b) {
    for (int v = 0; v < vectors; v++) {
        const int64_t count = size - v * LANES, at = learner * d->coordinates + t->first + first + v * LANES;
        const vector raw = load_up_to(d->gradient + at, count), raw_p = load_up_to(d->parameters + at, count);
        const mask usable = b->usable[v] = is_usable(raw, raw_p);
        const moments now = moments_at(d, at, count);
        const view seen = look(t, &now);
        const vector inverse = reciprocal(seen.divisor);
        const vector unit = clamp(choose(usable, raw, all(0)) * inverse, LIMIT), adam = clamp(seen.adam, LIMIT);
        b->unit[v] = unit, b->adam[v] = seen.adam, b->slow_unit[v] = seen.slow_unit;
        b->log_ratio[0][v] = seen.log_ratio[0], b->log_ratio[1][v] = seen.log_ratio[1];
        const vector own[OWN] = {
            magnitude(unit),
            magnitude(adam),
            clamp(seen.adam * seen.slow_unit, LIMIT),
            logarithm(magnitude(seen.slow_unit) + 1e-3f) * (1 / 3.0f) + 0.5f,
            clamp(unit * seen.adam, LIMIT),
            logarithm(seen.divisor * t->inverse_square + 1e-3f) * (1 / 3.0f),
            clamp(choose(usable, raw_p, all(0)) * t->inverse_size, LIMIT) * adam,
            clamp(seen.log_ratio[0], LIMIT),
            clamp(seen.log_ratio[1], LIMIT),
        };
        for (int k = 0; k < OWN; k++) b->inputs[k][v] = own[k];
        for (int k = 0; k < d->hidden_size; k++) {
            const int64_t of = (learner * d->hidden_size + k) * d->coordinates + t->first + first + v * LANES;
            b->inputs[OWN + k][v] = load_up_to(d->hidden + of, count);
        }
    }
}

/* Cell and head of up to SPAN coordinates; the direction goes where the update will be. Adds to the sums of its squares
   and of the lengths that the head says. */
static void advance(const direction *d, const tensor *t, int64_t learner, int64_t first, const packed *w, double *squares,
                    double *lengths) {
    const int64_t size = t->size - first < SPAN ? t->size - first : SPAN;
    const int hidden = d->hidden_size, vectors = (size + 2 * LANES - 1) / (2 * LANES) * 2;
    const float keep = d->numbers[3 * learner + KEEP];
    block b;
    read_block(d, t, learner, first, size, vectors, &b);
    for (int unit = 0; unit < hidden; unit++) {
        row x[4];
        gates_of(w, hidden, unit, vectors, b.inputs, x);
        for (int v = 0; v < vectors; v++) {
            const int64_t at = (learner * hidden + unit) * d->coordinates + t->first + first + v * LANES;
            const int64_t count = size - v * LANES;
            const vector old = load_up_to(d->cell + at, count);
            vector inverse;
            const vector cell = next_cell(x, v, keep * old, &inverse), shown = next_hidden(cell, inverse);
            b.shown[unit][v] = shown;
            store_up_to(d->new_cell + at, choose(b.usable[v], cell, old), count);
            store_up_to(d->new_hidden + at, choose(b.usable[v], shown, b.inputs[OWN + unit][v]), count);
        }
    }
    row out[OUTPUTS];
    head_of(w, hidden, vectors, b.inputs, b.shown, out);
    vector square = {0}, length = {0};
    for (int v = 0; v < vectors; v++) {
        const int64_t count = size - v * LANES;
        const vector unit = b.unit[v], adam = b.adam[v], size_of = magnitude(unit);
        const vector signed_ = choose(adam > all(0), size_of, choose(adam < all(0), -size_of, all(0)));
        const vector mixed = adam + hyperbolic_tangent(out[1][v]) * (unit - adam) +
                             hyperbolic_tangent(out[2][v]) * (b.slow_unit[v] - adam) +
                             hyperbolic_tangent(out[3][v]) * (signed_ - adam);
        const vector log_divisor = hyperbolic_tangent(out[4][v]) * b.log_ratio[0][v] +
                                   hyperbolic_tangent(out[5][v]) * b.log_ratio[1][v];
        const vector log_share = MAX_LOG_SHARE * hyperbolic_tangent(out[0][v] * (1 / MAX_LOG_SHARE));
        const vector made = mixed * exponential(clamp(log_share - log_divisor, 60));
        const mask there = lanes_below(count) & b.usable[v];
        square += choose(there, made * made, all(0)), length += choose(there, out[6][v], all(0));
        store_up_to(d->update + learner * d->coordinates + t->first + first + v * LANES,
                    choose(b.usable[v], made, all(0)), count);
    }
    *squares += total(square), *lengths += total(length);
}

static void step_tensor(const direction *d, int64_t learner, int64_t place, int64_t first, packed *w) {
    tensor t = {.first = first, .size = d->sizes[place]};
    const float adam = observe(d, &t, learner, place), *numbers = d->numbers + 3 * learner;
    pack(d->cell_weight + learner * d->cell_weight_stride, d->head + learner * d->head_stride, t.shared, d->hidden_size, 1, w);
    double squares = 0, lengths = 0;
    for (int64_t at = 0; at < t.size; at += SPAN) advance(d, &t, learner, at, w, &squares, &lengths);
    const float bound = numbers[BOUND], mean_square = fmaxf(squares / t.size, TINY), length = lengths / t.size;
    const float longer = bound > 0 ? expf(bound * tanhf(length / bound)) : 1;
    const float scale = -numbers[LEARNING_RATE] * sqrtf(adam / mean_square) * longer;
    float *update = d->update + learner * d->coordinates + first;
    for (int64_t i = 0; i < t.size; i++) update[i] *= scale;
}

/* Step all vectors. Threads are OpenMP's and change no result. Returns 1 where memory lacks. */
EXPORT int32_t learned_opt_direction_step(const direction *d, int32_t threads) {
    int32_t failed = 0;
    (void)threads;
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        FLUSH_DENORMALS;
        packed *w = room_for(sizeof(packed));
        if (w == NULL) __atomic_store_n(&failed, 1, __ATOMIC_RELAXED);
        if (w != NULL) w->cell_weight = NULL;
#pragma omp for schedule(dynamic)
        for (int64_t learner = 0; learner < d->vectors; learner++)
            for (int64_t place = 0, first = 0; w != NULL && place < d->tensors; first += d->sizes[place++])
                step_tensor(d, learner, place, first, w);
        free(w);
    }
    return failed;
}
