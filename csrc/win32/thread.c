/* Mutexes, conditions and thread-specific pointers. */
#include "../internal.h"
#include "sys.h"

#include <errno.h>

void hf__mutex_init(hf__mutex *mutex) {
    InitializeSRWLock(mutex);
}

void hf__mutex_destroy(hf__mutex *mutex) {
    (void)mutex; /* it owns nothing */
}

void hf__mutex_lock(hf__mutex *mutex) {
    AcquireSRWLockExclusive(mutex);
}

void hf__mutex_unlock(hf__mutex *mutex) {
    ReleaseSRWLockExclusive(mutex);
}

void hf__condition_init(hf__condition *condition) {
    InitializeConditionVariable(condition);
}

void hf__condition_destroy(hf__condition *condition) {
    (void)condition; /* it owns nothing */
}

void hf__condition_wait(hf__condition *condition, hf__mutex *mutex, int64_t until) {
    int64_t left = until - hf_now();
    (void)SleepConditionVariableSRW(condition, mutex, left > 0 ? (DWORD)(left / 1000000 + 1) : 0, 0);
}

void hf__condition_wake(hf__condition *condition) {
    WakeAllConditionVariable(condition);
}

/* The same for every key: the core makes its keys in one place. */
static void (*at_thread_exit)(void *);

/* What the system calls has its own calling convention on 32-bit Windows, so not the core's function itself. At the end
   of the process the other threads were stopped wherever they were, perhaps with a mutex held: then touch nothing. */
static void WINAPI thread_exits(void *value) {
    if (value != NULL && !hf__sys.RtlDllShutdownInProgress())
        at_thread_exit(value);
}

uint64_t hf__thread_number(void) {
    return GetCurrentThreadId();
}

int hf__key_new(hf__key *key, void (*at_exit)(void *)) {
    at_thread_exit = at_exit;
    *key = FlsAlloc(thread_exits);
    return *key == FLS_OUT_OF_INDEXES ? -ENOMEM : 0;
}

/* FlsFree() calls thread_exits() for the pointer of every thread. The caller has freed its own. */
void hf__key_free(hf__key key) {
    FlsSetValue(key, NULL);
    FlsFree(key);
}

void *hf__key_get(hf__key key) {
    return FlsGetValue(key);
}

int hf__key_set(hf__key key, void *value) {
    return FlsSetValue(key, value) ? 0 : -ENOMEM;
}
