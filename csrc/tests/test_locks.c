/* One thread at a time: holding, counting, and who is excluded. The variant is the lock's flags. */
#include "check.h"

typedef struct {
    hf_pool *pool;
    hf_lock *one, *other; /* on the same file */
    const char *path;
} pair;

static pair new_pair(int flags) {
    pair made = {.pool = hf_pool_new(8, 0), .path = test_path("lock")};
    made.one = hf_lock_new(made.pool, made.path, 0644, flags);
    made.other = hf_lock_new(made.pool, made.path, 0644, flags);
    return made;
}

static void free_pair(pair made) {
    hf_lock_free(made.one);
    hf_lock_free(made.other);
    hf_pool_free(made.pool);
}

static const char *number(int value) {
    static char texts[4][16];
    static unsigned next;
    char *text = texts[next++ % 4];
    snprintf(text, sizeof texts[0], "%d", value);
    return text;
}

static void acquires_a_free_lock(int flags) {
    pair of = new_pair(flags);
    CHECK_IS(hf_count(of.one), 0);
    CHECK_IS(hf_try(of.one, HF_EXCLUSIVE), 0);
    CHECK_IS(hf_count(of.one), 1);
    CHECK(!is_free(of.path));
    CHECK_IS(hf_release(of.one), 0);
    CHECK_IS(hf_count(of.one), 0);
    CHECK(is_free(of.path));
    free_pair(of);
}

static void another_lock_is_busy(int flags) {
    pair of = new_pair(flags);
    CHECK_IS(hf_try(of.one, HF_EXCLUSIVE), 0);
    CHECK_IS(hf_try(of.other, HF_EXCLUSIVE), HF_BUSY);
    CHECK_IS(hf_try(of.other, HF_SHARED), HF_BUSY);
    CHECK_IS(hf_count(of.other), 0);
    CHECK_IS(hf_release(of.one), 0);
    CHECK_IS(hf_try(of.other, HF_EXCLUSIVE), 0);
    CHECK_IS(hf_try(of.one, HF_EXCLUSIVE), HF_BUSY);
    free_pair(of);
}

static void another_process_is_refused(int flags) {
    pair of = new_pair(flags);
    CHECK_IS(hf_try(of.one, HF_EXCLUSIVE), 0);
    CHECK_IS(process_wait(process_start("try", of.path, number(flags), "0", "0", NULL)), 1);
    CHECK_IS(hf_release(of.one), 0);
    CHECK_IS(process_wait(process_start("try", of.path, number(flags), "0", "0", NULL)), 0);
    free_pair(of);
}

static void this_process_is_refused(int flags) {
    pair of = new_pair(flags);
    process *holder = process_start("hold", of.path, number(flags), "0", "0", NULL);
    CHECK(process_ready(holder));
    CHECK_IS(hf_try(of.one, HF_EXCLUSIVE), HF_BUSY);
    CHECK_IS(hf_try(of.one, HF_SHARED), HF_BUSY);
    process_go(holder);
    CHECK_IS(process_wait(holder), 0);
    CHECK_IS(hf_try(of.one, HF_EXCLUSIVE), 0);
    free_pair(of);
}

static void dies_with_its_process(int flags) {
    pair of = new_pair(flags);
    process *holder = process_start("hold", of.path, number(flags), "0", "0", NULL);
    CHECK(process_ready(holder));
    process_kill(holder);
    CHECK_IS(wait_on(of.one, HF_EXCLUSIVE, SOME_DAY, NULL), 0);
    free_pair(of);
}

static void nests(int flags) {
    pair of = new_pair(flags);
    for (int i = 1; i <= 3; i++) {
        CHECK_IS(i == 2 ? hf_wait(of.one, HF_EXCLUSIVE, 0, 0, 0, NULL) : hf_try(of.one, HF_EXCLUSIVE), 0);
        CHECK_IS(hf_count(of.one), i);
    }
    for (int i = 2; i >= 0; i--) {
        CHECK(!is_free(of.path));
        CHECK_IS(hf_release(of.one), i);
    }
    CHECK(is_free(of.path));
    free_pair(of);
}

static void refuses_the_other_mode(int flags) {
    pair of = new_pair(flags);
    for (int how = 0; how <= 1; how++) {
        CHECK_IS(hf_try(of.one, how), 0);
        CHECK_IS(hf_try(of.one, !how), HF_OTHER_MODE);
        CHECK_IS(hf_wait(of.one, !how, hf_now(), HF_FOREVER, 0, NULL), HF_OTHER_MODE);
        CHECK_IS(hf_count(of.one), 1);
        CHECK_IS(hf_release(of.one), 0);
    }
    free_pair(of);
}

static void readers_exclude_writers(int flags) {
    pair of = new_pair(flags);
    CHECK_IS(hf_try(of.one, HF_SHARED), 0);
    CHECK_IS(hf_try(of.other, HF_SHARED), 0);
    CHECK_IS(process_wait(process_start("try", of.path, number(flags), "0", number(HF_SHARED), NULL)), 0);
    CHECK_IS(process_wait(process_start("try", of.path, number(flags), "0", number(HF_EXCLUSIVE), NULL)), 1);
    CHECK_IS(hf_release(of.one), 0);
    CHECK_IS(hf_try(of.one, HF_EXCLUSIVE), HF_BUSY);
    CHECK_IS(hf_release(of.other), 0);
    CHECK_IS(hf_try(of.one, HF_EXCLUSIVE), 0);
    free_pair(of);
}

static void release_needs_a_hold(int flags) {
    pair of = new_pair(flags);
    CHECK_IS(hf_release(of.one), -EPERM);
    CHECK_IS(hf_release_all(of.one), 0);
    CHECK_IS(hf_try(of.one, HF_EXCLUSIVE), 0);
    CHECK_IS(hf_release(of.other), -EPERM);
    CHECK_IS(hf_release_all(of.other), 0);
    CHECK(!is_free(of.path));
    free_pair(of);
}

static void release_all_undoes_nesting(int flags) {
    pair of = new_pair(flags);
    CHECK_IS(hf_try(of.one, HF_EXCLUSIVE), 0);
    CHECK_IS(hf_try(of.one, HF_EXCLUSIVE), 0);
    CHECK_IS(hf_release_all(of.one), 0);
    CHECK_IS(hf_count(of.one), 0);
    CHECK(is_free(of.path));
    free_pair(of);
}

static void freeing_releases(int flags) {
    hf_pool *pool = hf_pool_new(8, 0);
    const char *path = test_path("lock");
    hf_lock *lock = hf_lock_new(pool, path, 0644, flags);
    CHECK_IS(hf_try(lock, HF_EXCLUSIVE), 0);
    CHECK_IS(hf_try(lock, HF_EXCLUSIVE), 0);
    hf_lock_free(lock);
    CHECK(is_free(path));
    hf_lock_free(NULL);
    hf_pool_free(pool);
}

static void different_files_do_not_meet(int flags) {
    hf_pool *pool = hf_pool_new(8, 0);
    hf_lock *one = hf_lock_new(pool, test_path("one"), 0644, flags);
    hf_lock *other = hf_lock_new(pool, test_path("other"), 0644, flags);
    CHECK_IS(hf_try(one, HF_EXCLUSIVE), 0);
    CHECK_IS(hf_try(other, HF_EXCLUSIVE), 0);
    hf_lock_free(one);
    hf_lock_free(other);
    hf_pool_free(pool);
}

#define PROCESSES 4

/* Run `role` in some processes, and another one in as many. */
static void run_together(const char *role, const char *other_role, int lock_flags, int pool_flags, int times) {
    process *started[PROCESSES];
    for (int i = 0; i < PROCESSES; i++)
        started[i] = process_start(i % 2 == 0 ? role : other_role, test_path("lock"), number(lock_flags),
                                   number(pool_flags), number(times), test_path("x"), test_path("y"), NULL);
    for (int i = 0; i < PROCESSES; i++)
        CHECK_IS(process_wait(started[i]), 0);
}

static void loses_no_count(int pool_flags, int lock_flags) {
    int times = check_slow ? 10 : 200;
    write_number(test_path("x"), 0);
    run_together("count", "count", lock_flags, pool_flags, times);
    CHECK_IS(read_number(test_path("x")), PROCESSES * times);
}

static void loses_no_count_waiting(int flags) {
    loses_no_count(0, flags);
}

static void loses_no_count_polling(int flags) {
    loses_no_count(HF_POLL_ONLY, flags);
}

static void readers_see_whole_writes(int flags) {
    write_number(test_path("x"), 0);
    write_number(test_path("y"), 0);
    run_together("write-pair", "read-pair", flags, 0, check_slow ? 10 : 100);
}

static void bounds_idle_files(int flags) {
    (void)flags;
    hf_pool *pool = hf_pool_new(2, 0);
    hf_lock *locks[5];
    int before = open_files();
    for (int i = 0; i < 5; i++) {
        locks[i] = hf_lock_new(pool, test_path(number(i)), 0644, 0);
        CHECK_IS(hf_try(locks[i], HF_EXCLUSIVE), 0);
    }
    CHECK_IS(hf_pool_idle(pool), 0);
    for (int i = 0; i < 5; i++)
        CHECK_IS(hf_release(locks[i]), 0);
    CHECK_IS(hf_pool_idle(pool), 2);
    CHECK(open_files() <= before + 2);
    for (int i = 0; i < 5; i++) {
        CHECK_IS(hf_try(locks[i], HF_EXCLUSIVE), 0);
        CHECK_IS(hf_release(locks[i]), 0);
        CHECK_IS(hf_pool_idle(pool), 2);
    }
    for (int i = 0; i < 5; i++)
        hf_lock_free(locks[i]);
    CHECK_IS(hf_pool_idle(pool), 0);
    hf_pool_free(pool);
}

static void keeps_nothing_with_a_bound_of_0(int flags) {
    hf_pool *pool = hf_pool_new(0, 0);
    hf_lock *lock = hf_lock_new(pool, test_path("lock"), 0644, flags);
    int before = open_files();
    CHECK_IS(hf_try(lock, HF_EXCLUSIVE), 0);
    CHECK_IS(hf_release(lock), 0);
    CHECK_IS(hf_pool_idle(pool), 0);
    CHECK_IS(open_files(), before);
    hf_lock_free(lock);
    hf_pool_free(pool);
}

static void close_idle_closes(int flags) {
    pair of = new_pair(flags);
    CHECK_IS(hf_try(of.one, HF_EXCLUSIVE), 0);
    hf_close_idle(of.one);
    CHECK_IS(hf_count(of.one), 1);
    CHECK(!is_free(of.path));
    CHECK_IS(hf_release(of.one), 0);
    CHECK_IS(hf_pool_idle(of.pool), 1);
    hf_close_idle(of.one);
    CHECK_IS(hf_pool_idle(of.pool), 0);
    CHECK_IS(hf_try(of.one, HF_EXCLUSIVE), 0);
    free_pair(of);
}

#define BOTH(sentence, function)                                                                                       \
    {sentence, function, 0}, {                                                                                         \
        sentence " (OFD)", function, HF_OFD                                                                            \
    }

const check_test locks_tests[] = {
    BOTH("a free lock is acquired, counted and released", acquires_a_free_lock),
    BOTH("while a lock is held, another lock on its file is busy", another_lock_is_busy),
    BOTH("while a lock is held, another process is refused", another_process_is_refused),
    BOTH("while another process holds a lock, this one is refused", this_process_is_refused),
    BOTH("a lock is free when its process has been killed", dies_with_its_process),
    BOTH("acquiring again nests, and as many releases free the lock", nests),
    BOTH("a hold in one mode does not nest in the other", refuses_the_other_mode),
    BOTH("readers share a lock and exclude writers", readers_exclude_writers),
    BOTH("releasing what is not held changes nothing", release_needs_a_hold),
    BOTH("releasing all undoes every nesting", release_all_undoes_nesting),
    BOTH("freeing a lock releases it", freeing_releases),
    BOTH("locks on different files do not meet", different_files_do_not_meet),
    BOTH("processes that count under a lock lose no count", loses_no_count_waiting),
    BOTH("processes that count under a lock lose no count when they poll", loses_no_count_polling),
    BOTH("processes that read under a shared lock see no half-done write", readers_see_whole_writes),
    {"a pool keeps no more idle files than it may", bounds_idle_files, 0},
    {"a pool that may keep none closes a file when it is released", keeps_nothing_with_a_bound_of_0, 0},
    {"idle files are closed on request, and held ones are not", close_idle_closes, 0},
    {NULL, NULL, 0},
};
