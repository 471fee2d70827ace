/* Elementwise sigmoid, alone and with its slope, the multiplication that goes back through it, and copying. */
#include "wide.h"

#define EACH(...)                                                                                                      \
    int64_t i = 0;                                                                                                     \
    for (; i + 32 <= n; i += 32)                                                                                       \
        for (int u = 0; u < 32; u += 16) {                                                                             \
            int64_t at = i + u;                                                                                        \
            __VA_ARGS__                                                                                                \
        }                                                                                                              \
    return i; /* what is left is done by the caller's last call, on vectors that overlap */

static int64_t forward(const float *z, float *a, int64_t n)
{
    EACH(f16 e = exp2_f16(clamp_f16(load16(z + at) * (float)-LOG2E)); store16(a + at, reciprocal_f16(1.0f + e));)
}

static int64_t forward_slope(const float *z, float *a, float *slope, int64_t n)
{
    EACH(f16 e = exp2_f16(clamp_f16(load16(z + at) * (float)-LOG2E)); f16 r = reciprocal_f16(1.0f + e);
         store16(a + at, r); store16(slope + at, (e * r) * r);)
}

static int64_t multiply(const float *da, const float *slope, float *dz, int64_t n)
{
    EACH(store16(dz + at, load16(da + at) * load16(slope + at));)
}

/* n >= 32. The last vectors overlap those before them, which are then written twice, with the same values. */
void sigmoid_forward(const float *z, float *a, int64_t n)
{
    int64_t done = forward(z, a, n);
    if (done < n)
        forward(z + n - 32, a + n - 32, 32);
}

void sigmoid_forward_slope(const float *z, float *a, float *slope, int64_t n)
{
    int64_t done = forward_slope(z, a, slope, n);
    if (done < n)
        forward_slope(z + n - 32, a + n - 32, slope + n - 32, 32);
}

void sigmoid_backward(const float *da, const float *slope, float *dz, int64_t n)
{
    int64_t done = multiply(da, slope, dz, n);
    if (done < n)
        multiply(da + n - 32, slope + n - 32, dz + n - 32, 32);
}

void copy(const float *from, float *to, int64_t n) { memcpy(to, from, n * sizeof(float)); }
