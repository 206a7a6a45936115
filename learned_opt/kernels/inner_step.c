/* The end of a step of inner training, for all learners in one pass over memory: who moves, and who has diverged, as
   inner_step.py has it. */

#include "vectors.h"

/* Parameters (learners, coordinates) plus their update, but as they were for those who have diverged: before, as
   `diverged` says, or now, as it says then. Without an update nothing moves. Of `metrics` there are `count` of each
   learner, one metric's after the other's. Threads change no result. */
EXPORT int32_t learned_opt_advance(const float *parameters, const float *update, const float *gradient,
                                   const float *metrics, int64_t count, int64_t learners, int64_t coordinates,
                                   float largest, float *moved, uint8_t *diverged, int32_t threads) {
    (void)threads;
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        FLUSH_DENORMALS;
#pragma omp for schedule(static)
        for (int64_t learner = 0; learner < learners; learner++) {
            const int64_t first = learner * coordinates, end = first + coordinates;
            const vector limit = all(largest);
            mask sound = ~(mask){0};
            for (int64_t i = first; i < end; i += LANES) {
                vector x = load_up_to(parameters + i, end - i);
                if (update) x += load_up_to(update + i, end - i), store_up_to(moved + i, x, end - i);
                sound &= (magnitude(x) <= limit) & (magnitude(load_up_to(gradient + i, end - i)) <= limit);
            }
            for (int i = 0; i < LANES; i++) diverged[learner] |= !sound[i];
            for (int64_t i = 0; i < count; i++) diverged[learner] |= !isfinite(metrics[i * learners + learner]);
            if (update && diverged[learner]) memcpy(moved + first, parameters + first, sizeof(float) * coordinates);
        }
    }
    return 0;
}
