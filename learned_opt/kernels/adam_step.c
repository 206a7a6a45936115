/* One step of Adam (Kingma and Ba 2015) for all learners in one pass over memory: the equations of handcrafted.py. The
   moments have torch's bits, as each operation is rounded by itself, where float's normal range has them; below it they
   are 0. Updates agree to rounding. */

#include "vectors.h"

enum { NEGATIVE_LR, DECAY, ONE_LESS_DECAY, SQUARE_DECAY, ONE_LESS_SQUARE_DECAY, EPS, NUMBERS };

/* The moments (learners, coordinates) and the update after a step. Of each learner are given NUMBERS numbers; of each
   of its tensors, of `sizes` coordinates, how many steps it will have made. Threads change no result. */
EXPORT int32_t learned_opt_adam_step(const float *gradient, const float *old_mean, const float *old_square,
                                     const float *numbers, const float *steps, const int64_t *sizes,
                                     int64_t learners, int64_t tensors, int64_t coordinates, float *mean,
                                     float *square, float *update, int32_t threads) {
    (void)threads;
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        FLUSH_DENORMALS;
#pragma omp for schedule(static)
        for (int64_t learner = 0; learner < learners; learner++) {
            const float *of = numbers + learner * NUMBERS;
            int64_t at = learner * coordinates;
            float of_mean = 0, of_square = 0;
            for (int64_t tensor = 0; tensor < tensors; tensor++) {
                const float *step = steps + learner * tensors + tensor;
                if (tensor == 0 || *step != step[-1]) {
                    of_mean = of[NEGATIVE_LR] / (1 - powf(of[DECAY], *step));
                    of_square = 1 / (1 - powf(of[SQUARE_DECAY], *step));
                }
                const int64_t end = at + sizes[tensor];
                for (int64_t i = at; i < end; i += LANES) {
                    const int64_t count = end - i;
                    const vector g = load_up_to(gradient + i, count);
                    const vector m = of[DECAY] * load_up_to(old_mean + i, count) + of[ONE_LESS_DECAY] * g;
                    const vector v = of[SQUARE_DECAY] * load_up_to(old_square + i, count) + of[ONE_LESS_SQUARE_DECAY] * (g * g);
                    const vector root = root_of(at_least(v * of_square, 1.17549435e-38f));
                    store_up_to(mean + i, m, count);
                    store_up_to(square + i, v, count);
                    store_up_to(update + i, of_mean * m / (root + of[EPS]), count);
                }
                at = end;
            }
        }
    }
    return 0;
}
