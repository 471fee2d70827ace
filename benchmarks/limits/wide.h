/* Vectors of 16 floats: AVX-512, which compilers do not make well out of shorter ones. */
#ifndef NNKERNELS_WIDE_H
#define NNKERNELS_WIDE_H

#include "vectors.h"

#if !defined(__AVX512DQ__)
#error written for AVX-512, which this processor does not have
#endif

typedef float f4 __attribute__((vector_size(16)));
typedef float f16 __attribute__((vector_size(64)));
typedef int32_t i16 __attribute__((vector_size(64)));
/* the same in memory, at any address */
typedef float f4u __attribute__((vector_size(16), aligned(4), may_alias));
typedef float f16u __attribute__((vector_size(64), aligned(4), may_alias));

INLINE f16 clamp_f16(f16 t) { return (f16)_mm512_range_ps((__m512)t, _mm512_set1_ps(126.0f), 2); }

EXP2_F32(f16, i16, exp2_f16)

/* 1 / v. The processor's estimate of 14 bits, made exact to float by one step of Newton's, is faster than a division
   where divisions are many and none waits for another. */
INLINE f16 reciprocal_f16(f16 v)
{
    f16 r = (f16)_mm512_rcp14_ps((__m512)v);
    return r + r * (1.0f - v * r);
}

/* tanh as (m / (m + 2)) with m = e^(2z) - 1, which keeps its digits near 0; the slope as 4 (m + 1) / (m + 2)^2. */
INLINE f16 tanh_f16(f16 z, f16 *slope)
{
    f16 t = clamp_f16(z * (float)(2 * LOG2E)), shifted = t + 12582912.0f, x = t - (shifted - 12582912.0f), x2 = x * x;
    f16 b = x * 0.055503571142190778f + 0.24022650760568127f, c = x * 0.0013390863364671234f + 0.0096180825772578515f;
    c = x2 * 0.00015453162945120691f + c;
    b = x2 * c + b;
    f16 part = x2 * b + x * 0.69314718802622878f; /* 2^x - 1 */
    f16 power = (f16)(((i16)shifted << 23) + 0x3F800000);
    f16 m = power * part + (power - 1.0f), r = reciprocal_f16(m + 2.0f);
    *slope = ((4.0f * (m + 1.0f)) * r) * r;
    return m * r;
}

INLINE float sum_f16(f16 v)
{
    f8 half = __builtin_shufflevector(v, v, 0, 1, 2, 3, 4, 5, 6, 7)
              + __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15);
    f4 quarter = __builtin_shufflevector(half, half, 0, 1, 2, 3) + __builtin_shufflevector(half, half, 4, 5, 6, 7);
    quarter += __builtin_shufflevector(quarter, quarter, 2, 3, 0, 1);
    return quarter[0] + quarter[1];
}

INLINE f16 load16(const float *at) { return *(const f16u *)at; }
INLINE void store16(float *at, f16 v) { *(f16u *)at = v; }

#endif
