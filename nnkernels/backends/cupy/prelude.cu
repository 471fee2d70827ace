// What every source begins with. REAL, the type of all arrays of a module, is a macro: float or double.
// Header-free: NVRTC compiles it with nothing installed beside it, and g++ behind the tests' emulator.

typedef REAL real;
typedef long long int64;
typedef unsigned long long uint64;
typedef unsigned int uint32;

// A parameter that may be a null pointer; the launcher reads it, the compiler does not.
#define OPTIONAL

// Every thread's share of [0, size), in the launches that are as large as the work or smaller.
// Not unrolled: most threads have one turn, and four copies of a 64-bit division cost registers.
#define FOR_EACH(i, size)                                                                                      \
    _Pragma("unroll 1")                                                                                        \
    for (int64 i = int64(blockIdx.x) * blockDim.x + threadIdx.x; i < (size); i += int64(gridDim.x) * blockDim.x)

constexpr uint32 ALL_LANES = 0xffffffffu;
constexpr int SUM_THREADS = 512;  // of a block that sums over a network's data or parameters

// ---- what the formulas return, and what they call; these keep NaN, unlike CUDA's own min and max ---------------------

struct Activated {
    real a, slope;
};

struct Lost {
    real loss, slope;
};

template <class T> __device__ __forceinline__ T maximum(T a, T b) { return a > b || a != a ? a : b; }
template <class T> __device__ __forceinline__ T minimum(T a, T b) { return a < b || a != a ? a : b; }
template <class T> __device__ __forceinline__ T sign(T x) { return x != x ? x : T((x > 0) - (x < 0)); }
template <class T> __device__ __forceinline__ T where(bool condition, T a, T b) { return condition ? a : b; }

// 1 / x. A division of floats is correctly rounded, with a branch for what lies near the ends of the range, at which
// the arithmetic of independent units queues up; the hardware's reciprocal is within 1 ulp and has none.
__device__ __forceinline__ double reciprocal(double x) { return 1 / x; }
__device__ __forceinline__ float reciprocal(float x) {
#ifdef __CUDA_ARCH__
    float result;
    asm("rcp.approx.f32 %0, %1;" : "=f"(result) : "f"(x));
    return result;
#else
    return 1 / x;
#endif
}

// e**x; where a whole run may round x / log(2) once, of floats by the hardware's 2**x.
__device__ __forceinline__ double exponential(double x) { return exp(x); }
__device__ __forceinline__ float exponential(float x) {
#ifdef WHOLE_RUN
    return __expf(x);
#else
    return expf(x);
#endif
}

__device__ __forceinline__ float absolute(float x) { return fabsf(x); }
__device__ __forceinline__ double absolute(double x) { return fabs(x); }

// ---- sums over lanes and threads, in an order that does not change ---------------------------------------------------

// The sum over each aligned group of WIDTH lanes, in all of them.
template <int WIDTH, class T> __device__ __forceinline__ T lane_sum(T value) {
#pragma unroll
    for (int bits = WIDTH / 2; bits; bits >>= 1) value += __shfl_xor_sync(ALL_LANES, value, bits);
    return value;
}

template <int WIDTH, class T> __device__ __forceinline__ T lane_max(T value) {
#pragma unroll
    for (int bits = WIDTH / 2; bits; bits >>= 1) value = maximum(value, __shfl_xor_sync(ALL_LANES, value, bits));
    return value;
}

struct Add {
    template <class T> __device__ __forceinline__ T operator()(T a, T b) const { return a + b; }
};
struct Max {
    template <class T> __device__ __forceinline__ T operator()(T a, T b) const { return maximum(a, b); }
};

// Combines one value a thread, in all threads of a block of THREADS; `scratch` holds one value a warp.
template <int THREADS, class T, class Combine>
__device__ __forceinline__ T over_block(T value, T *scratch, Combine combine) {
#pragma unroll
    for (int bits = 16; bits; bits >>= 1) value = combine(value, __shfl_xor_sync(ALL_LANES, value, bits));
    __syncthreads();  // whoever still reads the scratch of an earlier call
    if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = value;
    __syncthreads();
    T result = scratch[0];
#pragma unroll
    for (int warp = 1; warp < THREADS / 32; ++warp) result = combine(result, scratch[warp]);
    return result;
}
