/* The table of system calls, and the few calls that need a fixed signature or a name of their own. */
#include "sys.h"
#include "../internal.h"

#include <errno.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/file.h>
#include <unistd.h>

#ifdef __linux__
#include <sys/syscall.h>
#include <sys/xattr.h>
#ifndef sigev_notify_thread_id
#define sigev_notify_thread_id _sigev_un._tid /* glibc before 2.35 lacks the name */
#endif
#endif
#ifdef __APPLE__
#include <sys/sysctl.h>
#endif

static int sys_open(const char *path, int flags, unsigned mode) {
    return open(path, flags, (mode_t)mode);
}

/* A descriptor that no other program inherits. */
static int sys_dup(int fd) {
    return fcntl(fd, F_DUPFD_CLOEXEC, 0);
}

static int sys_fchmod(int fd, unsigned mode) {
    return fchmod(fd, (mode_t)mode);
}

static int sys_fcntl_lock(int fd, int command, struct flock *lock) {
    return fcntl(fd, command, lock);
}

static int sys_fsync(int fd) {
#ifdef __APPLE__
    return fcntl(fd, F_FULLFSYNC) == 0 ? 0 : fsync(fd); /* as below */
#else
    return fsync(fd);
#endif
}

static int sys_fdatasync(int fd) {
#ifdef __APPLE__
    /* There fsync() leaves the data in the drive's cache. Not every file system knows the other. */
    return fcntl(fd, F_FULLFSYNC) == 0 ? 0 : fsync(fd);
#else
    return fdatasync(fd);
#endif
}

/* When a file was created. */
static int sys_birth_time(int fd, struct timespec *born) {
#if defined(__linux__) && defined(SYS_statx) && defined(STATX_BTIME)
    struct statx status;
    if (syscall(SYS_statx, fd, "", AT_EMPTY_PATH, STATX_BTIME, &status) == 0 && (status.stx_mask & STATX_BTIME)) {
        *born = (struct timespec){.tv_sec = (time_t)status.stx_btime.tv_sec, .tv_nsec = (long)status.stx_btime.tv_nsec};
        return 0;
    }
#elif defined(__APPLE__)
    struct stat status;
    if (fstat(fd, &status) == 0) {
        *born = status.st_birthtimespec;
        return 0;
    }
#else
    (void)fd, (void)born;
#endif
    errno = ENOSYS;
    return -1;
}

/* Give a file opened with O_TMPFILE a name. */
static int sys_link_unnamed(int fd, const char *to) {
#ifdef __linux__
    char self[32];
    snprintf(self, sizeof self, "/proc/self/fd/%d", fd);
    return linkat(AT_FDCWD, self, AT_FDCWD, to, AT_SYMLINK_FOLLOW);
#else
    (void)fd, (void)to;
    errno = ENOSYS;
    return -1;
#endif
}

/* Rename, but fail with EEXIST where rename() would replace. */
static int sys_rename_new(const char *from, const char *to) {
#if defined(__linux__) && defined(SYS_renameat2)
    return (int)syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, 1u /* RENAME_NOREPLACE */);
#elif defined(__APPLE__)
    return renamex_np(from, to, RENAME_EXCL);
#else
    (void)from, (void)to;
    errno = ENOSYS;
    return -1;
#endif
}

#ifdef __linux__

/* A timer that sends the signal to the calling thread. */
static int sys_thread_timer_create(int number, timer_t *timer) {
    struct sigevent event = {.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = number};
    event.sigev_notify_thread_id = (pid_t)syscall(SYS_gettid);
    return timer_create(CLOCK_MONOTONIC, &event, timer);
}

#endif

#ifdef HF__KQUEUE

/* A queue that no other program inherits. */
static int sys_kqueue(void) {
    int queue = kqueue();
    if (queue >= 0)
        (void)fcntl(queue, F_SETFD, FD_CLOEXEC);
    return queue;
}

#endif

struct hf__sys hf__sys = {
    .open = sys_open,
    .close = close,
    .dup = sys_dup,
    .fstat = fstat,
    .lstat = lstat,
    .fchmod = sys_fchmod,
    .fchown = fchown,
    .rename = rename,
#ifdef __linux__
    .listxattr = listxattr,
    .getxattr = getxattr,
    .fsetxattr = fsetxattr,
#endif
#ifdef __APPLE__
    .fcopyfile = fcopyfile,
#endif
    .read = read,
    .pread = pread,
    .write = write,
    .ftruncate = ftruncate,
    .fdatasync = sys_fdatasync,
    .fsync = sys_fsync,
    .birth_time = sys_birth_time,
    .link = link,
    .link_unnamed = sys_link_unnamed,
    .rename_new = sys_rename_new,
    .unlink = unlink,
    .flock = flock,
    .fcntl_lock = sys_fcntl_lock,
    .sigaction = sigaction,
    .thread_sigmask = pthread_sigmask,
    .clock_gettime = clock_gettime,
    .nanosleep = nanosleep,
    .kill = kill,
    .mmap = mmap,
    .munmap = munmap,
    .fstatfs = fstatfs,
#ifdef __linux__
    .thread_timer_create = sys_thread_timer_create,
    .timer_settime = timer_settime,
    .timer_delete = timer_delete,
#endif
#ifdef __APPLE__
    .sysctl = sysctl,
#endif
#ifdef HF__KQUEUE
    .kqueue = sys_kqueue,
    .kevent = kevent,
#endif
};

const hf__sys_entry hf__sys_entries[] = {
    HF__SYS_ENTRY(open),
    HF__SYS_ENTRY(close),
    HF__SYS_ENTRY(dup),
    HF__SYS_ENTRY(fstat),
    HF__SYS_ENTRY(lstat),
    HF__SYS_ENTRY(fchmod),
    HF__SYS_ENTRY(fchown),
    HF__SYS_ENTRY(rename),
#ifdef __linux__
    HF__SYS_ENTRY(listxattr),
    HF__SYS_ENTRY(getxattr),
    HF__SYS_ENTRY(fsetxattr),
#endif
#ifdef __APPLE__
    HF__SYS_ENTRY(fcopyfile),
#endif
    HF__SYS_ENTRY(read),
    HF__SYS_ENTRY(pread),
    HF__SYS_ENTRY(write),
    HF__SYS_ENTRY(ftruncate),
    HF__SYS_ENTRY(fdatasync),
    HF__SYS_ENTRY(fsync),
    HF__SYS_ENTRY(birth_time),
    HF__SYS_ENTRY(link),
    HF__SYS_ENTRY(link_unnamed),
    HF__SYS_ENTRY(rename_new),
    HF__SYS_ENTRY(unlink),
    HF__SYS_ENTRY(flock),
    HF__SYS_ENTRY(fcntl_lock),
    HF__SYS_ENTRY(sigaction),
    HF__SYS_ENTRY(thread_sigmask),
    HF__SYS_ENTRY(clock_gettime),
    HF__SYS_ENTRY(nanosleep),
    HF__SYS_ENTRY(kill),
    HF__SYS_ENTRY(mmap),
    HF__SYS_ENTRY(munmap),
    HF__SYS_ENTRY(fstatfs),
#ifdef __linux__
    HF__SYS_ENTRY(thread_timer_create),
    HF__SYS_ENTRY(timer_settime),
    HF__SYS_ENTRY(timer_delete),
#endif
#ifdef __APPLE__
    HF__SYS_ENTRY(sysctl),
#endif
#ifdef HF__KQUEUE
    HF__SYS_ENTRY(kqueue),
    HF__SYS_ENTRY(kevent),
#endif
    {NULL, NULL},
};
