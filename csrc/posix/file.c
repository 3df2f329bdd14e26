/* Lock files: opening them without surprises, and telling them apart. */
#include "../internal.h"
#include "sys.h"

#include <errno.h>

/* O_NOFOLLOW: whoever can put a link at the path must not choose what we open or create.
   O_NONBLOCK: neither a FIFO nor another process's lease on the file makes open() hang.
   O_NOCTTY:   nor does a terminal at the path become ours. */
#define SAFELY (O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY)

static hf__identity identity_of(const struct stat *status) {
    return (hf__identity){.volume = (uint64_t)status->st_dev, .file = {(uint64_t)status->st_ino, 0}};
}

/* What open() says, in our words. */
static int open_error(int error) {
    switch (error) {
    case ELOOP:
#ifdef EMLINK
    case EMLINK: /* FreeBSD's word for O_NOFOLLOW on a link */
#endif
        return HF_SYMLINK;
    case EISDIR:
    case ENXIO:   /* a socket */
    case ENODEV:  /* a device without a driver */
    case ENOTSUP: /* macOS, of a socket */
        return HF_NOT_A_FILE;
    case EWOULDBLOCK: /* a lease on the file is being broken */
        return HF_BUSY;
    default:
        return -error;
    }
}

static int open_retrying(const char *path, int flags, unsigned mode) {
    int fd;
    do
        fd = hf__sys.open(path, flags | SAFELY, mode);
    while (fd < 0 && errno == EINTR);
    return fd;
}

/* Create the file, which must not exist. */
static int create(const char *path, unsigned mode, bool exact_mode) {
    int fd = open_retrying(path, O_RDWR | O_CREAT | O_EXCL, mode);
    /* Only the creator sets the mode. On a file system without permissions the attempt fails, and nothing is lost. */
    if (fd >= 0 && exact_mode)
        (void)hf__sys.fchmod(fd, mode);
    return fd;
}

/* Open the file, or create it. Opening comes first: it is what nearly always works, and in a sticky directory O_CREAT is
   refused on a file of somebody else's. */
static int open_or_create(const char *path, unsigned mode, bool exact_mode) {
    for (;;) {
        int fd = open_retrying(path, O_RDWR, 0);
        if (fd >= 0)
            return fd;
        if (errno == EACCES || errno == EROFS || errno == EPERM) {
            int error = errno;
            fd = open_retrying(path, O_RDONLY, 0);
            if (fd < 0)
                errno = error;
            return fd;
        }
        if (errno != ENOENT)
            return -1;
        fd = create(path, mode, exact_mode);
        if (fd >= 0 || errno != EEXIST)
            return fd;
        /* Somebody created it meanwhile: open that. */
    }
}

int hf__file_open(const char *path, unsigned mode, bool exact_mode, hf__file *file, hf__identity *identity) {
    int fd = open_or_create(path, mode, exact_mode);
    if (fd < 0)
        return open_error(errno);
    struct stat status;
    int rc = 0;
    if (hf__sys.fstat(fd, &status) != 0)
        rc = -errno;
    else if (!S_ISREG(status.st_mode))
        rc = HF_NOT_A_FILE;
    if (rc != 0) {
        hf__file_close(fd);
        return rc;
    }
    *file = fd;
    *identity = identity_of(&status);
    return 0;
}

void hf__file_close(hf__file file) {
    (void)hf__sys.close(file);
}

bool hf__file_is_at(const char *path, const hf__identity *identity) {
    struct stat status;
    if (hf__sys.lstat(path, &status) != 0)
        return false;
    hf__identity found = identity_of(&status);
    return hf__same_file(&found, identity);
}
