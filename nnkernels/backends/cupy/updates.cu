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
    const double unit = top == 0 ? 1 : double(top);
    double sum = 0;
    for (int64 i = threadIdx.x; i < size; i += SUM_THREADS) sum += own[i] / unit * (own[i] / unit);
    const double norm = sqrt(over_block<SUM_THREADS>(sum, sums, Add()));
    const double factor = minimum(1.0, limit / unit / (norm == 0 ? 1 : norm));
    for (int64 i = threadIdx.x; i < size; i += SUM_THREADS) own[i] = real(own[i] * factor);
}
