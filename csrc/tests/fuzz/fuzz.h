/* What the fuzzers share: bytes of the input that decide, and checks that end the process. Each is run in a folder of its
   own by tools/fuzz.sh. */
#ifndef FUZZ_H
#define FUZZ_H

#include "../../holdfast.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define CHECK(condition)                                                                                               \
    do {                                                                                                               \
        if (!(condition)) {                                                                                            \
            fprintf(stderr, "%s:%d: it is not so that %s\n", __FILE__, __LINE__, #condition);                          \
            abort();                                                                                                   \
        }                                                                                                              \
    } while (0)

int LLVMFuzzerTestOneInput(const unsigned char *input, size_t length);

/* The beginning of an input is a list of decisions, after its length. When all have been taken, the rest are 0. */
static const unsigned char *fuzz_decisions, *fuzz_decisions_end;

static size_t fuzz_begin(const unsigned char *input, size_t length) {
    size_t count = length > 0 ? input[0] % 16 : 0;
    if (count + 1 > length)
        count = length > 0 ? length - 1 : 0;
    fuzz_decisions = input + (length > 0);
    fuzz_decisions_end = fuzz_decisions + count;
    return count + (length > 0);
}

static inline unsigned fuzz_decide(void) {
    return fuzz_decisions < fuzz_decisions_end ? *fuzz_decisions++ : 0;
}

/* Whether a call is to fail, with an errno that it can have. */
static inline bool fuzz_fails(void) {
    static const int errors[] = {EIO, EINTR, EACCES, EMFILE, ENOSYS, EPERM, EINVAL, ENOSPC, ENOENT, ENOTDIR};
    unsigned decision = fuzz_decide();
    if (decision < 200)
        return false;
    errno = errors[decision % (sizeof errors / sizeof *errors)];
    return true;
}

static inline size_t fuzz_read_file(const char *path, char *contents, size_t capacity) {
    int fd = open(path, O_RDONLY);
    CHECK(fd >= 0);
    ssize_t length = read(fd, contents, capacity);
    CHECK(length >= 0);
    close(fd);
    return (size_t)length;
}

static inline void fuzz_write_file(const char *path, const void *contents, size_t length) {
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    CHECK(fd >= 0 && write(fd, contents, length) == (ssize_t)length);
    close(fd);
}

#endif
