/* Notes what a program does to files, in the order in which it happens: preloaded into each of its processes by disk.py.

   Every change is made and noted under one mutex that all processes share, so that the notes are in the one true order; a
   sync has a note before and one after it. A line is a word, numbers, and bytes in hexadecimal. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

struct shared {
    pthread_mutex_t mutex;
    int ready;
};

static struct shared *shared; /* NULL where nothing is to be noted */
static int notes = -1;

static void fail(const char *what) {
    perror(what);
    abort();
}

__attribute__((constructor)) static void begin(void) {
    const char *mutex = getenv("RECORDER_MUTEX"), *path = getenv("RECORDER_NOTES");
    if (mutex == NULL || path == NULL)
        return;
    int fd = (int)syscall(SYS_openat, AT_FDCWD, mutex, O_RDWR | O_CLOEXEC);
    int low = (int)syscall(SYS_openat, AT_FDCWD, path, O_WRONLY | O_APPEND | O_CLOEXEC);
    notes = fcntl(low, F_DUPFD_CLOEXEC, 500); /* out of the way of the program's own */
    struct shared *memory = mmap(NULL, sizeof *memory, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (fd < 0 || notes < 0 || memory == MAP_FAILED || flock(fd, LOCK_EX) != 0)
        fail("recorder");
    if (!memory->ready) {
        pthread_mutexattr_t attributes;
        pthread_mutexattr_init(&attributes);
        pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
        pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST); /* a process may end while a thread has it */
        pthread_mutex_init(&memory->mutex, &attributes);
        memory->ready = 1;
    }
    syscall(SYS_close, low);
    flock(fd, LOCK_UN); /* which the mapping would keep */
    syscall(SYS_close, fd);
    shared = memory;
}

static void enter(void) {
    if (shared != NULL && pthread_mutex_lock(&shared->mutex) == EOWNERDEAD)
        pthread_mutex_consistent(&shared->mutex);
}

static void leave(void) {
    if (shared != NULL)
        pthread_mutex_unlock(&shared->mutex);
}

/* Write a note: a head, and up to two pieces of bytes. */
static void note(const char *head, const void *one, size_t one_length, const void *two, size_t two_length) {
    static const char digits[] = "0123456789abcdef";
    char *line = malloc(strlen(head) + 2 * (one_length + two_length) + 4);
    if (line == NULL)
        fail("recorder");
    char *end = stpcpy(line, head);
    const void *pieces[] = {one, two};
    const size_t lengths[] = {one_length, two_length};
    for (int piece = 0; piece < 2 && pieces[piece] != NULL; piece++) {
        *end++ = ' ';
        const unsigned char *bytes = pieces[piece];
        for (size_t i = 0; i < lengths[piece]; i++) {
            *end++ = digits[bytes[i] >> 4];
            *end++ = digits[bytes[i] & 15];
        }
    }
    *end++ = '\n';
    if (syscall(SYS_write, notes, line, end - line) != end - line)
        fail("recorder");
    free(line);
}

static void note_paths(const char *head, const char *one, const char *two) {
    int error = errno;
    note(head, one, strlen(one), two, two != NULL ? strlen(two) : 0);
    errno = error;
}

static void note_number(const char *what, ino_t inode, long long number) {
    int error = errno;
    char head[64];
    snprintf(head, sizeof head, "%s %lu %lld", what, (unsigned long)inode, number);
    note(head, NULL, 0, NULL, 0);
    errno = error;
}

/* The inode of a path, 0 if there is none. */
static unsigned long inode_at(const char *path) {
    int error = errno;
    struct stat status;
    int rc = lstat(path, &status);
    errno = error;
    return rc == 0 ? (unsigned long)status.st_ino : 0;
}

#define NEXT(name) __typeof__(name) *next = (__typeof__(name) *)dlsym(RTLD_NEXT, #name)

/* ------------------------------------------------------------------------------------------------------------------ *
 * Names
 */

static void note_named(const char *what, const char *path) {
    char head[64];
    snprintf(head, sizeof head, "%s %lu", what, inode_at(path));
    note_paths(head, path, NULL);
}

static int opened(int (*next)(const char *, int, ...), const char *path, int flags, mode_t mode) {
    const bool unnamed = (flags & O_TMPFILE) == O_TMPFILE;
    if (shared == NULL || !(unnamed || flags & (O_CREAT | O_TRUNC)))
        return next(path, flags, mode);
    enter();
    const bool new = unnamed || inode_at(path) == 0;
    int fd = next(path, flags, mode);
    struct stat status;
    if (fd >= 0 && fstat(fd, &status) == 0 && S_ISREG(status.st_mode)) {
        if (new)
            note_number("new", status.st_ino, -1);
        else if (flags & O_TRUNC)
            note_number("truncate", status.st_ino, 0);
        if (new && !unnamed)
            note_named("link", path);
    }
    leave();
    return fd;
}

static mode_t mode_in(int flags, va_list arguments) {
    return flags & (O_CREAT | O_TMPFILE) ? va_arg(arguments, mode_t) : 0;
}

#define OPEN(name)                                                                                                     \
    int name(const char *path, int flags, ...) {                                                                       \
        NEXT(name);                                                                                                    \
        va_list arguments;                                                                                             \
        va_start(arguments, flags);                                                                                    \
        mode_t mode = mode_in(flags, arguments);                                                                       \
        va_end(arguments);                                                                                             \
        return opened(next, path, flags, mode);                                                                        \
    }

OPEN(open)
OPEN(open64)

/* What gives files their names and takes them away. */
#define NAMING(name, signature, passed, noting)                                                                        \
    int name signature {                                                                                               \
        NEXT(name);                                                                                                    \
        enter();                                                                                                       \
        int rc = next passed;                                                                                          \
        if (rc == 0 && shared != NULL)                                                                                 \
            noting;                                                                                                    \
        leave();                                                                                                       \
        return rc;                                                                                                     \
    }

NAMING(mkdir, (const char *path, mode_t mode), (path, mode), note_named("mkdir", path))
NAMING(link, (const char *from, const char *to), (from, to), note_named("link", to))
NAMING(linkat, (int from_directory, const char *from, int to_directory, const char *to, int flags),
       (from_directory, from, to_directory, to, flags), note_named("link", to))
NAMING(unlink, (const char *path), (path), note_paths("unlink", path, NULL))
NAMING(rmdir, (const char *path), (path), note_paths("unlink", path, NULL))
NAMING(rename, (const char *from, const char *to), (from, to), note_paths("rename", from, to))

/* The core calls renameat2 this way, as older C libraries have no name for it. */
long syscall(long number, ...) {
    NEXT(syscall);
    va_list arguments;
    va_start(arguments, number);
    long a[6];
    for (int i = 0; i < 6; i++)
        a[i] = va_arg(arguments, long);
    va_end(arguments);
    if (number != SYS_renameat2)
        return next(number, a[0], a[1], a[2], a[3], a[4], a[5]);
    enter();
    long rc = next(number, a[0], a[1], a[2], a[3], a[4]);
    if (rc == 0 && shared != NULL)
        note_paths("rename", (const char *)a[1], (const char *)a[3]);
    leave();
    return rc;
}

/* ------------------------------------------------------------------------------------------------------------------ *
 * Data
 */

static void note_written(int fd, const void *data, ssize_t length, off_t offset) {
    int error = errno;
    struct stat status;
    if (length > 0 && fstat(fd, &status) == 0 && S_ISREG(status.st_mode)) {
        if (offset < 0)
            offset = (fcntl(fd, F_GETFL) & O_APPEND ? status.st_size : lseek(fd, 0, SEEK_CUR)) - length;
        char head[64];
        snprintf(head, sizeof head, "write %lu %lld", (unsigned long)status.st_ino, (long long)offset);
        note(head, data, (size_t)length, NULL, 0);
    }
    errno = error;
}

/* What the workload says counts from the moment at which it begins to. */
ssize_t write(int fd, const void *data, size_t length) {
    NEXT(write);
    enter();
    if (fd == STDOUT_FILENO && shared != NULL)
        note("said", data, length, NULL, 0);
    ssize_t rc = next(fd, data, length);
    if (fd != STDOUT_FILENO && shared != NULL)
        note_written(fd, data, rc, -1);
    leave();
    return rc;
}

#define PWRITE(name, offset_type)                                                                                      \
    ssize_t name(int fd, const void *data, size_t length, offset_type offset) {                                        \
        NEXT(name);                                                                                                    \
        enter();                                                                                                       \
        ssize_t rc = next(fd, data, length, offset);                                                                   \
        if (shared != NULL)                                                                                            \
            note_written(fd, data, rc, offset);                                                                        \
        leave();                                                                                                       \
        return rc;                                                                                                     \
    }

PWRITE(pwrite, off_t)
PWRITE(pwrite64, off64_t)

#define TRUNCATE(name, size_type)                                                                                      \
    int name(int fd, size_type size) {                                                                                 \
        NEXT(name);                                                                                                    \
        enter();                                                                                                       \
        int rc = next(fd, size);                                                                                       \
        struct stat status;                                                                                            \
        if (rc == 0 && shared != NULL && fstat(fd, &status) == 0)                                                      \
            note_number("truncate", status.st_ino, size);                                                              \
        leave();                                                                                                       \
        return rc;                                                                                                     \
    }

TRUNCATE(ftruncate, off_t)
TRUNCATE(ftruncate64, off64_t)

static void note_sync(const char *what, int fd) {
    int error = errno;
    struct stat status;
    if (shared != NULL && fstat(fd, &status) == 0) {
        enter();
        note_number(what, status.st_ino, gettid());
        leave();
    }
    errno = error;
}

#define SYNC(name)                                                                                                     \
    int name(int fd) {                                                                                                 \
        NEXT(name);                                                                                                    \
        note_sync("begin", fd);                                                                                        \
        int rc = next(fd);                                                                                             \
        if (rc == 0)                                                                                                   \
            note_sync("end", fd);                                                                                      \
        return rc;                                                                                                     \
    }

SYNC(fsync)
SYNC(fdatasync)
