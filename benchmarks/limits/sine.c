/* 1-10-1, sigmoid, no biases, batch 1, plain SGD on half the squared error.

   The ten hidden units are lanes: two vectors of 8 in float, three of 4 in double. The weights stay in registers for
   the whole run. The chain from one step to the next is what a step costs, so it is made short: the next step's
   exponent is formed from the old weights and the update in one operation, the learning rate is folded into the sum. */
#include "vectors.h"

INLINE f8 sigmoid_f8(f8 t, f8 *e) { return 1.0f / (1.0f + (*e = exp2_f8(clamp_f8(t)))); }
INLINE d4 sigmoid_d4(d4 t, d4 *e) { return 1.0 / (1.0 + (*e = exp2_d4(clamp_d4(t)))); }

/* T, V: the type of a number and of a vector of N lanes; G vectors hold the units. `valid` is 0 in unused lanes. */
#define SINE(name, T, V, N, G, sigmoid, sum)                                                                            \
    double name(const T *x, const T *t, int64_t n_rows, int64_t steps, uint64_t seed, double lr, T *w1, T *w2)          \
    {                                                                                                                   \
        V a[G], b[G], z[G], valid = {};                                                                                 \
        T padded[2][N * G] = {};                                                                                        \
        uint32_t rows[BLOCK + 1];                                                                                       \
        memcpy(padded[0], w1, 10 * sizeof(T));                                                                          \
        memcpy(padded[1], w2, 10 * sizeof(T));                                                                          \
        for (int g = 0; g < G; g++) {                                                                                   \
            memcpy(&a[g], &padded[0][N * g], sizeof(V));                                                                \
            memcpy(&b[g], &padded[1][N * g], sizeof(V));                                                                \
        }                                                                                                               \
        for (int i = 0; i < 10 - N * (G - 1); i++)                                                                      \
            valid[i] = 1;                                                                                               \
        T rate = (T)lr, share = rate / N, negative = (T)-LOG2E;                                                         \
        double squares = 0;                                                                                             \
        draw_block(seed, 0, n_rows, rows);                                                                              \
        V now = (V){} + x[rows[0]], target = (V){} + t[rows[0]] * share;                                                \
        for (int g = 0; g < G; g++)                                                                                     \
            z[g] = a[g] * (now * negative);                                                                             \
        for (int64_t start = 0; start < steps; start += BLOCK) {                                                        \
            int count = steps - start < BLOCK ? (int)(steps - start) : BLOCK;                                           \
            uint32_t following[BLOCK];                                                                                  \
            draw_block(seed, start + BLOCK, n_rows, following);                                                         \
            rows[BLOCK] = following[0];                                                                                 \
            for (int i = 0; i < count; i++) {                                                                           \
                uint32_t next_row = rows[i + 1];                                                                        \
                V next = (V){} + x[next_row], next_target = (V){} + t[next_row] * share, exponent = next * negative;    \
                V e[G], s[G], q[G], part = -target;                                                                     \
                for (int g = 0; g < G; g++)                                                                             \
                    s[g] = sigmoid(z[g], &e[g]);                                                                        \
                for (int g = G - 1; g >= 0; g--)                                                                        \
                    part += (b[g] * rate) * s[g];                                                                       \
                V error = sum(part); /* times the learning rate */                                                      \
                squares += (double)error[0] * error[0];                                                                 \
                for (int g = 0; g < G; g++)                                                                             \
                    q[g] = (b[g] * now) * ((e[g] * s[g]) * s[g]);                                                       \
                s[G - 1] *= valid;                                                                                      \
                for (int g = 0; g < G; g++) {                                                                           \
                    z[g] = a[g] * exponent - error * (q[g] * exponent);                                                 \
                    a[g] -= error * q[g];                                                                               \
                    b[g] -= error * s[g];                                                                               \
                }                                                                                                       \
                now = next;                                                                                             \
                target = next_target;                                                                                   \
            }                                                                                                           \
            memcpy(rows, following, sizeof following);                                                                  \
        }                                                                                                               \
        for (int g = 0; g < G; g++) {                                                                                   \
            memcpy(&padded[0][N * g], &a[g], sizeof(V));                                                                \
            memcpy(&padded[1][N * g], &b[g], sizeof(V));                                                                \
        }                                                                                                               \
        memcpy(w1, padded[0], 10 * sizeof(T));                                                                          \
        memcpy(w2, padded[1], 10 * sizeof(T));                                                                          \
        return squares * 0.5 / (lr * lr) / steps;                                                                       \
    }

SINE(sine_float32, float, f8, 8, 2, sigmoid_f8, sum_f8)
SINE(sine_float64, double, d4, 4, 3, sigmoid_d4, sum_d4)
