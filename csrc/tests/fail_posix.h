/* For test_injection.c: every entry of the table, made to fail. */
#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <time.h>
#include <unistd.h>

bool fails(const char *name);

static const int errors[] = {EIO, EINTR, EACCES, EMFILE, ENOSYS, EPERM, EINVAL};

#define REMOVING_CALL "unlink"

static void set_error(int error) {
    errno = error;
}

static int64_t own_pid(void) {
    return getpid();
}

/* Function `name` of the table returns -1 when it is to fail. */
#define FAILING(type, name, parameters, arguments)                                                                     \
    static type(*real_##name) parameters;                                                                              \
    static type failing_##name parameters {                                                                            \
        return fails(#name) ? (type) - 1 : real_##name arguments;                                                      \
    }

/* One that has done its work all the same. */
#define FAILING_AFTERWARDS(type, name, parameters, arguments)                                                          \
    static type(*real_##name) parameters;                                                                              \
    static type failing_##name parameters {                                                                            \
        type result = real_##name arguments;                                                                           \
        return fails(#name) ? (type) - 1 : result;                                                                     \
    }

FAILING(int, open, (const char *path, int flags, unsigned mode), (path, flags, mode))
FAILING_AFTERWARDS(int, close, (int fd), (fd))
FAILING(int, dup, (int fd), (fd))
FAILING(int, fstat, (int fd, struct stat *status), (fd, status))
FAILING(int, lstat, (const char *path, struct stat *status), (path, status))
FAILING(int, fchmod, (int fd, unsigned mode), (fd, mode))
FAILING(int, fchown, (int fd, uid_t owner, gid_t group), (fd, owner, group))
FAILING(int, rename, (const char *from, const char *to), (from, to))
FAILING(ssize_t, listxattr, (const char *path, char *list, size_t size), (path, list, size))
FAILING(ssize_t, getxattr, (const char *path, const char *name, void *value, size_t size), (path, name, value, size))
FAILING(int, fsetxattr, (int fd, const char *name, const void *value, size_t size, int flags),
        (fd, name, value, size, flags))
FAILING(ssize_t, read, (int fd, void *buffer, size_t size), (fd, buffer, size))
FAILING(ssize_t, pread, (int fd, void *buffer, size_t size, off_t offset), (fd, buffer, size, offset))
FAILING(ssize_t, write, (int fd, const void *buffer, size_t size), (fd, buffer, size))
FAILING(int, ftruncate, (int fd, off_t size), (fd, size))
FAILING(int, fdatasync, (int fd), (fd))
FAILING(int, fsync, (int fd), (fd))
FAILING(int, birth_time, (int fd, struct timespec *born), (fd, born))
FAILING(int, link, (const char *from, const char *to), (from, to))
FAILING(int, link_unnamed, (int fd, const char *to), (fd, to))
FAILING(int, rename_new, (const char *from, const char *to), (from, to))
FAILING(int, unlink, (const char *path), (path))
FAILING(int, flock, (int fd, int operation), (fd, operation))
FAILING(int, fcntl_lock, (int fd, int command, struct flock *lock), (fd, command, lock))
FAILING(int, sigaction, (int number, const struct sigaction *action, struct sigaction *old), (number, action, old))
FAILING(int, nanosleep, (const struct timespec *length, struct timespec *left), (length, left))
FAILING(int, kill, (pid_t pid, int number), (pid, number))
FAILING(void *, mmap, (void *address, size_t size, int protection, int flags, int fd, off_t offset),
        (address, size, protection, flags, fd, offset))
FAILING_AFTERWARDS(int, munmap, (void *address, size_t size), (address, size))
FAILING(int, fstatfs, (int fd, struct statfs *status), (fd, status))
FAILING(int, thread_timer_create, (int number, timer_t *timer), (number, timer))
FAILING(int, timer_settime, (timer_t timer, int flags, const struct itimerspec *value, struct itimerspec *old),
        (timer, flags, value, old))
FAILING_AFTERWARDS(int, timer_delete, (timer_t timer), (timer))

static int (*real_thread_sigmask)(int how, const sigset_t *set, sigset_t *old);
static int failing_thread_sigmask(int how, const sigset_t *set, sigset_t *old) {
    return fails("thread_sigmask") ? errno : real_thread_sigmask(how, set, old); /* its result is the error */
}

/* The monotonic clock cannot fail. */
static int (*real_clock_gettime)(clockid_t clock, struct timespec *now);
static int failing_clock_gettime(clockid_t clock, struct timespec *now) {
    return clock == CLOCK_REALTIME && fails("clock_gettime") ? -1 : real_clock_gettime(clock, now);
}

#define ENTRY(name) {#name, (void *)failing_##name, &real_##name}

static const struct {
    const char *name;
    void *function;
    void *real; /* where the function behind it is kept */
} failing[] = {
    ENTRY(open),           ENTRY(close),         ENTRY(fstat),        ENTRY(lstat),
    ENTRY(fchmod),         ENTRY(read),          ENTRY(fchown),       ENTRY(rename),
    ENTRY(listxattr),      ENTRY(getxattr),      ENTRY(fsetxattr),    ENTRY(ftruncate),
    ENTRY(birth_time),     ENTRY(fsync),         ENTRY(pread),        ENTRY(write),
    ENTRY(fdatasync),      ENTRY(link),          ENTRY(link_unnamed), ENTRY(rename_new),
    ENTRY(unlink),         ENTRY(flock),         ENTRY(fcntl_lock),   ENTRY(sigaction),
    ENTRY(thread_sigmask), ENTRY(clock_gettime), ENTRY(nanosleep),    ENTRY(kill),
    ENTRY(mmap),           ENTRY(munmap),        ENTRY(fstatfs),      ENTRY(thread_timer_create),
    ENTRY(timer_settime),  ENTRY(timer_delete),  ENTRY(dup),
};

static bool can_fail(const char *name) {
    for (size_t i = 0; i < sizeof failing / sizeof *failing; i++)
        if (strcmp(failing[i].name, name) == 0)
            return true;
    return false;
}

static void replace_all(void) {
    for (size_t i = 0; i < sizeof failing / sizeof *failing; i++) {
        void *real = hf_sys_get(failing[i].name);
        memcpy(failing[i].real, &real, sizeof real);
        CHECK_IS(hf_sys_set(failing[i].name, failing[i].function), 0);
    }
}
