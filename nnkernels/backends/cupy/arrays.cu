// Arrays of any strides, as words of 4 or 8 bytes: filled, and copied. Shapes have four axes; strides count words.

template <class Word> struct Strided {
    Word *start;
    int64 stride[4];

    __device__ __forceinline__ Word &at(int64 i, int64 n1, int64 n2, int64 n3) const {
        return start[i / (n1 * n2 * n3) * stride[0] + i / (n2 * n3) % n1 * stride[1] + i / n3 % n2 * stride[2] +
                     i % n3 * stride[3]];
    }
};

extern "C" __global__ void copy_words4(uint32 *out, int64 o0, int64 o1, int64 o2, int64 o3, const uint32 *source,
                                       int64 s0, int64 s1, int64 s2, int64 s3, int64 n1, int64 n2, int64 n3,
                                       int64 size) {
    const Strided<uint32> to = {out, {o0, o1, o2, o3}};
    const Strided<const uint32> from = {source, {s0, s1, s2, s3}};
    FOR_EACH(i, size) to.at(i, n1, n2, n3) = from.at(i, n1, n2, n3);
}

extern "C" __global__ void copy_words8(uint64 *out, int64 o0, int64 o1, int64 o2, int64 o3, const uint64 *source,
                                       int64 s0, int64 s1, int64 s2, int64 s3, int64 n1, int64 n2, int64 n3,
                                       int64 size) {
    const Strided<uint64> to = {out, {o0, o1, o2, o3}};
    const Strided<const uint64> from = {source, {s0, s1, s2, s3}};
    FOR_EACH(i, size) to.at(i, n1, n2, n3) = from.at(i, n1, n2, n3);
}

extern "C" __global__ void fill_words4(uint32 *out, int64 o0, int64 o1, int64 o2, int64 o3, uint32 value, int64 n1,
                                       int64 n2, int64 n3, int64 size) {
    const Strided<uint32> to = {out, {o0, o1, o2, o3}};
    FOR_EACH(i, size) to.at(i, n1, n2, n3) = value;
}

extern "C" __global__ void fill_words8(uint64 *out, int64 o0, int64 o1, int64 o2, int64 o3, uint64 value, int64 n1,
                                       int64 n2, int64 n3, int64 size) {
    const Strided<uint64> to = {out, {o0, o1, o2, o3}};
    FOR_EACH(i, size) to.at(i, n1, n2, n3) = value;
}
