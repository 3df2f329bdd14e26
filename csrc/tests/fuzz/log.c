/* A log with any contents, to which a line is appended while calls fail and write less than they should. */
#include "fuzz.h"

#define ROOM 65536

static int (*real_open)(const char *, int, unsigned);
static ssize_t (*real_write)(int, const void *, size_t);
static ssize_t (*real_pread)(int, void *, size_t, off_t);
static int (*real_lstat)(const char *, struct stat *);
static int (*real_fstat)(int, struct stat *);
static int (*real_flock)(int, int);
static int (*real_ftruncate)(int, off_t);
static bool rolled_back;

static int open_or_fail(const char *path, int flags, unsigned mode) {
    CHECK(strcmp(path, "log") == 0);
    return fuzz_fails() ? -1 : real_open(path, flags, mode);
}

static ssize_t write_some(int fd, const void *data, size_t length) {
    unsigned decision = fuzz_decide();
    if (decision >= 200) {
        errno = decision % 3 == 0 ? EINTR : decision % 3 == 1 ? ENOSPC : EIO;
        return -1;
    }
    return real_write(fd, data, decision > 0 && decision < length ? decision : length);
}

static ssize_t pread_or_fail(int fd, void *data, size_t length, off_t offset) {
    return fuzz_fails() ? -1 : real_pread(fd, data, length, offset);
}

static int lstat_or_fail(const char *path, struct stat *status) {
    return fuzz_fails() ? -1 : real_lstat(path, status);
}

static int fstat_or_fail(int fd, struct stat *status) {
    if (!fuzz_fails())
        return real_fstat(fd, status);
    rolled_back = false;
    return -1;
}

static int flock_or_fail(int fd, int operation) {
    return fuzz_fails() ? -1 : real_flock(fd, operation);
}

static int ftruncate_or_fail(int fd, off_t size) {
    if (!fuzz_fails())
        return real_ftruncate(fd, size);
    rolled_back = rolled_back && errno == EINTR; /* then it is tried again */
    return -1;
}

static void interpose(void) {
#define INTERPOSE(name, function)                                                                                      \
    do {                                                                                                               \
        real_##name = hf_sys_get(#name);                                                                               \
        CHECK(hf_sys_set(#name, (void *)function) == 0);                                                               \
    } while (0)
    INTERPOSE(open, open_or_fail);
    INTERPOSE(write, write_some);
    INTERPOSE(pread, pread_or_fail);
    INTERPOSE(lstat, lstat_or_fail);
    INTERPOSE(fstat, fstat_or_fail);
    INTERPOSE(flock, flock_or_fail);
    INTERPOSE(ftruncate, ftruncate_or_fail);
}

static const char line[] = "{\"a\":1}\n";
#define LINE (sizeof line - 1)

/* Whether `contents` is what was there before, and then `end`. */
static bool is_followed_by(const char *contents, size_t length, const char *before, size_t size, const char *end) {
    size_t rest = strlen(end);
    return length == size + rest && memcmp(contents, before, size) == 0 && memcmp(contents + size, end, rest) == 0;
}

/* Append to a file with these contents, and leave there what is in it then. */
static int append(hf_log *log, char *contents, size_t *length) {
    static char after[ROOM + 64];
    bool torn = *length > 0 && contents[*length - 1] != '\n';
    rolled_back = true;
    int rc = hf_log_append(log, line, LINE, 1);
    size_t size = fuzz_read_file("log", after, sizeof after);
    if (rc == 0)
        CHECK(is_followed_by(after, size, contents, *length, torn ? "\n{\"a\":1}\n" : line));
    else if (rolled_back)
        CHECK(is_followed_by(after, size, contents, *length, ""));
    else
        CHECK(size >= *length && size < *length + LINE + 1 && memcmp(after, contents, *length) == 0);
    memcpy(contents, after, size);
    *length = size;
    return rc;
}

int LLVMFuzzerTestOneInput(const unsigned char *input, size_t length) {
    static hf_pool *pool;
    static char contents[ROOM + 64];
    if (pool == NULL) {
        pool = hf_pool_new(4, 0);
        interpose();
    }
    size_t skip = fuzz_begin(input, length);
    if (length - skip > ROOM - 64)
        return 0;
    fuzz_write_file("log", input + skip, length - skip);
    memcpy(contents, input + skip, length - skip);
    length -= skip;
    hf_log *log = hf_log_new(pool, "log", 0600, 0, 0, 0);
    CHECK(log != NULL);
    (void)append(log, contents, &length);
    fuzz_decisions = fuzz_decisions_end; /* and when all is well again */
    CHECK(append(log, contents, &length) == 0);
    hf_log_free(log);
    return 0;
}
