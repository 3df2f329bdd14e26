/* Memory that forked children would share. */
#include "../internal.h"

#include <stdlib.h>

void *hf__shared_new(size_t size) {
    return calloc(1, size);
}

void hf__shared_free(void *memory, size_t size) {
    (void)size;
    free(memory);
}

bool hf__shared_claim(uint32_t *word, uint32_t from, uint32_t to) {
    return (uint32_t)InterlockedCompareExchange((volatile LONG *)word, (LONG)to, (LONG)from) == from;
}

uint32_t hf__shared_look(const uint32_t *word) {
    return (uint32_t)InterlockedCompareExchange((volatile LONG *)(uintptr_t)word, 0, 0);
}

uint32_t hf__process_number(void) {
    return GetCurrentProcessId();
}

/* There is no other that shares the memory. */
bool hf__process_lives(uint32_t number) {
    return number == GetCurrentProcessId();
}

void hf__thread_pause(void) {
    SwitchToThread();
}
