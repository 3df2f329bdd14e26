/* Any bytes as a path, for whatever takes one, in a system that is made up: it sees the path, its directory or the
   scratch file's, whole, and with the flags that keep links and FIFOs from doing harm. */
#include "fuzz.h"

#include <sys/file.h>

#define FAKE 100000 /* descriptors that the real system does not have */
#define SCRATCH "scratch"

static const char *path;

static void check_path(const char *seen) {
    size_t length = strlen(seen);
    bool directory = strcmp(seen, "./") == 0 || (length > 0 && seen[length - 1] == '/' && !strncmp(seen, path, length));
    CHECK(directory || strcmp(seen, path) == 0 || strcmp(seen, SCRATCH) == 0);
}

static int fake_open(const char *seen, int flags, unsigned mode) {
    (void)mode;
    check_path(seen);
    CHECK(flags & O_CLOEXEC);
    CHECK(flags & (O_NONBLOCK | O_DIRECTORY));
    CHECK((flags & (O_NOFOLLOW | O_DIRECTORY)) || (flags & O_ACCMODE) == O_RDONLY);
    return fuzz_fails() ? -1 : FAKE;
}

static int fake_status(struct stat *status) {
    static const mode_t kinds[] = {S_IFREG, S_IFREG, S_IFREG, S_IFLNK, S_IFDIR, S_IFIFO};
    if (fuzz_fails())
        return -1;
    memset(status, 0, sizeof *status);
    status->st_mode = kinds[fuzz_decide() % 6] | 0644;
    status->st_nlink = 1;
    status->st_size = fuzz_decide();
    return 0;
}

static int fake_lstat(const char *seen, struct stat *status) {
    check_path(seen);
    return fake_status(status);
}

static int fake_fstat(int fd, struct stat *status) {
    CHECK(fd == FAKE);
    return fake_status(status);
}

static int fake_call(int fd) {
    CHECK(fd == FAKE);
    return fuzz_fails() ? -1 : 0;
}

static int fake_close(int fd) {
    CHECK(fd == FAKE);
    return 0;
}

static int fake_flock(int fd, int operation) {
    return operation == LOCK_UN ? 0 : fake_call(fd);
}

static int fake_fchmod(int fd, unsigned mode) {
    (void)mode;
    return fake_call(fd);
}

static int fake_fchown(int fd, uid_t owner, gid_t group) {
    (void)owner, (void)group;
    return fake_call(fd);
}

static int fake_ftruncate(int fd, off_t size) {
    (void)size;
    return fake_call(fd);
}

static ssize_t fake_write(int fd, const void *data, size_t length) {
    (void)data;
    return fake_call(fd) == 0 ? (ssize_t)length : -1;
}

static ssize_t fake_pread(int fd, void *data, size_t length, off_t offset) {
    (void)offset;
    memset(data, 'x', length);
    return fake_call(fd) == 0 ? (ssize_t)length : -1;
}

static int fake_one(const char *seen) {
    check_path(seen);
    return fuzz_fails() ? -1 : 0;
}

static int fake_two(const char *from, const char *to) {
    check_path(from);
    return fake_one(to);
}

static int fake_link_unnamed(int fd, const char *to) {
    CHECK(fd == FAKE);
    return fake_one(to);
}

static ssize_t fake_listxattr(const char *seen, char *list, size_t size) {
    static const char names[] = "user.one\0system.posix_acl_access\0user.three";
    check_path(seen);
    if (fuzz_fails())
        return -1;
    if (list != NULL && size >= sizeof names)
        memcpy(list, names, sizeof names);
    return sizeof names;
}

static ssize_t fake_getxattr(const char *seen, const char *name, void *value, size_t size) {
    check_path(seen);
    CHECK(strlen(name) < 64);
    memset(value, 'v', size);
    return fuzz_fails() ? -1 : (ssize_t)fuzz_decide();
}

static int fake_fsetxattr(int fd, const char *name, const void *value, size_t size, int flags) {
    (void)name, (void)value, (void)flags;
    CHECK(size < 256);
    return fake_call(fd);
}

static const struct {
    const char *name;
    void *function;
} fakes[] = {
    {"open", (void *)fake_open},         {"close", (void *)fake_close},
    {"lstat", (void *)fake_lstat},       {"fstat", (void *)fake_fstat},
    {"flock", (void *)fake_flock},       {"fchmod", (void *)fake_fchmod},
    {"fchown", (void *)fake_fchown},     {"ftruncate", (void *)fake_ftruncate},
    {"write", (void *)fake_write},       {"pread", (void *)fake_pread},
    {"fsync", (void *)fake_call},        {"fdatasync", (void *)fake_call},
    {"rename", (void *)fake_two},        {"rename_new", (void *)fake_two},
    {"link", (void *)fake_two},          {"link_unnamed", (void *)fake_link_unnamed},
    {"unlink", (void *)fake_one},        {"listxattr", (void *)fake_listxattr},
    {"getxattr", (void *)fake_getxattr}, {"fsetxattr", (void *)fake_fsetxattr},
};

static void use_lock(hf_pool *pool) {
    hf_lock *lock = hf_lock_new(pool, path, 0644, (int)(fuzz_decide() & HF_EXACT_MODE));
    CHECK(lock != NULL);
    if (hf_try(lock, HF_EXCLUSIVE) == 0)
        CHECK(hf_count(lock) == 1 && hf_release(lock) <= 0);
    CHECK(hf_count(lock) == 0);
    hf_lock_free(lock);
}

static void use_log(hf_pool *pool) {
    hf_log *log = hf_log_new(pool, path, 0644, HF_SYNCED, 0, 0);
    CHECK(log != NULL);
    (void)hf_log_append(log, "{}\n", 3, 1);
    (void)hf_log_sync(log, hf_log_written(log));
    hf_log_free(log);
}

static void use_marker(void) {
    hf_marker *marker = NULL;
    char record[16];
    int64_t age;
    if (hf_marker_create(path, SCRATCH, "1\nhost\n", 7, 0644, 0, &marker) != 0 && hf_marker_open(path, &marker) != 0)
        return;
    (void)hf_marker_read(marker, record, sizeof record, &age);
    (void)hf_marker_remove(marker, 0);
    hf_marker_close(&marker);
}

static void use_replace(void) {
    int64_t file;
    if (hf_create(path, 0644, &file) == 0)
        (void)hf_replace(file, SCRATCH, path, (int)(fuzz_decide() & (HF_DURABLE | HF_NO_REPLACE)));
    (void)hf_remove(path);
    (void)hf_open_to_read(path, &file);
}

int LLVMFuzzerTestOneInput(const unsigned char *input, size_t length) {
    static hf_pool *pool;
    if (pool == NULL) {
        pool = hf_pool_new(4, 0);
        for (size_t i = 0; i < sizeof fakes / sizeof *fakes; i++)
            CHECK(hf_sys_set(fakes[i].name, fakes[i].function) == 0);
    }
    size_t skip = fuzz_begin(input, length);
    char *text = calloc(1, length - skip + 1);
    CHECK(text != NULL);
    memcpy(text, input + skip, length - skip);
    path = text;
    unsigned use = fuzz_decide() % 4;
    if (use == 0)
        use_lock(pool);
    else if (use == 1)
        use_log(pool);
    else if (use == 2)
        use_marker();
    else
        use_replace();
    free(text);
    return 0;
}
