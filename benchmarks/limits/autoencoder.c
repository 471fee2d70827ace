/* 1-1-1, sigmoid both, with biases, up to 16 rows, every step all of them, plain SGD on the sum of half squared errors.

   The rows are lanes of two vectors of 8, so that sums over the batch begin at 8. The four parameters are kept times
   -log2(e), in every lane, so that the exponents are ready: a step is one chain of two exponentials and one sum. */
#include "vectors.h"

double autoencoder_float32(const float *x, const float *t, int64_t n_rows, int64_t steps, double lr, float *p)
{
    float padded[2][16] = {}, lane[16] = {};
    memcpy(padded[0], x, n_rows * sizeof(float));
    memcpy(padded[1], t, n_rows * sizeof(float));
    for (int i = 0; i < n_rows; i++)
        lane[i] = 1;
    f8 xa, xb, ta, tb, ma, mb;
    memcpy(&xa, padded[0], 32);
    memcpy(&xb, padded[0] + 8, 32);
    memcpy(&ta, padded[1], 32);
    memcpy(&tb, padded[1] + 8, 32);
    memcpy(&ma, lane, 32);
    memcpy(&mb, lane + 8, 32);

    const float scale = -LOG2E, unscale = 1 / scale, rate = (float)lr * scale; /* of a gradient that changes a kept value */
    f8 zero = {}, w1 = zero + p[0] * scale, b1 = zero + p[1] * scale, w2 = zero + p[2] * scale, b2 = zero + p[3] * scale;
    double squares = 0;
    for (int64_t step = 0; step < steps; step++) {
        f8 eha = exp2_f8(clamp_f8(w1 * xa + b1)), ehb = exp2_f8(clamp_f8(w1 * xb + b1));
        f8 ha = 1.0f / (1.0f + eha), hb = 1.0f / (1.0f + ehb);
        f8 eoa = exp2_f8(clamp_f8(w2 * ha + b2)), eob = exp2_f8(clamp_f8(w2 * hb + b2));
        f8 oa = 1.0f / (1.0f + eoa), ob = 1.0f / (1.0f + eob);
        f8 w2u = w2 * unscale;
        f8 qa = w2u * ((eha * ha) * ha), qb = w2u * ((ehb * hb) * hb); /* d z2 / d z1 */
        f8 ra = (oa - ta) * ma, rb = (ob - tb) * mb;
        f8 da = (ra * rate) * ((eoa * oa) * oa), db = (rb * rate) * ((eob * ob) * ob);
        f8 ca = da * qa, cb = db * qb;
        squares += (double)sum_f8(ra * ra + rb * rb)[0];
        w2 -= sum_f8(da * ha + db * hb);
        b2 -= sum_f8(da + db);
        w1 -= sum_f8(ca * xa + cb * xb);
        b1 -= sum_f8(ca + cb);
    }
    p[0] = w1[0] * unscale;
    p[1] = b1[0] * unscale;
    p[2] = w2[0] * unscale;
    p[3] = b2[0] * unscale;
    return squares * 0.5 / steps;
}
