/* 4-32-16-4, tanh hidden, linear out, every step all rows, Adam on the mean squared error, one or two threads.

   Hidden units are lanes: 32 units are two vectors of 16. Eight rows at a time go forward and back with their
   accumulators in registers; the gradients are added up over 32 rows at a time, so that rows stay in the first cache and
   accumulators in registers. A thread has a fixed half of the rows, and updates a fixed half of the parameters. */
#include <math.h>
#include <stdlib.h>

#include "gang.h"
#include "wide.h"

enum { W1 = 0, B1 = 128, W2 = 160, B2 = 672, W3 = 688, B3 = 752, SIZE = 768 }; /* places in the flat parameters */
enum { TILE = 8, ROWS = 32 };

typedef struct {
    _Alignas(64) float h1[ROWS][32];
    float d1[ROWS][32], h2[ROWS][16], d2[ROWS][16], d3[ROWS][4];
} block;

typedef struct {
    gang *all;
    const float *x, *t;
    float *p, *m, *v, *gradients[MOST_THREADS];
    double *squares;
    int64_t n_rows, steps, first, last;
    double lr;
    int number;
} member;

#define UNROLL _Pragma("GCC unroll 32")

/* A tile of rows forward and back; W2 and W3 transposed are `w2t` (16, 32) and `w3t` (4, 16). */
INLINE void tile(const float *x, const float *t, int64_t valid, const float *p, const float *w2t, const float *w3t,
                 float share, block *k, int at, double *squares)
{
    f16 a[TILE][2], b[TILE], s1[TILE][2], s2[TILE];
    f4 c[TILE], sum = {};
    UNROLL for (int r = 0; r < TILE; r++)
        UNROLL for (int v = 0; v < 2; v++) {
            a[r][v] = load16(p + B1 + 16 * v);
            UNROLL for (int i = 0; i < 4; i++)
                a[r][v] += x[4 * r + i] * load16(p + W1 + 32 * i + 16 * v);
        }
    UNROLL for (int r = 0; r < TILE; r++)
        UNROLL for (int v = 0; v < 2; v++)
            store16(k->h1[at + r] + 16 * v, tanh_f16(a[r][v], &s1[r][v]));
    UNROLL for (int r = 0; r < TILE; r++)
        b[r] = load16(p + B2);
    for (int i = 0; i < 32; i++) {
        f16 w = load16(p + W2 + 16 * i);
        UNROLL for (int r = 0; r < TILE; r++)
            b[r] += k->h1[at + r][i] * w;
    }
    UNROLL for (int r = 0; r < TILE; r++)
        store16(k->h2[at + r], tanh_f16(b[r], &s2[r]));
    UNROLL for (int r = 0; r < TILE; r++)
        c[r] = *(const f4u *)(p + B3);
    for (int i = 0; i < 16; i++) {
        f4 w = *(const f4u *)(p + W3 + 4 * i);
        UNROLL for (int r = 0; r < TILE; r++)
            c[r] += k->h2[at + r][i] * w;
    }
    UNROLL for (int r = 0; r < TILE; r++) {
        f4 error = r < valid ? c[r] - *(const f4u *)(t + 4 * r) : (f4){};
        sum += error * error;
        *(f4u *)k->d3[at + r] = error * share;
    }
    *squares += (double)((sum[0] + sum[1]) + (sum[2] + sum[3]));
    UNROLL for (int r = 0; r < TILE; r++) {
        b[r] = (f16){};
        UNROLL for (int o = 0; o < 4; o++)
            b[r] += k->d3[at + r][o] * load16(w3t + 16 * o);
        store16(k->d2[at + r], b[r] * s2[r]);
    }
    memset(a, 0, sizeof a);
    for (int j = 0; j < 16; j++) {
        f16 w[2] = {load16(w2t + 32 * j), load16(w2t + 32 * j + 16)};
        UNROLL for (int r = 0; r < TILE; r++)
            UNROLL for (int v = 0; v < 2; v++)
                a[r][v] += k->d2[at + r][j] * w[v];
    }
    UNROLL for (int r = 0; r < TILE; r++)
        UNROLL for (int v = 0; v < 2; v++)
            store16(k->d1[at + r] + 16 * v, a[r][v] * s1[r][v]);
}

/* Add the gradients of a block of rows; that of W3 is kept transposed (4, 16). */
INLINE void add_gradients(const float *x, const block *k, float *g)
{
    for (int half = 0; half < 2; half++) { /* of the 32 rows of W2 */
        f16 acc[16];
        UNROLL for (int i = 0; i < 16; i++)
            acc[i] = load16(g + W2 + 16 * (16 * half + i));
        for (int r = 0; r < ROWS; r++) {
            f16 d = load16(k->d2[r]);
            UNROLL for (int i = 0; i < 16; i++)
                acc[i] += k->h1[r][16 * half + i] * d;
        }
        UNROLL for (int i = 0; i < 16; i++)
            store16(g + W2 + 16 * (16 * half + i), acc[i]);
    }
    f16 w1[4][2], b1[2], w3[4], b2 = load16(g + B2);
    f4 b3 = *(const f4u *)(g + B3);
    UNROLL for (int v = 0; v < 2; v++) {
        b1[v] = load16(g + B1 + 16 * v);
        UNROLL for (int i = 0; i < 4; i++)
            w1[i][v] = load16(g + W1 + 32 * i + 16 * v);
    }
    UNROLL for (int o = 0; o < 4; o++)
        w3[o] = load16(g + W3 + 16 * o);
    for (int r = 0; r < ROWS; r++) {
        UNROLL for (int v = 0; v < 2; v++) {
            f16 d = load16(k->d1[r] + 16 * v);
            b1[v] += d;
            UNROLL for (int i = 0; i < 4; i++)
                w1[i][v] += x[4 * r + i] * d;
        }
        f16 h = load16(k->h2[r]);
        UNROLL for (int o = 0; o < 4; o++)
            w3[o] += k->d3[r][o] * h;
        b2 += load16(k->d2[r]);
        b3 += *(const f4u *)k->d3[r];
    }
    UNROLL for (int v = 0; v < 2; v++) {
        store16(g + B1 + 16 * v, b1[v]);
        UNROLL for (int i = 0; i < 4; i++)
            store16(g + W1 + 32 * i + 16 * v, w1[i][v]);
    }
    UNROLL for (int o = 0; o < 4; o++)
        store16(g + W3 + 16 * o, w3[o]);
    store16(g + B2, b2);
    *(f4u *)(g + B3) = b3;
}

static void gradients(member *me, const float *w2t, const float *w3t, block *k, float *g)
{
    float share = (float)(2.0 / 4 / me->n_rows);
    double squares = 0;
    memset(g, 0, SIZE * sizeof(float));
    for (int64_t row = me->first; row < me->last; row += ROWS) {
        for (int at = 0; at < ROWS; at += TILE)
            tile(me->x + 4 * (row + at), me->t + 4 * (row + at), me->n_rows - row - at, me->p, w2t, w3t, share, k, at,
                 &squares);
        add_gradients(me->x + 4 * row, k, g);
    }
    me->squares[me->number] += squares;
    float w3[64];
    for (int i = 0; i < 16; i++)
        for (int o = 0; o < 4; o++)
            w3[4 * i + o] = g[W3 + 16 * o + i];
    memcpy(g + W3, w3, sizeof w3);
}

/* Adam on the member's share of the parameters. */
static void update(member *me, int64_t step)
{
    int parts = SIZE / 16, threads = me->all->threads;
    int first = parts * me->number / threads, last = parts * (me->number + 1) / threads;
    float rate = (float)(me->lr / (1 - pow(0.9, step + 1))), root = (float)(1 / sqrt(1 - pow(0.999, step + 1)));
    for (int i = 16 * first; i < 16 * last; i++) {
        float g = me->gradients[0][i];
        if (threads > 1)
            g += me->gradients[1][i];
        float m = me->m[i] = 0.9f * me->m[i] + 0.1f * g, v = me->v[i] = 0.999f * me->v[i] + 0.001f * g * g;
        me->p[i] -= rate * m / (sqrtf(v) * root + 1e-8f);
    }
}

static void *work(void *argument)
{
    member *me = argument;
    _Alignas(64) float w2t[512], w3t[64];
    block *k = aligned_alloc(64, sizeof(block));
    long phase = 0;
    for (int64_t step = 0; step < me->steps; step++) {
        for (int i = 0; i < 32; i++)
            for (int j = 0; j < 16; j++)
                w2t[32 * j + i] = me->p[W2 + 16 * i + j];
        for (int i = 0; i < 16; i++)
            for (int o = 0; o < 4; o++)
                w3t[16 * o + i] = me->p[W3 + 4 * i + o];
        gradients(me, w2t, w3t, k, me->gradients[me->number]);
        meet(me->all, &phase);
        update(me, step);
        meet(me->all, &phase);
    }
    free(k);
    return NULL;
}

double regression_float32(const float *x, const float *t, int64_t n_rows, int64_t steps, double lr, float *p,
                          int64_t threads)
{
    int64_t padded = (n_rows + 2 * ROWS - 1) / (2 * ROWS) * (2 * ROWS);
    float *rows = aligned_alloc(64, 8 * padded * sizeof(float)), *state = aligned_alloc(64, 5 * SIZE * sizeof(float));
    double squares[MOST_THREADS] = {};
    gang all = {.threads = (int)threads};
    member members[MOST_THREADS];
    memset(rows, 0, 8 * padded * sizeof(float));
    memset(state, 0, 5 * SIZE * sizeof(float));
    memcpy(rows, x, 4 * n_rows * sizeof(float));
    memcpy(rows + 4 * padded, t, 4 * n_rows * sizeof(float));
    memcpy(state, p, 756 * sizeof(float));
    for (int i = 0; i < threads; i++)
        members[i] = (member){&all, rows, rows + 4 * padded, state, state + SIZE, state + 2 * SIZE,
                              {state + 3 * SIZE, state + 4 * SIZE}, squares, n_rows, steps,
                              padded / threads * i, padded / threads * (i + 1), lr, i};
    gang_run((int)threads, work, members, sizeof(member));
    memcpy(p, state, 756 * sizeof(float));
    free(rows);
    free(state);
    return (squares[0] + squares[1]) / 4 / n_rows / steps;
}
