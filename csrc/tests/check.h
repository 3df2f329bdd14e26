/* A small test harness: tests named by sentences, and what they need of the system. */
#ifndef CHECK_H
#define CHECK_H

#include "../holdfast.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ------------------------------------------------------------------------------------------------------------------ *
 * Tests
 */
typedef struct {
    const char *name;
    void (*run)(int variant);
    int variant;
} check_test;

/* A list of tests ends with a name of NULL. */
extern const check_test locks_tests[], threads_tests[], waits_tests[], files_tests[], fork_tests[], markers_tests[],
    meter_tests[], logs_tests[], system_tests[], injection_tests[];

/* A test goes on after a failed check: it must still join its threads. */
#define CHECK(condition) check_true((condition), __FILE__, __LINE__, #condition)
#define CHECK_IS(actual, expected)                                                                                     \
    check_equal((int64_t)(actual), (int64_t)(expected), __FILE__, __LINE__, #actual " is " #expected)
#define SKIP(reason)                                                                                                   \
    do {                                                                                                               \
        check_skip(reason);                                                                                            \
        return;                                                                                                        \
    } while (0)

bool check_true(bool passed, const char *file, int line, const char *text);
bool check_equal(int64_t actual, int64_t expected, const char *file, int line, const char *text);
void check_skip(const char *reason);

/* Under valgrind and the like: the same tests with fewer repetitions. */
extern bool check_slow;

/* A path in the directory of this test, which is empty at its beginning. Valid until eight more have been asked for. */
const char *test_path(const char *name);

/* Put every system call back that a test has replaced. The runner does so after each test. */
void restore_system(void);

/* ------------------------------------------------------------------------------------------------------------------ *
 * Time
 */
#define MILLISECONDS 1000000LL
#define SECONDS 1000000000LL

/* A deadline that only a test that hangs reaches. */
#define SOME_DAY (hf_now() + 120 * SECONDS)

/* hf_wait(), going on when it is interrupted. */
int wait_on(hf_lock *lock, int how, int64_t deadline, hf_waiter *waiter);

/* ------------------------------------------------------------------------------------------------------------------ *
 * Files
 */
void write_file(const char *path, const char *text);

/* The file's text, or "" when there is none. Valid until the next call in this thread. */
const char *read_text(const char *path);
bool file_exists(const char *path);
long read_number(const char *path);
void write_number(const char *path, long number);

/* What os_posix.c and os_win32.c implement. */
void make_directory(const char *path);
void remove_file(const char *path);
void enter_new_directory(char *path, size_t size);
void empty_directory(const char *path);
void remove_directory(const char *path);
int count_files(const char *path);

#ifdef __linux__
/* All files are on a device of their own from now on, which has a file system of this type. */
#define PRETENDED_DEVICE 99
void pretend_file_system(uint32_t type);

/* A lock that is tried from now on is taken, and refused with this error all the same. */
void keep_what_is_refused(int error);
#endif

/* How many descriptors or handles this process has open. */
int open_files(void);

/* Whether an exclusive lock could be had on the file by somebody else, asked without the core. */
bool is_free(const char *path);

/* ------------------------------------------------------------------------------------------------------------------ *
 * Threads and processes
 */
typedef struct thread thread;
thread *thread_start(void (*run)(void *), void *argument);
void thread_join(thread *thread);
void rest(int milliseconds);

/* This program, started again to play a role: a function of roles.c that gets the arguments. */
typedef struct process process;
process *process_start(const char *role, ...); /* the arguments end with NULL */
bool process_ready(process *process);          /* waits until the role has called role_ready() */
void process_go(process *process);             /* lets its role_await() return */
int64_t process_id(const process *process);
int process_wait(process *process); /* frees it; the exit status, or -1 when it was killed */
void process_kill(process *process);
void role_ready(void);
void role_await(void);
int play(const char *role, char **arguments);

/* Count the attempts to lock a file, and wait until there were so many. */
void watch_attempts(void);
void await_attempts(int count);

#endif
