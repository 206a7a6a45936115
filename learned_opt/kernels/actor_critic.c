/* Inner and outer gradients of several advantage actor-critics in closed form: the losses of actor_critic.py, whose
   derivatives by networks' outputs are written out here, and go back through the networks without a graph.

   Each learner's rows are put in order first: those of the inner loss's environments, then the outer's, T steps each. */

#include "mlp.h"

/* Rollouts of B learners, T steps of E environments each, and where gradients go. `outer_actor` is `actor` with other places for derivatives, or NULL. */
typedef struct {
    const network *actor, *outer_actor, *critic;
    int64_t learners, steps, environments, inner; /* of E environments, those of the inner loss come first */
    int64_t discrete, choices, units_of_rewards, own_deviation;
    const float *observations, *finals; /* (B, T, E, S) */
    const void *actions;                /* (B, T, E) 64-bit integers, or (B, T, E, choices) floats */
    const float *rewards;
    const uint8_t *terminated, *truncated;  /* (B, T, E) */
    const float *log_std;                   /* (B, choices) */
    float *by_log_std, *outer_by_log_std;   /* (B, choices) */
    float *mean, *square, *weight;          /* of returns, (B,); renewed in place */
    const float *numbers;                   /* discount, trace, decay, floor, value and entropy coefficients, tiny */
} lesson;
enum { DISCOUNT, TRACE, DECAY, RATIO_FLOOR, VALUE, ENTROPY, TINY };

/* What a learner's rows are weighed by: each row's share of the loss per unit of log probability, and targets. */
typedef struct {
    const float *weights, *actions, *targets, *log_std;
    float by_value, by_entropy;
    int64_t choices;
    vector *by_log_std;
} rows_told;

INLINE vector load_of(const float *p, int64_t row, int64_t count, int v) {
    return load_up_to(p + row + v * LANES, count - v * LANES);
}

/* By logits: weight (1 of the action - p), and of the entropy H, weight p (log p + H). */
static void tell_logits(void *told, int64_t row, int64_t count, const vector *outputs, vector *by_outputs) {
    const rows_told *r = told;
    for (int v = 0; v < VECTORS; v++) {
        const vector weight = load_of(r->weights, row, count, v), action = load_of(r->actions, row, count, v);
        vector most = outputs[v], sum = {0}, entropy = {0};
        for (int64_t k = 1; k < r->choices; k++)
            most = choose(outputs[k * VECTORS + v] > most, outputs[k * VECTORS + v], most);
        for (int64_t k = 0; k < r->choices; k++) {
            const vector e = exponential(at_least(outputs[k * VECTORS + v] - most, -80.0f));
            by_outputs[k * VECTORS + v] = e, sum += e;
        }
        const vector shift = most + logarithm(sum);
        for (int64_t k = 0; k < r->choices; k++) {
            const vector p = by_outputs[k * VECTORS + v] / sum;
            by_outputs[k * VECTORS + v] = p, entropy -= p * (outputs[k * VECTORS + v] - shift);
        }
        vector by_entropy = {0};
        for (int i = 0; i < LANES && v * LANES + i < count; i++) by_entropy[i] = r->by_entropy;
        for (int64_t k = 0; k < r->choices; k++) {
            const vector p = by_outputs[k * VECTORS + v], log_p = outputs[k * VECTORS + v] - shift;
            const vector taken = choose(action == all((float)k), all(1), all(0));
            by_outputs[k * VECTORS + v] = weight * (taken - p) + by_entropy * p * (log_p + entropy);
        }
    }
}

/* By means and logarithms of deviations: weight z / deviation, and weight (z² - 1). */
static void tell_means(void *told, int64_t row, int64_t count, const vector *outputs, vector *by_outputs) {
    const rows_told *r = told;
    for (int64_t k = 0; k < r->choices; k++) {
        const float factor = expf(-r->log_std[k]);
        for (int v = 0; v < VECTORS; v++) {
            const vector weight = load_of(r->weights, row, count, v);
            vector action = {0};
            for (int i = 0; i < LANES && v * LANES + i < count; i++)
                action[i] = r->actions[(row + v * LANES + i) * r->choices + k];
            const vector z = (action - outputs[k * VECTORS + v]) * factor;
            by_outputs[k * VECTORS + v] = weight * z * factor;
            r->by_log_std[k] += weight * (z * z - 1.0f);
        }
    }
}

/* By values. */
static void tell_values(void *told, int64_t row, int64_t count, const vector *outputs, vector *by_outputs) {
    const rows_told *r = told;
    for (int v = 0; v < VECTORS; v++) {
        const vector target = load_of(r->targets, row, count, v);
        vector by = {0};
        for (int i = 0; i < LANES && v * LANES + i < count; i++) by[i] = r->by_value;
        by_outputs[v] = by * (outputs[v] - target);
    }
}

/* Center and scale of a learner's values, as ReturnScale in advantages.py has them. */
static void units(const lesson *l, int64_t learner, float *center, float *scale) {
    const float weight = l->weight[learner];
    const float mean = l->mean[learner] / fmaxf(weight, l->numbers[TINY]);
    const float spread = l->square[learner] / fmaxf(weight, l->numbers[TINY]) - mean * mean;
    *center = mean;
    *scale = weight > 0 ? sqrtf(spread < 0 ? 0 : spread) + l->numbers[RATIO_FLOOR] * fabsf(mean) + 1e-6f : 1;
}

/* Mean over rows, and of their squares. */
static void moments(const float *rows, int64_t count, float *mean, float *square) {
    double sum = 0, squares = 0;
    for (int64_t i = 0; i < count; i++) sum += rows[i], squares += (double)rows[i] * rows[i];
    *mean = (float)(sum / count), *square = (float)(squares / count);
}

/* Advantages as weights of log probabilities in a mean to be made less: centred, over a scale or their deviation. */
static void weigh(float *advantages, int64_t count, const float *scale) {
    double sum = 0, squares = 0;
    for (int64_t i = 0; i < count; i++) sum += advantages[i];
    const float mean = (float)(sum / count);
    for (int64_t i = 0; i < count; i++) {
        advantages[i] -= mean;
        squares += (double)advantages[i] * advantages[i];
    }
    const float divisor = scale ? *scale : sqrtf((float)(squares / count)) + 1e-8f;
    for (int64_t i = 0; i < count; i++) advantages[i] *= -1 / (divisor * count);
}

/* Floats that a learner's rows take: observations in order and reached, values of both, advantages, targets, actions. */
INLINE int64_t floats_of(const lesson *l) {
    const int64_t kept = l->discrete ? 1 : l->choices, sees = l->critic->layers->inputs;
    return l->steps * l->environments * (2 * sees + 4 + kept + 1);
}

/* Both gradients of one learner. */
static void teach(const lesson *l, int64_t learner, float *floats, vector *room) {
    const int64_t steps = l->steps, all_copies = l->environments, rows = steps * all_copies;
    const int64_t inner_rows = steps * l->inner, outer_rows = rows - inner_rows, sees = l->critic->layers->inputs;
    const int64_t kept = l->discrete ? 1 : l->choices;
    float *seen = floats, *reached = seen + rows * sees, *values = reached + rows * sees, *next = values + rows;
    float *advantages = next + rows, *targets = advantages + rows, *actions = targets + rows;
    int32_t *place = (int32_t *)(actions + rows * kept);
    const float *observations = l->observations + learner * rows * sees, *finals = l->finals + learner * rows * sees;
    const float *rewards = l->rewards + learner * rows;
    const uint8_t *terminated = l->terminated + learner * rows, *truncated = l->truncated + learner * rows;

    int64_t bootstrapped = 0;
    for (int64_t t = 0; t < steps; t++)
        for (int64_t e = 0; e < all_copies; e++) {
            const int64_t i = t * all_copies + e, outer = e - l->inner;
            const int64_t to = outer < 0 ? t * l->inner + e : inner_rows + t * (all_copies - l->inner) + outer;
            place[i] = (int32_t)to;
            memcpy(seen + to * sees, observations + i * sees, sizeof(float) * sees);
            if (l->discrete)
                actions[to] = (float)((const int64_t *)l->actions)[learner * rows + i];
            else
                memcpy(actions + to * kept, (const float *)l->actions + (learner * rows + i) * kept,
                       sizeof(float) * kept);
            if (truncated[i] || t == steps - 1)
                memcpy(reached + bootstrapped++ * sees, finals + i * sees, sizeof(float) * sees);
        }
    float center, scale;
    units(l, learner, &center, &scale);
    if (l->units_of_rewards) center = 0, scale = 1;
    forward_rows(l->critic, learner, seen, rows, values, room);
    forward_rows(l->critic, learner, reached, bootstrapped, next, room);
    for (int64_t i = rows - 1; i >= 0; i--) {
        const int64_t at = place[i], after = i + all_copies < rows ? place[i + all_copies] : at;
        const int cut = truncated[i] || i + all_copies >= rows, ended = terminated[i] || truncated[i];
        values[at] = center + scale * values[at];
        const float following = cut ? center + scale * next[--bootstrapped] : values[after];
        const float trace = at < inner_rows ? l->numbers[TRACE] : 1, discount = l->numbers[DISCOUNT];
        const float alive = terminated[i] ? 0 : 1, surprise = rewards[i] + discount * alive * following - values[at];
        const float later = i + all_copies < rows ? advantages[after] : 0;
        advantages[at] = surprise + (ended ? 0 : discount * trace) * later;
        targets[at] = advantages[at] + values[at];
    }
    float mean, square;
    const float decay = l->numbers[DECAY];
    moments(targets, inner_rows, &mean, &square);
    l->mean[learner] = decay * l->mean[learner] + (1 - decay) * mean;
    l->square[learner] = decay * l->square[learner] + (1 - decay) * square;
    l->weight[learner] = decay * l->weight[learner] + (1 - decay);
    units(l, learner, &center, &scale);
    const float *divisor = l->own_deviation ? NULL : &scale;
    weigh(advantages, inner_rows, divisor);
    if (l->outer_actor) weigh(advantages + inner_rows, outer_rows, divisor);
    const float unit = l->units_of_rewards ? 1 : scale, zero = l->units_of_rewards ? 0 : center;
    for (int64_t i = 0; i < inner_rows; i++) targets[i] = (targets[i] - zero) / unit;

    slopes_of *tell = l->discrete ? tell_logits : tell_means;
    rows_told told = {.weights = advantages, .actions = actions, .targets = targets, .choices = l->choices};
    told.log_std = l->discrete ? NULL : l->log_std + learner * l->choices;
    told.by_value = 2 * l->numbers[VALUE] / inner_rows, told.by_entropy = l->numbers[ENTROPY] / inner_rows;
    told.by_log_std = room;
    vector *work = room + l->choices;
    for (int part = 0; part < (l->outer_actor ? 2 : 1); part++) {
        memset(told.by_log_std, 0, sizeof(vector) * l->choices);
        if (part) told.weights += inner_rows, told.actions += inner_rows * kept, told.by_entropy = 0;
        return_rows(part ? l->outer_actor : l->actor, learner, part ? seen + inner_rows * sees : seen,
                    part ? outer_rows : inner_rows, tell, &told, work);
        float *by_log_std = part ? l->outer_by_log_std : l->by_log_std;
        for (int64_t k = 0; k < l->choices && !l->discrete; k++)
            by_log_std[learner * l->choices + k] = total(told.by_log_std[k]) - (part ? 0 : l->numbers[ENTROPY]);
    }
    return_rows(l->critic, learner, seen, inner_rows, tell_values, &told, work);
}

/* Both gradients of all learners. Threads are OpenMP's and change no result. Returns 1 where memory lacks. */
EXPORT int32_t learned_opt_actor_critic(const lesson *l, int32_t threads) {
    int64_t vectors = room_to_return(l->actor);
    if (room_to_return(l->critic) > vectors) vectors = room_to_return(l->critic);
    int32_t failed = 0;
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        vector *room = room_for(sizeof(vector) * (vectors + l->choices) + sizeof(float) * floats_of(l));
#pragma omp for schedule(dynamic)
        for (int64_t learner = 0; learner < l->learners; learner++)
            if (room == NULL)
                __atomic_store_n(&failed, 1, __ATOMIC_RELAXED);
            else
                teach(l, learner, (float *)(room + vectors + l->choices), room);
        free(room);
    }
    return failed;
}
