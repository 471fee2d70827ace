// What a captured step reads from memory because it changes from step to step.

// Begins a step, in one block of threads: `counters` are the step's place in its block of steps, and the step at which
// that block begins; the step's rate and rows are picked from the block's.
extern "C" __global__ void begin_step(int64 *counters, int64 *step, real *rate, const real *rates,
                                      int64 *OPTIONAL rows, const int64 *OPTIONAL order, int64 width, int64 batch) {
    const int64 at = counters[0];
    __syncthreads();
    if (rows)
        for (int64 i = threadIdx.x; i < batch; i += blockDim.x) rows[i] = order[at * width + i];
    if (threadIdx.x == 0) {
        *rate = rates[at];
        *step = counters[1] + at;
        counters[0] = at + 1;
    }
}
