/* Stacked perceptrons of several learners, forward and backward: the same equations as mlp.py, for float32. */

#include "mlp.h"

/* Outputs (learners, rows, width) of observations (learners, rows, inputs). Threads are OpenMP's and change no result.
   Returns 1 where memory lacks. */
EXPORT int32_t learned_opt_perceptron(const network *n, const float *observations, int64_t learners, int64_t rows,
                                      float *outputs, int32_t threads) {
    const int64_t taken = rows * n->layers->inputs, given = rows * width_of(n);
    int32_t failed = 0;
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        FLUSH_DENORMALS;
        vector *signals = room_for(sizeof(vector) * VECTORS * units_of(n));
#pragma omp for schedule(dynamic)
        for (int64_t learner = 0; learner < learners; learner++)
            if (signals == NULL)
                __atomic_store_n(&failed, 1, __ATOMIC_RELAXED);
            else
                forward_rows(n, learner, observations + learner * taken, rows, outputs + learner * given, signals);
        free(signals);
    }
    return failed;
}

typedef struct {
    const float *rows;
    int64_t width;
} given;

static void tell_given(void *told, int64_t row, int64_t count, const vector *outputs, vector *by_outputs) {
    const given *g = told;
    (void)outputs;
    read_rows(g->rows + row * g->width, count, g->width, NULL, NULL, by_outputs);
}

/* Derivatives by weights and biases, where the layers say, of those by the outputs (learners, rows, width). */
EXPORT int32_t learned_opt_perceptron_return(const network *n, const float *observations, int64_t learners,
                                             int64_t rows, const float *by_outputs, int32_t threads) {
    const int64_t inputs = n->layers->inputs, width = width_of(n);
    int32_t failed = 0;
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        FLUSH_DENORMALS;
        vector *room = room_for(sizeof(vector) * room_to_return(n));
#pragma omp for schedule(dynamic)
        for (int64_t learner = 0; learner < learners; learner++) {
            if (room == NULL) {
                __atomic_store_n(&failed, 1, __ATOMIC_RELAXED);
                continue;
            }
            given told = {by_outputs + learner * rows * width, width};
            return_rows(n, learner, observations + learner * rows * inputs, rows, tell_given, &told, room);
        }
        free(room);
    }
    return failed;
}
