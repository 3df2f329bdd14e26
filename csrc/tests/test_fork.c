/* Forking: the child holds nothing, and does not keep its parent's locks alive. */
#include "check.h"

#ifdef _WIN32

const check_test fork_tests[] = {{NULL, NULL, 0}};

#else

#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

typedef struct {
    hf_pool *pool;
    hf_lock *lock, *other; /* on the same file */
    const char *path;
    int before; /* open files before the pool opened any */
} scene;

static scene new_scene(int flags) {
    scene made = {.pool = hf_pool_new(8, 0), .path = test_path("lock"), .before = open_files()};
    made.lock = hf_lock_new(made.pool, made.path, 0644, flags);
    made.other = hf_lock_new(made.pool, made.path, 0644, flags);
    return made;
}

static void free_scene(scene *of) {
    hf_lock_free(of->lock);
    hf_lock_free(of->other);
    hf_pool_free(of->pool);
}

/* What the child finds wrong is a bit of its exit status. */
static int in_child(scene *of, int (*check)(scene *of)) {
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) {
        int wrong = check(of);
        _exit(wrong);
    }
    int status = -1;
    waitpid(pid, &status, 0);
    return status;
}

static int holds_nothing(scene *of) {
    return (hf_count(of->lock) != 0) | (hf_release(of->lock) != -EPERM) << 1 |
           (hf_try(of->lock, HF_EXCLUSIVE) != HF_BUSY) << 2;
}

static void the_child_holds_nothing(int flags) {
    scene of = new_scene(flags);
    CHECK_IS(hf_try(of.lock, HF_EXCLUSIVE), 0);
    CHECK_IS(in_child(&of, holds_nothing), 0);
    CHECK_IS(hf_count(of.lock), 1);
    CHECK(!is_free(of.path));
    free_scene(&of);
}

static int frees_it(scene *of) {
    hf_release_all(of->lock);
    free_scene(of);
    return 0;
}

static void the_lock_survives_the_child(int flags) {
    scene of = new_scene(flags);
    CHECK_IS(hf_try(of.lock, HF_EXCLUSIVE), 0);
    CHECK_IS(in_child(&of, frees_it), 0);
    CHECK_IS(process_wait(process_start("try", of.path, flags & HF_OFD ? "1" : "0", "0", "0", NULL)), 1);
    CHECK_IS(hf_release(of.lock), 0);
    CHECK(is_free(of.path));
    free_scene(&of);
}

static int has_no_files(scene *of) {
    return (open_files() != of->before) | (hf_pool_idle(of->pool) != 0) << 1;
}

static void the_child_closes_everything(int flags) {
    scene of = new_scene(flags);
    CHECK_IS(hf_try(of.lock, HF_SHARED), 0);
    CHECK_IS(hf_try(of.other, HF_SHARED), 0);
    CHECK_IS(hf_release(of.other), 0);
    CHECK_IS(hf_pool_idle(of.pool), 1);
    CHECK_IS(in_child(&of, has_no_files), 0);
    CHECK_IS(hf_pool_idle(of.pool), 1);
    CHECK_IS(hf_count(of.lock), 1);
    free_scene(&of);
}

static int locks_afresh(scene *of) {
    int wrong = hf_try(of->lock, HF_EXCLUSIVE) != 0;
    wrong |= (hf_count(of->lock) != 1) << 1;
    wrong |= (hf_try(of->other, HF_EXCLUSIVE) != HF_BUSY) << 2;
    wrong |= is_free(of->path) << 3;
    wrong |= (hf_release(of->lock) != 0) << 4;
    wrong |= !is_free(of->path) << 5;
    return wrong;
}

static void the_child_can_lock(int flags) {
    scene of = new_scene(flags);
    CHECK_IS(hf_try(of.lock, HF_EXCLUSIVE), 0);
    CHECK_IS(hf_release(of.lock), 0);
    CHECK_IS(in_child(&of, locks_afresh), 0);
    CHECK_IS(hf_try(of.lock, HF_EXCLUSIVE), 0);
    free_scene(&of);
}

static int forks_again(scene *of) {
    int wrong = hf_try(of->lock, HF_EXCLUSIVE) != HF_BUSY;
    return wrong | (in_child(of, holds_nothing) != 0) << 1;
}

static void the_child_can_fork(int flags) {
    scene of = new_scene(flags);
    CHECK_IS(hf_try(of.lock, HF_EXCLUSIVE), 0);
    CHECK_IS(in_child(&of, forks_again), 0);
    free_scene(&of);
}

static void the_lock_dies_with_the_parent(int flags) {
    scene of = new_scene(flags);
    process *holder = process_start("hold-and-fork", of.path, flags & HF_OFD ? "1" : "0", "0", NULL);
    CHECK(process_ready(holder)); /* it is the child who says so, and lives on until the end of this test */
    CHECK_IS(hf_try(of.lock, HF_EXCLUSIVE), HF_BUSY);
    CHECK_IS(kill((pid_t)process_id(holder), SIGKILL), 0);
    CHECK_IS(wait_on(of.lock, HF_EXCLUSIVE, SOME_DAY, NULL), 0);
    CHECK_IS(process_wait(holder), -1);
    free_scene(&of);
}

static void wait_and_release(void *argument) {
    scene *of = argument;
    CHECK_IS(wait_on(of->other, HF_EXCLUSIVE, SOME_DAY, NULL), 0);
    CHECK(!is_free(of->path));
    CHECK_IS(hf_release(of->other), 0);
}

static void another_thread_waits_meanwhile(int flags) {
    if (check_slow)
        SKIP("to valgrind, the record of a thread that a forked child has lost is a leak of the child's");
    scene of = new_scene(flags);
    CHECK_IS(hf_try(of.lock, HF_EXCLUSIVE), 0);
    watch_attempts();
    thread *waiting = thread_start(wait_and_release, &of);
    await_attempts(2);
    CHECK_IS(in_child(&of, holds_nothing), 0);
    CHECK_IS(in_child(&of, has_no_files), 0);
    CHECK_IS(hf_release(of.lock), 0);
    thread_join(waiting);
    CHECK(is_free(of.path));
    free_scene(&of);
}

static int (*real_open)(const char *path, int flags, unsigned mode);
static int opened[4], opens;

/* Another thread forks between open() and the moment when the pool knows of the descriptor. */
static int open_and_fork(const char *path, int flags, unsigned mode) {
    int fd = real_open(path, flags, mode);
    if (fd >= 0 && opens < 4)
        opened[opens++] = fd;
    if (opens == 1) {
        pid_t pid = fork();
        if (pid == 0)
            _exit(0);
        waitpid(pid, NULL, 0);
    }
    return fd;
}

static void a_descriptor_the_child_may_have_is_not_used(int flags) {
    scene of = new_scene(flags);
    write_file(of.path, "");
    opens = 0;
    real_open = (int (*)(const char *, int, unsigned))hf_sys_get("open");
    hf_sys_set("open", (void *)open_and_fork);
    CHECK_IS(hf_try(of.lock, HF_EXCLUSIVE), 0);
    CHECK_IS(opens, 2);
    CHECK_IS(open_files(), of.before + 1);
    free_scene(&of);
}

#define BOTH(sentence, function)                                                                                       \
    {sentence, function, 0}, {                                                                                         \
        sentence " (OFD)", function, HF_OFD                                                                            \
    }

const check_test fork_tests[] = {
    BOTH("a forked child holds nothing", the_child_holds_nothing),
    BOTH("a lock survives the child that frees its copy", the_lock_survives_the_child),
    BOTH("a forked child closes what it inherited", the_child_closes_everything),
    BOTH("a forked child can lock afresh", the_child_can_lock),
    BOTH("a forked child can fork", the_child_can_fork),
    BOTH("a lock dies with its process though a forked child lives", the_lock_dies_with_the_parent),
    BOTH("a thread that waits during a fork gets the lock alone", another_thread_waits_meanwhile),
    {"a descriptor that a forked child may have is not used", a_descriptor_the_child_may_have_is_not_used, 0},
    {NULL, NULL, 0},
};

#endif
