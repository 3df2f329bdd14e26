/* Logs: appending whole lines, among threads and processes, and having them on the disk. */
#include "check.h"

#define APPENDS 300
#define WRITERS 6

static hf_log *new_log(hf_pool *pool, int flags) {
    return hf_log_new(pool, test_path("log"), 0644, flags, 0, 0);
}

static int append(hf_log *log, const char *line) {
    return hf_log_append(log, line, strlen(line), 1);
}

/* hf_log_append_wait(), going on when it is interrupted. */
static int append_on(hf_log *log, const char *line) {
    int64_t began = hf_now(), deadline = SOME_DAY;
    int rc;
    do
        rc = hf_log_append_wait(log, line, strlen(line), 1, began, deadline, MILLISECONDS, NULL);
    while (rc == HF_INTERRUPTED);
    return rc;
}

static int sync_all(hf_log *log) {
    uint64_t written = hf_log_written(log);
    int rc;
    do
        rc = hf_log_sync(log, written);
    while (rc == HF_INTERRUPTED);
    return rc;
}

/* ------------------------------------------------------------------------------------------------------------------ *
 * One thread
 */

static void lines_follow_each_other(int variant) {
    (void)variant;
    int before = open_files();
    hf_pool *pool = hf_pool_new(8, 0);
    hf_log *log = new_log(pool, 0);
    CHECK(!file_exists(test_path("log")));
    CHECK_IS(append(log, "one\n"), 0);
    CHECK_IS(append(log, "two\n"), 0);
    CHECK(strcmp(read_text(test_path("log")), "one\ntwo\n") == 0);
    CHECK_IS(hf_log_count(log).records, 2);
    CHECK_IS(hf_log_count(log).bytes, 8);
    hf_log_free(log);
    hf_pool_free(pool);
    CHECK_IS(open_files(), before);
}

static void a_torn_line_is_ended_first(int variant) {
    (void)variant;
    hf_pool *pool = hf_pool_new(8, 0);
    hf_log *log = new_log(pool, 0);
    write_file(test_path("log"), "whole\nto");
    CHECK_IS(append(log, "mine\n"), 0);
    CHECK(strcmp(read_text(test_path("log")), "whole\nto\nmine\n") == 0);
    CHECK_IS(hf_log_count(log).torn, 1);
    hf_log_free(log);
    hf_pool_free(pool);
}

static void a_log_that_another_has_locked_is_busy(int variant) {
    (void)variant;
    hf_pool *pool = hf_pool_new(8, 0), *others = hf_pool_new(8, 0);
    hf_log *log = new_log(pool, 0), *other = new_log(others, 0);
    CHECK_IS(hf_log_try(other), 0);
    CHECK_IS(hf_log_is_mine(other), 1);
    CHECK_IS(append(log, "mine\n"), HF_BUSY);
    int64_t now = hf_now();
    int rc = hf_log_append_wait(log, "mine\n", 5, 1, now, now + 5 * MILLISECONDS, MILLISECONDS, NULL);
    CHECK_IS(rc, HF_TIMED_OUT);
    CHECK(hf_now() >= now + 5 * MILLISECONDS);
    CHECK_IS(append(other, "its\n"), HF_SELF_DEADLOCK);
    CHECK_IS(hf_log_unlock(other), 0);
    CHECK_IS(hf_log_unlock(other), -EPERM);
    CHECK_IS(append(log, "mine\n"), 0);
    CHECK(strcmp(read_text(test_path("log")), "mine\n") == 0);
    hf_log_free(log);
    hf_log_free(other);
    hf_pool_free(pool);
    hf_pool_free(others);
}

static void a_full_log_wants_to_be_moved(int variant) {
    (void)variant;
    hf_pool *pool = hf_pool_new(8, 0);
    hf_log *log = hf_log_new(pool, test_path("log"), 0644, 0, 10, 0);
    CHECK_IS(append(log, "longer than ten\n"), 0);
    CHECK_IS(append(log, "x\n"), HF_FULL);
    CHECK_IS(hf_log_move(log, test_path("moved")), -EPERM);
    CHECK_IS(hf_log_try(log), 0);
    CHECK_IS(hf_log_is_full(log, 2), 1);
    write_file(test_path("taken"), "");
    CHECK_IS(hf_log_move(log, test_path("taken")), -EEXIST);
    CHECK_IS(hf_log_move(log, test_path("moved")), 0);
    CHECK_IS(hf_log_unlock(log), 0);
    CHECK_IS(append(log, "x\n"), 0);
    CHECK(strcmp(read_text(test_path("moved")), "longer than ten\n") == 0);
    CHECK(strcmp(read_text(test_path("log")), "x\n") == 0);
    hf_log_free(log);
    hf_pool_free(pool);
}

static void an_old_log_wants_to_be_moved(int variant) {
    (void)variant;
    hf_pool *pool = hf_pool_new(8, 0);
    hf_log *young = hf_log_new(pool, test_path("log"), 0644, 0, 0, 3600 * SECONDS);
    hf_log *old = hf_log_new(pool, test_path("log"), 0644, 0, 0, 1);
    CHECK_IS(append(old, "x\n"), 0);
    rest(20);
    CHECK_IS(append(young, "y\n"), 0);
    CHECK_IS(append(old, "z\n"), HF_FULL);
    hf_log_free(young);
    hf_log_free(old);
    hf_pool_free(pool);
}

static void a_closed_log_refuses(int variant) {
    (void)variant;
    hf_pool *pool = hf_pool_new(8, 0);
    hf_log *log = new_log(pool, HF_SYNCED);
    CHECK_IS(append(log, "x\n"), 0);
    CHECK_IS(hf_log_close(log), 0);
    CHECK_IS(append(log, "y\n"), HF_CLOSED);
    CHECK_IS(hf_log_close(log), 0);
    CHECK(strcmp(read_text(test_path("log")), "x\n") == 0);
    hf_log_free(log);
    hf_pool_free(pool);
}

/* ------------------------------------------------------------------------------------------------------------------ *
 * Several threads
 */

typedef struct {
    hf_log *log;
    int number;
    bool syncing;
    _Atomic int *failures;
} writer;

static void write_lines(void *argument) {
    writer *me = argument;
    char line[32];
    for (int i = 0; i < (check_slow ? APPENDS / 10 : APPENDS); i++) {
        snprintf(line, sizeof line, "%d %06d\n", me->number, i);
        if (append_on(me->log, line) != 0 || (me->syncing && sync_all(me->log) != 0))
            atomic_fetch_add(me->failures, 1);
    }
}

/* Each writer's lines are there, once, and in order. */
static void check_lines(const char *path, int writers) {
    int next[WRITERS] = {0}, number, place, length;
    FILE *file = fopen(path, "rb");
    if (!CHECK(file != NULL))
        return;
    bool ordered = true;
    while ((length = fscanf(file, "%d %d\n", &number, &place)) == 2)
        ordered = ordered && number >= 0 && number < writers && next[number]++ == place;
    CHECK(ordered);
    CHECK(feof(file));
    fclose(file);
    for (int i = 0; i < writers; i++)
        CHECK_IS(next[i], check_slow ? APPENDS / 10 : APPENDS);
}

static void let_threads_write(hf_log *logs[WRITERS], bool syncing) {
    thread *threads[WRITERS];
    writer writers[WRITERS];
    _Atomic int failures = 0;
    for (int i = 0; i < WRITERS; i++) {
        writers[i] = (writer){.log = logs[i], .number = i, .syncing = syncing && i % 2 == 0, .failures = &failures};
        threads[i] = thread_start(write_lines, &writers[i]);
    }
    for (int i = 0; i < WRITERS; i++)
        thread_join(threads[i]);
    CHECK_IS(atomic_load(&failures), 0);
}

static void threads_share_a_log(int flags) {
    hf_pool *pool = hf_pool_new(8, 0);
    hf_log *log = new_log(pool, flags);
    let_threads_write((hf_log *[WRITERS]){log, log, log, log, log, log}, flags & HF_SYNCED);
    check_lines(test_path("log"), WRITERS);
    if (flags & HF_SYNCED) {
        CHECK_IS(sync_all(log), 0);
        CHECK(hf_log_count(log).syncs <= hf_log_written(log));
    }
    hf_log_free(log);
    hf_pool_free(pool);
}

static void logs_of_one_file_take_turns(int flags) {
    hf_pool *pool = hf_pool_new(8, flags);
    hf_log *logs[WRITERS];
    for (int i = 0; i < WRITERS; i++)
        logs[i] = new_log(pool, 0);
    let_threads_write(logs, false);
    check_lines(test_path("log"), WRITERS);
    for (int i = 0; i < WRITERS; i++)
        hf_log_free(logs[i]);
    hf_pool_free(pool);
}

static void move_away(void *argument) {
    writer *me = argument;
    for (int i = 0; i < 20; i++) {
        if (hf_log_try(me->log) == 0) {
            (void)hf_log_move(me->log, test_path("moved"));
            (void)hf_log_unlock(me->log);
            if (file_exists(test_path("moved")))
                remove_file(test_path("moved"));
        }
        rest(1);
    }
}

/* What matters here is what the sanitizers find: files are given up while other threads sync them. */
static void files_move_away_while_they_are_synced(int variant) {
    (void)variant;
    int before = open_files();
    hf_pool *pool = hf_pool_new(8, 0);
    hf_log *log = new_log(pool, HF_SYNCED);
    _Atomic int failures = 0;
    writer mover = {.log = log}, writers[3];
    thread *threads[4] = {thread_start(move_away, &mover)};
    for (int i = 0; i < 3; i++) {
        writers[i] = (writer){.log = log, .number = i, .syncing = true, .failures = &failures};
        threads[i + 1] = thread_start(write_lines, &writers[i]);
    }
    for (int i = 0; i < 4; i++)
        thread_join(threads[i]);
    CHECK_IS(atomic_load(&failures), 0);
    hf_log_free(log);
    hf_pool_free(pool);
    CHECK_IS(open_files(), before);
}

const check_test logs_tests[] = {
    {"lines follow each other", lines_follow_each_other, 0},
    {"a torn line is ended first", a_torn_line_is_ended_first, 0},
    {"a log that another has locked is busy", a_log_that_another_has_locked_is_busy, 0},
    {"a full log wants to be moved", a_full_log_wants_to_be_moved, 0},
    {"an old log wants to be moved", an_old_log_wants_to_be_moved, 0},
    {"a closed log refuses", a_closed_log_refuses, 0},
    {"threads share a log", threads_share_a_log, 0},
    {"threads share a log and its syncs", threads_share_a_log, HF_SYNCED},
    {"logs of one file take turns", logs_of_one_file_take_turns, 0},
    {"logs of one file take turns (polling)", logs_of_one_file_take_turns, HF_POLL_ONLY},
    {"files move away while they are synced", files_move_away_while_they_are_synced, 0},
    {NULL, NULL, 0},
};
