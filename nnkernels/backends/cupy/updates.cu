// What an update does to a gradient beside the optimizer: penalties and clipping.

extern "C" __global__ void penalty_backward(real *out, const real *w, double l1, double l2, int64 size) {
    FOR_EACH(i, size) out[i] += real(l1) * sign(w[i]) + real(l2) * w[i];
}

extern "C" __global__ void clip_by_value(real *g, double limit, int64 size) {
    FOR_EACH(i, size) g[i] = minimum(maximum(g[i], real(-limit)), real(limit));
}

// Scales g (networks, size) so that its norm is at most `limit`, relative to the largest element, whose square may
// overflow. A block a network.
extern "C" __global__ void __launch_bounds__(SUM_THREADS) clip_by_norm(real *g, double limit, int64 size) {
    __shared__ real tops[SUM_THREADS / 32];
    __shared__ double sums[SUM_THREADS / 32];
    real *own = g + blockIdx.x * size, top = 0;
    for (int64 i = threadIdx.x; i < size; i += SUM_THREADS) top = maximum(top, absolute(own[i]));
    top = over_block<SUM_THREADS>(top, tops, Max());
    const real unit = top == 0 ? real(1) : top;
    double sum = 0;
    for (int64 i = threadIdx.x; i < size; i += SUM_THREADS) {
        const double part = own[i] / unit;
        sum = fma(part, part, sum);
    }
    const double norm = sqrt(over_block<SUM_THREADS>(sum, sums, Add()));
    if (limit >= unit * norm) return;
    const real part = real(limit / norm);  // limit / unit / norm may be subnormal
    for (int64 i = threadIdx.x; i < size; i += SUM_THREADS) own[i] = own[i] / unit * part;
}
