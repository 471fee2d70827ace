// A vector whose elements are spread over the lanes of a warp.

// What lane i of the first N gives, in all lanes. `shared` is used for nothing else until all lanes have met twice more.
template <int N> __device__ __forceinline__ void all_lanes(real own, real *shared, real *out) {
    if (threadIdx.x < N) shared[threadIdx.x] = own;
    __syncwarp();
    UNROLLED(i, N) out[i] = shared[i];
}

// The factor that brings a gradient of `size` elements a lane to a norm of at most `limit`, relative to the largest
// element, whose square may overflow. LANES lanes share it; `counts` tells whether an element is this lane's own.
template <int SIZE, int LANES, class F>
__device__ __forceinline__ real norm_factor(const real *g, real limit, F counts) {
    real top = 0, sum = 0;
    UNROLLED(k, SIZE) if (counts(k)) top = maximum(top, absolute(g[k]));
    top = lane_max<LANES>(top);
    const real unit = top == 0 ? real(1) : top;
    UNROLLED(k, SIZE) if (counts(k)) sum = fma(g[k] / unit, g[k] / unit, sum);
    const real norm = sqrt(lane_sum<LANES>(sum));
    return minimum(real(1), limit / unit / (norm == 0 ? real(1) : norm));
}
