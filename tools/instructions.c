/* The hot paths of the core, as often as the command line says: instructions PATH TIMES. Counted by instructions.py. */
#include "../csrc/holdfast.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static char line[] =
    "{\"time\":\"2026-11-21T09:41:07.318204Z\",\"level\":\"info\",\"event\":\"request\",\"path\":\"/orders\"}\n";

static void must(int result) {
    if (result < 0) {
        fprintf(stderr, "a call failed: %d\n", result);
        exit(1);
    }
}

static void cycles(hf_lock *lock, long times) {
    for (long i = 0; i < times; i++) {
        must(hf_try(lock, HF_EXCLUSIVE));
        must(hf_release(lock));
    }
}

static void appends(hf_log *log, long times) {
    for (long i = 0; i < times; i++)
        must(hf_log_append(log, line, sizeof line - 1, 1));
}

int main(int argc, char **argv) {
    if (argc != 3)
        return 2;
    const char *path = argv[1];
    long times = atol(argv[2]);
    hf_pool *pool = hf_pool_new(64, 0);
    hf_lock *lock = hf_lock_new(pool, "instructions.lock", 0644, 0);
    hf_log *log = hf_log_new(pool, "instructions.jsonl", 0644, 0, 0, 0);
    if (pool == NULL || lock == NULL || log == NULL)
        return 1;

    if (strcmp(path, "metered") == 0)
        hf_lock_measure(lock, hf_meter_of(pool, "instructions"));
    if (strcmp(path, "nested") == 0)
        must(hf_try(lock, HF_EXCLUSIVE));
    if (strcmp(path, "append") == 0)
        appends(log, times);
    else
        cycles(lock, times);

    hf_log_free(log);
    hf_lock_free(lock);
    hf_pool_free(pool);
    return 0;
}
