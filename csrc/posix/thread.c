/* Mutexes, conditions and thread-specific pointers. */
#include "../internal.h"

#include <errno.h>

#define SECOND 1000000000

void hf__mutex_init(hf__mutex *mutex) {
    pthread_mutex_init(mutex, NULL); /* cannot fail for a mutex without attributes */
}

void hf__mutex_destroy(hf__mutex *mutex) {
    pthread_mutex_destroy(mutex);
}

void hf__mutex_lock(hf__mutex *mutex) {
    pthread_mutex_lock(mutex);
}

void hf__mutex_unlock(hf__mutex *mutex) {
    pthread_mutex_unlock(mutex);
}

/* The clock of hf_now(), which nobody sets. macOS knows only the other clock here, but can wait for a length of time. */
void hf__condition_init(hf__condition *condition) {
#ifdef __APPLE__
    pthread_cond_init(condition, NULL);
#else
    pthread_condattr_t clock;
    pthread_condattr_init(&clock);
    pthread_condattr_setclock(&clock, CLOCK_MONOTONIC);
    pthread_cond_init(condition, &clock);
    pthread_condattr_destroy(&clock);
#endif
}

void hf__condition_destroy(hf__condition *condition) {
    pthread_cond_destroy(condition);
}

void hf__condition_wait(hf__condition *condition, hf__mutex *mutex, int64_t until) {
#ifdef __APPLE__
    int64_t left = until - hf_now(), length = left > 0 ? left : 0;
    struct timespec limit = {.tv_sec = (time_t)(length / SECOND), .tv_nsec = (long)(length % SECOND)};
    (void)pthread_cond_timedwait_relative_np(condition, mutex, &limit);
#else
    struct timespec limit = {.tv_sec = (time_t)(until / SECOND), .tv_nsec = (long)(until % SECOND)};
    (void)pthread_cond_timedwait(condition, mutex, &limit);
#endif
}

void hf__condition_wake(hf__condition *condition) {
    pthread_cond_broadcast(condition);
}

uint64_t hf__thread_number(void) {
    return (uint64_t)(uintptr_t)pthread_self();
}

int hf__key_new(hf__key *key, void (*at_exit)(void *)) {
    return -pthread_key_create(key, at_exit);
}

void hf__key_free(hf__key key) {
    pthread_key_delete(key);
}

void *hf__key_get(hf__key key) {
    return pthread_getspecific(key);
}

int hf__key_set(hf__key key, void *value) {
    return -pthread_setspecific(key, value);
}
