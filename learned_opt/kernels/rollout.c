/* Rollouts of several learners in copies of their tasks, whose dynamics are a program of elementary operations.

   What collect.py does step by step for all learners, here each learner does for all steps: a vector's lanes
   are environments of one learner, and what they need fits in the cache. */

#include "mlp.h"

#define MOST 10.0f /* normalised observations are clipped to it, as in normalization.py */

/* Elementary operations, which program.py counts from here. */
enum {
    ADD, SUB, MUL, DIV, MIN, MAX, LT, LE, EQ, WHERE, TABLE,
    SQRT, ABS, FLOOR, CEIL, ROUND, TRUNC, SIN, COS, TAN, ASIN, ACOS, ATAN,
    SINH, COSH, TANH, EXP, EXPM1, LOG, LOG1P, POW, ATAN2, FMOD
};

/* A row of Program.step: slots of the result and of operands. A table's are its index, first column, step and size. */
typedef struct {
    int32_t code, out, a, b, c, d;
} operation;

/* What Program in program.py says. */
typedef struct {
    const operation *step, *glance;
    const float *literals;
    const int32_t *columns, *results;
    int64_t operations, glances, literal_count, column_count, states, actions, observations, draws, slots;
} program;

/* The learners, where they stand, and where what happens goes.
   Shapes: B learners, E environments, T steps. What is made may be NULL. */
typedef struct {
    const network *actor; /* without any, the random numbers alone choose actions */
    int64_t learners, environments, steps, discrete, choices;
    const float *constants; /* (B, width) */
    int64_t width;
    const float *deviation; /* (B, choices) */
    const float *draws;     /* of actions: (B, T, E, choices) */
    const float *numbers;   /* of the dynamics: (B, T, E, program's draws) */
    const float *const *starts; /* T of (B, E, states), floats from one learner's to the next's */
    int64_t starts_stride;
    const float *limits; /* after how many steps episodes are cut: (B,), or one for all with stride 0 */
    int64_t limit_stride;
    const float *mean, *spread; /* (B, observations), by which observations are normalised, or NULL */
    float *state, *elapsed, *observation; /* (B, E, ·), which end as the rollout does */
    void *made_actions;                   /* (B, T, E) 64-bit integers, or (B, T, E, choices) floats */
    float *rewards;
    uint8_t *terminated, *truncated; /* (B, T, E) */
    float *observations, *finals;    /* (B, T, E, observations) */
} journey;

#define EACH(expression)                                             \
    for (int i = 0; i < LANES; i++) out[i] = (expression); \
    break
#define TRUTH(comparison) \
    out = choose((comparison), all(1), all(0)); \
    break

/* Run operations on the slots of LANES environments; `constants` are the task's. */
static void run(const operation *first, int64_t count, vector *slots, const float *constants) {
    for (const operation *o = first; o < first + count; o++) {
        const vector a = slots[o->a];
        const vector b = o->code == TABLE ? a : slots[o->b];
        vector out = a;
        switch (o->code) {
        case ADD: out = a + b; break;
        case SUB: out = a - b; break;
        case MUL: out = a * b; break;
        case DIV: out = a / b; break;
        case MIN: out = choose((a < b) | (a != a), a, b); break;
        case MAX: out = choose((a > b) | (a != a), a, b); break;
        case LT: TRUTH(a < b);
        case LE: TRUTH(a <= b);
        case EQ: TRUTH(a == b);
        case WHERE: out = choose(a != all(0), b, slots[o->c]); break;
        case TABLE:
            for (int i = 0; i < LANES; i++) {
                const float most = (float)(o->d - 1), index = a[i] > 0 ? (a[i] < most ? a[i] : most) : 0; /* NaN is 0 */
                out[i] = constants[o->b + o->c * (int64_t)index];
            }
            break;
        case SQRT: out = root_of(a); break;
        case ABS: out = magnitude(a); break;
        case FLOOR: EACH(floorf(a[i]));
        case CEIL: EACH(ceilf(a[i]));
        case ROUND: EACH(nearbyintf(a[i]));
        case TRUNC: EACH(truncf(a[i]));
        case SIN: EACH(sinf(a[i]));
        case COS: EACH(cosf(a[i]));
        case TAN: EACH(tanf(a[i]));
        case ASIN: EACH(asinf(a[i]));
        case ACOS: EACH(acosf(a[i]));
        case ATAN: EACH(atanf(a[i]));
        case SINH: EACH(sinhf(a[i]));
        case COSH: EACH(coshf(a[i]));
        case TANH: EACH(tanhf(a[i]));
        case EXP: EACH(expf(a[i]));
        case EXPM1: EACH(expm1f(a[i]));
        case LOG: EACH(logf(a[i]));
        case LOG1P: EACH(log1pf(a[i]));
        case POW: EACH(powf(a[i], b[i]));
        case ATAN2: EACH(atan2f(a[i], b[i]));
        case FMOD: EACH(fmodf(a[i], b[i]));
        }
        slots[o->out] = out;
    }
}

/* Rows [0, count) of (·, columns) floats as lanes of vectors `pitch` apart, one for each column; and back. */
INLINE void take(const float *rows, int64_t count, int64_t columns, vector *out, int64_t pitch) {
    for (int64_t k = 0; k < columns; k++)
        for (int64_t lane = 0; lane < count; lane++) out[k * pitch][lane] = rows[lane * columns + k];
}
INLINE void put(const vector *in, int64_t count, int64_t columns, float *rows) {
    for (int64_t k = 0; k < columns; k++)
        for (int64_t lane = 0; lane < count; lane++) rows[lane * columns + k] = in[k][lane];
}
static void put_slots(const vector *slots, const int32_t *which, int64_t count, int64_t columns, float *rows) {
    for (int64_t k = 0; k < columns; k++)
        for (int64_t lane = 0; lane < count; lane++) rows[lane * columns + k] = slots[which[k]][lane];
}

/* The action for outputs `pitch` vectors apart, as the environments take it: its slots follow `action`. */
static void choose_action(const journey *j, int64_t learner, const vector *outputs, int64_t pitch, const float *draws,
                          int64_t count, vector *action, void *made) {
    vector drawn = {0}, best = {0}, index = {0};
    for (int64_t k = 0; k < j->choices; k++) {
        for (int64_t lane = 0; lane < count; lane++) drawn[lane] = draws[lane * j->choices + k];
        vector output = j->actor ? outputs[k * pitch] : all(0);
        if (!j->discrete) {
            action[k] = output + all(j->deviation[learner * j->choices + k]) * drawn;
            continue;
        }
        output += drawn;
        const mask better = k ? (mask)(output > best) : ~(mask){0};
        best = choose(better, output, best);
        index = choose(better, all((float)k), index);
    }
    if (j->discrete) *action = index;
    if (made == NULL) return;
    if (j->discrete)
        for (int64_t lane = 0; lane < count; lane++) ((int64_t *)made)[lane] = (int64_t)index[lane];
    else
        put(action, count, j->choices, made);
}

/* What the networks take for observations: in units of the network's own, or of what the learner has seen. */
INLINE void normalise(const program *p, const journey *j, int64_t learner, const vector *seen, vector *signals) {
    const network *n = j->actor;
    for (int64_t k = 0; k < p->observations; k++) {
        const int64_t at = learner * p->observations + k;
        signals[k * VECTORS] = j->mean ? clamp((seen[k] - all(j->mean[at])) / all(j->spread[at]), MOST)
                                       : (seen[k] - all(n->center[k])) * all(n->scale[k]);
    }
}

/* All steps of `count` environments of a learner, from environment `first` on. */
static void travel(const program *p, const journey *j, int64_t learner, int64_t first, int64_t count, vector *slots,
                   vector *signals, vector *seen, vector *next) {
    const int64_t states = p->states, sees = p->observations;
    const network *n = j->actor;
    const float *constants = j->constants + learner * j->width, limit = j->limits[learner * j->limit_stride];
    vector *action = slots + states, *numbers = action + p->actions, *own = numbers + p->draws;
    const vector *outputs = n ? signals + (units_of(n) - width_of(n)) * VECTORS : NULL;
    const int64_t at = learner * j->environments + first;
    vector elapsed = load_up_to(j->elapsed + at, count);
    for (int64_t c = 0; c < p->column_count; c++) own[c] = all(constants[p->columns[c]]);
    for (int64_t l = 0; l < p->literal_count; l++) own[p->column_count + l] = all(p->literals[l]);
    take(j->state + at * states, count, states, slots, 1);
    take(j->observation + at * sees, count, sees, seen, 1);
    const int32_t *reward = p->results + states, *ends = reward + 1, *sight = ends + 1, *glance = sight + sees;
    for (int64_t t = 0; t < j->steps; t++) {
        const int64_t row = (learner * j->steps + t) * j->environments + first;
        if (n) {
            normalise(p, j, learner, seen, signals);
            run_layers(n, learner, signals, 1);
        }
        char *made = j->made_actions;
        if (made != NULL) made += row * (j->discrete ? sizeof(int64_t) : sizeof(float) * j->choices);
        choose_action(j, learner, outputs, VECTORS, j->draws + row * j->choices, count, action, made);
        if (p->draws) take(j->numbers + row * p->draws, count, p->draws, numbers, 1);
        run(p->step, p->operations, slots, constants);
        elapsed += 1.0f;
        const vector terminated = slots[*ends];
        const mask ended = (terminated != all(0)) | (elapsed >= all(limit));
        if (j->observations != NULL) {
            put(seen, count, sees, j->observations + row * sees);
            put_slots(slots, sight, count, sees, j->finals + row * sees);
        }
        store_up_to(j->rewards + row, slots[*reward], count);
        int some = 0;
        for (int64_t lane = 0; lane < count; lane++) {
            j->terminated[row + lane] = terminated[lane] != 0;
            j->truncated[row + lane] = ended[lane] && terminated[lane] == 0;
            some |= ended[lane];
        }
        for (int64_t s = 0; s < states; s++) next[s] = slots[p->results[s]];
        if (some) {
            take(j->starts[t] + learner * j->starts_stride + first * states, count, states, seen, 1);
            for (int64_t s = 0; s < states; s++) slots[s] = choose(ended, seen[s], next[s]);
            elapsed = choose(ended, all(0), elapsed);
            run(p->glance, p->glances, slots, constants);
            for (int64_t k = 0; k < sees; k++) seen[k] = slots[glance[k]];
        } else {
            for (int64_t k = 0; k < sees; k++) seen[k] = slots[sight[k]];
            for (int64_t s = 0; s < states; s++) slots[s] = next[s];
        }
    }
    put(slots, count, states, j->state + at * states);
    put(seen, count, sees, j->observation + at * sees);
    store_up_to(j->elapsed + at, elapsed, count);
}

/* Rollouts of all learners. Threads are OpenMP's and change no result. Returns 1 where memory lacks. */
EXPORT int32_t learned_opt_rollout(const program *p, const journey *j, int32_t threads) {
    const int64_t units = j->actor ? units_of(j->actor) : 1;
    const int64_t wide = p->observations > p->states ? p->observations : p->states;
    int32_t failed = 0;
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        const size_t bytes = sizeof(vector) * (p->slots + units * VECTORS + wide + p->states);
        vector *slots = room_for(bytes);
        if (slots != NULL) memset(slots, 0, bytes);
        vector *signals = slots + p->slots, *seen = signals + units * VECTORS;
#pragma omp for schedule(dynamic)
        for (int64_t learner = 0; learner < j->learners; learner++) {
            if (slots == NULL) {
                __atomic_store_n(&failed, 1, __ATOMIC_RELAXED);
                continue;
            }
            for (int64_t first = 0; first < j->environments; first += LANES) {
                const int64_t left = j->environments - first;
                travel(p, j, learner, first, left < LANES ? left : LANES, slots, signals, seen, seen + wide);
            }
        }
        free(slots);
    }
    return failed;
}
