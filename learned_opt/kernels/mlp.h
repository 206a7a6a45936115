/* Stacked perceptrons: one network for each of several learners, all of one architecture, forward and backward.

   Rows of observations are a vector's lanes; they go through all layers in blocks of BLOCK, so that what stands between
   layers stays in the cache. The backward pass runs forward again instead of remembering, and adds up the products of a
   layer's derivatives and inputs for CHUNK blocks at a time, row by row: there inputs are a vector's lanes. */

#ifndef LEARNED_OPT_PERCEPTRON_H
#define LEARNED_OPT_PERCEPTRON_H

#include "vectors.h"

#if defined(__AVX512F__)
#define SUMS 16 /* that registers hold beside what is added to them */
#else
#define SUMS 8
#endif
#define TANH_UNITS 0 /* of the activations; the other is relu */

/* A layer of all learners, (outputs, inputs) weights and (outputs,)
   biases, where derivatives go, and how many floats it is from one learner's to the next's. */
typedef struct {
    const float *weight, *bias;
    float *by_weight, *by_bias;
    int64_t weight_stride, bias_stride, by_weight_stride, by_bias_stride, inputs, outputs;
} layer;

/* Networks of all learners; `center` and `scale` (a factor) normalise observations. */
typedef struct {
    const layer *layers;
    const float *center, *scale;
    int64_t depth, activation;
} network;

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

INLINE void activate(vector *x, int64_t units, int64_t activation, const int vectors) {
    for (int64_t u = 0; u < units; u++)
        for (int v = 0; v < vectors; v++) {
            vector *y = x + u * VECTORS + v;
            if (activation == TANH_UNITS) {
                const vector e = exponential(clamp(2.0f * *y, 28.0f));
                *y = 1.0f - 2.0f * reciprocal(1.0f + e);
            } else
                *y = choose(*y < all(0), all(0), *y); /* NaN stays */
        }
}

/* All layers of one learner, from inputs that stand in the first place of `signals`; each layer's follow. */
INLINE void run_layers(const network *n, int64_t learner, vector *signals, const int vectors) {
    for (const layer *l = n->layers; l < n->layers + n->depth; l++) {
        vector *out = signals + l->inputs * VECTORS;
        one_layer(l, l->weight + learner * l->weight_stride, l->bias + learner * l->bias_stride, signals, out, vectors);
        if (l + 1 < n->layers + n->depth) activate(out, l->outputs, n->activation, vectors);
        signals = out;
    }
}

/* Units of all layers, inputs included; and those of the last one. */
INLINE int64_t units_of(const network *n) {
    int64_t units = n->layers->inputs;
    for (int64_t i = 0; i < n->depth; i++) units += n->layers[i].outputs;
    return units;
}
INLINE int64_t width_of(const network *n) { return n->layers[n->depth - 1].outputs; }
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

/* Add products of some units' derivatives and some vectors of inputs, row by row, to the sums `into`; each row has
   `wide` floats, of which `left` count. */
INLINE void few_products(const float *by_out, int64_t pitch, int blocks, const float *rows, int64_t wide, float *into,
                         int64_t inputs, int64_t left, const int units, const int vectors) {
    vector sum[SUMS] = {0};
    for (int block = 0; block < blocks; block++, by_out += pitch)
        for (int row = 0; row < BLOCK; row++, rows += wide)
            for (int u = 0; u < units; u++)
                for (int v = 0; v < vectors; v++)
                    sum[u * vectors + v] += by_out[u * BLOCK + row] * *(const loose *)(rows + v * LANES);
    for (int u = 0; u < units; u++)
        for (int v = 0; v < vectors; v++) {
            float *at = into + u * inputs + v * LANES;
            store_up_to(at, load_up_to(at, left - v * LANES) + sum[u * vectors + v], left - v * LANES);
        }
}

/* The same for all inputs: as many vectors of them at a time that the registers are full of sums, then one by one. */
INLINE void products_of_units(const float *by_out, int64_t pitch, int blocks, const float *rows, int64_t wide,
                              float *into, int64_t inputs, const int units) {
    const int many = SUMS / units;
    int64_t k = 0;
    for (; k + many * LANES <= wide; k += many * LANES)
        few_products(by_out, pitch, blocks, rows + k, wide, into + k, inputs, inputs - k, units, many);
    for (; many > 1 && k < wide; k += LANES)
        few_products(by_out, pitch, blocks, rows + k, wide, into + k, inputs, inputs - k, units, 1);
}

/* Derivatives of a block by the outputs of all layers, in their places of `slopes`, which mirror those of `signals`. */
static void return_block(const network *n, int64_t learner, const vector *signals, vector *slopes, int64_t units) {
    const vector *out = signals + units * VECTORS;
    vector *by_out = slopes + units * VECTORS;
    for (const layer *l = n->layers + n->depth - 1; l >= n->layers; l--) {
        out -= l->outputs * VECTORS, by_out -= l->outputs * VECTORS;
        if (l == n->layers) break;
        const float *weight = l->weight + learner * l->weight_stride;
        const vector *in = out - l->inputs * VECTORS;
        vector *by_in = by_out - l->inputs * VECTORS;
        BY_FOURS(k, l->inputs, few_inputs(l, weight + k, by_out, by_in + k * VECTORS, many));
        for (int64_t i = 0; i < l->inputs * VECTORS; i++)
            by_in[i] =
                n->activation == TANH_UNITS ? by_in[i] * (1.0f - in[i] * in[i]) : choose(in[i] > all(0), by_in[i], all(0));
    }
}

/* Floats that a row of so many inputs takes: whole vectors. */
INLINE int64_t wide_of(int64_t inputs) { return (inputs + LANES - 1) / LANES * LANES; }

/* Add what follows from `blocks` blocks to the derivatives by each layer's weights and biases; `rows` has room for the
   inputs of a layer, row by row. */
static void add_products(const network *n, int64_t learner, const vector *signals, const vector *slopes, int64_t units,
                         int blocks, float *rows) {
    const int64_t pitch = units * VECTORS;
    for (const layer *l = n->layers; l < n->layers + n->depth; l++) {
        float *by_weight = l->by_weight + learner * l->by_weight_stride, *by_bias = l->by_bias + learner * l->by_bias_stride;
        const int64_t inputs = l->inputs, wide = wide_of(inputs);
        slopes += inputs * VECTORS;
        /* What stands after the inputs lands in lanes that do not count. */
        for (int block = 0; block < blocks; block++)
            for (int64_t k = 0; k < wide; k += SIDE)
                for (int row = 0; row < BLOCK; row += SIDE)
                    transpose((const float *)(signals + block * pitch + k * VECTORS) + row, BLOCK,
                              rows + (block * BLOCK + row) * wide + k, wide);
        signals += inputs * VECTORS;
        const float *by_out = (const float *)slopes;
#define PRODUCTS(u, units) \
    products_of_units(by_out + (u) * BLOCK, pitch * LANES, blocks, rows, wide, by_weight + (u) * inputs, inputs, units)
        int64_t unit = 0;
        for (; wide == LANES && unit + SUMS <= l->outputs; unit += SUMS) PRODUCTS(unit, SUMS);
        for (; unit + SUMS / 2 <= l->outputs; unit += SUMS / 2) PRODUCTS(unit, SUMS / 2);
        for (; unit < l->outputs; unit++) PRODUCTS(unit, 1);
#undef PRODUCTS
        for (int64_t u = 0; u < l->outputs; u++) {
            vector sum = {0};
            for (int64_t i = 0; i < blocks * VECTORS; i++) sum += slopes[i / VECTORS * pitch + u * VECTORS + i % VECTORS];
            by_bias[u] += total(sum);
        }
    }
}

/* Outputs (rows, width) of one learner's observations (rows, inputs); `signals` has room for its units, times VECTORS. */
INLINE void forward_rows(const network *n, int64_t learner, const float *observations, int64_t rows, float *outputs,
                         vector *signals) {
    const int64_t inputs = n->layers->inputs, width = width_of(n);
    const float *last = (const float *)(signals + (units_of(n) - width) * VECTORS);
    for (int64_t row = 0; row < rows; row += BLOCK) {
        const int64_t count = rows - row < BLOCK ? rows - row : BLOCK;
        read_rows(observations + row * inputs, count, inputs, n->center, n->scale, signals);
        if (count > (VECTORS - 1) * LANES)
            run_layers(n, learner, signals, VECTORS);
        else
            for (int v = 0; v * LANES < count; v++) run_layers(n, learner, signals + v, 1);
        for (int64_t r = 0; r < count; r++)
            for (int64_t o = 0; o < width; o++) outputs[(row + r) * width + o] = last[o * BLOCK + r];
    }
}

/* Vectors that return_rows needs room for. */
INLINE int64_t room_to_return(const network *n) {
    int64_t wide = 0;
    for (const layer *l = n->layers; l < n->layers + n->depth; l++)
        if (wide_of(l->inputs) > wide) wide = wide_of(l->inputs);
    return CHUNK * (2 * units_of(n) * VECTORS + BLOCK * wide / LANES);
}

/* Of a block's rows [row, row + count): derivatives by outputs, in the order of the outputs, both VECTORS a unit. */
typedef void slopes_of(void *told, int64_t row, int64_t count, const vector *outputs, vector *by_outputs);

/* Derivatives by one learner's weights and biases, where the layers say, of those by outputs that `slopes` tells. */
INLINE void return_rows(const network *n, int64_t learner, const float *observations, int64_t rows, slopes_of *tell,
                        void *told, vector *room) {
    const int64_t inputs = n->layers->inputs, units = units_of(n), last = (units - width_of(n)) * VECTORS;
    vector *signals = room, *slopes = signals + CHUNK * units * VECTORS, *in_rows = slopes + CHUNK * units * VECTORS;
    for (const layer *l = n->layers; l < n->layers + n->depth; l++) {
        const int64_t weights = l->outputs * l->inputs;
        if (weights) memset(l->by_weight + learner * l->by_weight_stride, 0, sizeof(float) * weights);
        memset(l->by_bias + learner * l->by_bias_stride, 0, sizeof(float) * l->outputs);
    }
    for (int64_t row = 0; row < rows;) {
        int blocks = 0;
        for (; row < rows && blocks < CHUNK; row += BLOCK, blocks++) {
            const int64_t count = rows - row < BLOCK ? rows - row : BLOCK;
            vector *in = signals + blocks * units * VECTORS, *by = slopes + blocks * units * VECTORS;
            read_rows(observations + row * inputs, count, inputs, n->center, n->scale, in);
            run_layers(n, learner, in, VECTORS);
            tell(told, row, count, in + last, by + last);
            return_block(n, learner, in, by, units);
        }
        add_products(n, learner, signals, slopes, units, blocks, (float *)in_rows);
    }
}
#endif
