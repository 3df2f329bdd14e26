/* Mutexes and thread-specific pointers. */
#include "../internal.h"

#include <errno.h>

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
