/* The cell and the head of coordinatewise LSTMs. Whoever includes it has defined OWN, features of a coordinate, SHARED,
   features of its tensor, and OUTPUTS of the head. Features that are the same for a whole tensor enter as a bias of the
   gates, and only those of a coordinate and its hidden state are multiplied. */

#ifndef LEARNED_OPT_LSTM_H
#define LEARNED_OPT_LSTM_H

#include "vectors.h"

#define FEATURES (OWN + SHARED)
#define MAX_HIDDEN 64

static const float TINY = 1.17549435e-38f, LARGEST = 1e15f;

/* As is_usable of base.py. */
static inline mask is_usable(vector gradient, vector parameter) {
    return (magnitude(gradient) <= LARGEST) & (magnitude(parameter) <= LARGEST);
}

/* Which lanes come before the given one. */
static inline mask lanes_below(int64_t count) {
    mask lane;
    for (int i = 0; i < LANES; i++) lane[i] = i < count ? -1 : 0;
    return lane;
}

/* The weights in the order in which they are read: for each unit and input, its four gates, and for each of the head's
   inputs its outputs. Inputs are the features of a coordinate, then the hidden units. Those of the gates come times
   SCALE, as powers of two make sigmoids and the candidate's hyperbolic tangent. */
static const float SCALE[4] = {-1.44269504f, -1.44269504f, -1.44269504f, -2.88539008f};
typedef struct {
    const float *cell_weight, *of_head; /* whose they are */
    float weight[MAX_HIDDEN * (OWN + MAX_HIDDEN) * 4], bias[MAX_HIDDEN * 4];
    float head[(OWN + MAX_HIDDEN) * OUTPUTS], head_bias[OUTPUTS];
} packed;

/* The biases that follow from what coordinates share, and the weights unless they are there; `out` begins as zeros.
   Without `skip` the head, (OUTPUTS, hidden + 1), sees the hidden units alone. */
static void pack(const float *cell_weight, const float *head, const float *shared, int hidden, int skip, packed *out) {
    const int columns = FEATURES + hidden, inputs = OWN + hidden;
    const int anew = out->cell_weight != cell_weight || out->of_head != head;
    out->cell_weight = cell_weight, out->of_head = head;
    for (int unit = 0; unit < hidden; unit++) {
        for (int gate = 0; gate < 4; gate++) {
            const float *row = cell_weight + (int64_t)(gate * hidden + unit) * columns;
            float bias = 0;
            for (int k = 0; k < SHARED; k++) bias += row[OWN + k] * shared[k];
            out->bias[4 * unit + gate] = SCALE[gate] * bias;
            float *target = out->weight + (int64_t)unit * inputs * 4 + gate;
            for (int k = 0; anew && k < OWN; k++) target[4 * k] = SCALE[gate] * row[k];
            for (int k = 0; anew && k < hidden; k++) target[4 * (OWN + k)] = SCALE[gate] * row[FEATURES + k];
        }
    }
    for (int output = 0; output < OUTPUTS; output++) {
        const float *row = head + output * (hidden + (skip ? FEATURES : 1)), *direct = row + hidden;
        float bias = skip ? 0 : *direct, *target = out->head + output;
        for (int k = 0; skip && k < SHARED; k++) bias += direct[OWN + k] * shared[k];
        for (int k = 0; anew && k < OWN; k++) target[OUTPUTS * k] = skip ? direct[k] : 0;
        for (int k = 0; anew && k < hidden; k++) target[OUTPUTS * (OWN + k)] = row[k];
        out->head_bias[output] = bias;
    }
}

/* Coordinates go through each stage SPAN at a time: what stands between the stages stays in the first-level cache,
   and within a stage no coordinate waits for another. */
#define SPAN 64
#define WIDE (SPAN / LANES)
typedef vector row[WIDE];

/* Sums of products of weights, `rows` of `pitch` an input, and inputs; they begin at `bias`, or go on. */
INLINE void multiply(int vectors, const float *weights, int pitch, const float *bias, const int rows, const row *inputs,
                     int count, row *sums) {
    for (int v = 0; v < vectors; v += 2) {
        vector sum[4][2];
        const float *weight = weights;
        for (int r = 0; r < rows; r++)
            for (int i = 0; i < 2; i++) sum[r][i] = bias ? all(bias[r]) : sums[r][v + i];
#pragma GCC unroll 1 /* unrolled, it would not keep its sums in registers */
        for (int k = 0; k < count; k++, weight += pitch)
            for (int r = 0; r < rows; r++)
                for (int i = 0; i < 2; i++) sum[r][i] += weight[r] * inputs[k][v + i];
        for (int r = 0; r < rows; r++)
            for (int i = 0; i < 2; i++) sums[r][v + i] = sum[r][i];
    }
}

/* The four gates of a unit before their nonlinearities, times SCALE. */
INLINE void gates_of(const packed *w, int hidden, int unit, int vectors, const row *inputs, row x[4]) {
    multiply(vectors, w->weight + (int64_t)unit * (OWN + hidden) * 4, 4, w->bias + 4 * unit, 4, inputs, OWN + hidden, x);
}

/* The head's outputs, of features and h'. */
INLINE void head_of(const packed *w, int hidden, int vectors, const row *inputs, const row *shown, row outputs[OUTPUTS]) {
#define ROWS_OF_HEAD(first, rows)                                                                               \
    do {                                                                                                        \
        multiply(vectors, w->head + first, OUTPUTS, w->head_bias + first, rows, inputs, OWN, outputs + first);  \
        multiply(vectors, w->head + OWN * OUTPUTS + first, OUTPUTS, NULL, rows, shown, hidden, outputs + first); \
    } while (0)
    ROWS_OF_HEAD(0, OUTPUTS < 4 ? OUTPUTS : 4);
    if (OUTPUTS > 4) ROWS_OF_HEAD(4, OUTPUTS > 4 ? OUTPUTS - 4 : 1);
#undef ROWS_OF_HEAD
}

/* 1 + e^-x of a gate, whose inverse is how far it is open; e^-2x of the candidate or the cell. At 2^40 a gate is closed to
   float precision, and products of three stay finite. */
static inline vector power(vector x) { return power_of_two(clamp(x, 40)); }

/* c' = f c + i g over one denominator, and 1 / o. */
static inline vector next_cell(const row x[4], int v, vector old, vector *inverse_output) {
    const vector i = 1.0f + power(x[0][v]), f = 1.0f + power(x[1][v]), g = power(x[3][v]), ig = i * (1.0f + g);
    *inverse_output = 1.0f + power(x[2][v]);
    return (old * ig + (1.0f - g) * f) * reciprocal(ig * f);
}

/* h' = o tanh c'. */
static inline vector next_hidden(vector cell, vector inverse_output) {
    const vector t = power(SCALE[3] * cell);
    return (1.0f - t) * reciprocal(inverse_output * (1.0f + t));
}

#endif
