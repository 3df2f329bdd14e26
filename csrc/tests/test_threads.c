/* Several threads of one process. What they share is read and written with relaxed atomic operations, which do not order
   anything: only the lock keeps them apart. The variant is the pool's flags. */
#include "check.h"

typedef struct {
    hf_pool *pool;
    hf_lock *lock;
    int how;
    int result, count;
    int released;
} visit;

static void try_it(void *argument) {
    visit *of = argument;
    of->result = hf_try(of->lock, of->how);
    of->count = hf_count(of->lock);
}

static void try_and_release(void *argument) {
    visit *of = argument;
    try_it(of);
    of->released = hf_release(of->lock);
}

static visit run_visit(void (*run)(void *), hf_lock *lock, int how) {
    visit of = {.lock = lock, .how = how};
    thread_join(thread_start(run, &of));
    return of;
}

static void threads_exclude_each_other(int flags) {
    hf_pool *pool = hf_pool_new(8, flags);
    hf_lock *lock = hf_lock_new(pool, test_path("lock"), 0644, 0);
    CHECK_IS(hf_try(lock, HF_EXCLUSIVE), 0);
    visit of = run_visit(try_and_release, lock, HF_EXCLUSIVE);
    CHECK_IS(of.result, HF_BUSY);
    CHECK_IS(of.count, 0);
    CHECK_IS(of.released, -EPERM);
    CHECK_IS(hf_count(lock), 1);
    CHECK_IS(hf_release(lock), 0);
    of = run_visit(try_and_release, lock, HF_EXCLUSIVE);
    CHECK_IS(of.result, 0);
    CHECK_IS(of.released, 0);
    hf_lock_free(lock);
    hf_pool_free(pool);
}

static void threads_count_for_themselves(int flags) {
    hf_pool *pool = hf_pool_new(8, flags);
    hf_lock *lock = hf_lock_new(pool, test_path("lock"), 0644, 0);
    CHECK_IS(hf_try(lock, HF_SHARED), 0);
    CHECK_IS(hf_try(lock, HF_SHARED), 0);
    visit of = run_visit(try_and_release, lock, HF_SHARED);
    CHECK_IS(of.result, 0);
    CHECK_IS(of.count, 1);
    CHECK_IS(of.released, 0);
    CHECK_IS(hf_count(lock), 2);
    CHECK(!is_free(test_path("lock")));
    hf_lock_free(lock);
    hf_pool_free(pool);
}

static void any_thread_nests_and_releases(int flags) {
    hf_pool *pool = hf_pool_new(8, flags);
    hf_lock *lock = hf_lock_new(pool, test_path("lock"), 0644, HF_ANY_THREAD);
    CHECK_IS(hf_try(lock, HF_EXCLUSIVE), 0);
    visit of = run_visit(try_it, lock, HF_EXCLUSIVE);
    CHECK_IS(of.result, 0);
    CHECK_IS(of.count, 2);
    CHECK_IS(hf_release(lock), 1);
    CHECK_IS(hf_release(lock), 0);
    CHECK(is_free(test_path("lock")));
    hf_lock_free(lock);
    hf_pool_free(pool);
}

static void a_hold_outlives_its_thread(int flags) {
    hf_pool *pool = hf_pool_new(8, flags);
    hf_lock *lock = hf_lock_new(pool, test_path("lock"), 0644, 0);
    CHECK_IS(run_visit(try_it, lock, HF_EXCLUSIVE).result, 0);
    CHECK_IS(hf_count(lock), 0);
    CHECK_IS(hf_try(lock, HF_EXCLUSIVE), HF_BUSY);
    CHECK_IS(hf_release(lock), -EPERM);
    CHECK(!is_free(test_path("lock")));
    CHECK_IS(hf_release_all(lock), 0);
    CHECK(is_free(test_path("lock")));
    CHECK_IS(hf_try(lock, HF_EXCLUSIVE), 0);
    hf_lock_free(lock);
    hf_pool_free(pool);
}

static void release_all_spares_living_threads(int flags) {
    hf_pool *pool = hf_pool_new(8, flags);
    hf_lock *lock = hf_lock_new(pool, test_path("lock"), 0644, 0);
    CHECK_IS(hf_try(lock, HF_SHARED), 0);
    CHECK_IS(run_visit(try_it, lock, HF_SHARED).result, 0); /* and ends with it */
    visit of = run_visit(try_and_release, lock, HF_SHARED);
    CHECK_IS(of.released, 0);
    hf_lock *other = hf_lock_new(pool, test_path("lock"), 0644, 0);
    CHECK_IS(hf_release_all(other), 0); /* another lock's holds are none of its business */
    CHECK_IS(hf_count(lock), 1);
    CHECK_IS(hf_release_all(lock), 0);
    CHECK(is_free(test_path("lock")));
    hf_lock_free(other);
    hf_lock_free(lock);
    hf_pool_free(pool);
}

static void a_descriptor_is_that_of_this_threads_hold(int flags) {
    hf_pool *pool = hf_pool_new(8, flags);
    hf_lock *lock = hf_lock_new(pool, test_path("lock"), 0644, 0);
    CHECK_IS(hf_descriptor(lock), -EPERM);
    CHECK_IS(run_visit(try_it, lock, HF_SHARED).result, 0);
    CHECK_IS(hf_descriptor(lock), -EPERM); /* that thread's is none of ours */
    CHECK_IS(hf_try(lock, HF_SHARED), 0);
    CHECK(hf_descriptor(lock) >= 0);
    CHECK_IS(hf_release(lock), 0);
    CHECK_IS(hf_descriptor(lock), -EPERM); /* though the file is still open */
    hf_lock_free(lock);
    hf_pool_free(pool);
}

static void holding_threads_are_numbered(int flags) {
    hf_pool *pool = hf_pool_new(8, flags);
    hf_lock *lock = hf_lock_new(pool, test_path("lock"), 0644, 0);
    uint64_t threads[2] = {0, 0};
    CHECK_IS(hf_holding_threads(lock, threads, 2), 0);
    CHECK_IS(hf_try(lock, HF_SHARED), 0);
    CHECK_IS(hf_holding_threads(lock, threads, 2), 1);
    uint64_t mine = threads[0];
    CHECK(mine != 0);
    visit of = run_visit(try_and_release, lock, HF_SHARED);
    CHECK_IS(of.released, 0);
    CHECK_IS(hf_holding_threads(lock, threads, 2), 1);
    CHECK_IS(run_visit(try_it, lock, HF_SHARED).result, 0);
    CHECK_IS(hf_holding_threads(lock, threads, 1), 2); /* two, of which there was room for one */
    CHECK_IS(hf_holding_threads(lock, threads, 2), 2);
    CHECK(threads[0] == mine || threads[1] == mine);
    hf_lock_free(lock);
    hf_pool_free(pool);
}

static void freeing_frees_the_hold_of_an_ended_thread(int flags) {
    hf_pool *pool = hf_pool_new(8, flags);
    hf_lock *lock = hf_lock_new(pool, test_path("lock"), 0644, 0);
    CHECK_IS(run_visit(try_it, lock, HF_EXCLUSIVE).result, 0);
    hf_lock_free(lock);
    CHECK(is_free(test_path("lock")));
    hf_pool_free(pool);
}

static void a_later_thread_inherits_nothing(int flags) {
    hf_pool *pool = hf_pool_new(8, flags);
    hf_lock *lock = hf_lock_new(pool, test_path("lock"), 0644, 0);
    CHECK_IS(run_visit(try_it, lock, HF_EXCLUSIVE).result, 0);
    for (int i = 0; i < 50; i++) { /* the later ones get the stacks, ids and memory of the earlier ones */
        visit of = run_visit(try_and_release, lock, HF_EXCLUSIVE);
        CHECK_IS(of.result, HF_BUSY);
        CHECK_IS(of.released, -EPERM);
    }
    hf_lock_free(lock);
    hf_pool_free(pool);
}

#define THREADS 4

typedef struct {
    hf_pool *pool;
    hf_lock *lock;
    atomic_int first, second;
    atomic_int inside;
    int times;
} shared_data;

static void count_under_lock(void *argument) {
    shared_data *of = argument;
    for (int i = 0; i < of->times; i++) {
        CHECK_IS(wait_on(of->lock, HF_EXCLUSIVE, SOME_DAY, NULL), 0);
        int value = atomic_load_explicit(&of->first, memory_order_relaxed);
        atomic_store_explicit(&of->first, value + 1, memory_order_relaxed);
        CHECK_IS(hf_release(of->lock), 0);
    }
}

static void run_threads(void (*run)(void *), void (*other)(void *), shared_data *of) {
    thread *threads[THREADS];
    for (int i = 0; i < THREADS; i++)
        threads[i] = thread_start(i % 2 == 0 ? run : other, of);
    for (int i = 0; i < THREADS; i++)
        thread_join(threads[i]);
}

static shared_data new_data(int pool_flags, int lock_flags) {
    hf_pool *pool = hf_pool_new(2, pool_flags);
    return (shared_data){
        .pool = pool, .lock = hf_lock_new(pool, test_path("lock"), 0644, lock_flags), .times = check_slow ? 20 : 300};
}

static void free_data(shared_data *of) {
    hf_lock_free(of->lock);
    hf_pool_free(of->pool);
}

static void threads_lose_no_count(int flags) {
    /* Valgrind does not know that F_OFD_SETLKW blocks, and lets no other thread run meanwhile. */
    for (int lock_flags = 0; lock_flags <= (check_slow ? 0 : HF_OFD); lock_flags += HF_OFD) {
        shared_data of = new_data(flags, lock_flags);
        run_threads(count_under_lock, count_under_lock, &of);
        CHECK_IS(atomic_load(&of.first), THREADS * of.times);
        free_data(&of);
    }
}

/* Everybody is in at once: nobody leaves before all have come. */
static void meet_inside(void *argument) {
    shared_data *of = argument;
    CHECK_IS(wait_on(of->lock, HF_SHARED, SOME_DAY, NULL), 0);
    atomic_fetch_add(&of->inside, 1);
    while (atomic_load(&of->inside) < THREADS)
        rest(1);
    CHECK_IS(hf_release(of->lock), 0);
}

static void readers_meet(int flags) {
    shared_data of = new_data(flags, 0);
    run_threads(meet_inside, meet_inside, &of);
    CHECK(is_free(test_path("lock")));
    free_data(&of);
}

static void write_both(void *argument) {
    shared_data *of = argument;
    for (int i = 0; i < of->times; i++) {
        CHECK_IS(wait_on(of->lock, HF_EXCLUSIVE, SOME_DAY, NULL), 0);
        int value = atomic_load_explicit(&of->first, memory_order_relaxed);
        atomic_store_explicit(&of->first, value + 1, memory_order_relaxed);
        atomic_store_explicit(&of->second, value + 1, memory_order_relaxed);
        CHECK_IS(hf_release(of->lock), 0);
    }
}

static void read_both(void *argument) {
    shared_data *of = argument;
    for (int i = 0; i < of->times; i++) {
        CHECK_IS(wait_on(of->lock, HF_SHARED, SOME_DAY, NULL), 0);
        CHECK_IS(atomic_load_explicit(&of->first, memory_order_relaxed),
                 atomic_load_explicit(&of->second, memory_order_relaxed));
        CHECK_IS(hf_release(of->lock), 0);
    }
}

static void reading_threads_see_whole_writes(int flags) {
    shared_data of = new_data(flags, 0);
    run_threads(write_both, read_both, &of);
    CHECK_IS(atomic_load(&of.first), of.times * THREADS / 2);
    free_data(&of);
}

#define LOCKS 6

typedef struct {
    hf_lock *locks[LOCKS];
    atomic_int owners[LOCKS];
    atomic_uint seed;
    int times;
} crowd;

static void hop_between_locks(void *argument) {
    crowd *of = argument;
    unsigned random = atomic_fetch_add(&of->seed, 12345);
    for (int i = 0; i < of->times; i++) {
        random = random * 1103515245u + 12345u;
        unsigned index = random >> 16;
        hf_lock *lock = of->locks[index %= LOCKS];
        if (hf_try(lock, HF_EXCLUSIVE) == 0) {
            CHECK_IS(atomic_fetch_add(&of->owners[index], 1), 0);
            atomic_fetch_sub(&of->owners[index], 1);
            CHECK_IS(hf_release(lock), 0);
        }
        if (i % 16 == 0)
            hf_close_idle(lock);
    }
}

static void more_locks_than_idle_files(int flags) {
    hf_pool *pool = hf_pool_new(2, flags);
    crowd of = {.times = check_slow ? 50 : 2000};
    for (int i = 0; i < LOCKS; i++) {
        char name[16];
        snprintf(name, sizeof name, "%d", i);
        of.locks[i] = hf_lock_new(pool, test_path(name), 0644, 0);
    }
    thread *threads[THREADS];
    for (int i = 0; i < THREADS; i++)
        threads[i] = thread_start(hop_between_locks, &of);
    for (int i = 0; i < THREADS; i++)
        thread_join(threads[i]);
    CHECK(hf_pool_idle(pool) <= 2);
    for (int i = 0; i < LOCKS; i++)
        hf_lock_free(of.locks[i]);
    hf_pool_free(pool);
}

/* With HF_ANY_THREAD: threads that arrive while another one is acquiring wait for it and nest in its hold. */
static void nest_together(void *argument) {
    shared_data *of = argument;
    for (int i = 0; i < of->times; i++) {
        CHECK_IS(wait_on(of->lock, HF_EXCLUSIVE, SOME_DAY, NULL), 0);
        CHECK(hf_count(of->lock) >= 1);
        CHECK(hf_release(of->lock) >= 0);
    }
}

static void any_threads_acquire_at_once(int flags) {
    shared_data of = new_data(flags, HF_ANY_THREAD);
    run_threads(nest_together, nest_together, &of);
    CHECK_IS(hf_count(of.lock), 0);
    CHECK(is_free(test_path("lock")));
    free_data(&of);
}

const check_test threads_tests[] = {
    {"threads exclude each other through one lock", threads_exclude_each_other, 0},
    {"each thread counts its own acquisitions", threads_count_for_themselves, 0},
    {"with one hold for all threads, any of them nests in it and releases it", any_thread_nests_and_releases, 0},
    {"a hold outlives its thread until all is released", a_hold_outlives_its_thread, 0},
    {"releasing all spares no ended thread and no other lock", release_all_spares_living_threads, 0},
    {"the threads that hold a lock are known by number", holding_threads_are_numbered, 0},
    {"a descriptor is that of this thread's hold", a_descriptor_is_that_of_this_threads_hold, 0},
    {"freeing a lock frees the hold of an ended thread", freeing_frees_the_hold_of_an_ended_thread, 0},
    {"a later thread inherits no hold of an ended one", a_later_thread_inherits_nothing, 0},
    {"threads that count under a lock lose no count", threads_lose_no_count, 0},
    {"threads that count under a lock lose no count when they poll", threads_lose_no_count, HF_POLL_ONLY},
    {"threads that read are inside together", readers_meet, 0},
    {"threads that read see no half-done write", reading_threads_see_whole_writes, 0},
    {"threads that read see no half-done write when they poll", reading_threads_see_whole_writes, HF_POLL_ONLY},
    {"more locks than idle files are opened and closed by several threads", more_locks_than_idle_files, 0},
    {"threads acquire a lock for all of them at the same time", any_threads_acquire_at_once, 0},
    {NULL, NULL, 0},
};
