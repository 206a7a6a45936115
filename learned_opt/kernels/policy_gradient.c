/* Policy gradients of several learners in closed form: advantages from rollouts, and the losses of A2C, PPO and
   REINFORCE, whose derivatives by networks' outputs are written out here, and go back through the networks without a
   graph. */

#include "mlp.h"

/* Rollouts of B learners, T steps of E environments each, of which advantages and λ-returns are to be told. Without a
   critic `values` are given, and every environment's last step ends an episode. */
typedef struct {
    const network *critic;
    int64_t learners, steps, environments, inner; /* of E environments, those of the inner loss come first */
    int64_t units_of_rewards;
    const float *observations, *finals; /* (B, T, E, S) */
    const float *rewards;
    const uint8_t *terminated, *truncated, *valid; /* (B, T, E); without `valid` all steps are */
    float *values, *advantages, *targets;          /* (B, T, E) */
    float *mean, *square, *weight;                 /* of returns, (B,); renewed in place */
    float *spread;                                 /* of returns then, (B,) */
    const float *numbers;                          /* discount, trace, decay, floor, tiny */
} experience;
enum { DISCOUNT, TRACE, DECAY, RATIO_FLOOR, TINY };

/* R steps of each of B learners, what their losses are, and where gradients go. The inner loss is of `count` rows, by
   number or the first ones, the outer one of `outer_count`. Without an outer actor there is no outer loss, without a
   critic no value loss, without `log_probs` the policy is the one that acted, without `values` their loss is not
   clipped, without `valid` all rows are. */
typedef struct {
    const network *actor, *outer_actor, *critic;
    int64_t learners, rows, count, outer_count, discrete, choices;
    int64_t normalize;               /* what is done with advantages */
    const int64_t *order;            /* (B, count), numbers from one learner's to the next's */
    int64_t order_stride;
    const int64_t *outer_order;      /* (outer_count,) */
    const float *observations;       /* (B, R, S) */
    const void *actions;             /* (B, R) 64-bit integers, or (B, R, choices) floats */
    const float *advantages, *log_probs, *targets, *values; /* (B, R) */
    const uint8_t *valid;            /* (B, R) */
    const float *divisor;            /* of advantages, (B,) */
    const float *log_std;            /* (B, choices), before they are bounded */
    float *by_log_std, *outer_by_log_std; /* (B, choices) */
    float *gradient, *norm, *divergence;  /* of the inner loss: (B, parameters), clipped; (B,) before that; (B,) */
    float *outer_gradient;
    int64_t parameters;
    const float *numbers;
} lesson;
enum { NOTHING, CENTRED, STANDARDIZED };
/* Coefficients of value loss and entropy, what gradients' norms are clipped to, clip ranges of ratios and values, bounds
   of the logarithms of deviations. */
enum { VALUE, ENTROPY, NORM, CLIP, CLIP_VALUES, LOG_STD_MIN, LOG_STD_MAX };

/* A learner's rows: their share of a mean, and advantages as weights of log probabilities in a loss. */
typedef struct {
    const float *shares, *weights, *actions, *log_probs, *targets, *values, *numbers;
    float *log_std;
    float by_entropy, clip;
    int64_t choices;
    vector *by_log_std, *divergence;
} rows_told;

INLINE vector load_of(const float *p, int64_t row, int64_t count, int v) {
    return load_up_to(p + row + v * LANES, count - v * LANES);
}

/* Derivative of a loss by log probabilities: weight times ratio, or nothing where the ratio is out of its clip range
   and would profit from going further (Schulman et al. 2017, equation 7). */
INLINE vector by_log_prob(const rows_told *r, int64_t row, int64_t count, int v, vector log_prob) {
    const vector weight = load_of(r->weights, row, count, v);
    if (r->log_probs == NULL) return weight;
    const vector log_ratio = clamp(log_prob - load_of(r->log_probs, row, count, v), 80);
    const vector ratio = exponential(log_ratio);
    *r->divergence += load_of(r->shares, row, count, v) * (ratio - 1.0f - log_ratio);
    const vector near = at_least(at_most(ratio, 1 + r->clip), 1 - r->clip);
    return choose(weight * ratio < weight * near, all(0), weight * ratio);
}

/* By logits: of log π, 1 of the action - p; of the entropy H, -p (log p + H). */
static void tell_logits(void *told, int64_t row, int64_t count, const vector *outputs, vector *by_outputs) {
    const rows_told *r = told;
    for (int v = 0; v < VECTORS; v++) {
        const vector action = load_of(r->actions, row, count, v);
        vector most = outputs[v], sum = {0}, entropy = {0}, log_prob = {0};
        for (int64_t k = 1; k < r->choices; k++)
            most = choose(outputs[k * VECTORS + v] > most, outputs[k * VECTORS + v], most);
        for (int64_t k = 0; k < r->choices; k++) {
            const vector e = exponential(at_least(outputs[k * VECTORS + v] - most, -80.0f));
            by_outputs[k * VECTORS + v] = e, sum += e;
        }
        const vector shift = most + logarithm(sum);
        for (int64_t k = 0; k < r->choices; k++) {
            const vector p = by_outputs[k * VECTORS + v] / sum, log_p = outputs[k * VECTORS + v] - shift;
            by_outputs[k * VECTORS + v] = p, entropy -= p * log_p;
            log_prob = choose(action == all((float)k), log_p, log_prob);
        }
        const vector slope = by_log_prob(r, row, count, v, log_prob);
        const vector by_entropy = all(r->by_entropy) * load_of(r->shares, row, count, v);
        for (int64_t k = 0; k < r->choices; k++) {
            const vector p = by_outputs[k * VECTORS + v], log_p = outputs[k * VECTORS + v] - shift;
            const vector taken = choose(action == all((float)k), all(1), all(0));
            by_outputs[k * VECTORS + v] = slope * (taken - p) + by_entropy * p * (log_p + entropy);
        }
    }
}

/* By means and logarithms of deviations: of log π, z / deviation, and z² - 1. */
static void tell_means(void *told, int64_t row, int64_t count, const vector *outputs, vector *by_outputs) {
    const rows_told *r = told;
    for (int v = 0; v < VECTORS; v++) {
        vector log_prob = {0};
        for (int64_t k = 0; k < r->choices; k++) {
            vector action = {0};
            for (int i = 0; i < LANES && v * LANES + i < count; i++)
                action[i] = r->actions[(row + v * LANES + i) * r->choices + k];
            const vector z = (action - outputs[k * VECTORS + v]) * expf(-r->log_std[k]);
            by_outputs[k * VECTORS + v] = z;
            log_prob -= 0.5f * z * z + (r->log_std[k] + 0.918938533f); /* log √(2π) */
        }
        const vector slope = by_log_prob(r, row, count, v, log_prob);
        for (int64_t k = 0; k < r->choices; k++) {
            const vector z = by_outputs[k * VECTORS + v];
            by_outputs[k * VECTORS + v] = slope * z * expf(-r->log_std[k]);
            r->by_log_std[k] += slope * (z * z - 1.0f);
        }
    }
}

/* By values: of their squared errors, or where they are clipped around older ones of the worse of two. */
static void tell_values(void *told, int64_t row, int64_t count, const vector *outputs, vector *by_outputs) {
    const rows_told *r = told;
    const float range = r->numbers[CLIP_VALUES];
    for (int v = 0; v < VECTORS; v++) {
        const vector error = outputs[v] - load_of(r->targets, row, count, v);
        vector by = 2 * r->numbers[VALUE] * load_of(r->shares, row, count, v) * error;
        if (r->values != NULL) {
            const vector away = outputs[v] - load_of(r->values, row, count, v);
            const vector clipped = error - away + clamp(away, range);
            by = choose((magnitude(away) > all(range)) & (clipped * clipped > error * error), all(0), by);
        }
        by_outputs[v] = by;
    }
}

/* Center and scale of a learner's values, as ReturnScale in advantages.py has them. */
static void units(const experience *x, int64_t learner, float *center, float *scale) {
    const float weight = x->weight[learner];
    const float mean = x->mean[learner] / fmaxf(weight, x->numbers[TINY]);
    const float spread = x->square[learner] / fmaxf(weight, x->numbers[TINY]) - mean * mean;
    *center = mean;
    *scale = weight > 0 ? sqrtf(spread < 0 ? 0 : spread) + x->numbers[RATIO_FLOOR] * fabsf(mean) + 1e-6f : 1;
    x->spread[learner] = *scale;
    if (x->units_of_rewards) *center = 0, *scale = 1;
}

/* Take in the returns of the inner loss's environments. */
static void observe(const experience *x, int64_t learner, const float *targets, const uint8_t *valid) {
    double sum = 0, squares = 0;
    int64_t count = 0;
    for (int64_t i = 0; i < x->steps * x->environments; i++)
        if (i % x->environments < x->inner && (valid == NULL || valid[i]))
            sum += targets[i], squares += (double)targets[i] * targets[i], count++;
    if (count == 0) return;
    const float keep = x->numbers[DECAY], fresh = 1 - keep;
    x->mean[learner] = keep * x->mean[learner] + fresh * (float)(sum / count);
    x->square[learner] = keep * x->square[learner] + fresh * (float)(squares / count);
    x->weight[learner] = keep * x->weight[learner] + fresh;
}

/* GAE(γ, λ) of one learner; `reached` and `next` have room for what every step led to. */
static void estimate(const experience *x, int64_t learner, float *reached, float *next, vector *room) {
    const int64_t copies = x->environments, rows = x->steps * copies, first = learner * rows;
    const uint8_t *terminated = x->terminated + first, *truncated = x->truncated + first;
    float *values = x->values + first, *advantages = x->advantages + first, *targets = x->targets + first;
    float center = 0, scale = 1;
    int64_t bootstrapped = 0;
    if (x->critic) {
        const int64_t sees = x->critic->layers->inputs;
        for (int64_t i = 0; i < rows; i++)
            if (truncated[i] || i >= rows - copies)
                memcpy(reached + bootstrapped++ * sees, x->finals + (first + i) * sees, sizeof(float) * sees);
        units(x, learner, &center, &scale);
        forward_rows(x->critic, learner, x->observations + first * sees, rows, values, room);
        forward_rows(x->critic, learner, reached, bootstrapped, next, room);
    }
    const float discount = x->numbers[DISCOUNT];
    for (int64_t i = rows - 1; i >= 0; i--) {
        const int last = i >= rows - copies, cut = x->critic && (truncated[i] || last);
        const float value = center + scale * values[i], alive = terminated[i] ? 0 : 1;
        const float trace = i % copies < x->inner ? x->numbers[TRACE] : 1;
        const float following = cut ? center + scale * next[--bootstrapped]
                                : last ? 0 : center + scale * values[i + copies];
        const float surprise = x->rewards[first + i] + discount * alive * following - value;
        const float later = last ? 0 : advantages[i + copies];
        advantages[i] = surprise + (terminated[i] || truncated[i] ? 0 : discount * trace) * later;
        targets[i] = advantages[i] + value;
    }
    if (x->critic == NULL) return;
    observe(x, learner, targets, x->valid ? x->valid + first : NULL);
    units(x, learner, &center, &scale);
    for (int64_t i = 0; i < rows; i++) targets[i] = (targets[i] - center) / scale;
}

/* Advantages of all learners. Threads are OpenMP's and change no result. Returns 1 where memory lacks. */
EXPORT int32_t learned_opt_advantages(const experience *x, int32_t threads) {
    const int64_t rows = x->steps * x->environments, sees = x->critic ? x->critic->layers->inputs : 0;
    const int64_t vectors = x->critic ? units_of(x->critic) * VECTORS : 0;
    int32_t failed = 0;
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        FLUSH_DENORMALS;
        vector *room = room_for(sizeof(vector) * (vectors + 1) + sizeof(float) * rows * (sees + 1));
        float *reached = (float *)(room + vectors);
#pragma omp for schedule(dynamic)
        for (int64_t learner = 0; learner < x->learners; learner++)
            if (room == NULL)
                __atomic_store_n(&failed, 1, __ATOMIC_RELAXED);
            else
                estimate(x, learner, reached, reached + rows * sees, room);
        free(room);
    }
    return failed;
}

/* Rollouts of B learners, T steps of E environments each, whose returns are to be fitted by features of S numbers. */
typedef struct {
    int64_t learners, steps, environments, sees;
    const float *observations, *returns; /* (B, T, E, S) and (B, T, E) */
    const uint8_t *alive;                /* (B, T, E), which steps count */
    float *values;                       /* (B, T, E) */
} fit;
#define TIMES 4        /* features of time alone */
#define CLIPPED 10.0f  /* what observations are clipped to as features */
#define RIDGE 1e-5

/* Features of a step: what is seen, its squares, and powers of time in hundreds of steps. */
static void describe(const fit *f, int64_t row, double *features) {
    const double time = (double)(row / f->environments % f->steps) / 100;
    for (int64_t k = 0; k < f->sees; k++) {
        const float x = f->observations[row * f->sees + k];
        features[k] = x > CLIPPED ? CLIPPED : x < -CLIPPED ? -CLIPPED : x; /* NaN stays */
        features[f->sees + k] = features[k] * features[k];
    }
    const double powers[TIMES] = {time, time * time, time * time * time, 1};
    memcpy(features + 2 * f->sees, powers, sizeof powers);
}

/* Solve n linear equations, rows of n + 1 numbers, by elimination; the solution goes to the last column. */
static void solve(double *rows, int64_t n) {
    const int64_t wide = n + 1;
    for (int64_t k = 0; k < n; k++) {
        int64_t best = k;
        for (int64_t i = k + 1; i < n; i++)
            if (fabs(rows[i * wide + k]) > fabs(rows[best * wide + k])) best = i;
        for (int64_t c = k; c < wide && best != k; c++) {
            const double kept = rows[k * wide + c];
            rows[k * wide + c] = rows[best * wide + c], rows[best * wide + c] = kept;
        }
        for (int64_t i = k + 1; i < n; i++) {
            const double factor = rows[i * wide + k] / rows[k * wide + k];
            for (int64_t c = k; c < wide; c++) rows[i * wide + c] -= factor * rows[k * wide + c];
        }
    }
    for (int64_t k = n - 1; k >= 0; k--) {
        for (int64_t c = k + 1; c < n; c++) rows[k * wide + n] -= rows[k * wide + c] * rows[c * wide + n];
        rows[k * wide + n] /= rows[k * wide + k];
    }
}

/* Values of all learners' steps by least squares of their returns. Threads are OpenMP's and change no result. Returns 1
   where memory lacks. */
EXPORT int32_t learned_opt_baseline(const fit *f, int32_t threads) {
    const int64_t n = 2 * f->sees + TIMES, count = f->steps * f->environments;
    int32_t failed = 0;
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        FLUSH_DENORMALS;
        double *features = room_for(sizeof(double) * (n + 1) * (n + 1)), *rows = features + n + 1;
#pragma omp for schedule(dynamic)
        for (int64_t learner = 0; learner < f->learners; learner++) {
            if (features == NULL) {
                __atomic_store_n(&failed, 1, __ATOMIC_RELAXED);
                continue;
            }
            memset(rows, 0, sizeof(double) * n * (n + 1));
            for (int64_t k = 0; k < n; k++) rows[k * (n + 1) + k] = RIDGE;
            for (int64_t row = learner * count; row < (learner + 1) * count; row++) {
                if (!f->alive[row]) continue;
                describe(f, row, features);
                features[n] = f->returns[row];
                for (int64_t k = 0; k < n; k++)
                    for (int64_t c = 0; c <= n; c++) rows[k * (n + 1) + c] += features[k] * features[c];
            }
            solve(rows, n);
            for (int64_t row = learner * count; row < (learner + 1) * count; row++) {
                double value = 0;
                if (f->alive[row]) describe(f, row, features);
                for (int64_t k = 0; f->alive[row] && k < n; k++) value += features[k] * rows[k * (n + 1) + n];
                f->values[row] = (float)value;
            }
        }
        free(features);
    }
    return failed;
}

/* Advantages as weights of log probabilities in a mean to be made less: normalised as they are to be. */
static void weigh(const lesson *l, int64_t learner, float *advantages, int64_t count) {
    double sum = 0, squares = 0;
    for (int64_t i = 0; i < count; i++) sum += advantages[i];
    const double mean = l->normalize == NOTHING ? 0 : sum / count;
    for (int64_t i = 0; i < count; i++) {
        advantages[i] = (float)(advantages[i] - mean);
        squares += (double)advantages[i] * advantages[i];
    }
    float scale = l->normalize == CENTRED ? l->divisor[learner] : 1;
    if (l->normalize == STANDARDIZED) scale = sqrtf((float)(squares / count)) + 1e-8f;
    for (int64_t i = 0; i < count; i++) advantages[i] *= -1 / (scale * count);
}

/* Floats that so many of a learner's rows take. */
INLINE int64_t floats_of(const lesson *l) {
    const int64_t most = l->outer_actor && l->outer_count > l->count ? l->outer_count : l->count;
    return most * (l->actor->layers->inputs + (l->discrete ? 1 : l->choices) + 5) + l->choices;
}

/* Clip a learner's gradient to its norm. */
static void clip(const lesson *l, int64_t learner) {
    float *gradient = l->gradient + learner * l->parameters;
    vector squares[4] = {0}; /* none waits for another */
    for (int64_t i = 0; i < l->parameters; i += 4 * LANES)
        for (int v = 0; v < 4; v++) {
            const vector x = load_up_to(gradient + i + v * LANES, l->parameters - i - v * LANES);
            squares[v] += x * x;
        }
    const float norm = sqrtf(total(squares[0] + squares[1] + squares[2] + squares[3]));
    const float factor = l->numbers[NORM] / (norm + 1e-6f);
    l->norm[learner] = norm;
    if (factor >= 1) return;
    for (int64_t i = 0; i < l->parameters; i++) gradient[i] *= factor;
}

/* The logarithm of a deviation within its bounds, and its slope: that of tanh is 1 - tanh². */
INLINE float bounded(const lesson *l, float raw, float *slope) {
    const float half = (l->numbers[LOG_STD_MAX] - l->numbers[LOG_STD_MIN]) / 2, middle = l->numbers[LOG_STD_MAX] - half;
    const float unit = tanhf((raw - middle) / half);
    *slope = 1 - unit * unit;
    return middle + half * unit;
}

/* Whether the inner loss is the outer one, of all rows in their order, less an entropy that outputs have no part in. */
static int is_outer(const lesson *l) {
    int alike = l->outer_actor && !l->critic && !l->log_probs && !l->order && l->outer_count == l->rows;
    for (int64_t i = 0; alike && i < l->rows; i++) alike = l->outer_order[i] == i;
    return alike && (!l->discrete || l->numbers[ENTROPY] == 0);
}

/* Gradients of one learner's inner loss where that is so, of those of the outer one. */
static void follow(const lesson *l, int64_t learner) {
    const int64_t at = learner * l->parameters;
    memcpy(l->gradient + at, l->outer_gradient + at, sizeof(float) * l->parameters);
    for (int64_t k = 0; k < l->choices && !l->discrete; k++) {
        float slope;
        bounded(l, l->log_std[at + k], &slope);
        l->by_log_std[at + k] -= l->numbers[ENTROPY] * slope;
    }
    l->divergence[learner] = 0;
    clip(l, learner);
}

/* Gradients of one learner's inner loss, or its outer one. Returns 2 where there is no row of some number. */
static int32_t teach(const lesson *l, int64_t learner, int outer, float *floats, vector *room) {
    const network *actor = outer ? l->outer_actor : l->actor;
    const int64_t count = outer ? l->outer_count : l->count, sees = actor->layers->inputs;
    const int64_t kept = l->discrete ? 1 : l->choices, first = learner * l->rows;
    const int64_t *order = outer ? l->outer_order : l->order ? l->order + learner * l->order_stride : NULL;
    float *seen = floats, *actions = seen + count * sees, *weights = actions + count * kept;
    float *shares = weights + count, *log_probs = shares + count, *targets = log_probs + count, *values = targets + count;
    float *gradient = (outer ? l->outer_gradient : l->gradient) + learner * l->parameters;
    int64_t rows = 0;
    memset(gradient, 0, sizeof(float) * l->parameters);
    for (int64_t i = 0; i < count; i++) {
        const int64_t row = order ? order[i] : i, at = first + row;
        if (row < 0 || row >= l->rows) return 2;
        if (l->valid && !l->valid[at]) continue;
        memcpy(seen + rows * sees, l->observations + at * sees, sizeof(float) * sees);
        if (l->discrete)
            actions[rows] = (float)((const int64_t *)l->actions)[at];
        else
            memcpy(actions + rows * kept, (const float *)l->actions + at * kept, sizeof(float) * kept);
        weights[rows] = l->advantages[at];
        if (l->log_probs) log_probs[rows] = l->log_probs[at];
        if (l->critic) targets[rows] = l->targets[at];
        if (l->values) values[rows] = l->values[at];
        rows++;
    }
    for (int64_t i = 0; i < rows; i++) shares[i] = 1.0f / rows;
    weigh(l, learner, weights, rows);

    vector *work = room + l->choices + 1;
    rows_told told = {.shares = shares, .weights = weights, .actions = actions, .targets = targets};
    told.log_probs = l->log_probs ? log_probs : NULL, told.values = l->values ? values : NULL;
    told.log_std = values + count, told.choices = l->choices, told.numbers = l->numbers;
    const int64_t at = learner * l->parameters;
    float slope;
    for (int64_t k = 0; k < l->choices && !l->discrete; k++) told.log_std[k] = bounded(l, l->log_std[at + k], &slope);
    told.by_entropy = outer ? 0 : l->numbers[ENTROPY], told.clip = outer ? INFINITY : l->numbers[CLIP];
    told.divergence = room, told.by_log_std = room + 1;
    memset(room, 0, sizeof(vector) * (l->choices + 1));
    return_rows(actor, learner, seen, rows, l->discrete ? tell_logits : tell_means, &told, work);
    for (int64_t k = 0; k < l->choices && !l->discrete; k++) {
        bounded(l, l->log_std[at + k], &slope);
        (outer ? l->outer_by_log_std : l->by_log_std)[at + k] = (total(told.by_log_std[k]) - told.by_entropy) * slope;
    }
    if (outer) return 0;
    l->divergence[learner] = total(*told.divergence);
    if (l->critic) return_rows(l->critic, learner, seen, rows, tell_values, &told, work);
    clip(l, learner);
    return 0;
}

/* Gradients of all learners. Threads are OpenMP's and change no result. Returns 1 where memory lacks, 2 where there is
   no row of some number. */
EXPORT int32_t learned_opt_policy_gradient(const lesson *l, int32_t threads) {
    int64_t vectors = room_to_return(l->actor);
    if (l->critic && room_to_return(l->critic) > vectors) vectors = room_to_return(l->critic);
    vectors += l->choices + 1;
    const int alike = is_outer(l);
    int32_t failed = 0;
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        FLUSH_DENORMALS;
        vector *room = room_for(sizeof(vector) * vectors + sizeof(float) * floats_of(l));
#pragma omp for schedule(dynamic)
        for (int64_t learner = 0; learner < l->learners; learner++)
            for (int outer = l->outer_actor ? 1 : 0; outer >= 0; outer--) {
                int32_t wrong = 0;
                if (!outer && alike)
                    follow(l, learner);
                else
                    wrong = room ? teach(l, learner, outer, (float *)(room + vectors), room) : 1;
                if (wrong) __atomic_store_n(&failed, wrong, __ATOMIC_RELAXED);
            }
        free(room);
    }
    return failed;
}
