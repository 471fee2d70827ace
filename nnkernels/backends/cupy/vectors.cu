// Small vectors in registers: every loop is unrolled and every index a constant, so that no array reaches memory.
// Whole-run programs are compiled without contraction of a * b + c: where one rounding is meant, it says fma.

#define UNROLLED(i, n) UNROLLED_RANGE(i, 0, n)
#define UNROLLED_RANGE(i, start, stop) _Pragma("unroll") for (int i = (start); i < (stop); ++i)

// start + the sum of x[i] * w[i * STRIDE]; long sums in four parts, whose latencies overlap.
template <int N, int STRIDE> __device__ __forceinline__ real dot(const real *x, const real *w, real start) {
    if constexpr (N < 6) {
        UNROLLED(i, N) start = fma(x[i], w[i * STRIDE], start);
        return start;
    } else {
        real part[4] = {start, x[0] * w[0], x[1] * w[STRIDE], x[2] * w[2 * STRIDE]};
        UNROLLED(i, N - 3) part[i % 4] = fma(x[i + 3], w[(i + 3) * STRIDE], part[i % 4]);
        return (part[0] + part[1]) + (part[2] + part[3]);
    }
}

// z (O) = x (I) @ w (I, O) + b (O), or without b.
template <int I, int O>
__device__ __forceinline__ void dense(const real *x, const real *w, const real *OPTIONAL b, real *z) {
    UNROLLED(j, O) z[j] = dot<I, O>(x, w + j, b ? b[j] : real(0));
}

// da (I) = w (I, O) @ dz (O).
template <int I, int O> __device__ __forceinline__ void dense_backward(const real *dz, const real *w, real *da) {
    UNROLLED(i, I) da[i] = dot<O, 1>(dz, w + i * O, real(0));
}

// dw (I, O) += x (I) outer dz (O); FIRST: dw = the product.
template <int I, int O, bool FIRST>
__device__ __forceinline__ void add_outer(const real *x, const real *dz, real *dw) {
    UNROLLED(i, I) UNROLLED(j, O) dw[i * O + j] = FIRST ? x[i] * dz[j] : fma(x[i], dz[j], dw[i * O + j]);
}

template <int N, bool FIRST> __device__ __forceinline__ void add(const real *x, real *sum) {
    UNROLLED(i, N) sum[i] = FIRST ? x[i] : sum[i] + x[i];
}

template <int N> __device__ __forceinline__ void multiply(const real *x, const real *y, real *out) {
    UNROLLED(i, N) out[i] = x[i] * y[i];
}

template <int N> __device__ __forceinline__ void load(const real *from, real *out) {
    UNROLLED(i, N) out[i] = from[i];
}

template <int N, Activated (*F)(real)>
__device__ __forceinline__ void activate(const real *z, real *a, real *slope) {
    UNROLLED(j, N) {
        const Activated y = F(z[j]);
        a[j] = y.a;
        slope[j] = y.slope;
    }
}

template <int N> __device__ __forceinline__ real largest(const real *z) {
    real top = z[0];
    UNROLLED(j, N - 1) top = maximum(top, z[j + 1]);
    return top;
}

template <int N> __device__ __forceinline__ void softmax(const real *z, real *a) {
    const real top = largest<N>(z);
    real sum = 0;
    UNROLLED(j, N) {
        a[j] = exponential(z[j] - top);
        sum += a[j];
    }
    const real scale = reciprocal(sum);
    UNROLLED(j, N) a[j] *= scale;
}

// dz = a * (da - sum(da * a)).
template <int N> __device__ __forceinline__ void softmax_slope(const real *da, const real *a, real *dz) {
    const real sum = dot<N, 1>(da, a, real(0));
    UNROLLED(j, N) dz[j] = a[j] * (da[j] - sum);
}

// The loss of a row, and factor * its slope in dp. F is the formula: (p, t) -> Lost.
template <int N, class F>
__device__ __forceinline__ real row_loss(const real *p, const real *t, real factor, real *dp, F formula) {
    real loss = 0;
    UNROLLED(j, N) {
        const Lost y = formula(p[j], t[j]);
        loss += y.loss;
        dp[j] = factor * y.slope;
    }
    return factor * loss;
}

// The same for the categorical cross-entropy of logits z with a one-hot target.
template <int N> __device__ __forceinline__ real categorical(const real *z, const real *t, real factor, real *dz) {
    const real top = largest<N>(z);
    real e[N], sum = 0, rest = 0, label = 0, at_label = 0, others = 0;
    UNROLLED(j, N) {
        e[j] = exponential(z[j] - top);
        sum += e[j];
        label += t[j] * e[j];
        rest += e[j] - t[j] * e[j];
        at_label += t[j] * (z[j] - top);
    }
    const real scale = reciprocal(sum);
    UNROLLED(j, N) {
        dz[j] = e[j] * scale * (1 - t[j]);
        others += dz[j];
    }
    UNROLLED(j, N) dz[j] = (dz[j] - t[j] * others) * factor;
    // log(sum(e)) as log1p, without the label's own 1 where it is the largest: a small loss keeps its digits
    return factor * (log1p(rest + (label - 1)) - at_label);
}
