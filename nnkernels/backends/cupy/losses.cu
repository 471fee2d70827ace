// Elementwise losses: the weighted sum of a batch, and its slope.
//
// Printed from nnkernels/_formulas.py by `python -m nnkernels.backends`: edit the formulas, not this file.

extern "C" __global__ void __launch_bounds__(SUM_THREADS) half_squared_error_forward(double *out, const real *p,
                                                                                     const real *t, const real *weight,
                                                                                     int64 rows, int64 n) {
    __shared__ double scratch[SUM_THREADS / 32];
    const int64 size = rows * n, end = (blockIdx.x + 1) * size;
    real total = 0;
    #pragma unroll 1  // four copies of the division by n would spill
    for (int64 i = blockIdx.x * size + threadIdx.x; i < end; i += SUM_THREADS)
        total += weight[i / n] * half_squared_error_at(p[i], t[i], real(n)).loss;
    const double sum = over_block<SUM_THREADS>(double(total), scratch, Add());
    if (threadIdx.x == 0) out[blockIdx.x] += sum;
}

extern "C" __global__ void half_squared_error_backward(real *out, const real *p, const real *t, const real *weight,
                                                       int64 n, int64 size) {
    FOR_EACH(i, size) out[i] = weight[i / n] * half_squared_error_at(p[i], t[i], real(n)).slope;
}

extern "C" __global__ void __launch_bounds__(SUM_THREADS) mean_squared_error_forward(double *out, const real *p,
                                                                                     const real *t, const real *weight,
                                                                                     int64 rows, int64 n) {
    __shared__ double scratch[SUM_THREADS / 32];
    const int64 size = rows * n, end = (blockIdx.x + 1) * size;
    real total = 0;
    #pragma unroll 1  // four copies of the division by n would spill
    for (int64 i = blockIdx.x * size + threadIdx.x; i < end; i += SUM_THREADS)
        total += weight[i / n] * mean_squared_error_at(p[i], t[i], real(n)).loss;
    const double sum = over_block<SUM_THREADS>(double(total), scratch, Add());
    if (threadIdx.x == 0) out[blockIdx.x] += sum;
}

extern "C" __global__ void mean_squared_error_backward(real *out, const real *p, const real *t, const real *weight,
                                                       int64 n, int64 size) {
    FOR_EACH(i, size) out[i] = weight[i / n] * mean_squared_error_at(p[i], t[i], real(n)).slope;
}

extern "C" __global__ void __launch_bounds__(SUM_THREADS) absolute_error_forward(double *out, const real *p,
                                                                                 const real *t, const real *weight,
                                                                                 int64 rows, int64 n) {
    __shared__ double scratch[SUM_THREADS / 32];
    const int64 size = rows * n, end = (blockIdx.x + 1) * size;
    real total = 0;
    #pragma unroll 1  // four copies of the division by n would spill
    for (int64 i = blockIdx.x * size + threadIdx.x; i < end; i += SUM_THREADS)
        total += weight[i / n] * absolute_error_at(p[i], t[i], real(n)).loss;
    const double sum = over_block<SUM_THREADS>(double(total), scratch, Add());
    if (threadIdx.x == 0) out[blockIdx.x] += sum;
}

extern "C" __global__ void absolute_error_backward(real *out, const real *p, const real *t, const real *weight, int64 n,
                                                   int64 size) {
    FOR_EACH(i, size) out[i] = weight[i / n] * absolute_error_at(p[i], t[i], real(n)).slope;
}

extern "C" __global__ void __launch_bounds__(SUM_THREADS) huber_forward(double *out, const real *p, const real *t,
                                                                        const real *weight, int64 rows, int64 n,
                                                                        double delta) {
    __shared__ double scratch[SUM_THREADS / 32];
    const int64 size = rows * n, end = (blockIdx.x + 1) * size;
    real total = 0;
    #pragma unroll 1  // four copies of the division by n would spill
    for (int64 i = blockIdx.x * size + threadIdx.x; i < end; i += SUM_THREADS)
        total += weight[i / n] * huber_at(p[i], t[i], real(n), real(delta)).loss;
    const double sum = over_block<SUM_THREADS>(double(total), scratch, Add());
    if (threadIdx.x == 0) out[blockIdx.x] += sum;
}

extern "C" __global__ void huber_backward(real *out, const real *p, const real *t, const real *weight, int64 n,
                                          double delta, int64 size) {
    FOR_EACH(i, size) out[i] = weight[i / n] * huber_at(p[i], t[i], real(n), real(delta)).slope;
}

extern "C" __global__ void __launch_bounds__(SUM_THREADS) poisson_forward(double *out, const real *p, const real *t,
                                                                          const real *weight, int64 rows, int64 n) {
    __shared__ double scratch[SUM_THREADS / 32];
    const int64 size = rows * n, end = (blockIdx.x + 1) * size;
    real total = 0;
    #pragma unroll 1  // four copies of the division by n would spill
    for (int64 i = blockIdx.x * size + threadIdx.x; i < end; i += SUM_THREADS)
        total += weight[i / n] * poisson_at(p[i], t[i], real(n)).loss;
    const double sum = over_block<SUM_THREADS>(double(total), scratch, Add());
    if (threadIdx.x == 0) out[blockIdx.x] += sum;
}

extern "C" __global__ void poisson_backward(real *out, const real *p, const real *t, const real *weight, int64 n,
                                            int64 size) {
    FOR_EACH(i, size) out[i] = weight[i / n] * poisson_at(p[i], t[i], real(n)).slope;
}

extern "C" __global__ void __launch_bounds__(SUM_THREADS) poisson_rate_forward(double *out, const real *p,
                                                                               const real *t, const real *weight,
                                                                               int64 rows, int64 n) {
    __shared__ double scratch[SUM_THREADS / 32];
    const int64 size = rows * n, end = (blockIdx.x + 1) * size;
    real total = 0;
    #pragma unroll 1  // four copies of the division by n would spill
    for (int64 i = blockIdx.x * size + threadIdx.x; i < end; i += SUM_THREADS)
        total += weight[i / n] * poisson_rate_at(p[i], t[i], real(n)).loss;
    const double sum = over_block<SUM_THREADS>(double(total), scratch, Add());
    if (threadIdx.x == 0) out[blockIdx.x] += sum;
}

extern "C" __global__ void poisson_rate_backward(real *out, const real *p, const real *t, const real *weight, int64 n,
                                                 int64 size) {
    FOR_EACH(i, size) out[i] = weight[i / n] * poisson_rate_at(p[i], t[i], real(n)).slope;
}

extern "C" __global__ void __launch_bounds__(SUM_THREADS) binary_cross_entropy_forward(double *out, const real *p,
                                                                                       const real *t,
                                                                                       const real *weight, int64 rows,
                                                                                       int64 n) {
    __shared__ double scratch[SUM_THREADS / 32];
    const int64 size = rows * n, end = (blockIdx.x + 1) * size;
    real total = 0;
    #pragma unroll 1  // four copies of the division by n would spill
    for (int64 i = blockIdx.x * size + threadIdx.x; i < end; i += SUM_THREADS)
        total += weight[i / n] * binary_cross_entropy_at(p[i], t[i], real(n)).loss;
    const double sum = over_block<SUM_THREADS>(double(total), scratch, Add());
    if (threadIdx.x == 0) out[blockIdx.x] += sum;
}

extern "C" __global__ void binary_cross_entropy_backward(real *out, const real *p, const real *t, const real *weight,
                                                         int64 n, int64 size) {
    FOR_EACH(i, size) out[i] = weight[i / n] * binary_cross_entropy_at(p[i], t[i], real(n)).slope;
}
