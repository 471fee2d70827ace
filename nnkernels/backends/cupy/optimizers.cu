// Optimizer updates on flat parameter buffers.
//
// Printed from nnkernels/_formulas.py by `python -m nnkernels.backends`: edit the formulas, not this file.

extern "C" __global__ void sgd_update(real *p, const real *g, const real *lr, const int64 *step, double weight_decay,
                                      int64 per_rate, int64 size) {
    FOR_EACH(i, size) sgd_at(p[i], g[i], lr[i / per_rate], real(weight_decay));
}

extern "C" __global__ void sgd_momentum_update(real *p, const real *g, real *v, const real *lr, const int64 *step,
                                               double momentum, double weight_decay, int64 per_rate, int64 size) {
    FOR_EACH(i, size) sgd_momentum_at(p[i], g[i], v[i], lr[i / per_rate], real(momentum), real(weight_decay));
}

extern "C" __global__ void sgd_nesterov_update(real *p, const real *g, real *v, const real *lr, const int64 *step,
                                               double momentum, double weight_decay, int64 per_rate, int64 size) {
    FOR_EACH(i, size) sgd_nesterov_at(p[i], g[i], v[i], lr[i / per_rate], real(momentum), real(weight_decay));
}

extern "C" __global__ void adam_update(real *p, const real *g, real *m, real *v, const real *lr, const int64 *step,
                                       double beta1, double beta2, double eps, double weight_decay, int64 per_rate,
                                       int64 size) {
    __shared__ real once[4];
    if (threadIdx.x == 0) {
        const double rest1 = 1 - beta1;
        const double rest2 = 1 - beta2;
        const double correction1 = 1 - pow(beta1, double(step[0]) + 1);
        const double correction2 = 1 - pow(beta2, double(step[0]) + 1);
        once[0] = real(rest1);
        once[1] = real(rest2);
        once[2] = real(correction1);
        once[3] = real(correction2);
    }
    __syncthreads();
    const real rest1 = once[0], rest2 = once[1], correction1 = once[2], correction2 = once[3];
    FOR_EACH(i, size) adam_at(p[i], g[i], m[i], v[i], lr[i / per_rate], rest1, rest2, correction1, correction2, real(beta1),
                              real(beta2), real(eps), real(weight_decay));
}

extern "C" __global__ void adamw_update(real *p, const real *g, real *m, real *v, const real *lr, const int64 *step,
                                        double beta1, double beta2, double eps, double weight_decay, int64 per_rate,
                                        int64 size) {
    __shared__ real once[4];
    if (threadIdx.x == 0) {
        const double rest1 = 1 - beta1;
        const double rest2 = 1 - beta2;
        const double correction1 = 1 - pow(beta1, double(step[0]) + 1);
        const double correction2 = 1 - pow(beta2, double(step[0]) + 1);
        once[0] = real(rest1);
        once[1] = real(rest2);
        once[2] = real(correction1);
        once[3] = real(correction2);
    }
    __syncthreads();
    const real rest1 = once[0], rest2 = once[1], correction1 = once[2], correction2 = once[3];
    FOR_EACH(i, size) adamw_at(p[i], g[i], m[i], v[i], lr[i / per_rate], rest1, rest2, correction1, correction2,
                               real(beta1), real(beta2), real(eps), real(weight_decay));
}

extern "C" __global__ void rmsprop_update(real *p, const real *g, real *v, const real *lr, const int64 *step,
                                          double alpha, double eps, double weight_decay, int64 per_rate, int64 size) {
    __shared__ real once[1];
    if (threadIdx.x == 0) {
        const double rest = 1 - alpha;
        once[0] = real(rest);
    }
    __syncthreads();
    const real rest = once[0];
    FOR_EACH(i, size) rmsprop_at(p[i], g[i], v[i], lr[i / per_rate], rest, real(alpha), real(eps), real(weight_decay));
}
