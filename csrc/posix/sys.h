/* The table of system calls. Everything else in this folder calls the system through hf__sys, with the results and errno
   of the calls themselves. */
#ifndef HOLDFAST_SYS_H
#define HOLDFAST_SYS_H

#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <time.h>

#include "platform.h"

#ifdef __linux__
#include <sys/vfs.h>
#else
#include <sys/param.h>

#include <sys/mount.h>
#endif

#ifdef __APPLE__
#include <copyfile.h>
#endif
#ifdef HF__KQUEUE
#include <sys/event.h>
#endif

struct hf__sys {
    int (*open)(const char *path, int flags, unsigned mode);
    int (*close)(int fd);
    int (*dup)(int fd);
    int (*fstat)(int fd, struct stat *status);
    int (*lstat)(const char *path, struct stat *status);
    int (*fchmod)(int fd, unsigned mode);
    int (*fchown)(int fd, uid_t owner, gid_t group);
    int (*rename)(const char *from, const char *to);
#ifdef __linux__
    ssize_t (*listxattr)(const char *path, char *list, size_t size);
    ssize_t (*getxattr)(const char *path, const char *name, void *value, size_t size);
    int (*fsetxattr)(int fd, const char *name, const void *value, size_t size, int flags);
#endif
#ifdef __APPLE__
    int (*fcopyfile)(int from, int to, copyfile_state_t state, copyfile_flags_t what);
#endif
    ssize_t (*read)(int fd, void *buffer, size_t size);
    ssize_t (*pread)(int fd, void *buffer, size_t size, off_t offset);
    ssize_t (*write)(int fd, const void *buffer, size_t size);
    int (*ftruncate)(int fd, off_t size);
    int (*fdatasync)(int fd);
    int (*fsync)(int fd);
    int (*birth_time)(int fd, struct timespec *born);
    int (*link)(const char *from, const char *to);
    int (*link_unnamed)(int fd, const char *to);
    int (*rename_new)(const char *from, const char *to);
    int (*unlink)(const char *path);
    int (*flock)(int fd, int operation);
    int (*fcntl_lock)(int fd, int command, struct flock *lock);
    int (*sigaction)(int number, const struct sigaction *action, struct sigaction *old);
    int (*thread_sigmask)(int how, const sigset_t *set, sigset_t *old);
    int (*clock_gettime)(clockid_t clock, struct timespec *now);
    int (*nanosleep)(const struct timespec *length, struct timespec *left);
    int (*kill)(pid_t pid, int number);
    void *(*mmap)(void *address, size_t size, int protection, int flags, int fd, off_t offset);
    int (*munmap)(void *address, size_t size);
    int (*fstatfs)(int fd, struct statfs *status);
#ifdef __linux__
    int (*thread_timer_create)(int number, timer_t *timer);
    int (*timer_settime)(timer_t timer, int flags, const struct itimerspec *value, struct itimerspec *old);
    int (*timer_delete)(timer_t timer);
#endif
#ifdef __APPLE__
    int (*sysctl)(int *name, unsigned length, void *value, size_t *size, void *new_value, size_t new_size);
#endif
#ifdef HF__KQUEUE
    int (*kqueue)(void);
    int (*kevent)(int queue, const struct kevent *changes, int change_count, struct kevent *events, int event_count,
                  const struct timespec *timeout);
#endif
};

extern struct hf__sys hf__sys;

#endif
