// Softmax and the categorical cross-entropy: a warp a row.

// A warp a row: gridDim.x * (threads / 32) rows at a time.
#define FOR_EACH_ROW(row, rows)                                                                                \
    for (int64 row = (int64(blockIdx.x) * blockDim.x + threadIdx.x) / 32; row < (rows);                        \
         row += int64(gridDim.x) * blockDim.x / 32)

extern "C" __global__ void softmax_forward(real *out, const real *z, int64 rows, int64 n) {
    const int lane = threadIdx.x % 32;
    FOR_EACH_ROW(row, rows) {
        const real *in = z + row * n;
        real top = in[0], sum = 0;
        for (int64 k = lane; k < n; k += 32) top = maximum(top, in[k]);
        top = lane_max<32>(top);
        for (int64 k = lane; k < n; k += 32) sum += exp(in[k] - top);
        sum = lane_sum<32>(sum);
        for (int64 k = lane; k < n; k += 32) out[row * n + k] = exp(in[k] - top) / sum;
    }
}

extern "C" __global__ void softmax_backward(real *out, const real *da, const real *a, int64 rows, int64 n) {
    const int lane = threadIdx.x % 32;
    FOR_EACH_ROW(row, rows) {
        real sum = 0;
        for (int64 k = row * n + lane; k < (row + 1) * n; k += 32) sum += da[k] * a[k];
        sum = lane_sum<32>(sum);
        for (int64 k = row * n + lane; k < (row + 1) * n; k += 32) out[k] = a[k] * (da[k] - sum);
    }
}

// log(sum(exp(p))) - p[label], weighted and summed into out (networks): p are the logits, t is one-hot. A block a network.
extern "C" __global__ void __launch_bounds__(SUM_THREADS)
    categorical_cross_entropy_forward(double *out, const real *p, const real *t, const real *weight, int64 rows,
                                      int64 n) {
    __shared__ double scratch[SUM_THREADS / 32];
    const int lane = threadIdx.x % 32;
    real total = 0;
    for (int64 row = blockIdx.x * rows + threadIdx.x / 32; row < (blockIdx.x + 1) * rows; row += SUM_THREADS / 32) {
        const real *logit = p + row * n, *target = t + row * n;
        real top = logit[0], others = 0, label = 0, at_label = 0;
        for (int64 k = lane; k < n; k += 32) top = maximum(top, logit[k]);
        top = lane_max<32>(top);
        for (int64 k = lane; k < n; k += 32) {
            const real e = exp(logit[k] - top);
            label += target[k] * e;
            others += e - target[k] * e;
            at_label += target[k] * (logit[k] - top);
        }
        label = lane_sum<32>(label);
        // log(sum(e)) as log1p, without the label's own 1 where it is the largest: a small loss keeps its digits
        const real loss = log1p(lane_sum<32>(others) + (label - 1)) - lane_sum<32>(at_label);
        if (lane == 0) total += weight[row] * loss;
    }
    const double sum = over_block<SUM_THREADS>(double(total), scratch, Add());
    if (threadIdx.x == 0) out[blockIdx.x] += sum;
}

// softmax(p) - t; at the label as minus the sum of the others, which does not cancel.
extern "C" __global__ void categorical_cross_entropy_backward(real *out, const real *p, const real *t,
                                                              const real *weight, int64 rows, int64 n) {
    const int lane = threadIdx.x % 32;
    FOR_EACH_ROW(row, rows) {
        const real *logit = p + row * n, *target = t + row * n;
        real top = logit[0], sum = 0, others = 0;
        for (int64 k = lane; k < n; k += 32) top = maximum(top, logit[k]);
        top = lane_max<32>(top);
        for (int64 k = lane; k < n; k += 32) sum += exp(logit[k] - top);
        sum = lane_sum<32>(sum);
        for (int64 k = lane; k < n; k += 32) others += exp(logit[k] - top) / sum * (1 - target[k]);
        others = lane_sum<32>(others);
        for (int64 k = lane; k < n; k += 32) {
            const real a = exp(logit[k] - top) / sum;
            out[row * n + k] = (a * (1 - target[k]) - target[k] * others) * weight[row];
        }
    }
}
