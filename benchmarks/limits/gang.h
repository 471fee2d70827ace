/* A few threads that meet at barriers: they spin, and let others run where they spin long. */
#ifndef NNKERNELS_GANG_H
#define NNKERNELS_GANG_H

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>

#define MOST_THREADS 2

typedef struct {
    _Alignas(64) atomic_long arrived;
    int threads;
} gang;

/* `phase` is the thread's own count of barriers passed. */
static inline void meet(gang *g, long *phase)
{
    long goal = ++*phase * g->threads;
    if (g->threads == 1)
        return;
    atomic_fetch_add_explicit(&g->arrived, 1, memory_order_acq_rel);
    for (long spins = 0; atomic_load_explicit(&g->arrived, memory_order_acquire) < goal; spins++) {
#if defined(__x86_64__)
        __builtin_ia32_pause();
#endif
        if (spins > 20000)
            sched_yield();
    }
}

/* Call `work(member)` for every member, size bytes each: the first here, the others on threads of their own. */
static inline void gang_run(int threads, void *(*work)(void *), void *members, size_t size)
{
    pthread_t others[MOST_THREADS];
    for (int i = 1; i < threads; i++)
        pthread_create(&others[i], NULL, work, (char *)members + i * size);
    work(members);
    for (int i = 1; i < threads; i++)
        pthread_join(others[i], NULL);
}

#endif
