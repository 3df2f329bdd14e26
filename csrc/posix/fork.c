/* fork(): the pools of the process are told by the C library, and not by Python.
 *
 * A pool's mutex is held while the process forks. Were Python to see to that, its signal handlers, its garbage collector
 * and the fork handlers of others would run meanwhile, and any of them may use or free a lock. pthread_atfork() lets
 * nothing come between, and knows of forks that Python knows nothing of.
 */
#include "../internal.h"

#include <errno.h>

/* The pools to tell. pthread_atfork() passes no argument, so they have to be found here. */
static hf_pool *watched;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_once_t registered = PTHREAD_ONCE_INIT;
static int failure;

static void before(void) {
    pthread_mutex_lock(&mutex);
    for (hf_pool *pool = watched; pool != NULL; pool = pool->next_watched)
        hf__pool_before_fork(pool);
}

static void after_in_parent(void) {
    for (hf_pool *pool = watched; pool != NULL; pool = pool->next_watched)
        hf__pool_after_fork_parent(pool);
    pthread_mutex_unlock(&mutex);
}

static void after_in_child(void) {
    for (hf_pool *pool = watched; pool != NULL; pool = pool->next_watched)
        hf__pool_after_fork_child(pool);
    pthread_mutex_unlock(&mutex);
}

static void register_handlers(void) {
    failure = pthread_atfork(before, after_in_parent, after_in_child);
}

int hf__fork_watch(hf_pool *pool) {
    pthread_once(&registered, register_handlers);
    if (failure != 0)
        return -failure;
    pthread_mutex_lock(&mutex);
    pool->next_watched = watched;
    watched = pool;
    pthread_mutex_unlock(&mutex);
    return 0;
}

void hf__fork_unwatch(hf_pool *pool) {
    pthread_mutex_lock(&mutex);
    for (hf_pool **link = &watched; *link != NULL; link = &(*link)->next_watched) {
        if (*link == pool) {
            *link = pool->next_watched;
            break;
        }
    }
    pthread_mutex_unlock(&mutex);
}
