/* Files that hold data: appending, taking back, syncing. */
#include "file.h"
#include "sys.h"

#include <errno.h>

static int open_to_read(const char *path) {
    int fd;
    do
        fd = hf__sys.open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY, 0); /* a FIFO must not make us hang */
    while (fd < 0 && errno == EINTR);
    return fd;
}

int hf_open_to_read(const char *path, int64_t *opened) {
    int fd = open_to_read(path);
    if (fd < 0 && errno == ENOENT) {
        hf_look_again(path);
        fd = open_to_read(path);
    }
    if (fd < 0)
        return hf__open_error(errno);
    hf__identity identity;
    int rc = hf__file_examine(fd, &identity);
    if (rc != 0) {
        hf__file_close(fd);
        return rc;
    }
    *opened = fd;
    return identity.elsewhere;
}

int hf__data_last_byte(hf__file file, int64_t size) {
    unsigned char byte;
    ssize_t length;
    do
        length = hf__sys.pread(file, &byte, 1, (off_t)(size - 1));
    while (length < 0 && errno == EINTR);
    if (length < 0)
        return -errno;
    return length == 1 ? byte : '\n'; /* somebody has truncated the file since we looked */
}

int hf__data_append(hf__file file, const char *data, size_t length, int64_t *written) {
    while (length > 0) {
        ssize_t count = hf__sys.write(file, data, length);
        if (count < 0 && errno == EINTR)
            continue;
        if (count <= 0)
            return count < 0 ? -errno : -EIO;
        *written += count;
        data += count;
        length -= (size_t)count;
    }
    return 0;
}

void hf__data_roll_back(hf__file file, int64_t size, int64_t written) {
    struct stat status;
    if (hf__sys.fstat(file, &status) != 0 || status.st_size != size + written)
        return;
    while (hf__sys.ftruncate(file, (off_t)size) != 0 && errno == EINTR)
        ;
}

int hf__data_sync(hf__file file) {
    int rc;
    do
        rc = hf__sys.fdatasync(file);
    while (rc != 0 && errno == EINTR);
    return rc == 0 ? 0 : -errno;
}

static int64_t nanoseconds(const struct timespec *time) {
    return (int64_t)time->tv_sec * 1000000000 + time->tv_nsec;
}

/* Where nothing remembers when a file was created, the time of its last change is the latest it can have been. */
int hf__data_born(hf__file file, int64_t *born) {
    struct timespec time;
    if (hf__sys.birth_time(file, &time) != 0) {
        struct stat status;
        if (hf__sys.fstat(file, &status) != 0)
            return -errno;
#ifdef __APPLE__
        time = status.st_mtimespec;
#else
        time = status.st_mtim;
#endif
    }
    *born = nanoseconds(&time);
    return 0;
}

int64_t hf__data_clock(void) {
    struct timespec now = {0};
    (void)hf__sys.clock_gettime(CLOCK_REALTIME, &now); /* a time of 0 finds no file too old */
    return nanoseconds(&now);
}

static bool unsupported(int error) {
    return error == ENOSYS || error == EINVAL || error == EOPNOTSUPP || error == ENOTSUP;
}

static int rename_if_free(const char *from, const char *to) {
    struct stat status;
    if (hf__sys.lstat(to, &status) == 0)
        return -EEXIST;
    return errno == ENOENT && hf__sys.rename(from, to) == 0 ? 0 : -errno;
}

int hf__data_rename(const char *from, const char *to, bool alone) {
    if (hf__sys.rename_new(from, to) == 0)
        return 0;
    if (!unsupported(errno))
        return -errno;
    if (alone)
        return rename_if_free(from, to);
    if (hf__sys.link(from, to) != 0)
        return -errno;
    if (hf__sys.unlink(from) == 0)
        return 0;
    int error = errno;
    (void)hf__sys.unlink(to);
    return -error;
}
