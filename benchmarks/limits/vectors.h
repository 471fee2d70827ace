/* Short vectors in GCC's and Clang's vector extensions: 2^x, sums over lanes, Philox. */
#ifndef NNKERNELS_VECTORS_H
#define NNKERNELS_VECTORS_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#define INLINE static inline __attribute__((always_inline, unused))

typedef float f8 __attribute__((vector_size(32)));
typedef double d4 __attribute__((vector_size(32)));
typedef int32_t i8 __attribute__((vector_size(32)));
typedef int64_t l4 __attribute__((vector_size(32)));
#define LOG2E 1.4426950408889634

/* [-limit, limit]: beyond it 2^x, or 1 + 2^x, leaves the range of normal numbers. */
#define CLAMP(F, I, limit)                                                                                             \
    F high = (F){} + limit, low = (F){} - limit;                                                                       \
    I above = t > high, below = t < low;                                                                               \
    t = (F)((above & (I)high) | (~above & (I)t));                                                                      \
    return (F)((below & (I)low) | (~below & (I)t));

/* With AVX-512, range: of two numbers the smaller in magnitude, with the sign of the first, in one operation. */
INLINE f8 clamp_f8(f8 t)
{
#if defined(__AVX512DQ__) && defined(__AVX512VL__)
    return (f8)_mm256_range_ps((__m256)t, _mm256_set1_ps(126.0f), 2);
#elif defined(__AVX__)
    return (f8)_mm256_max_ps(_mm256_min_ps((__m256)t, _mm256_set1_ps(126.0f)), _mm256_set1_ps(-126.0f));
#else
    CLAMP(f8, i8, 126.0f)
#endif
}

INLINE d4 clamp_d4(d4 t)
{
#if defined(__AVX512DQ__) && defined(__AVX512VL__)
    return (d4)_mm256_range_pd((__m256d)t, _mm256_set1_pd(1022.0), 2);
#elif defined(__AVX__)
    return (d4)_mm256_max_pd(_mm256_min_pd((__m256d)t, _mm256_set1_pd(1022.0)), _mm256_set1_pd(-1022.0));
#else
    CLAMP(d4, l4, 1022.0)
#endif
}

/* 2^t for |t| <= 126: t = n + x with n whole, by adding and taking away 1.5 * 2^23, whose low bits then are n;
   2^x by a polynomial of degree 6 (error 2e-8), in three short chains; n is added to the exponent. */
#define EXP2_F32(F, I, name)                                                                                            \
    INLINE F name(F t)                                                                                                  \
    {                                                                                                                   \
        F shifted = t + 12582912.0f, x = t - (shifted - 12582912.0f), x2 = x * x;                                       \
        F a = x * 0.69314718802622878f + 1.0f, b = x * 0.055503571142190778f + 0.24022650760568127f;                    \
        F c = x * 0.0013390863364671234f + 0.0096180825772578515f;                                                      \
        c = x2 * 0.00015453162945120691f + c;                                                                           \
        b = x2 * c + b;                                                                                                 \
        return (F)((I)(x2 * b + a) + ((I)shifted << 23));                                                               \
    }
EXP2_F32(f8, i8, exp2_f8)

/* The same in double: 1.5 * 2^52, degree 11 (error 1e-17). */
INLINE d4 exp2_d4(d4 t)
{
    d4 shifted = t + 6755399441055744.0, x = t - (shifted - 6755399441055744.0), x2 = x * x, x4 = x2 * x2;
    d4 p0 = x * 0.69314718055994530942 + 1.0, p1 = x * 0.055504108664821594339 + 0.2402265069591009822;
    d4 p2 = x * 0.001333355814641693531 + 0.0096181291076068885273;
    d4 p3 = x * 0.000015252733829836118394 + 0.00015403530441736050155;
    d4 p4 = x * 1.0178062445845773521e-7 + 1.3215442587921689653e-6;
    d4 p5 = x * 4.4549605981865183938e-10 + 7.0725859492692236999e-9;
    p0 = x2 * p1 + p0;
    p2 = x2 * p3 + p2;
    p4 = x2 * p5 + p4;
    p2 = x4 * p4 + p2;
    p0 = x4 * p2 + p0;
    return (d4)((l4)p0 + ((l4)shifted << 52));
}

/* Sums over lanes as a butterfly: the sum ends up in every lane. */
INLINE f8 sum_f8(f8 v)
{
    v += __builtin_shufflevector(v, v, 4, 5, 6, 7, 0, 1, 2, 3);
    v += __builtin_shufflevector(v, v, 2, 3, 0, 1, 6, 7, 4, 5);
    return v + __builtin_shufflevector(v, v, 1, 0, 3, 2, 5, 4, 7, 6);
}

INLINE d4 sum_d4(d4 v)
{
    v += __builtin_shufflevector(v, v, 2, 3, 0, 1);
    return v + __builtin_shufflevector(v, v, 1, 0, 3, 2);
}

/* The rows of BLOCK steps of one row each, drawn with replacement: Philox4x32-10 of (item 0, step, network 0, stream 0)
   under the key `seed`; 64 of its bits times n_rows, the high half. A loop over lanes that the compiler vectorizes. */
#define BLOCK 256

INLINE void draw_block(uint64_t seed, uint64_t first_step, uint64_t n_rows, uint32_t *restrict rows)
{
    uint64_t c0[BLOCK], c1[BLOCK], c2[BLOCK], c3[BLOCK];
    uint64_t k0 = seed & 0xFFFFFFFF, k1 = seed >> 32;
    for (int i = 0; i < BLOCK; i++) {
        c0[i] = 0;
        c1[i] = (first_step + i) & 0xFFFFFFFF;
        c2[i] = 0;
        c3[i] = (first_step + i) >> 32;
    }
    for (int i = 0; i < BLOCK; i++) {
        uint64_t a = c0[i], b = c1[i], c = c2[i], d = c3[i], x = k0, y = k1;
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

#endif
