// Counter-based random words: the same bits as nnkernels/backends/numpy/random.py, which explains them.

constexpr int STREAM_ROWS = 0, STREAM_DROPOUT = 1, STREAM_SORT = 2, STREAM_FEISTEL = 3;

struct Words {
    uint32 word[4];
};

// Philox4x32-10 of one counter.
__device__ __forceinline__ Words philox(uint64 seed, int stream, int64 network, int layer, int64 step, int64 item) {
    uint32 c0 = uint32(item), c1 = uint32(step), c2 = uint32(network);
    uint32 c3 = uint32(uint64(step) >> 32) | uint32(stream) << 24 | uint32(layer) << 16;
    uint32 k0 = uint32(seed), k1 = uint32(seed >> 32);
#pragma unroll
    for (int round = 0; round < 10; ++round) {
        const uint64 p0 = uint64(c0) * 0xD2511F53u, p1 = uint64(c2) * 0xCD9E8D57u;
        c0 = uint32(p1 >> 32) ^ c1 ^ k0;
        c1 = uint32(p1);
        c2 = uint32(p0 >> 32) ^ c3 ^ k1;
        c3 = uint32(p0);
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    return {{c0, c1, c2, c3}};
}

// A dropout mask's factor for element `e` of a layer's outputs: 0 where its word is below `threshold`, else `kept`.
__device__ __forceinline__ real dropout_factor(uint64 seed, int64 network, int layer, int64 step, int64 e,
                                               uint64 threshold, real kept) {
    const Words words = philox(seed, STREAM_DROPOUT, network, layer, step, e / 4);
    const int place = e & 3;
    const uint32 low = place & 1 ? words.word[1] : words.word[0], high = place & 1 ? words.word[3] : words.word[2];
    return (place & 2 ? high : low) >= threshold ? kept : real(0);
}
