// Activations: z -> a, and the accurate slope da/dz.
//
// Printed from nnkernels/_formulas.py by `python -m nnkernels.backends`: edit the formulas, not this file.

extern "C" __global__ void identity_forward(real *out, real *OPTIONAL slope, const real *z, int64 size) {
    FOR_EACH(i, size) {
        const Activated y = identity_at(z[i]);
        if (slope) slope[i] = y.slope;
        out[i] = y.a;
    }
}

extern "C" __global__ void bias_identity_forward(real *out, real *OPTIONAL slope, const real *z, const real *bias,
                                                 int64 per_network, int64 n, int64 size) {
    FOR_EACH(i, size) {
        const Activated y = identity_at(z[i] + bias[i / per_network * n + i % n]);
        if (slope) slope[i] = y.slope;
        out[i] = y.a;
    }
}

extern "C" __global__ void sigmoid_forward(real *out, real *OPTIONAL slope, const real *z, int64 size) {
    FOR_EACH(i, size) {
        const Activated y = sigmoid_at(z[i]);
        if (slope) slope[i] = y.slope;
        out[i] = y.a;
    }
}

extern "C" __global__ void bias_sigmoid_forward(real *out, real *OPTIONAL slope, const real *z, const real *bias,
                                                int64 per_network, int64 n, int64 size) {
    FOR_EACH(i, size) {
        const Activated y = sigmoid_at(z[i] + bias[i / per_network * n + i % n]);
        if (slope) slope[i] = y.slope;
        out[i] = y.a;
    }
}

extern "C" __global__ void tanh_forward(real *out, real *OPTIONAL slope, const real *z, int64 size) {
    FOR_EACH(i, size) {
        const Activated y = tanh_at(z[i]);
        if (slope) slope[i] = y.slope;
        out[i] = y.a;
    }
}

extern "C" __global__ void bias_tanh_forward(real *out, real *OPTIONAL slope, const real *z, const real *bias,
                                             int64 per_network, int64 n, int64 size) {
    FOR_EACH(i, size) {
        const Activated y = tanh_at(z[i] + bias[i / per_network * n + i % n]);
        if (slope) slope[i] = y.slope;
        out[i] = y.a;
    }
}

extern "C" __global__ void relu_forward(real *out, real *OPTIONAL slope, const real *z, int64 size) {
    FOR_EACH(i, size) {
        const Activated y = relu_at(z[i]);
        if (slope) slope[i] = y.slope;
        out[i] = y.a;
    }
}

extern "C" __global__ void bias_relu_forward(real *out, real *OPTIONAL slope, const real *z, const real *bias,
                                             int64 per_network, int64 n, int64 size) {
    FOR_EACH(i, size) {
        const Activated y = relu_at(z[i] + bias[i / per_network * n + i % n]);
        if (slope) slope[i] = y.slope;
        out[i] = y.a;
    }
}

extern "C" __global__ void leaky_relu_forward(real *out, real *OPTIONAL slope, const real *z, int64 size) {
    FOR_EACH(i, size) {
        const Activated y = leaky_relu_at(z[i]);
        if (slope) slope[i] = y.slope;
        out[i] = y.a;
    }
}

extern "C" __global__ void bias_leaky_relu_forward(real *out, real *OPTIONAL slope, const real *z, const real *bias,
                                                   int64 per_network, int64 n, int64 size) {
    FOR_EACH(i, size) {
        const Activated y = leaky_relu_at(z[i] + bias[i / per_network * n + i % n]);
        if (slope) slope[i] = y.slope;
        out[i] = y.a;
    }
}

extern "C" __global__ void elu_forward(real *out, real *OPTIONAL slope, const real *z, int64 size) {
    FOR_EACH(i, size) {
        const Activated y = elu_at(z[i]);
        if (slope) slope[i] = y.slope;
        out[i] = y.a;
    }
}

extern "C" __global__ void bias_elu_forward(real *out, real *OPTIONAL slope, const real *z, const real *bias,
                                            int64 per_network, int64 n, int64 size) {
    FOR_EACH(i, size) {
        const Activated y = elu_at(z[i] + bias[i / per_network * n + i % n]);
        if (slope) slope[i] = y.slope;
        out[i] = y.a;
    }
}

extern "C" __global__ void softplus_forward(real *out, real *OPTIONAL slope, const real *z, int64 size) {
    FOR_EACH(i, size) {
        const Activated y = softplus_at(z[i]);
        if (slope) slope[i] = y.slope;
        out[i] = y.a;
    }
}

extern "C" __global__ void bias_softplus_forward(real *out, real *OPTIONAL slope, const real *z, const real *bias,
                                                 int64 per_network, int64 n, int64 size) {
    FOR_EACH(i, size) {
        const Activated y = softplus_at(z[i] + bias[i / per_network * n + i % n]);
        if (slope) slope[i] = y.slope;
        out[i] = y.a;
    }
}

extern "C" __global__ void silu_forward(real *out, real *OPTIONAL slope, const real *z, int64 size) {
    FOR_EACH(i, size) {
        const Activated y = silu_at(z[i]);
        if (slope) slope[i] = y.slope;
        out[i] = y.a;
    }
}

extern "C" __global__ void bias_silu_forward(real *out, real *OPTIONAL slope, const real *z, const real *bias,
                                             int64 per_network, int64 n, int64 size) {
    FOR_EACH(i, size) {
        const Activated y = silu_at(z[i] + bias[i / per_network * n + i % n]);
        if (slope) slope[i] = y.slope;
        out[i] = y.a;
    }
}

extern "C" __global__ void gelu_forward(real *out, real *OPTIONAL slope, const real *z, int64 size) {
    FOR_EACH(i, size) {
        const Activated y = gelu_at(z[i]);
        if (slope) slope[i] = y.slope;
        out[i] = y.a;
    }
}

extern "C" __global__ void bias_gelu_forward(real *out, real *OPTIONAL slope, const real *z, const real *bias,
                                             int64 per_network, int64 n, int64 size) {
    FOR_EACH(i, size) {
        const Activated y = gelu_at(z[i] + bias[i / per_network * n + i % n]);
        if (slope) slope[i] = y.slope;
        out[i] = y.a;
    }
}
