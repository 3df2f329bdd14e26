/* Memory that forked children share. */
#include "../internal.h"
#include "sys.h"

#include <errno.h>
#include <sched.h>
#include <sys/mman.h>
#include <unistd.h>

#ifndef MAP_ANONYMOUS
#define MAP_ANONYMOUS MAP_ANON
#endif
#ifndef MAP_NORESERVE
#define MAP_NORESERVE 0
#endif

void *hf__shared_new(size_t size) {
    void *memory = hf__sys.mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return memory == MAP_FAILED ? NULL : memory;
}

void hf__shared_free(void *memory, size_t size) {
    if (memory != NULL)
        hf__sys.munmap(memory, size);
}

bool hf__shared_claim(uint32_t *word, uint32_t from, uint32_t to) {
    return __atomic_compare_exchange_n(word, &from, to, false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE);
}

uint32_t hf__shared_look(const uint32_t *word) {
    return __atomic_load_n(word, __ATOMIC_ACQUIRE);
}

uint32_t hf__process_number(void) {
    return (uint32_t)getpid();
}

bool hf__process_lives(uint32_t number) {
    return number != 0 && (hf__sys.kill((pid_t)number, 0) == 0 || errno != ESRCH);
}

void hf__thread_pause(void) {
    sched_yield();
}
