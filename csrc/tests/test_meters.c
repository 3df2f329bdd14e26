/* Meters: what is counted, by whom, and what stays of it. */
#include "check.h"

#include <string.h>

typedef struct {
    char name[HF_METER_NAME];
    int64_t counts[HF_COUNTERS];
} reading;

/* What the meter with this index counted, in all processes or in this one. */
static reading read_meter(hf_pool *pool, size_t index, int mine) {
    reading found = {.name = ""};
    hf_meter_read(pool, index, mine, found.name, found.counts);
    return found;
}

static int64_t sum(const int64_t *buckets) {
    int64_t total = 0;
    for (int bucket = 0; bucket < HF_BUCKETS; bucket++)
        total += buckets[bucket];
    return total;
}

static void there_is_one_meter_for_a_name(int flags) {
    hf_pool *pool = hf_pool_new(8, flags);
    hf_meter *jobs = hf_meter_of(pool, "jobs");
    CHECK(jobs != NULL);
    CHECK(hf_meter_of(pool, "jobs") == jobs);
    CHECK(hf_meter_of(pool, "other") != jobs);
    CHECK(strcmp(read_meter(pool, 0, 0).name, "jobs") == 0);
    CHECK(strcmp(read_meter(pool, 1, 0).name, "other") == 0);
    CHECK_IS(hf_meter_read(pool, 2, 0, (char[HF_METER_NAME]){""}, (int64_t[HF_COUNTERS]){0}), 0);
    hf_pool_free(pool);
}

static void names_are_limited_in_length_and_number(int flags) {
    hf_pool *pool = hf_pool_new(8, flags);
    char name[HF_METER_NAME + 1];
    memset(name, 'x', sizeof name);
    name[HF_METER_NAME] = '\0';
    CHECK(hf_meter_of(pool, name) == NULL);
    name[HF_METER_NAME - 1] = '\0';
    for (int number = 0; number < HF_METERS; number++) {
        name[0] = (char)('0' + number);
        CHECK(hf_meter_of(pool, name) != NULL);
    }
    CHECK(hf_meter_of(pool, "one more") == NULL);
    CHECK(hf_meter_of(pool, name) != NULL);
    hf_pool_free(pool);
}

static void acquisitions_and_holds_are_counted(int flags) {
    hf_pool *pool = hf_pool_new(8, flags);
    hf_lock *lock = hf_lock_new(pool, test_path("lock"), 0644, 0);
    hf_lock_measure(lock, hf_meter_of(pool, "jobs"));
    for (int time = 0; time < 3; time++) {
        CHECK_IS(hf_try(lock, HF_EXCLUSIVE), 0);
        CHECK_IS(hf_try(lock, HF_EXCLUSIVE), 0); /* once more is no acquisition */
        CHECK_IS(hf_release(lock), 1);
        CHECK_IS(hf_release(lock), 0);
    }
    reading found = read_meter(pool, 0, 1);
    CHECK_IS(found.counts[HF_ACQUISITIONS], 3);
    CHECK_IS(sum(found.counts + HF_HOLDS), 3);
    CHECK(found.counts[HF_HELD] > 0);
    CHECK_IS(found.counts[HF_CONTENDED], 0);
    hf_lock_free(lock);
    hf_pool_free(pool);
}

static void a_bucket_has_what_is_below_its_power_of_two(int flags) {
    hf_pool *pool = hf_pool_new(8, flags);
    hf_meter *meter = hf_meter_of(pool, "jobs");
    const int64_t waits[] = {0, 1, 2, 3, 4, 1023, 1024, INT64_MAX / 2};
    const int buckets[] = {0, 1, 2, 2, 3, 10, 11, HF_BUCKETS - 1};
    for (size_t i = 0; i < sizeof waits / sizeof *waits; i++) {
        int64_t before = read_meter(pool, 0, 0).counts[HF_WAITS + buckets[i]];
        hf_meter_waited(meter, waits[i]);
        CHECK_IS(read_meter(pool, 0, 0).counts[HF_WAITS + buckets[i]], before + 1);
    }
    CHECK_IS(read_meter(pool, 0, 0).counts[HF_CONTENDED], 8);
    hf_pool_free(pool);
}

static void appends_are_counted(int flags) {
    hf_pool *pool = hf_pool_new(8, flags);
    hf_log *log = hf_log_new(pool, test_path("log"), 0644, HF_SYNCED, 0, 0);
    hf_log_measure(log, hf_meter_of(pool, "events"));
    CHECK_IS(hf_log_append(log, "a\nb\n", 4, 2), 0);
    CHECK_IS(hf_log_sync(log, 1), 0);
    reading found = read_meter(pool, 0, 0);
    CHECK_IS(found.counts[HF_RECORDS], 2);
    CHECK_IS(found.counts[HF_BYTES], 4);
    CHECK_IS(found.counts[HF_SYNCS], 1);
    hf_log_free(log);
    hf_pool_free(pool);
}

#ifndef _WIN32

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

/* Let a child count, and end by a signal if there is one. */
static void count_in_child(hf_meter *meter, int64_t number, int deadly) {
    pid_t pid = fork();
    if (pid == 0) {
        hf_meter_add(meter, HF_WRITES, number);
        hf_meter_add(meter, HF_PENDING, number);
        if (deadly != 0)
            kill(getpid(), deadly);
        _exit(0);
    }
    int status;
    waitpid(pid, &status, 0);
}

static void *no_memory(void *address, size_t size, int protection, int flags, int fd, off_t offset) {
    (void)address, (void)size, (void)protection, (void)flags, (void)fd, (void)offset;
    errno = ENOMEM;
    return (void *)-1;
}

static void without_memory_there_are_locks_but_no_meters(int flags) {
    void *real = hf_sys_get("mmap");
    hf_sys_set("mmap", (void *)no_memory);
    hf_pool *pool = hf_pool_new(8, flags);
    hf_sys_set("mmap", real);
    CHECK(hf_meter_of(pool, "jobs") == NULL);
    CHECK_IS(hf_meter_read(pool, 0, 0, (char[HF_METER_NAME]){""}, (int64_t[HF_COUNTERS]){0}), 0);
    hf_lock *lock = hf_lock_new(pool, test_path("lock"), 0644, 0);
    CHECK_IS(hf_try(lock, HF_EXCLUSIVE), 0);
    hf_lock_free(lock);
    hf_pool_free(pool);
}

static void what_children_counted_stays(int flags) {
    hf_pool *pool = hf_pool_new(8, flags);
    hf_meter *meter = hf_meter_of(pool, "jobs");
    hf_meter_add(meter, HF_WRITES, 1);
    hf_meter_add(meter, HF_PENDING, 1);
    for (int child = 0; child < 300; child++) /* more than there are rows */
        count_in_child(meter, 10, child % 2 ? SIGKILL : 0);
    CHECK_IS(read_meter(pool, 0, 0).counts[HF_WRITES], 3001);
    CHECK_IS(read_meter(pool, 0, 0).counts[HF_PENDING], 1); /* theirs will never be done */
    CHECK_IS(read_meter(pool, 0, 1).counts[HF_WRITES], 1);
    hf_pool_free(pool);
}

static void a_child_that_takes_a_row_over_counts_on(int flags) {
    hf_pool *pool = hf_pool_new(8, flags);
    hf_meter *meter = hf_meter_of(pool, "jobs");
    for (int child = 0; child < 200; child++)
        count_in_child(meter, 10, 0);
    pid_t pid = fork();
    if (pid == 0) {
        hf_meter_add(meter, HF_WRITES, 5);
        _exit(read_meter(pool, 0, 1).counts[HF_WRITES] != 5 || read_meter(pool, 0, 0).counts[HF_WRITES] != 2005);
    }
    int status = -1;
    waitpid(pid, &status, 0);
    CHECK_IS(status, 0);
    hf_pool_free(pool);
}

static void a_name_that_a_child_used_first_is_the_same_for_all(int flags) {
    hf_pool *pool = hf_pool_new(8, flags);
    for (int child = 0; child < 2; child++) {
        pid_t pid = fork();
        if (pid == 0) {
            hf_meter_add(hf_meter_of(pool, "late"), HF_WRITES, 1);
            _exit(0);
        }
        int status;
        waitpid(pid, &status, 0);
    }
    CHECK_IS(read_meter(pool, 0, 0).counts[HF_WRITES], 2);
    CHECK_IS(hf_meter_read(pool, 1, 0, (char[HF_METER_NAME]){""}, (int64_t[HF_COUNTERS]){0}), 0);
    hf_pool_free(pool);
}

#endif

const check_test meter_tests[] = {
    {"there is one meter for a name", there_is_one_meter_for_a_name, 0},
    {"names are limited in length and number", names_are_limited_in_length_and_number, 0},
    {"acquisitions and holds are counted", acquisitions_and_holds_are_counted, 0},
    {"a bucket has what is below its power of two", a_bucket_has_what_is_below_its_power_of_two, 0},
    {"appends are counted", appends_are_counted, 0},
#ifndef _WIN32
    {"without memory there are locks but no meters", without_memory_there_are_locks_but_no_meters, 0},
    {"what children counted stays", what_children_counted_stays, 0},
    {"a child that takes a row over counts on", a_child_that_takes_a_row_over_counts_on, 0},
    {"a name that a child used first is the same for all", a_name_that_a_child_used_first_is_the_same_for_all, 0},
#endif
    {NULL, NULL, 0},
};
