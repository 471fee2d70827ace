// Layers: a plain matrix product, sums over rows, the gathering of rows.

constexpr int TILE = 16;  // rows and columns of a block's share of a product

// out (m, n) = a (m, k) @ b (k, n) + bias (n), for each of gridDim.z networks. Matrices are strided: a is (row, column,
// network), so that a transpose is a swap. blockIdx is (columns / TILE, rows / TILE, network).
extern "C" __global__ void __launch_bounds__(TILE *TILE)
    matmul(real *out, const real *a, int64 a_row, int64 a_column, int64 a_network, const real *b, int64 b_row,
           int64 b_column, int64 b_network, const real *OPTIONAL bias, int m, int n, int k) {
    __shared__ real a_tile[TILE][TILE + 1], b_tile[TILE][TILE + 1];
    const int x = threadIdx.x % TILE, y = threadIdx.x / TILE, row = blockIdx.y * TILE + y;
    const int column = blockIdx.x * TILE + x;
    a += blockIdx.z * a_network;
    b += blockIdx.z * b_network;
    real sum = 0;
    for (int start = 0; start < k; start += TILE) {
        __syncthreads();
        a_tile[y][x] = row < m && start + x < k ? a[row * a_row + (start + x) * a_column] : real(0);
        b_tile[y][x] = start + y < k && column < n ? b[(start + y) * b_row + column * b_column] : real(0);
        __syncthreads();
#pragma unroll
        for (int i = 0; i < TILE; ++i) sum += a_tile[y][i] * b_tile[i][x];
    }
    if (row < m && column < n)
        out[(int64(blockIdx.z) * m + row) * n + column] = bias ? sum + bias[int64(blockIdx.z) * n + column] : sum;
}

// z (networks, rows, n) += bias (networks, n), in place.
extern "C" __global__ void add_bias(real *z, const real *bias, int64 rows, int64 n, int64 size) {
    FOR_EACH(i, size) z[i] += bias[i / (rows * n) * n + i % n];
}

// out (networks, n) = the sum of dz (networks, rows, n) over its rows, in an order that depends on `rows` alone:
// 32 columns a block, a warp for every 32nd row or less, four rows of each in flight. blockIdx is (n / 32, network).
extern "C" __global__ void __launch_bounds__(1024) column_sums(real *out, const real *dz, int64 rows, int64 n) {
    __shared__ real parts[32][32];
    const int x = threadIdx.x % 32, y = threadIdx.x / 32, warps = blockDim.x / 32;
    const int64 column = int64(blockIdx.x) * 32 + x;
    if (column < n) {
        const real *from = dz + blockIdx.y * rows * n + column;
        real sum[4] = {0, 0, 0, 0};
        int64 row = y;
        for (; row + 3 * warps < rows; row += 4 * warps) {
#pragma unroll
            for (int k = 0; k < 4; ++k) sum[k] += from[(row + k * warps) * n];
        }
        for (; row < rows; row += warps) sum[0] += from[row * n];
        parts[y][x] = (sum[0] + sum[1]) + (sum[2] + sum[3]);
    }
    __syncthreads();
    if (y == 0 && column < n) {
        real sum = parts[0][x];
        for (int part = 1; part < warps; ++part) sum += parts[part][x];
        out[blockIdx.y * n + column] = sum;
    }
}

extern "C" __global__ void activation_backward(real *out, const real *da, const real *slope, int64 size) {
    FOR_EACH(i, size) out[i] = da[i] * slope[i];
}

// out (networks, batch, n) = the rows of x (n_rows, n), or of each network's own x.
extern "C" __global__ void gather(real *out, const real *x, const int64 *rows, int64 n, int64 per_network,
                                  int64 x_network, int64 size) {
    FOR_EACH(i, size) out[i] = x[i / per_network * x_network + rows[i / n] * n + i % n];
}
