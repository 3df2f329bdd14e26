/* The runner, and what is the same everywhere. */
#include "check.h"

#include <stdarg.h>

bool check_slow;

static atomic_int failures;
static const char *skipped;
static char directory[512];

bool check_true(bool passed, const char *file, int line, const char *text) {
    if (!passed) {
        atomic_fetch_add(&failures, 1);
        printf("    %s:%d: not so: %s\n", file, line, text);
        fflush(stdout);
    }
    return passed;
}

bool check_equal(int64_t actual, int64_t expected, const char *file, int line, const char *text) {
    if (actual != expected) {
        atomic_fetch_add(&failures, 1);
        printf("    %s:%d: not so: %s (%lld, not %lld)\n", file, line, text, (long long)actual, (long long)expected);
        fflush(stdout);
    }
    return actual == expected;
}

void check_skip(const char *reason) {
    skipped = reason;
}

const char *test_path(const char *name) {
    static _Thread_local char paths[8][600];
    static _Thread_local unsigned next;
    char *path = paths[next++ % 8];
    snprintf(path, sizeof paths[0], "%s/%s", directory, name);
    return path;
}

int wait_on(hf_lock *lock, int how, int64_t deadline, hf_waiter *waiter) {
    int64_t began = hf_now();
    int rc;
    do
        rc = hf_wait(lock, how, began, deadline, 50 * MILLISECONDS, waiter);
    while (rc == HF_INTERRUPTED);
    return rc;
}

/* ------------------------------------------------------------------------------------------------------------------ *
 * Files
 */

void write_file(const char *path, const char *text) {
    FILE *file = fopen(path, "wb");
    if (!CHECK(file != NULL))
        return;
    fputs(text, file);
    fclose(file);
}

const char *read_text(const char *path) {
    static _Thread_local char text[4096];
    FILE *file = fopen(path, "rb");
    size_t length = file != NULL ? fread(text, 1, sizeof text - 1, file) : 0;
    text[length] = '\0';
    if (file != NULL)
        fclose(file);
    return text;
}

bool file_exists(const char *path) {
    FILE *file = fopen(path, "rb");
    if (file != NULL)
        fclose(file);
    return file != NULL;
}

long read_number(const char *path) {
    return atol(read_text(path));
}

void write_number(const char *path, long number) {
    char text[32];
    snprintf(text, sizeof text, "%ld", number);
    write_file(path, text);
}

/* ------------------------------------------------------------------------------------------------------------------ *
 * The runner
 */

#define MOST_ENTRIES 64

static void *originals[MOST_ENTRIES];

static void remember_system(void) {
    for (size_t i = 0; hf_sys_name(i) != NULL && i < MOST_ENTRIES; i++)
        originals[i] = hf_sys_get(hf_sys_name(i));
}

void restore_system(void) {
    for (size_t i = 0; hf_sys_name(i) != NULL && i < MOST_ENTRIES; i++)
        if (hf_sys_get(hf_sys_name(i)) != originals[i])
            hf_sys_set(hf_sys_name(i), originals[i]);
}

static int passed_count, failed_count, skipped_count;

static void run_test(const check_test *test) {
    printf("  %s\n", test->name);
    fflush(stdout);
    skipped = NULL;
    int failures_before = atomic_load(&failures), files_before = open_files();
    test->run(test->variant);
    restore_system();
    empty_directory(directory);
    if (skipped == NULL)
        CHECK_IS(open_files(), files_before);
    if (atomic_load(&failures) != failures_before) {
        printf("    FAILED\n");
        failed_count++;
    } else if (skipped != NULL) {
        printf("SKIPPED %s: %s\n", test->name, skipped); // where CI looks for it
        skipped_count++;
    } else {
        passed_count++;
    }
    fflush(stdout);
}

static const struct {
    const char *name;
    const check_test *tests;
} groups[] = {
    {"locks", locks_tests},   {"threads", threads_tests},     {"waits", waits_tests},  {"files", files_tests},
    {"fork", fork_tests},     {"markers", markers_tests},     {"meters", meter_tests}, {"logs", logs_tests},
    {"system", system_tests}, {"injection", injection_tests},
};

/* ctests [-slow] [group...]: all groups unless some are named. ctests -role ROLE ...: see process_start(). */
int main(int argc, char **argv) {
    if (argc >= 3 && strcmp(argv[1], "-role") == 0)
        return play(argv[2], argv + 3);
    check_slow = argc >= 2 && strcmp(argv[1], "-slow") == 0;
    int first = check_slow ? 2 : 1;
    remember_system();
    enter_new_directory(directory, sizeof directory);
    for (size_t i = 0; i < sizeof groups / sizeof *groups; i++) {
        bool wanted = argc == first;
        for (int argument = first; argument < argc; argument++)
            wanted |= strcmp(argv[argument], groups[i].name) == 0;
        if (!wanted)
            continue;
        printf("%s\n", groups[i].name);
        for (const check_test *test = groups[i].tests; test->name != NULL; test++)
            run_test(test);
    }
    remove_directory(directory);
    printf("%d passed, %d failed, %d skipped\n", passed_count, failed_count, skipped_count);
    return failed_count != 0 || passed_count == 0;
}
