/* 1-10-1, sigmoid, no biases, batch 1, plain SGD on half the squared error: 16 networks in the lanes of a vector.

   The weights of 16 networks stay in registers; every network draws rows of its own; nothing crosses lanes. */
#include "vectors.h"

#define LANES 16
#define STEPS 64

typedef float f16 __attribute__((vector_size(64)));
typedef int32_t i16 __attribute__((vector_size(64)));
typedef double d16 __attribute__((vector_size(128)));
EXP2_F32(f16, i16, exp2_f16)

INLINE f16 clamp_f16(f16 t)
{
#if defined(__AVX512DQ__)
    return (f16)_mm512_range_ps((__m512)t, _mm512_set1_ps(126.0f), 2);
#else
    CLAMP(f16, i16, 126.0f)
#endif
}

/* The rows of 16 networks in one step: `draw_block`, with networks instead of steps in the lanes. */
INLINE void draw_networks(uint64_t seed, uint64_t step, uint64_t network, uint64_t n_rows, uint32_t *restrict rows)
{
    for (int i = 0; i < LANES; i++) {
        uint64_t a = 0, b = step & 0xFFFFFFFF, c = network + i, d = step >> 32, x = seed & 0xFFFFFFFF, y = seed >> 32;
        for (int round = 0; round < 10; round++) {
            uint64_t p = (uint64_t)(uint32_t)a * 0xD2511F53u, q = (uint64_t)(uint32_t)c * 0xCD9E8D57u;
            a = (q >> 32) ^ b ^ x;
            b = q & 0xFFFFFFFF;
            c = (p >> 32) ^ d ^ y;
            d = p & 0xFFFFFFFF;
            x = (x + 0x9E3779B9u) & 0xFFFFFFFF;
            y = (y + 0xBB67AE85u) & 0xFFFFFFFF;
        }
        rows[i] = (uint32_t)((a * n_rows + (b * n_rows >> 32)) >> 32);
    }
}

/* w1, w2: (networks, 10); those from `first` to `stop`, a multiple of 16, are trained. */
double many_sine_float32(const float *x, const float *t, int64_t n_rows, int64_t steps, uint64_t seed,
                         const float *rates, float *w1, float *w2, int64_t first, int64_t stop)
{
    double squares = 0;
    for (int64_t group = first; group < stop; group += LANES) {
        f16 a[10], b[10], lr;
        memcpy(&lr, rates + group, sizeof lr);
        d16 sum = {};
        for (int k = 0; k < 10; k++)
            for (int i = 0; i < LANES; i++) {
                a[k][i] = w1[(group + i) * 10 + k];
                b[k][i] = w2[(group + i) * 10 + k];
            }
        for (int64_t start = 0; start < steps; start += STEPS) {
            uint32_t rows[STEPS][LANES];
            int count = steps - start < STEPS ? (int)(steps - start) : STEPS;
            for (int i = 0; i < count; i++)
                draw_networks(seed, start + i, group, n_rows, rows[i]);
            for (int i = 0; i < count; i++) {
                f16 now, error, s[10], q[10];
                for (int lane = 0; lane < LANES; lane++) {
                    now[lane] = x[rows[i][lane]];
                    error[lane] = -t[rows[i][lane]];
                }
                f16 exponent = now * (float)-LOG2E;
                for (int k = 0; k < 10; k++) {
                    f16 e = exp2_f16(clamp_f16(a[k] * exponent));
                    s[k] = 1.0f / (1.0f + e);
                    q[k] = (e * s[k]) * s[k];
                    error += b[k] * s[k];
                }
                sum += __builtin_convertvector(error * error, d16);
                f16 rate = error * lr, slope = rate * now;
                for (int k = 0; k < 10; k++) {
                    a[k] -= slope * (b[k] * q[k]);
                    b[k] -= rate * s[k];
                }
            }
        }
        for (int k = 0; k < 10; k++)
            for (int i = 0; i < LANES; i++) {
                w1[(group + i) * 10 + k] = a[k][i];
                w2[(group + i) * 10 + k] = b[k][i];
            }
        squares += sum[0];
    }
    return squares * 0.5 / steps;
}
