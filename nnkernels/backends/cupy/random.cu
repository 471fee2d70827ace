// Counter-based random numbers: the same bits as nnkernels/backends/numpy/random.py, which explains them.

constexpr int FEISTEL_ROUNDS = 24;
constexpr int TILE = 256;  // threads of a block that sorts, and keys that it compares with at a time

// 64 bits an item: items 2 i and 2 i + 1 share a counter.
__device__ __forceinline__ uint64 bits64(uint64 seed, int stream, int64 network, int64 step, int64 item) {
    const Words words = philox(seed, stream, network, 0, step, item / 2);
    const bool odd = item & 1;
    return uint64(odd ? words.word[2] : words.word[0]) << 32 | (odd ? words.word[3] : words.word[1]);
}

// Where element i of (networks, count, batch) stands.
struct Place {
    int64 network, step, item;
};

__device__ __forceinline__ Place place(int64 i, int64 network, int64 first_step, int64 count, int64 batch) {
    return {network + i / (count * batch), first_step + i / batch % count, i % batch};
}

extern "C" __global__ void draw_replacement(int64 *out, uint64 seed, int64 network, int64 first_step, int64 count,
                                            int64 batch, int64 n_rows, int64 size) {
    FOR_EACH(i, size) {
        const Place at = place(i, network, first_step, count, batch);
        out[i] = int64(__umul64hi(bits64(seed, STREAM_ROWS, at.network, at.step, at.item), uint64(n_rows)));
    }
}

extern "C" __global__ void draw_sequential(int64 *out, int64 first_step, int64 count, int64 batch, int64 n_rows,
                                           int64 size) {
    const int64 per_epoch = (n_rows + batch - 1) / batch;
    FOR_EACH(i, size) {
        const Place at = place(i, 0, first_step, count, batch);
        const int64 position = at.step % per_epoch * batch + at.item;
        out[i] = position < n_rows ? position : -1;
    }
}

// A permutation as the order of 64-bit keys: row `row` stands where its key has its rank. A block ranks TILE rows of
// one epoch of one network: blockIdx is (rows / TILE, epoch, network).
extern "C" __global__ void __launch_bounds__(TILE) draw_sorted(int64 *out, uint64 seed, int64 network,
                                                               int64 first_step, int64 count, int64 batch,
                                                               int64 n_rows) {
    __shared__ uint64 keys[TILE];
    const int64 per_epoch = (n_rows + batch - 1) / batch, epoch = first_step / per_epoch + blockIdx.y;
    const int64 row = int64(blockIdx.x) * TILE + threadIdx.x, own = network + blockIdx.z;
    const uint64 key = row < n_rows ? bits64(seed, STREAM_SORT, own, epoch, row) : 0;
    int64 rank = 0;
    for (int64 start = 0; start < n_rows; start += TILE) {
        const int64 other = start + threadIdx.x;
        __syncthreads();
        if (other < n_rows) keys[threadIdx.x] = bits64(seed, STREAM_SORT, own, epoch, other);
        __syncthreads();
        const int here = int(n_rows - start < TILE ? n_rows - start : TILE);
        for (int k = 0; k < here; ++k) rank += keys[k] < key || (keys[k] == key && start + k < row);
    }
    const int64 step = epoch * per_epoch + rank / batch - first_step;
    if (row < n_rows && step >= 0 && step < count) out[(blockIdx.z * count + step) * batch + rank % batch] = row;
}

// What a last batch that is short leaves free.
extern "C" __global__ void draw_nothing(int64 *out, int64 first_step, int64 count, int64 batch, int64 n_rows,
                                        int64 size) {
    const int64 per_epoch = (n_rows + batch - 1) / batch;
    FOR_EACH(i, size) {
        const Place at = place(i, 0, first_step, count, batch);
        if (at.step % per_epoch * batch + at.item >= n_rows) out[i] = -1;
    }
}

// 32 well mixed bits of a half and a round key.
__device__ __forceinline__ uint64 mix(uint64 value, uint64 key) {
    uint64 mixed = (value ^ key) * 0x9E3779B97F4A7C15ull;
    mixed = (mixed ^ (mixed >> 32)) * 0xD6E8FEB86659FD93ull;
    return mixed >> 32;
}

// A keyed bijection of 2**bits >= n_rows numbers, walked until the result is a row.
__device__ int64 feistel(uint64 seed, int64 network, int64 epoch, int64 position, int64 n_rows) {
    int bits = 0;
    while (uint64(n_rows - 1) >> bits) ++bits;
    const int right_bits = bits - bits / 2;
    const uint64 left_mask = (1ull << bits / 2) - 1, right_mask = (1ull << right_bits) - 1;
    uint64 value = uint64(position);
    do {
        uint64 left = value >> right_bits, right = value & right_mask;
        for (int block = 0; block < FEISTEL_ROUNDS / 4; ++block) {
            const Words keys = philox(seed, STREAM_FEISTEL, network, 0, epoch, block);
            left ^= mix(right, keys.word[0]) & left_mask;
            right ^= mix(left, keys.word[1]) & right_mask;
            left ^= mix(right, keys.word[2]) & left_mask;
            right ^= mix(left, keys.word[3]) & right_mask;
        }
        value = left << right_bits | right;
    } while (value >= uint64(n_rows));
    return int64(value);
}

extern "C" __global__ void draw_feistel(int64 *out, uint64 seed, int64 network, int64 first_step, int64 count,
                                        int64 batch, int64 n_rows, int64 size) {
    const int64 per_epoch = (n_rows + batch - 1) / batch;
    FOR_EACH(i, size) {
        const Place at = place(i, network, first_step, count, batch);
        const int64 position = at.step % per_epoch * batch + at.item;
        out[i] = position < n_rows ? feistel(seed, at.network, at.step / per_epoch, position, n_rows) : -1;
    }
}

// 0 where the element's word is below `threshold`, else `kept`; a network has `size` elements, blockIdx.y is its number.
extern "C" __global__ void dropout_mask(real *out, const int64 *step, uint64 seed, int64 network, int layer,
                                        uint64 threshold, double kept, int64 size) {
    const int64 own = network + blockIdx.y;
    FOR_EACH(block, (size + 3) / 4) {
        const Words words = philox(seed, STREAM_DROPOUT, own, layer, *step, block);
        for (int k = 0; k < 4; ++k)
            if (block * 4 + k < size)
                out[blockIdx.y * size + block * 4 + k] = words.word[k] >= threshold ? real(kept) : real(0);
    }
}
