/* What the second process of a test does. Its exit status says how it went: 0 well, else a number to find here. */
#include "check.h"

#ifdef __linux__
#include <sys/prctl.h>
#include <sys/types.h>
#include <unistd.h>
#endif

typedef struct {
    hf_pool *pool;
    hf_lock *lock;
} opened;

/* PATH LOCK-FLAGS POOL-FLAGS */
static opened open_lock(char **arguments) {
    hf_pool *pool = hf_pool_new(8, atoi(arguments[2]));
    return (opened){pool, hf_lock_new(pool, arguments[0], 0644, atoi(arguments[1]))};
}

static int close_lock(opened of, int status) {
    hf_lock_free(of.lock);
    hf_pool_free(of.pool);
    return status;
}

/* Try once: 0 when the lock was free, 1 when it was not. */
static int try_once(char **arguments) {
    opened of = open_lock(arguments);
    int rc = hf_try(of.lock, atoi(arguments[3]));
    return close_lock(of, rc == 0 ? 0 : rc == HF_BUSY ? 1 : 2);
}

/* Hold the lock until told to go. */
static int hold(char **arguments) {
    opened of = open_lock(arguments);
    if (hf_try(of.lock, atoi(arguments[3])) != 0)
        return close_lock(of, 3);
    role_ready();
    role_await();
    return close_lock(of, hf_release(of.lock) == 0 ? 0 : 4);
}

/* Wait for the lock and say so; hold it until told to go. */
static int wait_and_hold(char **arguments) {
    opened of = open_lock(arguments);
    if (wait_on(of.lock, atoi(arguments[3]), SOME_DAY, NULL) != 0)
        return close_lock(of, 5);
    role_ready();
    role_await();
    return close_lock(of, hf_release(of.lock) == 0 ? 0 : 6);
}

/* Add to a number, TIMES times, in a way that only works when nobody else does it at the same time. */
static int count(char **arguments) {
    opened of = open_lock(arguments);
    for (int i = atoi(arguments[3]); i > 0; i--) {
        if (wait_on(of.lock, HF_EXCLUSIVE, SOME_DAY, NULL) != 0)
            return close_lock(of, 7);
        write_number(arguments[4], read_number(arguments[4]) + 1);
        if (hf_release(of.lock) != 0)
            return close_lock(of, 8);
    }
    return close_lock(of, 0);
}

/* Under an exclusive lock make two files differ and agree again. */
static int write_pair(char **arguments) {
    opened of = open_lock(arguments);
    for (int i = atoi(arguments[3]); i > 0; i--) {
        if (wait_on(of.lock, HF_EXCLUSIVE, SOME_DAY, NULL) != 0)
            return close_lock(of, 9);
        long next = read_number(arguments[4]) + 1;
        write_number(arguments[4], next);
        write_number(arguments[5], next);
        hf_release(of.lock);
    }
    return close_lock(of, 0);
}

/* Under a shared lock they always agree. */
static int read_pair(char **arguments) {
    opened of = open_lock(arguments);
    for (int i = atoi(arguments[3]); i > 0; i--) {
        if (wait_on(of.lock, HF_SHARED, SOME_DAY, NULL) != 0)
            return close_lock(of, 10);
        bool agree = read_number(arguments[4]) == read_number(arguments[5]);
        hf_release(of.lock);
        if (!agree)
            return close_lock(of, 11);
    }
    return close_lock(of, 0);
}

/* Add to a number while owning a marker: MARKER SCRATCH TIMES COUNTER. */
static int count_by_marker(char **arguments) {
    for (int i = atoi(arguments[2]); i > 0; i--) {
        hf_marker *marker;
        int rc;
        while ((rc = hf_marker_create(arguments[0], arguments[1], "owner", 5, 0644, 0, &marker)) == HF_BUSY)
            rest(1);
        if (rc != 0)
            return 12;
        write_number(arguments[3], read_number(arguments[3]) + 1);
        rc = hf_marker_remove(marker, 0);
        hf_marker_close(&marker);
        if (rc != 0)
            return 13;
    }
    return 0;
}

static int stay(char **arguments) {
    (void)arguments;
#ifdef __linux__
    prctl(PR_SET_NAME, "a) Z 0 (b"); /* a name that could be taken for the rest of the line */
#endif
    role_ready();
    role_await();
    return 0;
}

/* Hold the lock, fork a child that lives on, and wait to be killed. The child ends when the pipe does. */
static int hold_and_fork(char **arguments) {
#ifdef __linux__
    opened of = open_lock(arguments);
    if (hf_try(of.lock, HF_EXCLUSIVE) != 0)
        return close_lock(of, 14);
    if (fork() == 0) {
        role_ready();
        role_await();
        _exit(0);
    }
    for (;;)
        rest(1000);
#else
    (void)arguments;
    return 15;
#endif
}

/* Whether the process PID seems to have started at START. */
static int see_start(char **arguments) {
    return hf_process_start(atoll(arguments[0])) == atoll(arguments[1]) ? 0 : 16;
}

int play(const char *role, char **arguments) {
    static const struct {
        const char *name;
        int (*play)(char **arguments);
    } roles[] = {
        {"try", try_once},
        {"hold", hold},
        {"wait", wait_and_hold},
        {"count", count},
        {"write-pair", write_pair},
        {"read-pair", read_pair},
        {"count-by-marker", count_by_marker},
        {"stay", stay},
        {"hold-and-fork", hold_and_fork},
        {"see-start", see_start},
    };
    for (size_t i = 0; i < sizeof roles / sizeof *roles; i++)
        if (strcmp(roles[i].name, role) == 0)
            return roles[i].play(arguments);
    return 98;
}
