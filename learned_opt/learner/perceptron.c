/* Stacked perceptrons: one network for each of several learners, all of one architecture, forward and backward.

   The same equations as perceptron.py, for float32 on the CPU. Rows of observations are a vector's lanes; they go
   through all layers in blocks of BLOCK, so that what stands between layers stays in the cache. The backward pass
   runs forward again instead of remembering, and adds up the products of a layer's derivatives and inputs for CHUNK
   blocks at a time, lane by lane. */

#include "../vectors.h"

#define CHUNK 4 /* blocks whose products are added up together */
#if defined(__AVX512F__)
#define SUMS 16 /* that registers hold beside what is added to them */
#else
#define SUMS 8
#endif
#define TANH 0 /* of the activations; the other is relu */

/* A layer of all learners, field for field the record of perceptron.py: (outputs, inputs) weights and (outputs,)
   biases, floats from one learner's to the next's, and where derivatives go, those of learners next to each other. */
typedef struct {
    const float *weight, *bias;
    float *by_weight, *by_bias;
    int64_t weight_stride, bias_stride, inputs, outputs;
} layer;

/* Outputs of a few units of a layer for `vectors` vectors of rows. */
INLINE void few_units(const float *weight, const float *bias, int64_t inputs, const vector *in, vector *out,
                      const int units, const int vectors) {
    vector sum[SUMS][VECTORS];
    for (int u = 0; u < units; u++)
        for (int v = 0; v < vectors; v++) sum[u][v] = all(bias[u]);
    for (int64_t k = 0; k < inputs; k++)
        for (int u = 0; u < units; u++)
            for (int v = 0; v < vectors; v++) sum[u][v] += weight[u * inputs + k] * in[k * VECTORS + v];
    for (int u = 0; u < units; u++)
        for (int v = 0; v < vectors; v++) out[u * VECTORS + v] = sum[u][v];
}

/* One layer; units are taken so many at a time that their sums fill the registers. */
INLINE void one_layer(const layer *l, const float *weight, const float *bias, const vector *in, vector *out,
                      const int vectors) {
    const int many = SUMS / vectors;
    int64_t unit = 0;
    for (; unit + many <= l->outputs; unit += many)
        few_units(weight + unit * l->inputs, bias + unit, l->inputs, in, out + unit * VECTORS, many, vectors);
    for (; unit < l->outputs; unit++)
        few_units(weight + unit * l->inputs, bias + unit, l->inputs, in, out + unit * VECTORS, 1, vectors);
}

INLINE void activate(vector *x, int64_t units, int activation, const int vectors) {
    for (int64_t u = 0; u < units; u++)
        for (int v = 0; v < vectors; v++) {
            vector *y = x + u * VECTORS + v;
            if (activation == TANH) {
                const vector e = exponential(clamp(2.0f * *y, 28.0f));
                *y = 1.0f - 2.0f * reciprocal(1.0f + e);
            } else
                *y = choose(*y < all(0), all(0), *y); /* NaN stays */
        }
}

/* Rows [0, count) of (count, columns) floats as lanes: column k's are vectors k * VECTORS and on. */
static void read_rows(const float *rows, int64_t count, int64_t columns, const float *center, const float *scale,
                      vector *out) {
    float *lane = (float *)out;
    memset(out, 0, sizeof(vector) * VECTORS * columns);
    for (int64_t row = 0; row < count; row++)
        for (int64_t k = 0; k < columns; k++)
            lane[k * BLOCK + row] =
                center == NULL ? rows[row * columns + k] : (rows[row * columns + k] - center[k]) * scale[k];
}

/* All layers of one learner, from inputs that stand in the first place of `signals`; each layer's follow. */
INLINE void run_layers(const layer *layers, int depth, int64_t learner, int activation, vector *signals,
                       const int vectors) {
    for (const layer *l = layers; l < layers + depth; l++) {
        vector *out = signals + l->inputs * VECTORS;
        one_layer(l, l->weight + learner * l->weight_stride, l->bias + learner * l->bias_stride, signals, out, vectors);
        if (l + 1 < layers + depth) activate(out, l->outputs, activation, vectors);
        signals = out;
    }
}

/* Units of all layers, inputs included. */
static int64_t units_of(const layer *layers, int depth) {
    int64_t units = layers->inputs;
    for (int i = 0; i < depth; i++) units += layers[i].outputs;
    return units;
}

/* Outputs (learners, rows, outputs) of observations (learners, rows, inputs), which `center` and `scale` (a factor)
   normalise. Threads are OpenMP's and change no result. Returns 1 where memory lacks. */
EXPORT int32_t learned_opt_perceptron(const layer *layers, int32_t depth, int32_t activation, const float *center,
                                      const float *scale, const float *observations, int64_t learners, int64_t rows,
                                      float *outputs, int32_t threads) {
    const int64_t inputs = layers->inputs, width = layers[depth - 1].outputs, units = units_of(layers, depth);
    int32_t failed = 0;
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        vector *signals = room_for(sizeof(vector) * VECTORS * units);
        const float *last = (const float *)(signals + (units - width) * VECTORS);
#pragma omp for schedule(dynamic)
        for (int64_t learner = 0; learner < learners; learner++) {
            if (signals == NULL) {
                __atomic_store_n(&failed, 1, __ATOMIC_RELAXED);
                continue;
            }
            for (int64_t row = 0; row < rows; row += BLOCK) {
                const int64_t at = learner * rows + row, count = rows - row < BLOCK ? rows - row : BLOCK;
                read_rows(observations + at * inputs, count, inputs, center, scale, signals);
                if (count > (VECTORS - 1) * LANES)
                    run_layers(layers, depth, learner, activation, signals, VECTORS);
                else
                    for (int v = 0; v * LANES < count; v++)
                        run_layers(layers, depth, learner, activation, signals + v, 1);
                for (int64_t r = 0; r < count; r++)
                    for (int64_t o = 0; o < width; o++) outputs[(at + r) * width + o] = last[o * BLOCK + r];
            }
        }
        free(signals);
    }
    return failed;
}

/* Derivatives by some inputs of a layer, of those by its outputs. */
INLINE void few_inputs(const layer *l, const float *weight, const vector *by_out, vector *by_in, const int inputs) {
    vector sum[4][VECTORS];
    for (int k = 0; k < inputs; k++)
        for (int v = 0; v < VECTORS; v++) sum[k][v] = all(0);
    for (int64_t u = 0; u < l->outputs; u++)
        for (int k = 0; k < inputs; k++)
            for (int v = 0; v < VECTORS; v++) sum[k][v] += weight[u * l->inputs + k] * by_out[u * VECTORS + v];
    for (int k = 0; k < inputs; k++)
        for (int v = 0; v < VECTORS; v++) by_in[k * VECTORS + v] = sum[k][v];
}

/* Add the products of some units' derivatives and some inputs, over blocks `pitch` vectors apart, to `into`. */
INLINE void few_products(const vector *by_out, const vector *in, int64_t pitch, int blocks, vector *into,
                         int64_t into_pitch, const int units, const int inputs) {
    vector sum[4][4];
    for (int u = 0; u < units; u++)
        for (int k = 0; k < inputs; k++) sum[u][k] = into[u * into_pitch + k];
    for (int b = 0; b < blocks; b++, by_out += pitch, in += pitch)
        for (int v = 0; v < VECTORS; v++)
            for (int u = 0; u < units; u++)
                for (int k = 0; k < inputs; k++) sum[u][k] += by_out[u * VECTORS + v] * in[k * VECTORS + v];
    for (int u = 0; u < units; u++)
        for (int k = 0; k < inputs; k++) into[u * into_pitch + k] = sum[u][k];
}

INLINE void products_of_units(const vector *by_out, const vector *in, int64_t pitch, int blocks, vector *into,
                              int64_t inputs, const int units) {
    int64_t k = 0;
    for (; k + 4 <= inputs; k += 4)
        few_products(by_out, in + k * VECTORS, pitch, blocks, into + k, inputs, units, 4);
    for (; k < inputs; k++) few_products(by_out, in + k * VECTORS, pitch, blocks, into + k, inputs, units, 1);
}

/* Derivatives of a block by the outputs of all layers, in their places of `slopes`, which mirror those of `signals`. */
static void return_block(const layer *layers, int depth, int64_t learner, int activation, const vector *signals,
                         vector *slopes, int64_t units) {
    const vector *out = signals + units * VECTORS;
    vector *by_out = slopes + units * VECTORS;
    for (const layer *l = layers + depth - 1; l >= layers; l--) {
        out -= l->outputs * VECTORS, by_out -= l->outputs * VECTORS;
        if (l == layers) break;
        const float *weight = l->weight + learner * l->weight_stride;
        const vector *in = out - l->inputs * VECTORS;
        vector *by_in = by_out - l->inputs * VECTORS;
        int64_t k = 0;
        for (; k + 4 <= l->inputs; k += 4) few_inputs(l, weight + k, by_out, by_in + k * VECTORS, 4);
        for (; k < l->inputs; k++) few_inputs(l, weight + k, by_out, by_in + k * VECTORS, 1);
        for (int64_t i = 0; i < l->inputs * VECTORS; i++)
            by_in[i] = activation == TANH ? by_in[i] * (1.0f - in[i] * in[i]) : choose(in[i] > all(0), by_in[i], all(0));
    }
}

/* Add what follows from `blocks` blocks to the sums over rows of each layer's weights, then of its biases. */
static void add_products(const layer *layers, int depth, const vector *signals, const vector *slopes, int64_t units,
                         int blocks, vector *sums) {
    const int64_t pitch = units * VECTORS;
    for (const layer *l = layers; l < layers + depth; l++) {
        const vector *in = signals, *by_out = slopes += l->inputs * VECTORS;
        signals += l->inputs * VECTORS;
        int64_t u = 0;
        for (; u + 4 <= l->outputs; u += 4)
            products_of_units(by_out + u * VECTORS, in, pitch, blocks, sums + u * l->inputs, l->inputs, 4);
        for (; u < l->outputs; u++)
            products_of_units(by_out + u * VECTORS, in, pitch, blocks, sums + u * l->inputs, l->inputs, 1);
        sums += l->outputs * l->inputs;
        for (u = 0; u < l->outputs; u++, sums++)
            for (int b = 0; b < blocks; b++)
                for (int v = 0; v < VECTORS; v++) *sums += by_out[b * pitch + u * VECTORS + v];
    }
}

/* Derivatives by weights and biases, where the layers say, of those by the outputs (learners, rows, outputs). */
EXPORT int32_t learned_opt_perceptron_return(const layer *layers, int32_t depth, int32_t activation,
                                             const float *center, const float *scale, const float *observations,
                                             int64_t learners, int64_t rows, const float *by_outputs,
                                             int32_t threads) {
    const int64_t inputs = layers->inputs, width = layers[depth - 1].outputs, units = units_of(layers, depth);
    int64_t parameters = 0;
    for (int i = 0; i < depth; i++) parameters += layers[i].outputs * (layers[i].inputs + 1);
    int32_t failed = 0;
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        vector *sums = room_for(sizeof(vector) * (parameters + 2 * CHUNK * units * VECTORS));
        vector *signals = sums + parameters, *slopes = signals + CHUNK * units * VECTORS;
#pragma omp for schedule(dynamic)
        for (int64_t learner = 0; learner < learners; learner++) {
            if (sums == NULL) {
                __atomic_store_n(&failed, 1, __ATOMIC_RELAXED);
                continue;
            }
            memset(sums, 0, sizeof(vector) * parameters);
            for (int64_t row = 0; row < rows;) {
                int blocks = 0;
                for (; row < rows && blocks < CHUNK; row += BLOCK, blocks++) {
                    const int64_t at = learner * rows + row, count = rows - row < BLOCK ? rows - row : BLOCK;
                    vector *in = signals + blocks * units * VECTORS, *by = slopes + blocks * units * VECTORS;
                    read_rows(observations + at * inputs, count, inputs, center, scale, in);
                    run_layers(layers, depth, learner, activation, in, VECTORS);
                    read_rows(by_outputs + at * width, count, width, NULL, NULL, by + (units - width) * VECTORS);
                    return_block(layers, depth, learner, activation, in, by, units);
                }
                add_products(layers, depth, signals, slopes, units, blocks, sums);
            }
            const vector *sum = sums;
            for (const layer *l = layers; l < layers + depth; l++) {
                const int64_t weights = l->outputs * l->inputs;
                for (int64_t i = 0; i < weights; i++) l->by_weight[learner * weights + i] = total(*sum++);
                for (int64_t i = 0; i < l->outputs; i++) l->by_bias[learner * l->outputs + i] = total(*sum++);
            }
        }
        free(sums);
    }
    return failed;
}

/* For perceptron.py to check its records against. */
EXPORT int64_t learned_opt_layer_bytes(void) { return sizeof(layer); }
