/* 784-h-10 with sigmoid hidden units, plain SGD, small batches, one or two threads: softmax with cross-entropy, or
   sigmoid outputs with half the squared error.

   The first layer is nearly all of the work, and its weights do not fit the first cache: they are kept as panels of 16 or
   32 hidden units, (panel, 784, units), so that each is read once forward and read and written once in the update, in
   order, with 8 or 10 rows' accumulators in registers. A thread owns panels, and with them all that belongs to their units;
   threads exchange nothing but their parts of the 10 outputs before the last activation, once a step. */
#include <math.h>
#include <stdlib.h>

#include "gang.h"
#include "wide.h"

enum { IN = 784, OUT = 10, MOST_ROWS = 32 };
#define UNROLL _Pragma("GCC unroll 32")

typedef struct {
    gang *all;
    const float *x, *t;
    const int64_t *order;
    float *w1, *b1, *v, *b2;         /* panels; units; W2 transposed (10, width); outputs, one copy a thread */
    float *parts;                    /* (2, threads, MOST_ROWS, 16): of the outputs before the activation */
    double loss;
    int64_t steps;
    int batch, hidden, width, units, quadratic, first, last, number; /* `units` of a panel; panels first ... last */
    double lr;
} member;

/* Buffers of one thread; h, slope and d1 are (batch, width). */
typedef struct {
    float *h, *slope, *d1;
    _Alignas(64) float d2[MOST_ROWS][16];
    const float *rows[MOST_ROWS];
} buffers;

/* For R rows and N vectors of units: z = x W + b, then a and its slope; `mask` is 0 in units that are padding. */
#define FORWARD(R, N)                                                                                                  \
    static void forward_##R##_##N(const float **rows, const float *w, const float *b1, const f16 *mask, float *h,      \
                                  float *slope, int width)                                                             \
    {                                                                                                                  \
        f16 z[R][N];                                                                                                   \
        const float *x[R];                                                                                             \
        UNROLL for (int r = 0; r < R; r++) {                                                                           \
            x[r] = rows[r];                                                                                            \
            UNROLL for (int v = 0; v < N; v++)                                                                         \
                z[r][v] = load16(b1 + 16 * v);                                                                         \
        }                                                                                                              \
        for (long k = 0; k < IN; k++) {                                                                                \
            f16 panel[N];                                                                                              \
            UNROLL for (int v = 0; v < N; v++)                                                                         \
                panel[v] = load16(w + 16 * N * k + 16 * v);                                                            \
            UNROLL for (int r = 0; r < R; r++)                                                                         \
                UNROLL for (int v = 0; v < N; v++)                                                                     \
                    z[r][v] += x[r][k] * panel[v];                                                                     \
        }                                                                                                              \
        UNROLL for (int r = 0; r < R; r++)                                                                             \
            UNROLL for (int v = 0; v < N; v++) {                                                                       \
                f16 e = exp2_f16(clamp_f16(z[r][v] * (float)-LOG2E)), a = reciprocal_f16(1.0f + e);                    \
                store16(h + r * width + 16 * v, a * mask[v]);                                                          \
                store16(slope + r * width + 16 * v, (e * a) * a);                                                      \
            }                                                                                                          \
    }

/* W -= x^T d1, for R rows. */
#define UPDATE(R, N)                                                                                                   \
    static void update_##R##_##N(const float **rows, float *w, const float *d1, int width)                             \
    {                                                                                                                  \
        f16 d[R][N];                                                                                                   \
        const float *x[R];                                                                                             \
        UNROLL for (int r = 0; r < R; r++) {                                                                           \
            x[r] = rows[r];                                                                                            \
            UNROLL for (int v = 0; v < N; v++)                                                                         \
                d[r][v] = load16(d1 + r * width + 16 * v);                                                             \
        }                                                                                                              \
        for (long k = 0; k < IN; k++) {                                                                                \
            f16 panel[N];                                                                                              \
            UNROLL for (int v = 0; v < N; v++)                                                                         \
                panel[v] = load16(w + 16 * N * k + 16 * v);                                                            \
            UNROLL for (int r = 0; r < R; r++)                                                                         \
                UNROLL for (int v = 0; v < N; v++)                                                                     \
                    panel[v] -= x[r][k] * d[r][v];                                                                     \
            UNROLL for (int v = 0; v < N; v++)                                                                         \
                store16(w + 16 * N * k + 16 * v, panel[v]);                                                            \
        }                                                                                                              \
    }
FORWARD(10, 2)
FORWARD(10, 1)
FORWARD(8, 2)
FORWARD(8, 1)
UPDATE(10, 2)
UPDATE(10, 1)
UPDATE(8, 2)
UPDATE(8, 1)

static void forward(member *me, buffers *k)
{
    int ten = me->batch % 10 == 0, two = me->units == 32;
    for (int panel = me->first; panel < me->last; panel++) {
        int unit = panel * me->units;
        f16 mask[2];
        for (int i = 0; i < 32; i++)
            mask[i / 16][i % 16] = unit + i < me->hidden;
        const float *w = me->w1 + (size_t)unit * IN;
        for (int r = 0; r < me->batch; r += ten ? 10 : 8)
            (ten ? two ? forward_10_2 : forward_10_1 : two ? forward_8_2 : forward_8_1)(
                k->rows + r, w, me->b1 + unit, mask, k->h + r * me->width + unit, k->slope + r * me->width + unit,
                me->width);
    }
}

static void update(member *me, buffers *k)
{
    int ten = me->batch % 10 == 0, two = me->units == 32;
    for (int panel = me->first; panel < me->last; panel++) {
        int unit = panel * me->units;
        float *w = me->w1 + (size_t)unit * IN;
        for (int r = 0; r < me->batch; r += ten ? 10 : 8)
            (ten ? two ? update_10_2 : update_10_1 : two ? update_8_2 : update_8_1)(
                k->rows + r, w, k->d1 + r * me->width + unit, me->width);
    }
}

/* This thread's part of the outputs before the activation, (batch, 16). */
static void part_of_outputs(member *me, buffers *k, float *part)
{
    int begin = me->first * me->units, end = me->last * me->units;
    for (int r = 0; r < me->batch; r++)
        for (int o = 0; o < OUT; o++) {
            f16 sum = {};
            for (int j = begin; j < end; j += 16)
                sum += load16(k->h + r * me->width + j) * load16(me->v + o * me->width + j);
            part[16 * r + o] = sum_f16(sum);
        }
}

INLINE float max_f16(f16 v)
{
    float most = v[0];
    for (int o = 1; o < OUT; o++)
        most = v[o] > most ? v[o] : most;
    return most;
}

/* The loss of the batch, and its slope at the outputs before the activation times the learning rate, in d2. */
static double outputs(member *me, buffers *k, const float *parts, const int64_t *rows)
{
    float share = (float)(me->lr / me->batch);
    double loss = 0;
    f16 valid = {}, bias = load16(me->b2);
    for (int o = 0; o < OUT; o++)
        valid[o] = 1;
    for (int r = 0; r < me->batch; r++) {
        f16 z = bias, target = {};
        memcpy(&target, me->t + OUT * rows[r], OUT * sizeof(float));
        for (int i = 0; i < me->all->threads; i++)
            z += load16(parts + (i * MOST_ROWS + r) * 16);
        f16 d;
        if (me->quadratic) {
            f16 e = exp2_f16(clamp_f16(z * (float)-LOG2E)), a = reciprocal_f16(1.0f + e), error = (a - target) * valid;
            loss += 0.5 * (double)sum_f16(error * error);
            d = error * ((e * a) * a);
        } else {
            float most = max_f16(z);
            f16 e = exp2_f16(clamp_f16((z - most) * (float)LOG2E)) * valid;
            float sum = sum_f16(e);
            loss += (double)(logf(sum) + most - sum_f16(z * target));
            d = e * (1.0f / sum) - target;
        }
        store16(k->d2[r], d * share);
    }
    return loss / me->batch;
}

/* Back through W2, which is updated on the way, with the biases; d1 is what the first layer is updated with. */
static void backward(member *me, buffers *k)
{
    int width = me->width;
    f16 bias = load16(me->b2);
    for (int r = 0; r < me->batch; r++)
        bias -= load16(k->d2[r]);
    store16(me->b2, bias);
    for (int j = me->first * me->units; j < me->last * me->units; j += 16) {
        f16 old[OUT], new[OUT], bias1 = load16(me->b1 + j);
        UNROLL for (int o = 0; o < OUT; o++)
            new[o] = old[o] = load16(me->v + o * width + j);
        for (int r = 0; r < me->batch; r++) {
            f16 h = load16(k->h + r * width + j), a = {}, b = {};
            UNROLL for (int o = 0; o < OUT; o += 2) {
                a += k->d2[r][o] * old[o];
                b += k->d2[r][o + 1] * old[o + 1];
                new[o] -= k->d2[r][o] * h;
                new[o + 1] -= k->d2[r][o + 1] * h;
            }
            f16 d = (a + b) * load16(k->slope + r * width + j);
            store16(k->d1 + r * width + j, d);
            bias1 -= d;
        }
        UNROLL for (int o = 0; o < OUT; o++)
            store16(me->v + o * width + j, new[o]);
        store16(me->b1 + j, bias1);
    }
}

static void *work(void *argument)
{
    member *me = argument;
    buffers *k = aligned_alloc(64, (sizeof(buffers) + 63) / 64 * 64);
    size_t size = (size_t)MOST_ROWS * me->width * sizeof(float);
    k->h = aligned_alloc(64, size);
    k->slope = aligned_alloc(64, size);
    k->d1 = aligned_alloc(64, size);
    long phase = 0;
    for (int64_t step = 0; step < me->steps; step++) {
        const int64_t *rows = me->order + step * me->batch;
        /* the next step writes the other half, so that one meeting a step is enough */
        float *parts = me->parts + step % 2 * me->all->threads * MOST_ROWS * 16;
        for (int r = 0; r < me->batch; r++)
            k->rows[r] = me->x + IN * rows[r];
        forward(me, k);
        part_of_outputs(me, k, parts + me->number * MOST_ROWS * 16);
        meet(me->all, &phase);
        me->loss += outputs(me, k, parts, rows);
        backward(me, k);
        update(me, k);
    }
    free(k->h);
    free(k->slope);
    free(k->d1);
    free(k);
    return NULL;
}

/* Copy W1 (784, hidden) into panels, or back. */
static void pack(float *w1, float *panels, int hidden, int units, int back)
{
    for (int k = 0; k < IN; k++)
        for (int j = 0; j < hidden; j++) {
            float *kept = &panels[(size_t)(j / units) * IN * units + k * units + j % units];
            if (back)
                w1[k * hidden + j] = *kept;
            else
                *kept = w1[k * hidden + j];
        }
}

static float *zeros(size_t count)
{
    size_t size = (count * sizeof(float) + 63) / 64 * 64;
    return memset(aligned_alloc(64, size), 0, size);
}

double mnist_float32(const float *x, const float *t, const int64_t *order, int64_t steps, double lr, float *w1, float *b1,
                     float *w2, float *b2, int64_t batch, int64_t hidden, int64_t quadratic, int64_t threads)
{
    int units = hidden > 32 || threads == 1 ? 32 : 16, panels = ((int)hidden + units - 1) / units, width = panels * units;
    float *w = zeros((size_t)width * IN), *b = zeros(width), *v = zeros(OUT * width), *c = zeros(16 * threads);
    float *parts = zeros(2 * threads * MOST_ROWS * 16);
    gang all = {.threads = (int)threads};
    member members[MOST_THREADS];
    pack(w1, w, (int)hidden, units, 0);
    memcpy(b, b1, hidden * sizeof(float));
    for (int j = 0; j < hidden; j++)
        for (int o = 0; o < OUT; o++)
            v[o * width + j] = w2[j * OUT + o];
    for (int i = 0; i < threads; i++) {
        memcpy(c + 16 * i, b2, OUT * sizeof(float));
        members[i] = (member){&all, x, t, order, w, b, v, c + 16 * i, parts, 0, steps, (int)batch, (int)hidden, width, units,
                              (int)quadratic, (int)(panels * i / threads), (int)(panels * (i + 1) / threads), i, lr};
    }
    gang_run((int)threads, work, members, sizeof(member));
    pack(w1, w, (int)hidden, units, 1);
    memcpy(b1, b, hidden * sizeof(float));
    for (int j = 0; j < hidden; j++)
        for (int o = 0; o < OUT; o++)
            w2[j * OUT + o] = v[o * width + j];
    memcpy(b2, c, OUT * sizeof(float));
    free(w);
    free(b);
    free(v);
    free(c);
    free(parts);
    return members[0].loss / steps;
}
