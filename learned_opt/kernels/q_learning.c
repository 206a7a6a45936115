/* Updates of several deep Q-networks in closed form: what dqn.py does of a rollout and its replay, where the derivative of
   the loss by the values of the actions taken is written out.

   A transition is packed as 2 S + 4 floats: an observation of S numbers, the one it led to, action, reward, whether that
   ended the episode, and weight. */

#include "mlp.h"

#define MOST 10.0f /* normalised observations and rewards are clipped to it, as in normalization.py */

/* B learners, rollouts of T steps of E environments, of which the `inner` first ones are remembered; R transitions are
   drawn of the C that the replay holds. */
typedef struct {
    const network *values, *outer, *targets; /* the first two tell where derivatives go; `outer` may be NULL */
    int64_t learners, steps, environments, inner, choices, parameters, rows, held, written;
    const float *observations, *following; /* (B, T, E, S) */
    const int64_t *actions;                /* (B, T, E) */
    const float *rewards;
    const uint8_t *terminated, *valid; /* (B, T, E); all are valid if NULL */
    float *replay;                     /* (B, C, 2 S + 4) */
    const int64_t *stored;             /* (B,), of those written there, since learners began */
    const float *draws;                /* (B, R), uniform */
    const float *theta;                /* (B, N) */
    float *target, *gradient, *outer_gradient, *norm; /* (B, N) each and (B,) */
    const float *mean, *spread;        /* (B, S), by which observations are normalised, or NULL */
    const float *unit;                 /* (B,), by which rewards are divided, or NULL */
    const float *numbers;
} lesson;
enum { DISCOUNT, TAU, MOST_NORM };

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

/* Derivatives by a learner's networks of the loss of the transitions at some places. */
static void learn(const lesson *l, int64_t learner, const network *n, const float *transitions, const int64_t *places,
                  int64_t rows, float *floats, vector *room) {
    const int64_t sees = n->layers->inputs, choices = l->choices, pitch = 2 * sees + 4;
    float *seen = floats, *following = seen + rows * sees, *ahead = following + rows * sees;
    float *shares = ahead + rows * choices, *actions = shares + rows, *goals = actions + rows, weight = 0;
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
    network own = *n, targets = *l->targets;
    if (l->mean) own.center = own.scale = targets.center = targets.scale = NULL; /* two units that cancel */
    forward_rows(&targets, learner, following, rows, ahead, room);
    for (int64_t row = 0; row < rows; row++) {
        const float *values = ahead + row * choices;
        float most = values[0];
        for (int64_t k = 1; k < choices; k++) most = values[k] > most || values[k] != values[k] ? values[k] : most;
        if (!transitions[places[row] * pitch + 2 * sees + 2]) goals[row] += l->numbers[DISCOUNT] * most;
        shares[row] /= fmaxf(weight, 1);
    }
    rows_told told = {shares, actions, goals, choices};
    return_rows(&own, learner, seen, rows, tell_values, &told, room);
}

/* Floats that a learner's work takes: its rollout packed; and of the rows of a loss both observations, target values,
   shares, actions and goals. Places come after them. */
INLINE int64_t most_rows(const lesson *l) {
    const int64_t fresh = l->steps * l->environments;
    return fresh > l->rows ? fresh : l->rows;
}
INLINE int64_t floats_of(const lesson *l) {
    const int64_t sees = l->values->layers->inputs;
    return l->steps * l->environments * (2 * sees + 4) + most_rows(l) * (2 * sees + l->choices + 3);
}

/* One learner's update: its target, its replay and its gradients. */
static void teach(const lesson *l, int64_t learner, float *fresh, int64_t *places, vector *room) {
    const int64_t sees = l->values->layers->inputs, pitch = 2 * sees + 4, count = l->steps * l->environments;
    float *floats = fresh + count * pitch, *replay = l->replay + learner * l->held * pitch;
    const int64_t stored = l->stored[learner], now = stored + l->steps * l->inner;
    for (int64_t i = learner * l->parameters; i < (learner + 1) * l->parameters; i++)
        l->target[i] = stored ? l->target[i] + l->numbers[TAU] * (l->theta[i] - l->target[i]) : l->theta[i];
    int64_t outer = 0, to = l->written;
    memset(l->gradient + learner * l->parameters, 0, sizeof(float) * l->parameters);
    memset(l->outer_gradient + learner * l->parameters, 0, sizeof(float) * l->parameters);
    for (int64_t i = 0; i < count; i++) {
        const int64_t at = learner * count + i;
        float *met = fresh + i * pitch, *told = met + 2 * sees;
        memcpy(met, l->observations + at * sees, sizeof(float) * sees);
        memcpy(met + sees, l->following + at * sees, sizeof(float) * sees);
        told[0] = (float)l->actions[at], told[1] = l->rewards[at], told[2] = l->terminated[at];
        told[3] = l->valid ? l->valid[at] : 1;
        if (i % l->environments < l->inner)
            memcpy(replay + to++ % l->held * pitch, met, sizeof(float) * pitch);
        else
            places[outer++] = i;
    }
    if (l->outer) learn(l, learner, l->outer, fresh, places, outer, floats, room);
    const int64_t held = now < l->held ? now : l->held, first = (l->written - stored) % l->held + l->held;
    for (int64_t row = 0; row < l->rows; row++) {
        const int64_t drawn = (int64_t)(l->draws[learner * l->rows + row] * (float)held);
        places[row] = (first + (drawn < held ? drawn : held - 1)) % l->held;
        __builtin_prefetch(replay + places[row] * pitch);
    }
    learn(l, learner, l->values, replay, places, l->rows, floats, room);
    float *gradient = l->gradient + learner * l->parameters;
    double square = 0;
    for (int64_t i = 0; i < l->parameters; i++) square += (double)gradient[i] * gradient[i];
    const float norm = (float)sqrt(square), share = l->numbers[MOST_NORM] / (norm + 1e-6f);
    l->norm[learner] = norm;
    for (int64_t i = 0; i < l->parameters; i++) gradient[i] *= share > 1 ? 1 : share;
}

/* Updates of all learners. Threads are OpenMP's and change no result. Returns 1 where memory lacks. */
EXPORT int32_t learned_opt_q_learning(const lesson *l, int32_t threads) {
    const int64_t vectors = room_to_return(l->values), floats = (floats_of(l) + 1) / 2 * 2;
    int32_t failed = 0;
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        FLUSH_DENORMALS;
        vector *room = room_for(sizeof(vector) * vectors + sizeof(float) * floats + sizeof(int64_t) * most_rows(l));
        float *after = (float *)(room + vectors);
#pragma omp for schedule(dynamic)
        for (int64_t learner = 0; learner < l->learners; learner++)
            if (room == NULL)
                __atomic_store_n(&failed, 1, __ATOMIC_RELAXED);
            else
                teach(l, learner, after, (int64_t *)(after + floats), room);
        free(room);
    }
    return failed;
}
