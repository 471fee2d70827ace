// Runs CUDA C++ kernels on one CPU thread. Force-included in front of an unchanged `.cu` source that g++ compiles.
//
// Every thread of a block is a fiber: it runs until it waits at a barrier or a shuffle, or returns. A schedule says in
// which order fibers go on (forward, reverse, random before every turn, or one warp as far as it gets before the next),
// so that a result that hangs on the order, because a barrier is missing, shows. Blocks run one after another, in the
// schedule's order, too. Shared memory is filled with 0xff (NaN) before every block. What a GPU would leave undefined is
// an error here: a barrier that some threads of a block do not reach, a warp whose lanes disagree about a mask, a
// shuffle that reads a lane outside it.
#pragma once
#include <csetjmp>
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <math.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <type_traits>
#include <ucontext.h>
#include <utility>
#include <vector>
#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/common_interface_defs.h>
#endif

// ---- the language ---------------------------------------------------------------------------------------------------

#define __global__
#define __device__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __shared__ static __attribute__((section("cuda_shared")))
#define HERE (emulator::Place{__FILE__, __LINE__})
#define __syncthreads() emulator::block_barrier(HERE)
#define __syncwarp(...) emulator::warp_barrier(emulator::mask_or_full(__VA_ARGS__), HERE)

struct uint3 { unsigned x, y, z; };
struct dim3 { unsigned x, y, z; };

extern "C" char __start_cuda_shared[] __attribute__((weak)), __stop_cuda_shared[] __attribute__((weak));

namespace emulator {

constexpr size_t STACK_BYTES = 256 << 10, MOST_THREADS = 1024;

struct Place {  // in a source
    const char *file;
    int line;
    bool operator==(const Place &other) const { return line == other.line && !strcmp(file, other.file); }
};

enum State { RUNNABLE, AT_BLOCK_BARRIER, AT_WARP_BARRIER, DONE };

struct Fiber {
    ucontext_t first_entry;
    jmp_buf resume_point;
    State state;
    bool entered;
    Place place;    // of the barrier at which it waits
    unsigned mask;  // of the warp barrier at which it waits
    uint3 thread;
    unsigned id;
};

struct Warp {
    unsigned arrived;
    alignas(16) char slot[32][16];  // what each lane gives to a shuffle
};

inline std::vector<Fiber> fibers;
inline std::vector<Warp> warps;
inline std::vector<char> dynamic_shared;
inline Fiber *current;
inline uint3 block_index;
inline dim3 block_size, grid_size;
inline char *stacks;
inline jmp_buf scheduler;
inline bool inside;         // a fiber is running
inline char message[512];
inline void (*body)(void *);
inline void *body_arguments;
inline char *dynamic_start;

enum Order { FORWARD, REVERSE, RANDOM, WARPS };
inline Order order;
inline uint64_t random_state;

inline size_t shared_bytes() { return __start_cuda_shared ? __stop_cuda_shared - __start_cuda_shared : 0; }

// ---- switching between the scheduler and a fiber ----------------------------------------------------------------------

// AddressSanitizer has to be told whose stack is in use.
#ifdef __SANITIZE_ADDRESS__
inline const void *scheduler_stack;
inline size_t scheduler_stack_bytes;
inline void *scheduler_fake_stack;
inline void entering(char *stack) { __sanitizer_start_switch_fiber(&scheduler_fake_stack, stack, STACK_BYTES); }
inline void entered() { __sanitizer_finish_switch_fiber(nullptr, &scheduler_stack, &scheduler_stack_bytes); }
inline void leaving() { __sanitizer_start_switch_fiber(nullptr, scheduler_stack, scheduler_stack_bytes); }
inline void left() { __sanitizer_finish_switch_fiber(scheduler_fake_stack, nullptr, nullptr); }
#else
inline void entering(char *) {}
inline void entered() {}
inline void leaving() {}
inline void left() {}
#endif

enum Reason { YIELDED = 1, FAILED = 2 };

[[noreturn]] inline void to_scheduler(Reason reason) {
    leaving();
    _longjmp(scheduler, reason);
}

[[noreturn]] __attribute__((format(printf, 1, 2))) inline void fail(const char *format, ...) {
    int used = snprintf(message, sizeof message, "block (%u, %u, %u)", block_index.x, block_index.y, block_index.z);
    if (current)
        used += snprintf(message + used, sizeof message - used, " thread (%u, %u, %u)", current->thread.x,
                         current->thread.y, current->thread.z);
    used += snprintf(message + used, sizeof message - used, ": ");
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(message + used, sizeof message - used, format, arguments);
    va_end(arguments);
    if (inside) to_scheduler(FAILED);
    throw FAILED;
}

inline void yield() {
    if (!_setjmp(current->resume_point)) to_scheduler(YIELDED);
    entered();
}

inline void fiber_main() {
    entered();
    for (;;) {  // a fiber serves one thread after another
        body(body_arguments);
        current->state = DONE;
        yield();
    }
}

inline void resume(Fiber &fiber) {
    current = &fiber;
    inside = true;
    const int reason = _setjmp(scheduler);
    if (reason == 0) {
        entering(stacks + fiber.id * STACK_BYTES);
        if (fiber.entered) _longjmp(fiber.resume_point, 1);
        fiber.entered = true;
        setcontext(&fiber.first_entry);
    }
    left();
    inside = false;
    current = nullptr;
    if (reason == FAILED) throw FAILED;
}

// ---- barriers and shuffles --------------------------------------------------------------------------------------------

inline void block_barrier(Place place) {
    current->state = AT_BLOCK_BARRIER;
    current->place = place;
    yield();
}

inline unsigned mask_or_full(unsigned mask = 0xffffffffu) { return mask; }

inline unsigned lanes_of_warp(unsigned warp) {
    const size_t lanes = fibers.size() - warp * 32;
    return lanes >= 32 ? 0xffffffffu : (1u << lanes) - 1;
}

inline void warp_barrier(unsigned mask, Place place) {
    const unsigned number = current->id / 32, own = 1u << (current->id & 31);
    Warp &warp = warps[number];
    mask &= lanes_of_warp(number);
    if (!(mask & own)) fail("%s:%d: the calling lane is not in its own mask %08x", place.file, place.line, mask);
    warp.arrived |= own;
    current->mask = mask;
    current->place = place;
    if ((warp.arrived & mask) != mask) {
        current->state = AT_WARP_BARRIER;
        yield();
        return;
    }
    warp.arrived &= ~mask;  // the last one to arrive lets the others go
    for (unsigned lane = 0; lane < 32; ++lane)
        if (mask >> lane & 1) {
            Fiber &fiber = fibers[number * 32 + lane];
            if (fiber.mask != mask)
                fail("%s:%d: lanes of one warp disagree about the mask (%08x, %08x)", place.file, place.line, mask,
                     fiber.mask);
            if (!(fiber.place == place))
                fail("lanes of one warp wait at different places (%s:%d, %s:%d)", place.file, place.line,
                     fiber.place.file, fiber.place.line);
            fiber.state = RUNNABLE;
        }
}

template <class T> T exchange(unsigned mask, T value, unsigned source, Place place) {
    static_assert(sizeof(T) <= 16);
    const unsigned number = current->id / 32;
    if (source >= 32 || !(lanes_of_warp(number) >> source & 1) || !(mask >> source & 1))
        fail("%s:%d: a shuffle reads lane %u, outside its mask %08x", place.file, place.line, source, mask);
    Warp &warp = warps[number];
    memcpy(warp.slot[current->id & 31], &value, sizeof value);
    warp_barrier(mask, place);
    T result;
    memcpy(&result, warp.slot[source], sizeof result);
    warp_barrier(mask, place);
    return result;
}

// ---- running a block --------------------------------------------------------------------------------------------------

inline uint64_t next_random() {
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    return random_state ^= random_state << 17;
}

inline void arrange(std::vector<unsigned> &turns) {
    for (size_t i = 0; i < turns.size(); ++i) turns[i] = order == REVERSE ? turns.size() - 1 - i : i;
    if (order >= RANDOM)
        for (size_t i = turns.size(); i > 1; --i) std::swap(turns[i - 1], turns[next_random() % i]);
}

// Not memset, which AddressSanitizer would find writing between one shared array and the next.
__attribute__((no_sanitize_address)) inline void poison(volatile char *start, size_t bytes) {
    for (size_t i = 0; i < bytes; ++i) start[i] = char(0xff);
}

inline void prepare_block() {
    const size_t threads = size_t(block_size.x) * block_size.y * block_size.z;
    poison(__start_cuda_shared, shared_bytes());
    memset(dynamic_shared.data(), 0xff, dynamic_shared.size());
    warps.assign((threads + 31) / 32, Warp{});
    const bool reuse = fibers.size() == threads;
    if (!reuse) fibers.assign(threads, Fiber{});
    for (unsigned id = 0; id < threads; ++id) {
        Fiber &fiber = fibers[id];
        fiber.state = RUNNABLE;
        fiber.id = id;
        fiber.thread = {id % block_size.x, id / block_size.x % block_size.y, id / (block_size.x * block_size.y)};
        if (reuse) continue;
        getcontext(&fiber.first_entry);
        fiber.first_entry.uc_stack.ss_sp = stacks + id * STACK_BYTES;
        fiber.first_entry.uc_stack.ss_size = STACK_BYTES;
        makecontext(&fiber.first_entry, fiber_main, 0);
    }
}

inline void release_block_barrier(size_t waiting) {
    const Place place = [] { for (auto &f : fibers) if (f.state == AT_BLOCK_BARRIER) return f.place; return Place{}; }();
    if (waiting != fibers.size())
        fail("__syncthreads at %s:%d is reached by %zu of %zu threads; the rest returned", place.file, place.line, waiting,
             fibers.size());
    for (auto &fiber : fibers) {
        if (!(fiber.place == place))
            fail("threads of one block wait at different __syncthreads (%s:%d, %s:%d)", place.file, place.line,
                 fiber.place.file, fiber.place.line);
        fiber.state = RUNNABLE;
    }
}

inline bool take_turns(std::vector<unsigned> &turns) {
    bool progress = false;
    for (unsigned id : turns)
        if (fibers[id].state == RUNNABLE) {
            resume(fibers[id]);
            progress = true;
        }
    return progress;
}

// Each warp in turn, as far as it gets without the others.
inline bool take_warps(std::vector<unsigned> &turns) {
    bool progress = false;
    std::vector<unsigned> order_of_warps(warps.size()), lanes;
    arrange(order_of_warps);
    for (unsigned warp : order_of_warps) {
        lanes.clear();
        for (unsigned id : turns)
            if (id / 32 == warp) lanes.push_back(id);
        while (take_turns(lanes)) progress = true;
    }
    return progress;
}

inline void run_block() {
    std::vector<unsigned> turns(fibers.size());
    arrange(turns);
    for (;;) {
        if (order == RANDOM) arrange(turns);
        const bool progress = order == WARPS ? take_warps(turns) : take_turns(turns);
        size_t alive = 0, waiting = 0;
        for (auto &fiber : fibers) {
            alive += fiber.state != DONE;
            waiting += fiber.state == AT_BLOCK_BARRIER;
        }
        if (!alive) return;
        if (waiting == alive) release_block_barrier(waiting);
        else if (!progress) {
            for (auto &fiber : fibers)
                if (fiber.state == AT_WARP_BARRIER) {
                    current = &fiber;
                    fail("deadlock: a lane waits at %s:%d for the warp mask %08x", fiber.place.file, fiber.place.line,
                         fiber.mask);
                }
            fail("deadlock: %zu of %zu threads wait at __syncthreads", waiting, alive);
        }
    }
}

template <class... A, size_t... I> void call(void (*kernel)(A...), void **arguments, std::index_sequence<I...>) {
    kernel(*static_cast<std::remove_reference_t<A> *>(arguments[I])...);
}

// Launches a kernel; returns 0, or 1 with what went wrong in `error` (512 bytes).
template <class... A>
int launch(void (*kernel)(A...), const unsigned *grid, const unsigned *block, size_t shared, void **arguments, int how,
           uint64_t seed, char *error) {
    struct Pack { void (*kernel)(A...); void **arguments; } pack{kernel, arguments};
    body = [](void *given) {
        auto *inner = static_cast<Pack *>(given);
        call(inner->kernel, inner->arguments, std::index_sequence_for<A...>{});
    };
    body_arguments = &pack;
    grid_size = {grid[0], grid[1], grid[2]};
    block_size = {block[0], block[1], block[2]};
    order = Order(how);
    random_state = seed * 2654435761u + 88172645463325252ull;
    current = nullptr;
    const size_t threads = size_t(block[0]) * block[1] * block[2], blocks = size_t(grid[0]) * grid[1] * grid[2];
    if (threads == 0 || threads > MOST_THREADS || blocks == 0) {
        snprintf(error, 512, "invalid configuration: %zu blocks of %zu threads", blocks, threads);
        return 1;
    }
    if (!stacks)
        stacks = static_cast<char *>(mmap(nullptr, MOST_THREADS * STACK_BYTES, PROT_READ | PROT_WRITE,
                                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
    dynamic_shared.assign(shared + 16, 0);
    dynamic_start = reinterpret_cast<char *>((uintptr_t(dynamic_shared.data()) + 15) & ~uintptr_t(15));
    std::vector<unsigned> turns(blocks);
    arrange(turns);
    try {
        for (unsigned i : turns) {
            block_index = {i % grid[0], i / grid[0] % grid[1], i / (grid[0] * grid[1])};
            prepare_block();
            run_block();
        }
    } catch (Reason) {
        memcpy(error, message, sizeof message);
        fibers.clear();  // they stand in the middle of things
        return 1;
    }
    return 0;
}

// ---- a kernel's signature, as the compiler sees it -----------------------------------------------------------------------

template <class T> const char *code() {
    using U = std::remove_cv_t<T>;
    return std::is_same_v<U, float> ? "f4" : std::is_same_v<U, double> ? "f8" : std::is_same_v<U, int> ? "i4"
         : std::is_same_v<U, unsigned> ? "u4" : std::is_same_v<U, long long> ? "i8"
         : std::is_same_v<U, unsigned long long> ? "u8" : "?";
}
template <class T> void describe(char *out) {
    if constexpr (std::is_pointer_v<T>) strcat(strcat(out, "*"), code<std::remove_pointer_t<T>>());
    else strcat(out, code<T>());
    strcat(out, " ");
}
template <class... A> void signature(void (*)(A...), char *out) { *out = 0; (describe<A>(out), ...); }

}  // namespace emulator

// ---- what kernels may call ------------------------------------------------------------------------------------------------

#define threadIdx (emulator::current->thread)
#define blockIdx (emulator::block_index)
#define blockDim (emulator::block_size)
#define gridDim (emulator::grid_size)

#define __shfl_sync(mask, value, lane) emulator::exchange(mask, value, (lane) & 31, HERE)
#define __shfl_xor_sync(mask, value, bits) emulator::exchange(mask, value, (emulator::current->id & 31) ^ (bits), HERE)

inline float __expf(float x) { return exp2f(x * 1.44269504f); }
inline uint64_t __umul64hi(uint64_t a, uint64_t b) { return uint64_t((unsigned __int128)a * b >> 64); }
