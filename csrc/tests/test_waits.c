/* Waiting for a lock. The variant is the pool's flags: each test waits in the kernel, and polls. */
#include "check.h"

#ifndef _WIN32
#include <signal.h>
#include <pthread.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#endif

typedef struct {
    hf_pool *pool;
    hf_lock *held, *wanted; /* on the same file */
    const char *path;
    hf_waiter *waiter;
    int64_t deadline;
    int result;
    bool once; /* report an interruption, too */
    atomic_bool over;
} scene;

static scene new_scene(int pool_flags) {
    scene made = {.pool = hf_pool_new(8, pool_flags), .path = test_path("lock"), .deadline = HF_FOREVER};
    made.held = hf_lock_new(made.pool, made.path, 0644, 0);
    made.wanted = hf_lock_new(made.pool, made.path, 0644, 0);
    made.waiter = hf_waiter_new();
    return made;
}

static void free_scene(scene *of) {
    hf_lock_free(of->held);
    hf_lock_free(of->wanted);
    hf_waiter_free(of->waiter);
    hf_pool_free(of->pool);
}

static void wait_and_release(void *argument) {
    scene *of = argument;
    of->result = of->once ? hf_wait(of->wanted, HF_EXCLUSIVE, 0, of->deadline, 50 * MILLISECONDS, of->waiter)
                          : wait_on(of->wanted, HF_EXCLUSIVE, of->deadline, of->waiter);
    if (of->result == 0)
        CHECK_IS(hf_release(of->wanted), 0);
    atomic_store(&of->over, true);
}

/* A thread that is waiting for the lock: it has tried once in vain and is at the next attempt. */
static thread *start_waiting(scene *of) {
    watch_attempts();
    thread *started = thread_start(wait_and_release, of);
    await_attempts(2);
    return started;
}

static void a_past_deadline_tries_once(int flags) {
    scene of = new_scene(flags);
    CHECK_IS(hf_wait(of.held, HF_EXCLUSIVE, 0, 0, 0, NULL), 0);
    CHECK_IS(hf_wait(of.wanted, HF_EXCLUSIVE, 0, 0, 0, NULL), HF_TIMED_OUT);
    CHECK_IS(hf_count(of.wanted), 0);
    free_scene(&of);
}

static void never_gives_up_early(int flags) {
    static const int64_t lengths[] = {1, 1000, 999999, 1 * MILLISECONDS, 20 * MILLISECONDS, 77 * MILLISECONDS};
    scene of = new_scene(flags);
    CHECK_IS(hf_try(of.held, HF_EXCLUSIVE), 0);
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        int64_t deadline = hf_now() + lengths[i];
        CHECK_IS(wait_on(of.wanted, HF_EXCLUSIVE, deadline, NULL), HF_TIMED_OUT);
        CHECK(hf_now() >= deadline);
        CHECK_IS(hf_count(of.wanted), 0);
    }
    free_scene(&of);
}

static void granted_on_release(int flags) {
    scene of = new_scene(flags);
    CHECK_IS(hf_try(of.held, HF_EXCLUSIVE), 0);
    thread *waiting = start_waiting(&of);
    CHECK_IS(hf_release(of.held), 0);
    thread_join(waiting);
    CHECK_IS(of.result, 0);
    free_scene(&of);
}

static void granted_with_a_deadline(int flags) {
    scene of = new_scene(flags);
    of.deadline = SOME_DAY;
    CHECK_IS(hf_try(of.held, HF_EXCLUSIVE), 0);
    thread *waiting = start_waiting(&of);
    CHECK_IS(hf_release(of.held), 0);
    thread_join(waiting);
    CHECK_IS(of.result, 0);
    free_scene(&of);
}

static void granted_when_a_process_releases(int flags) {
    scene of = new_scene(flags);
    process *holder = process_start("hold", of.path, "0", "0", "0", NULL);
    CHECK(process_ready(holder));
    thread *waiting = start_waiting(&of);
    process_go(holder);
    thread_join(waiting);
    CHECK_IS(of.result, 0);
    CHECK_IS(process_wait(holder), 0);
    free_scene(&of);
}

static void granted_when_the_holder_is_killed(int flags) {
    scene of = new_scene(flags);
    process *holder = process_start("hold", of.path, "0", "0", "0", NULL);
    CHECK(process_ready(holder));
    thread *waiting = start_waiting(&of);
    process_kill(holder);
    thread_join(waiting);
    CHECK_IS(of.result, 0);
    free_scene(&of);
}

static void granted_to_another_process(int flags) {
    scene of = new_scene(flags);
    CHECK_IS(hf_try(of.held, HF_EXCLUSIVE), 0);
    process *waiting = process_start("wait", of.path, "0", flags == HF_POLL_ONLY ? "1" : "0", "0", NULL);
    CHECK_IS(hf_release(of.held), 0);
    CHECK(process_ready(waiting));
    CHECK_IS(hf_try(of.held, HF_EXCLUSIVE), HF_BUSY);
    process_go(waiting);
    CHECK_IS(process_wait(waiting), 0);
    free_scene(&of);
}

static void cancelled_during_the_wait(int flags) {
    scene of = new_scene(flags);
    CHECK_IS(hf_try(of.held, HF_EXCLUSIVE), 0);
    thread *waiting = start_waiting(&of);
    hf_waiter_cancel(of.waiter);
    thread_join(waiting);
    CHECK_IS(of.result, HF_CANCELLED);
    CHECK_IS(hf_release(of.held), 0);
    CHECK_IS(hf_try(of.wanted, HF_EXCLUSIVE), 0);
    free_scene(&of);
}

static void cancelled_before_the_wait(int flags) {
    scene of = new_scene(flags);
    of.deadline = SOME_DAY;
    CHECK_IS(hf_try(of.held, HF_EXCLUSIVE), 0);
    hf_waiter_cancel(of.waiter);
    hf_waiter_cancel(of.waiter);
    CHECK_IS(wait_on(of.wanted, HF_EXCLUSIVE, of.deadline, of.waiter), HF_CANCELLED);
    CHECK(hf_now() < of.deadline);
    CHECK_IS(wait_on(of.wanted, HF_EXCLUSIVE, of.deadline, of.waiter), HF_CANCELLED);
    CHECK_IS(hf_count(of.wanted), 0);
    free_scene(&of);
}

static void cancelled_at_any_moment(int flags) {
    for (int i = 0; i < (check_slow ? 5 : 100); i++) {
        scene of = new_scene(flags);
        CHECK_IS(hf_try(of.held, HF_EXCLUSIVE), 0);
        thread *waiting = thread_start(wait_and_release, &of);
        if (i % 3 == 0)
            CHECK_IS(hf_release(of.held), 0); /* granted and cancelled at the same moment: either is right */
        hf_waiter_cancel(of.waiter);
        thread_join(waiting);
        CHECK(of.result == HF_CANCELLED || (i % 3 == 0 && of.result == 0));
        hf_release_all(of.held);
        CHECK(is_free(of.path));
        free_scene(&of);
    }
}

static void notices_its_own_deadlock(int flags) {
    scene of = new_scene(flags);
    CHECK_IS(hf_try(of.held, HF_EXCLUSIVE), 0);
    CHECK_IS(wait_on(of.wanted, HF_EXCLUSIVE, HF_FOREVER, NULL), HF_SELF_DEADLOCK);
    CHECK_IS(wait_on(of.wanted, HF_SHARED, HF_FOREVER, NULL), HF_SELF_DEADLOCK);
    CHECK_IS(wait_on(of.wanted, HF_EXCLUSIVE, hf_now() + MILLISECONDS, NULL), HF_TIMED_OUT);
    CHECK_IS(hf_count(of.wanted), 0);
    CHECK_IS(hf_release(of.held), 0);
    CHECK_IS(hf_try(of.held, HF_SHARED), 0);
    CHECK_IS(wait_on(of.wanted, HF_SHARED, HF_FOREVER, NULL), 0);
    CHECK_IS(hf_release(of.wanted), 0);
    CHECK_IS(wait_on(of.wanted, HF_EXCLUSIVE, HF_FOREVER, NULL), HF_SELF_DEADLOCK);
    free_scene(&of);
}

static void many_wait_and_all_are_served(int flags) {
    scene scenes[6];
    thread *waiting[6];
    scene first = new_scene(flags);
    CHECK_IS(hf_try(first.held, HF_EXCLUSIVE), 0);
    watch_attempts();
    for (int i = 0; i < 6; i++) {
        scenes[i] = first;
        scenes[i].waiter = NULL;
        scenes[i].deadline = i % 2 == 0 ? HF_FOREVER : SOME_DAY;
        waiting[i] = thread_start(wait_and_release, &scenes[i]);
    }
    await_attempts(12);
    CHECK_IS(hf_release(first.held), 0);
    for (int i = 0; i < 6; i++) {
        thread_join(waiting[i]);
        CHECK_IS(scenes[i].result, 0);
    }
    free_scene(&first);
}

#define EACH_WAY(sentence, function)                                                                                   \
    {sentence, function, 0}, {                                                                                         \
        sentence " (polling)", function, HF_POLL_ONLY                                                                  \
    }

#ifndef _WIN32

/* ------------------------------------------------------------------------------------------------------------------ *
 * Signals
 */

static void nothing(int signal_number) {
    (void)signal_number;
}

static void handle_usr1(int sa_flags) {
    struct sigaction action = {.sa_handler = nothing, .sa_flags = sa_flags};
    CHECK_IS(sigaction(SIGUSR1, &action, NULL), 0);
}

static void *wait_in_pthread(void *argument) {
    wait_and_release(argument);
    return NULL;
}

static void a_signal_interrupts(int flags) {
    scene of = new_scene(flags);
    of.once = true;
    handle_usr1(0);
    CHECK_IS(hf_try(of.held, HF_EXCLUSIVE), 0);
    pthread_t id;
    watch_attempts();
    CHECK_IS(pthread_create(&id, NULL, wait_in_pthread, &of), 0);
    await_attempts(2);
    while (!atomic_load(&of.over)) { /* one that arrives just before the thread blocks is Python's to notice */
        pthread_kill(id, SIGUSR1);
        rest(1);
    }
    pthread_join(id, NULL);
    CHECK_IS(of.result, HF_INTERRUPTED);
    CHECK_IS(hf_release(of.held), 0);
    CHECK(is_free(of.path));
    free_scene(&of);
}

static void signals_do_not_move_the_deadline(int flags) {
    scene of = new_scene(flags);
    handle_usr1(0);
    CHECK_IS(hf_try(of.held, HF_EXCLUSIVE), 0);
    of.deadline = hf_now() + 60 * MILLISECONDS;
    pthread_t id;
    CHECK_IS(pthread_create(&id, NULL, wait_in_pthread, &of), 0);
    while (!atomic_load(&of.over)) {
        pthread_kill(id, SIGUSR1);
        rest(1);
    }
    CHECK(hf_now() >= of.deadline);
    pthread_join(id, NULL);
    CHECK_IS(of.result, HF_TIMED_OUT);
    free_scene(&of);
}

static void leaves_the_signal_mask_alone(int flags) {
    scene of = new_scene(flags);
    sigset_t all, before, after;
    sigfillset(&all);
    CHECK_IS(pthread_sigmask(SIG_SETMASK, &all, &before), 0);
    CHECK_IS(pthread_sigmask(SIG_SETMASK, NULL, &all), 0);
    CHECK_IS(hf_try(of.held, HF_EXCLUSIVE), 0);
    CHECK_IS(wait_on(of.wanted, HF_EXCLUSIVE, hf_now() + 5 * MILLISECONDS, NULL), HF_TIMED_OUT);
    CHECK_IS(pthread_sigmask(SIG_SETMASK, &before, &after), 0);
    for (int number = 1; number <= SIGRTMAX; number++)
        CHECK_IS(sigismember(&after, number), sigismember(&all, number));
    free_scene(&of);
}

/* ------------------------------------------------------------------------------------------------------------------ *
 * The moment before the thread blocks, and ways to fail
 */

static int (*real_flock)(int fd, int operation);
static int (*real_nanosleep)(const struct timespec *length, struct timespec *left);
static int64_t moment;
static hf_waiter *to_cancel;
static atomic_int naps;

static int flock_past_the_deadline(int fd, int operation) {
    while (!(operation & (LOCK_NB | LOCK_UN)) && hf_now() < moment + 2 * MILLISECONDS)
        ; /* the timer goes off here, before flock() blocks */
    return real_flock(fd, operation);
}

static int flock_after_cancelling(int fd, int operation) {
    if (!(operation & (LOCK_NB | LOCK_UN)))
        hf_waiter_cancel(to_cancel);
    return real_flock(fd, operation);
}

static int flock_that_fails(int fd, int operation) {
    if (operation & LOCK_UN || operation & LOCK_NB)
        return real_flock(fd, operation);
    errno = EIO;
    return -1;
}

static int counting_nanosleep(const struct timespec *length, struct timespec *left) {
    atomic_fetch_add(&naps, 1);
    return real_nanosleep(length, left);
}

static void replace_flock(int (*function)(int fd, int operation)) {
    real_flock = (int (*)(int, int))hf_sys_get("flock");
    CHECK_IS(hf_sys_set("flock", (void *)function), 0);
}

static void a_deadline_just_before_blocking(int flags) {
    scene of = new_scene(flags);
    CHECK_IS(hf_try(of.held, HF_EXCLUSIVE), 0);
    replace_flock(flock_past_the_deadline);
    moment = hf_now() + 20 * MILLISECONDS;
    CHECK_IS(wait_on(of.wanted, HF_EXCLUSIVE, moment, NULL), HF_TIMED_OUT);
    CHECK(hf_now() >= moment);
    free_scene(&of);
}

static void a_cancellation_just_before_blocking(int flags) {
    scene of = new_scene(flags);
    process *holder = process_start("hold", of.path, "0", "0", "0", NULL);
    CHECK(process_ready(holder));
    replace_flock(flock_after_cancelling);
    to_cancel = of.waiter;
    CHECK_IS(wait_on(of.wanted, HF_EXCLUSIVE, HF_FOREVER, of.waiter), HF_CANCELLED);
    CHECK_IS(process_wait(holder), 0);
    free_scene(&of);
}

static void an_error_of_the_waiting_call(int flags) {
    scene of = new_scene(flags);
    CHECK_IS(hf_try(of.held, HF_EXCLUSIVE), 0);
    replace_flock(flock_that_fails);
    CHECK_IS(wait_on(of.wanted, HF_EXCLUSIVE, SOME_DAY, NULL), -EIO);
    CHECK_IS(hf_count(of.wanted), 0);
    restore_system();
    CHECK_IS(hf_release(of.held), 0);
    CHECK_IS(hf_try(of.wanted, HF_EXCLUSIVE), 0);
    free_scene(&of);
}

#ifdef __linux__

static int no_sigaction(int number, const struct sigaction *action, struct sigaction *old) {
    (void)number, (void)action, (void)old;
    errno = EINVAL;
    return -1;
}

static int all_signals_taken(int number, const struct sigaction *action, struct sigaction *old) {
    (void)number;
    CHECK(action == NULL); /* nothing is installed over somebody's handler */
    *old = (struct sigaction){.sa_handler = nothing};
    return 0;
}

static int no_timer(int number, timer_t *timer) {
    (void)number, (void)timer;
    errno = EAGAIN;
    return -1;
}

static int timer_not_set(timer_t timer, int flags, const struct itimerspec *value, struct itimerspec *old) {
    (void)timer, (void)flags, (void)value, (void)old;
    errno = EINVAL;
    return -1;
}

/* Wait for a lock that is held until the time is over, and see whether that sleeps. On a busy machine a short wait may be
   over before it comes to that: where sleep is expected, a longer one follows. */
static void check_sleep(const scene *of, bool expected) {
    real_nanosleep = (int (*)(const struct timespec *, struct timespec *))hf_sys_get("nanosleep");
    atomic_store(&naps, 0);
    hf_sys_set("nanosleep", (void *)counting_nanosleep);
    int64_t length = 10 * MILLISECONDS;
    do {
        int64_t deadline = hf_now() + length;
        CHECK_IS(wait_on(of->wanted, HF_EXCLUSIVE, deadline, NULL), HF_TIMED_OUT);
        CHECK(hf_now() >= deadline);
        length *= 4;
    } while (expected && atomic_load(&naps) == 0 && length < 60 * SECONDS);
    CHECK_IS(atomic_load(&naps) > 0, expected);
}

/* Where the kernel cannot wait until a deadline, the wait sleeps; and both outcomes are right. */
static void check_polls(void) {
    scene of = new_scene(0);
    CHECK_IS(hf_try(of.held, HF_EXCLUSIVE), 0);
    check_sleep(&of, true);
    of.deadline = SOME_DAY;
    thread *waiting = start_waiting(&of);
    CHECK_IS(hf_release(of.held), 0);
    thread_join(waiting);
    CHECK_IS(of.result, 0);
    free_scene(&of);
}

static void polls_without(const char *name, void *function) {
    CHECK_IS(hf_sys_set(name, function), 0);
    check_polls();
}

static void polls_without_sigaction(int flags) {
    (void)flags;
    polls_without("sigaction", (void *)no_sigaction);
}

static void polls_without_a_free_signal(int flags) {
    (void)flags;
    polls_without("sigaction", (void *)all_signals_taken);
}

static void polls_without_a_timer(int flags) {
    (void)flags;
    polls_without("thread_timer_create", (void *)no_timer);
}

static void polls_when_the_timer_is_not_set(int flags) {
    (void)flags;
    polls_without("timer_settime", (void *)timer_not_set);
}

static void polls_on_a_file_system_of_type(int type) {
    pretend_file_system((uint32_t)type);
    check_polls();
}

static void does_not_sleep_where_the_kernel_waits(int flags) {
    scene of = new_scene(flags);
    CHECK_IS(hf_try(of.held, HF_EXCLUSIVE), 0);
    check_sleep(&of, flags == HF_POLL_ONLY);
    free_scene(&of);
}

#endif

/* ------------------------------------------------------------------------------------------------------------------ *
 * Files that change while somebody waits
 */

/* The waiting thread ends up with the lock of whatever file the path names then. */
static void expect_the_lock_at_the_path(scene *of) {
    CHECK_IS(hf_release(of->held), 0);
    CHECK_IS(wait_on(of->wanted, HF_EXCLUSIVE, SOME_DAY, NULL), 0);
    CHECK(file_exists(of->path));
    CHECK(!is_free(of->path));
    CHECK_IS(process_wait(process_start("try", of->path, "0", "0", "0", NULL)), 1);
    CHECK_IS(hf_release(of->wanted), 0);
}

typedef struct {
    scene *of;
    int result;
    bool was_free;
} follower;

static void wait_and_look(void *argument) {
    follower *self = argument;
    self->result = wait_on(self->of->wanted, HF_EXCLUSIVE, SOME_DAY, NULL);
    self->was_free = is_free(self->of->path);
    CHECK_IS(hf_release(self->of->wanted), 0);
}

static void follow_the_path(int flags, void (*change)(const char *path)) {
    scene of = new_scene(flags);
    CHECK_IS(hf_try(of.held, HF_EXCLUSIVE), 0);
    follower self = {.of = &of};
    watch_attempts();
    thread *waiting = thread_start(wait_and_look, &self);
    await_attempts(2);
    change(of.path);
    CHECK_IS(hf_release(of.held), 0);
    thread_join(waiting);
    CHECK_IS(self.result, 0);
    CHECK(file_exists(of.path));
    CHECK(!self.was_free);
    CHECK_IS(hf_try(of.held, HF_EXCLUSIVE), 0);
    expect_the_lock_at_the_path(&of);
    free_scene(&of);
}

static void unlink_it(const char *path) {
    CHECK_IS(unlink(path), 0);
}

static void rename_it(const char *path) {
    CHECK_IS(rename(path, test_path("moved")), 0);
}

static void replace_it(const char *path) {
    write_file(test_path("new"), "new");
    CHECK_IS(rename(test_path("new"), path), 0);
}

static void unlinked_while_waiting(int flags) {
    follow_the_path(flags, unlink_it);
}

static void renamed_while_waiting(int flags) {
    follow_the_path(flags, rename_it);
}

static void replaced_while_waiting(int flags) {
    follow_the_path(flags, replace_it);
}

#endif

const check_test waits_tests[] = {
    EACH_WAY("a wait whose deadline is past tries once", a_past_deadline_tries_once),
    EACH_WAY("a wait never gives up before its deadline", never_gives_up_early),
    EACH_WAY("a wait for ever is granted when the holder releases", granted_on_release),
    EACH_WAY("a wait with a deadline is granted when the holder releases", granted_with_a_deadline),
    EACH_WAY("a wait is granted when another process releases", granted_when_a_process_releases),
    EACH_WAY("a wait is granted when the holder is killed", granted_when_the_holder_is_killed),
    EACH_WAY("a wait of another process is granted when we release", granted_to_another_process),
    EACH_WAY("another thread cancels a wait that is going on", cancelled_during_the_wait),
    EACH_WAY("a waiter cancelled beforehand ends every later wait", cancelled_before_the_wait),
    EACH_WAY("a wait cancelled at any moment ends, with or without the lock", cancelled_at_any_moment),
    EACH_WAY("a thread that would wait for itself is told so", notices_its_own_deadlock),
    EACH_WAY("many wait and all are served", many_wait_and_all_are_served),
#ifndef _WIN32
    EACH_WAY("a signal interrupts a wait", a_signal_interrupts),
    EACH_WAY("signals do not move the deadline", signals_do_not_move_the_deadline),
    EACH_WAY("a wait leaves the signal mask as it was", leaves_the_signal_mask_alone),
    {"a deadline that passes just before the thread blocks is not missed", a_deadline_just_before_blocking, 0},
    {"a cancellation just before the thread blocks is not missed", a_cancellation_just_before_blocking, 0},
    {"an error of the waiting call is the result", an_error_of_the_waiting_call, 0},
#ifdef __linux__
    {"a wait polls when signal handlers cannot be asked for", polls_without_sigaction, 0},
    {"a wait polls when every signal is somebody's", polls_without_a_free_signal, 0},
    {"a wait polls when there is no timer", polls_without_a_timer, 0},
    {"a wait polls when the timer cannot be set", polls_when_the_timer_is_not_set, 0},
    {"a wait polls where a program makes the file system", polls_on_a_file_system_of_type, 0x65735546},
    {"a wait polls where another machine has the file", polls_on_a_file_system_of_type, 0x6969},
    EACH_WAY("only a wait that polls sleeps", does_not_sleep_where_the_kernel_waits),
#endif
    EACH_WAY("a wait for a file that is removed ends with the lock at the path", unlinked_while_waiting),
    EACH_WAY("a wait for a file that is renamed ends with the lock at the path", renamed_while_waiting),
    EACH_WAY("a wait for a file that is replaced ends with the lock at the path", replaced_while_waiting),
#endif
    {NULL, NULL, 0},
};
