/* A file system that shows a directory, and fails as it is told while it is mounted.
 *
 *     faulty DIRECTORY MOUNTPOINT            runs until it is unmounted
 *     setfattr -n user.faulty -v "flock=ENOLCK delay=20" MOUNTPOINT
 *
 * A value of the attribute takes the place of the one before; an empty one makes everything work. It may name an
 * operation with the error it ends with, and
 *     busy=ERROR     what a lock that is taken says, in place of EAGAIN
 *     deaf=1         whoever waits for a lock cannot be interrupted
 *     delay=N        every operation takes N milliseconds, and cannot be interrupted
 *     short=1        a write writes about half
 *     space=N        there is room for N-1 bytes more
 */
#define FUSE_USE_VERSION 312
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fuse.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <time.h>
#include <unistd.h>

static int root; /* the directory that is shown */

/* ------------------------------------------------------------------------------------------------------------------ *
 * What is to fail
 */

enum knob {
    FLOCK,
    LOCK,
    CREATE,
    WRITE,
    TRUNCATE,
    FSYNC,
    FSYNCDIR,
    LINK,
    SYMLINK,
    RENAME,
    RENAME2,
    UNLINK,
    BUSY,
    DEAF,
    DELAY,
    SHORT,
    SPACE,
    KNOBS
};

static const char *const names[KNOBS] = {
    "flock",  "lock",    "create", "write", "truncate", "fsync", "fsyncdir", "link",  "symlink",
    "rename", "rename2", "unlink", "busy",  "deaf",     "delay", "short",    "space",
};

static atomic_long knobs[KNOBS];

static const struct {
    const char *name;
    int number;
} errors[] = {
    {"EACCES", EACCES}, {"EDQUOT", EDQUOT}, {"EINVAL", EINVAL},         {"EIO", EIO},     {"ENOLCK", ENOLCK},
    {"ENOSPC", ENOSPC}, {"ENOSYS", ENOSYS}, {"EOPNOTSUPP", EOPNOTSUPP}, {"EPERM", EPERM}, {"EROFS", EROFS},
};

static long number_of(const char *text) {
    for (size_t i = 0; i < sizeof errors / sizeof *errors; i++)
        if (strcmp(text, errors[i].name) == 0)
            return errors[i].number;
    return atol(text);
}

static int turn(const char *name, const char *value) {
    for (int i = 0; i < KNOBS; i++) {
        if (strcmp(name, names[i]) == 0) {
            atomic_store(&knobs[i], number_of(value));
            return 0;
        }
    }
    return -EINVAL;
}

static int do_setxattr(const char *path, const char *name, const char *value, size_t size, int flags) {
    (void)path, (void)flags;
    char text[256], *rest = text;
    if (strcmp(name, "user.faulty") != 0)
        return -ENOTSUP;
    if (size >= sizeof text)
        return -ERANGE;
    memcpy(text, value, size);
    text[size] = 0;
    for (int i = 0; i < KNOBS; i++)
        atomic_store(&knobs[i], 0);
    int rc = 0;
    for (char *word; rc == 0 && (word = strsep(&rest, " ")) != NULL;) {
        char *knob = strsep(&word, "=");
        if (*knob != 0)
            rc = word != NULL ? turn(knob, word) : -EINVAL;
    }
    return rc;
}

static void pause_for(long milliseconds) {
    struct timespec length = {.tv_sec = milliseconds / 1000, .tv_nsec = milliseconds % 1000 * 1000000};
    while (nanosleep(&length, &length) != 0)
        ;
}

/* The error that an operation is to end with, negative, or 0. */
static int failure(enum knob operation) {
    pause_for(atomic_load(&knobs[DELAY]));
    return operation < KNOBS ? (int)-atomic_load(&knobs[operation]) : 0;
}

#define NEVER KNOBS

/* ------------------------------------------------------------------------------------------------------------------ *
 * The directory
 */

/* An open file, and the last one to lock it by do_lock(). */
struct opened {
    int fd;
    atomic_ulong owner;
};

static struct opened *of(const struct fuse_file_info *file) {
    return (struct opened *)(uintptr_t)file->fh;
}

static int fd_of(const struct fuse_file_info *file) {
    return of(file)->fd;
}

static const char *in_root(const char *path) {
    return path[1] != 0 ? path + 1 : ".";
}

static int result(int rc) {
    return rc >= 0 ? rc : -errno;
}

/* Make a call, unless it is to fail. */
#define CALL(operation, call)                                                                                          \
    do {                                                                                                               \
        int failed = failure(operation);                                                                               \
        return failed != 0 ? failed : result(call);                                                                    \
    } while (0)

static int do_getattr(const char *path, struct stat *status, struct fuse_file_info *file) {
    CALL(NEVER, file != NULL ? fstat(fd_of(file), status) : fstatat(root, in_root(path), status, AT_SYMLINK_NOFOLLOW));
}

static int do_readlink(const char *path, char *target, size_t size) {
    ssize_t length = readlinkat(root, in_root(path), target, size - 1);
    if (length < 0)
        return -errno;
    target[length] = 0;
    return 0;
}

static int do_mkdir(const char *path, mode_t mode) {
    CALL(CREATE, mkdirat(root, in_root(path), mode));
}

static int do_unlink(const char *path) {
    CALL(UNLINK, unlinkat(root, in_root(path), 0));
}

static int do_rmdir(const char *path) {
    CALL(UNLINK, unlinkat(root, in_root(path), AT_REMOVEDIR));
}

static int do_symlink(const char *target, const char *path) {
    CALL(SYMLINK, symlinkat(target, root, in_root(path)));
}

static int do_link(const char *from, const char *to) {
    CALL(LINK, linkat(root, in_root(from), root, in_root(to), 0));
}

static int do_rename(const char *from, const char *to, unsigned flags) {
    CALL(flags != 0 ? RENAME2 : RENAME, renameat2(root, in_root(from), root, in_root(to), flags));
}

static int do_chmod(const char *path, mode_t mode, struct fuse_file_info *file) {
    CALL(NEVER, file != NULL ? fchmod(fd_of(file), mode) : fchmodat(root, in_root(path), mode, 0));
}

static int do_chown(const char *path, uid_t user, gid_t group, struct fuse_file_info *file) {
    CALL(NEVER, file != NULL ? fchown(fd_of(file), user, group)
                             : fchownat(root, in_root(path), user, group, AT_SYMLINK_NOFOLLOW));
}

static int do_utimens(const char *path, const struct timespec times[2], struct fuse_file_info *file) {
    CALL(NEVER,
         file != NULL ? futimens(fd_of(file), times) : utimensat(root, in_root(path), times, AT_SYMLINK_NOFOLLOW));
}

static int do_opendir(const char *path, struct fuse_file_info *file) {
    int fd = openat(root, in_root(path), O_RDONLY | O_DIRECTORY);
    DIR *directory = fd >= 0 ? fdopendir(fd) : NULL;
    if (directory == NULL)
        return -errno;
    file->fh = (uint64_t)(uintptr_t)directory;
    return 0;
}

static DIR *directory_of(const struct fuse_file_info *file) {
    return (DIR *)(uintptr_t)file->fh;
}

static int do_readdir(const char *path, void *list, fuse_fill_dir_t fill, off_t offset, struct fuse_file_info *file,
                      enum fuse_readdir_flags flags) {
    (void)path, (void)offset, (void)flags;
    rewinddir(directory_of(file));
    for (struct dirent *entry; (entry = readdir(directory_of(file))) != NULL;)
        fill(list, entry->d_name, NULL, 0, 0);
    return 0;
}

static int do_releasedir(const char *path, struct fuse_file_info *file) {
    (void)path;
    closedir(directory_of(file));
    return 0;
}

static int do_fsyncdir(const char *path, int data_only, struct fuse_file_info *file) {
    (void)path, (void)data_only, (void)file;
    return failure(FSYNCDIR);
}

/* ------------------------------------------------------------------------------------------------------------------ *
 * Its files
 */

static int opened(int fd, struct fuse_file_info *file) {
    struct opened *opened = fd >= 0 ? calloc(1, sizeof *opened) : NULL;
    if (opened == NULL)
        return -errno;
    opened->fd = fd;
    file->fh = (uint64_t)(uintptr_t)opened;
    return 0;
}

static int do_create(const char *path, mode_t mode, struct fuse_file_info *file) {
    int failed = failure(CREATE);
    return failed != 0 ? failed : opened(openat(root, in_root(path), file->flags | O_CREAT, mode), file);
}

static int do_open(const char *path, struct fuse_file_info *file) {
    int failed = failure(NEVER);
    return failed != 0 ? failed : opened(openat(root, in_root(path), file->flags), file);
}

static int do_release(const char *path, struct fuse_file_info *file) {
    (void)path;
    close(fd_of(file));
    free(of(file));
    return 0;
}

static int do_read(const char *path, char *data, size_t size, off_t offset, struct fuse_file_info *file) {
    (void)path;
    CALL(NEVER, (int)pread(fd_of(file), data, size, offset));
}

/* How many of so many bytes are written. */
static size_t room(size_t size) {
    if (atomic_load(&knobs[SHORT]) != 0)
        size = (size + 1) / 2;
    long space = atomic_load(&knobs[SPACE]);
    if (space == 0)
        return size;
    if ((long)size >= space)
        size = (size_t)space - 1;
    atomic_fetch_sub(&knobs[SPACE], (long)size);
    return size;
}

static int do_write(const char *path, const char *data, size_t size, off_t offset, struct fuse_file_info *file) {
    (void)path;
    int failed = failure(WRITE);
    if (failed != 0)
        return failed;
    size = room(size);
    return size > 0 ? result((int)pwrite(fd_of(file), data, size, offset)) : -ENOSPC;
}

static int do_truncate(const char *path, off_t size, struct fuse_file_info *file) {
    int fd = file != NULL ? fd_of(file) : openat(root, in_root(path), O_WRONLY);
    int failed = failure(TRUNCATE);
    int rc = failed != 0 ? failed : result(ftruncate(fd, size));
    if (file == NULL && fd >= 0)
        close(fd);
    return rc;
}

static int do_fsync(const char *path, int data_only, struct fuse_file_info *file) {
    (void)path, (void)data_only;
    CALL(FSYNC, fsync(fd_of(file)));
}

/* Locks. They are taken from the directory's file system, without waiting there: this thread is to hear of interrupts. */

static int busy(void) {
    long error = atomic_load(&knobs[BUSY]);
    return error != 0 ? (int)-error : -EAGAIN;
}

static bool may_go_on(void) {
    if (!atomic_load(&knobs[DEAF]) && fuse_interrupted())
        return false;
    pause_for(1);
    return true;
}

static int do_flock(const char *path, struct fuse_file_info *file, int operation) {
    (void)path;
    int failed = failure(FLOCK);
    if (failed != 0)
        return failed;
    while (flock(fd_of(file), operation | LOCK_NB) != 0) {
        if (errno != EWOULDBLOCK)
            return -errno;
        if (operation & LOCK_NB)
            return busy();
        if (!may_go_on())
            return -EINTR;
    }
    return 0;
}

/* An open file of ours is one of the user's, so his lock is one of the open file. Whoever closes a descriptor of it unlocks
   what is his own: a forked child must not unlock what is its parent's. */
static int do_lock(const char *path, struct fuse_file_info *file, int command, struct flock *lock) {
    (void)path;
    int failed = failure(LOCK);
    if (failed != 0)
        return failed;
    if (lock->l_type == F_UNLCK && atomic_load(&of(file)->owner) != file->lock_owner)
        return 0;
    lock->l_pid = 0; /* as these locks want it */
    if (command == F_GETLK)
        return result(fcntl(fd_of(file), F_OFD_GETLK, lock));
    while (fcntl(fd_of(file), F_OFD_SETLK, lock) != 0) {
        if (errno != EAGAIN && errno != EACCES)
            return -errno;
        if (command == F_SETLK)
            return busy();
        if (!may_go_on())
            return -EINTR;
    }
    atomic_store(&of(file)->owner, file->lock_owner);
    return 0;
}

/* Numbers of files as in the directory, and nothing remembered: somebody else may change it, too. */
static void *start(struct fuse_conn_info *connection, struct fuse_config *config) {
    (void)connection;
    config->use_ino = 1;
    config->hard_remove = 1;
    config->nullpath_ok = 1;
    config->attr_timeout = config->entry_timeout = config->negative_timeout = 0;
    return NULL;
}

static const struct fuse_operations operations = {
    .init = start,
    .getattr = do_getattr,
    .readlink = do_readlink,
    .mkdir = do_mkdir,
    .unlink = do_unlink,
    .rmdir = do_rmdir,
    .symlink = do_symlink,
    .link = do_link,
    .rename = do_rename,
    .chmod = do_chmod,
    .chown = do_chown,
    .utimens = do_utimens,
    .setxattr = do_setxattr,
    .opendir = do_opendir,
    .readdir = do_readdir,
    .releasedir = do_releasedir,
    .fsyncdir = do_fsyncdir,
    .create = do_create,
    .open = do_open,
    .release = do_release,
    .read = do_read,
    .write = do_write,
    .truncate = do_truncate,
    .fsync = do_fsync,
    .flock = do_flock,
    .lock = do_lock,
};

int main(int count, char **arguments) {
    root = count == 3 ? open(arguments[1], O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
    if (root < 0) {
        fprintf(stderr, "usage: faulty DIRECTORY MOUNTPOINT\n");
        return 2;
    }
    /* A thread for each that may wait for a lock: else none would be left for the one who unlocks. */
    char *words[] = {arguments[0], "-f",
                     "-o",         "subtype=faulty,fsname=faulty,allow_other,default_permissions,max_threads=100",
                     arguments[2], NULL};
    umask(0); /* the kernel has seen to that */
    return fuse_main(5, words, &operations, NULL);
}
