// Vectors and matrices that the threads of a block share.

#define FOR_THREADS(e, n) for (int e = threadIdx.x; e < (n); e += int(blockDim.x))

// Where the rows of a batch begin: in shared memory, one after another, or anywhere in the data.
template <int N> struct Rows {
    const real *start;
    __device__ __forceinline__ const real *operator[](int row) const { return start + row * N; }
};
template <int N> struct DataRows {
    const real *start;
    const int64 *rows;
    __device__ __forceinline__ const real *operator[](int row) const { return start + rows[row] * N; }
};

// For every element: z = x @ w + b, of which `use(element, z)` makes what is kept. Rows of w are STRIDE apart.
template <int ROWS, int I, int O, int STRIDE, class X, class F>
__device__ __forceinline__ void block_dense(X x, const real *w, const real *OPTIONAL b, F use) {
    FOR_THREADS(e, ROWS * O) {
        const int j = e % O;
        const real *in = x[e / O];
        real sum = b ? b[j] : real(0);
#pragma unroll 8
        for (int i = 0; i < I; ++i) sum = fma(in[i], w[i * STRIDE + j], sum);
        use(e, sum);
    }
}

// For every element: da = dz @ w^T, of which `use(element, da)` makes what is kept.
template <int ROWS, int I, int O, int STRIDE, class F>
__device__ __forceinline__ void block_dense_backward(const real *dz, const real *w, F use) {
    FOR_THREADS(e, ROWS * I) {
        const real *row = w + e % I * STRIDE, *in = dz + e / I * O;
        real sum = 0;
#pragma unroll 8
        for (int j = 0; j < O; ++j) sum = fma(in[j], row[j], sum);
        use(e, sum);
    }
}

// For every weight, or every bias: its gradient, of which `use(place, gradient)` makes what is kept.
template <int ROWS, int I, int O, int STRIDE, class X, class F>
__device__ __forceinline__ void block_weight_gradients(X x, const real *dz, F use) {
    FOR_THREADS(e, I * O) {
        const int i = e / O, j = e % O;
        real sum = 0;
#pragma unroll 8
        for (int row = 0; row < ROWS; ++row) sum = fma(x[row][i], dz[row * O + j], sum);
        use(i * STRIDE + j, sum);
    }
}
template <int ROWS, int O, class F> __device__ __forceinline__ void block_bias_gradients(const real *dz, F use) {
    FOR_THREADS(j, O) {
        real sum = 0;
#pragma unroll 8
        for (int row = 0; row < ROWS; ++row) sum += dz[row * O + j];
        use(j, sum);
    }
}
