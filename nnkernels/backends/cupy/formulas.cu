// The formulas, for one element: what every kernel and whole-run program calls.
//
// Printed from nnkernels/_formulas.py by `python -m nnkernels.backends`: edit the formulas, not this file.

// a = z.
__device__ __forceinline__ Activated identity_at(real z) {
    const real a = real(1) * z;
    const real slope = real(1);
    return {a, slope};
}

// a = 1 / (1 + exp(-z)).
__device__ __forceinline__ Activated sigmoid_at(real z) {
    const real e = exponential(-absolute(z));
    const real r = reciprocal(real(1) + e);
    const real a = where(z < real(0), e * r, r);
    const real slope = e * r * r;
    return {a, slope};
}

// a = tanh(z); the slope as 4 e / (1 + e)**2 with e = exp(-2 |z|), since 1 - a**2 dies at |z| = 9 in float32.
__device__ __forceinline__ Activated tanh_at(real z) {
    const real a = tanh(z);
    const real e = exponential(-real(2) * absolute(z));
    const real r = reciprocal(real(1) + e);
    const real slope = real(4) * e * r * r;
    return {a, slope};
}

// a = max(z, 0); the slope at 0 is 0.
__device__ __forceinline__ Activated relu_at(real z) {
    const real a = maximum(z, real(0));
    const real slope = where(z > real(0), real(1), real(0));
    return {a, slope};
}

// a = z for z > 0, else 0.01 z.
__device__ __forceinline__ Activated leaky_relu_at(real z) {
    const real a = where(z > real(0), z, real(0.01) * z);
    const real slope = where(z > real(0), real(1), real(0.01));
    return {a, slope};
}

// a = z for z > 0, else exp(z) - 1.
__device__ __forceinline__ Activated elu_at(real z) {
    const real m = minimum(z, real(0));
    const real a = where(z > real(0), z, expm1(m));
    const real slope = exponential(m);
    return {a, slope};
}

// a = log(1 + exp(z)).
__device__ __forceinline__ Activated softplus_at(real z) {
    const real e = exponential(-absolute(z));
    const real a = maximum(z, real(0)) + log1p(e);
    const real r = reciprocal(real(1) + e);
    const real slope = where(z < real(0), e * r, r);
    return {a, slope};
}

// a = z sigmoid(z), also called swish.
__device__ __forceinline__ Activated silu_at(real z) {
    const real e = exponential(-absolute(z));
    const real r = reciprocal(real(1) + e);
    const real s = where(z < real(0), e * r, r);
    const real a = z * s;
    const real c = where(z < real(0), r, e * r);
    const real slope = s * (real(1) + z * c);
    return {a, slope};
}

// a = z Phi(z), with the normal distribution function itself, not its tanh approximation.
__device__ __forceinline__ Activated gelu_at(real z) {
    const real y = minimum(absolute(z), real(40));
    const real h = floor(real(16) * y) / real(16);
    const real density = exponential(-real(0.5) * h * h) * exponential(-real(0.5) * (y - h) * (y + h));
    const real x = real(0.7071067811865476) * y;
    const real q = (x - real(4)) / (x + real(4));
    real w = (((real(9.655408225482863e-10) * q + real(1.5712153638319064e-09)) * q + -real(1.2544825403855518e-08)) * q + -real(1.6357383982124768e-08)) * q + real(1.0683442926744586e-07);
    w = (((w * q + real(7.111912428010423e-08)) * q + -real(8.218020654813044e-07)) * q + real(2.980596055322769e-07)) * q + real(5.707239573693257e-06);
    w = (((w * q + -real(1.1225140354449658e-05)) * q + -real(2.439811794207995e-05)) * q + real(0.0001506231178516207)) * q + -real(0.00019925700412184815);
    w = (((w * q + -real(0.0007577737141838885)) * q + real(0.005031970032548695)) * q + -real(0.01619773397992426)) * q + real(0.0371675155318432);
    w = (((w * q + -real(0.06633036582050367)) * q + real(0.09373283499865172)) * q + -real(0.10103906603585294)) * q + real(0.0680970542546862);
    w = ((w * q + real(0.015379652102610162)) * q + -real(0.1396211168405625)) * q + real(1.2329951186255526);
    const real tail = real(0.5) * density * w / (real(1) + real(2) * x);
    const real cdf = where(z < real(0), tail, real(1) - tail);
    const real a = z * cdf;
    const real slope = cdf + real(0.3989422804014327) * z * density;
    return {a, slope};
}

// (p - t)**2 / 2, summed over a row's outputs.
__device__ __forceinline__ Lost half_squared_error_at(real p, real t, real n) {
    const real d = p - t;
    const real loss = real(0.5) * d * d;
    const real slope = d;
    return {loss, slope};
}

// (p - t)**2, averaged over a row's outputs.
__device__ __forceinline__ Lost mean_squared_error_at(real p, real t, real n) {
    const real d = p - t;
    const real loss = d * d / n;
    const real slope = real(2) * d / n;
    return {loss, slope};
}

// |p - t|, averaged over a row's outputs; the slope at 0 is 0.
__device__ __forceinline__ Lost absolute_error_at(real p, real t, real n) {
    const real d = p - t;
    const real loss = absolute(d) / n;
    const real slope = sign(d) / n;
    return {loss, slope};
}

// (p - t)**2 / 2 up to |p - t| = delta and linear beyond, averaged over a row's outputs.
__device__ __forceinline__ Lost huber_at(real p, real t, real n, real delta) {
    const real d = p - t;
    const real q = minimum(absolute(d), delta);
    const real loss = q * (absolute(d) - real(0.5) * q) / n;
    const real slope = sign(d) * q / n;
    return {loss, slope};
}

// exp(p) - t p, averaged over a row's outputs: p is the logarithm of the rate.
__device__ __forceinline__ Lost poisson_at(real p, real t, real n) {
    const real rate = exponential(p);
    const real loss = (rate - t * p) / n;
    const real slope = (rate - t) / n;
    return {loss, slope};
}

// p - t log(p), averaged over a row's outputs: p is the rate itself.
__device__ __forceinline__ Lost poisson_rate_at(real p, real t, real n) {
    const real loss = (p - t * log(p)) / n;
    const real slope = (real(1) - t / p) / n;
    return {loss, slope};
}

// -t log(sigmoid(p)) - (1 - t) log(1 - sigmoid(p)), averaged over a row's outputs: p is the logit.
__device__ __forceinline__ Lost binary_cross_entropy_at(real p, real t, real n) {
    const real e = exponential(-absolute(p));
    const real r = reciprocal(real(1) + e);
    const real loss = (maximum(p, real(0)) - t * p + log1p(e)) / n;
    const real slope = ((real(1) - t) * where(p < real(0), e * r, r) - t * where(p < real(0), r, e * r)) / n;
    return {loss, slope};
}

// Gradient descent.
__device__ __forceinline__ void sgd_at(real &p, real g, real lr, real weight_decay) {
    p = p - lr * (g + weight_decay * p);
}

// Gradient descent with momentum (Polyak), dampening 0.
__device__ __forceinline__ void sgd_momentum_at(real &p, real g, real &v, real lr, real momentum, real weight_decay) {
    v = momentum * v + (g + weight_decay * p);
    p = p - lr * v;
}

// Gradient descent with Nesterov's momentum, as Sutskever et al. (2013) write it.
__device__ __forceinline__ void sgd_nesterov_at(real &p, real g, real &v, real lr, real momentum, real weight_decay) {
    const real d = g + weight_decay * p;
    v = momentum * v + d;
    p = p - lr * (d + momentum * v);
}

// Adam (Kingma and Ba, 2015); weight decay enters the gradient.
__device__ __forceinline__ void adam_at(real &p, real g, real &m, real &v, real lr, real rest1, real rest2,
                                        real correction1, real correction2, real beta1, real beta2, real eps,
                                        real weight_decay) {
    const real d = g + weight_decay * p;
    m = beta1 * m + rest1 * d;
    v = beta2 * v + rest2 * d * d;
    p = p - lr * (m / correction1) / (sqrt(v / correction2) + eps);
}

// Adam with decoupled weight decay (Loshchilov and Hutter, 2019).
__device__ __forceinline__ void adamw_at(real &p, real g, real &m, real &v, real lr, real rest1, real rest2,
                                         real correction1, real correction2, real beta1, real beta2, real eps,
                                         real weight_decay) {
    m = beta1 * m + rest1 * g;
    v = beta2 * v + rest2 * g * g;
    p = p - lr * weight_decay * p - lr * (m / correction1) / (sqrt(v / correction2) + eps);
}

// RMSprop (Tieleman and Hinton, 2012), not centered.
__device__ __forceinline__ void rmsprop_at(real &p, real g, real &v, real lr, real rest, real alpha, real eps,
                                           real weight_decay) {
    const real d = g + weight_decay * p;
    v = alpha * v + rest * d * d;
    p = p - lr * d / (sqrt(v) + eps);
}
