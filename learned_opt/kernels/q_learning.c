/* Gradients of several deep Q-networks in closed form: the loss of dqn.py on transitions that are gathered from among
   those kept, with its derivative by the values of the actions taken written out here. */

#include "mlp.h"

#define MOST 10.0f /* normalised observations and rewards are clipped to it, as in normalization.py */

/* B learners, R transitions each of the C that are kept, S numbers of an observation. */
typedef struct {
    const network *values, *targets; /* the first tells where derivatives go */
    int64_t learners, rows, kept, choices;
    const int64_t *places;      /* of transitions among those kept, (B, R) */
    const float *transitions;   /* (B, C, 2 S + 4): observation, the following one, action, reward, end, weight */
    const float *mean, *spread; /* (B, S), by which observations are normalised, or NULL */
    const float *unit;          /* (B,), by which rewards are divided, or NULL */
    const float *discount;
} lesson;

/* What a learner's rows are weighed by, what was done there, and what it should be worth. */
typedef struct {
    const float *shares, *actions, *goals;
    int64_t choices;
} rows_told;

/* By the values of the actions taken: the error within [-1, 1], which the Huber loss makes of it. */
static void tell_values(void *told, int64_t row, int64_t count, const vector *outputs, vector *by_outputs) {
    const rows_told *r = told;
    for (int v = 0; v < VECTORS; v++) {
        const int64_t from = row + v * LANES, left = count - v * LANES;
        const vector share = load_up_to(r->shares + from, left), action = load_up_to(r->actions + from, left);
        vector value = all(0);
        for (int64_t k = 0; k < r->choices; k++) value = choose(action == all((float)k), outputs[k * VECTORS + v], value);
        const vector error = clamp(value - load_up_to(r->goals + from, left), 1);
        const vector by = choose(share > all(0), share * error, all(0));
        for (int64_t k = 0; k < r->choices; k++)
            by_outputs[k * VECTORS + v] = choose(action == all((float)k), by, all(0));
    }
}

/* NaN stays NaN. */
INLINE float within(float x, float limit) { return x > limit ? limit : x < -limit ? -limit : x; }

/* Floats that a learner's rows take: both observations, target values, shares, actions and goals. */
INLINE int64_t floats_of(const lesson *l) { return l->rows * (2 * l->values->layers->inputs + l->choices + 3); }

/* The gradient of one learner. Returns 1 where a place is none. */
static int32_t teach(const lesson *l, int64_t learner, float *floats, vector *room) {
    const int64_t rows = l->rows, sees = l->values->layers->inputs, choices = l->choices, pitch = 2 * sees + 4;
    const float *transitions = l->transitions + learner * l->kept * pitch;
    const int64_t *places = l->places + learner * rows;
    float *seen = floats, *following = seen + rows * sees, *ahead = following + rows * sees;
    float *shares = ahead + rows * choices, *actions = shares + rows, *goals = actions + rows, weight = 0;
    for (int64_t row = 0; row < rows; row++) {
        if (places[row] < 0 || places[row] >= l->kept) return 1;
        __builtin_prefetch(transitions + places[row] * pitch);
    }
    for (int64_t row = 0; row < rows; row++) {
        const float *met = transitions + places[row] * pitch, *told = met + 2 * sees;
        memcpy(seen + row * sees, met, sizeof(float) * sees);
        memcpy(following + row * sees, met + sees, sizeof(float) * sees);
        actions[row] = told[0], shares[row] = told[3], weight += told[3];
        goals[row] = l->unit ? within(told[1] / l->unit[learner], MOST) : told[1];
    }
    for (int64_t row = 0; l->mean && row < 2 * rows; row++)
        for (int64_t k = 0; k < sees; k++) {
            float *x = seen + row * sees + k;
            *x = within((*x - l->mean[learner * sees + k]) / l->spread[learner * sees + k], MOST);
        }
    forward_rows(l->targets, learner, following, rows, ahead, room);
    for (int64_t row = 0; row < rows; row++) {
        const float *values = ahead + row * choices, terminated = transitions[places[row] * pitch + 2 * sees + 2];
        float most = values[0];
        for (int64_t k = 1; k < choices; k++) most = values[k] > most || values[k] != values[k] ? values[k] : most;
        if (!terminated) goals[row] += *l->discount * most;
        shares[row] /= fmaxf(weight, 1);
    }
    rows_told told = {shares, actions, goals, choices};
    return_rows(l->values, learner, seen, rows, tell_values, &told, room);
    return 0;
}

/* Gradients of all learners. Threads are OpenMP's and change no result.
   Returns 1 where memory lacks, 2 where a place is none. */
EXPORT int32_t learned_opt_q_learning(const lesson *l, int32_t threads) {
    const int64_t vectors = room_to_return(l->values);
    int32_t failed = 0;
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        vector *room = room_for(sizeof(vector) * vectors + sizeof(float) * floats_of(l));
#pragma omp for schedule(dynamic)
        for (int64_t learner = 0; learner < l->learners; learner++)
            if (room == NULL || teach(l, learner, (float *)(room + vectors), room))
                __atomic_store_n(&failed, room == NULL ? 1 : 2, __ATOMIC_RELAXED);
        free(room);
    }
    return failed;
}
