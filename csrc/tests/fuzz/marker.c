/* A marker with any contents: it is read as far as asked, and never removed when its name means another file by now. And
   one that is created while calls fail: it is there whole, or not at all. */
#include "fuzz.h"

static ssize_t (*real_write)(int, const void *, size_t);
static int (*real_fdatasync)(int);
static int (*real_link)(const char *, const char *);
static int (*real_link_unnamed)(int, const char *);
static int (*real_rename_new)(const char *, const char *);

static ssize_t write_some(int fd, const void *data, size_t length) {
    unsigned decision = fuzz_decide();
    if (decision >= 200) {
        errno = decision % 2 == 0 ? EINTR : ENOSPC;
        return -1;
    }
    return real_write(fd, data, decision > 0 && decision < length ? decision : length);
}

static int fdatasync_or_fail(int fd) {
    return fuzz_fails() ? -1 : real_fdatasync(fd);
}

static int link_or_fail(const char *from, const char *to) {
    CHECK(strcmp(from, "scratch") == 0 && strcmp(to, "marker") == 0);
    return fuzz_fails() ? -1 : real_link(from, to);
}

static int link_unnamed_or_fail(int fd, const char *to) {
    CHECK(strcmp(to, "marker") == 0);
    return fuzz_fails() ? -1 : real_link_unnamed(fd, to);
}

static int rename_or_fail(const char *from, const char *to) {
    CHECK(strcmp(from, "scratch") == 0 && strcmp(to, "marker") == 0);
    return fuzz_fails() ? -1 : real_rename_new(from, to);
}

static void interpose(void) {
    real_write = hf_sys_get("write");
    real_fdatasync = hf_sys_get("fdatasync");
    real_link = hf_sys_get("link");
    real_link_unnamed = hf_sys_get("link_unnamed");
    real_rename_new = hf_sys_get("rename_new");
    CHECK(hf_sys_set("write", (void *)write_some) == 0);
    CHECK(hf_sys_set("fdatasync", (void *)fdatasync_or_fail) == 0);
    CHECK(hf_sys_set("link", (void *)link_or_fail) == 0);
    CHECK(hf_sys_set("link_unnamed", (void *)link_unnamed_or_fail) == 0);
    CHECK(hf_sys_set("rename_new", (void *)rename_or_fail) == 0);
}

static void read_one(const unsigned char *contents, size_t length, size_t capacity) {
    hf_marker *marker = NULL;
    int64_t age;
    fuzz_write_file("marker", contents, length);
    CHECK(hf_marker_open("marker", &marker) == 0);
    char *record = malloc(capacity + 1);
    CHECK(record != NULL);
    size_t expected = length < capacity ? length : capacity;
    CHECK(hf_marker_read(marker, record, capacity, &age) == (int)expected);
    CHECK(memcmp(record, contents, expected) == 0);
    free(record);
    if (length % 2 == 1) {
        fuzz_write_file("another", contents, length);
        CHECK(rename("another", "marker") == 0);
        CHECK(hf_marker_remove(marker, 0) == -ENOENT);
    } else {
        CHECK(hf_marker_remove(marker, 0) == 0);
    }
    CHECK((access("marker", F_OK) == 0) == (length % 2 == 1));
    hf_marker_close(&marker);
    (void)unlink("marker");
}

static void create_one(const unsigned char *contents, size_t length) {
    static char found[65536];
    hf_marker *marker = NULL;
    int rc = hf_marker_create("marker", "scratch", (const char *)contents, length, 0600, 0, &marker);
    CHECK(access("scratch", F_OK) != 0);
    CHECK((access("marker", F_OK) == 0) == (rc == 0));
    if (rc != 0)
        return;
    CHECK(fuzz_read_file("marker", found, sizeof found) == length && memcmp(found, contents, length) == 0);
    CHECK(hf_marker_remove(marker, 0) == 0);
    hf_marker_close(&marker);
}

int LLVMFuzzerTestOneInput(const unsigned char *input, size_t length) {
    if (real_write == NULL)
        interpose();
    size_t skip = fuzz_begin(input, length);
    if (length - skip > 4096)
        return 0;
    create_one(input + skip, length - skip);
    fuzz_decisions = fuzz_decisions_end;
    read_one(input + skip, length - skip, input == NULL || length == 0 ? 1 : input[0] * 8U);
    return 0;
}
