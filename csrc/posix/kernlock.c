/* flock() and OFD locks.
 *
 * Both belong to the open file description: a descriptor inherited over fork() shares the lock and can release it,
 * closing another descriptor of the file does not. Plain POSIX locks (F_SETLK) vanish when any descriptor of the file is
 * closed anywhere in the process, by a library that merely reads it for example; they are never used. */
#include "kernlock.h"
#include "sys.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/file.h>

#ifndef F_OFD_SETLK
#ifdef __linux__
#define F_OFD_SETLK 37
#define F_OFD_SETLKW 38
#elif defined(__APPLE__)
#define F_OFD_SETLK 90
#define F_OFD_SETLKW 91
#endif
#endif

/* What a locking call says, in our words. */
static int lock_error(int error) {
    switch (error) {
    case EWOULDBLOCK:
#if EAGAIN != EWOULDBLOCK
    case EAGAIN:
#endif
    case EACCES: /* CIFS says this for a lock that is taken */
        return HF_BUSY;
    case EINTR:
        return HF_INTERRUPTED;
    case EBADF: /* OFD and NFS: an exclusive lock needs a descriptor that can write, a shared one a descriptor that can
                   read; ours can always read there */
        return HF_READ_ONLY;
    case ENOLCK: /* NFS without its lock daemon */
    case ENOSYS:
    case EOPNOTSUPP:
#if ENOTSUP != EOPNOTSUPP
    case ENOTSUP:
#endif
    case EINVAL:
        return HF_NO_LOCKS;
    default:
        return -error;
    }
}

static int ofd_call(int fd, short type, bool wait) {
#ifdef F_OFD_SETLK
    struct flock lock = {.l_type = type, .l_whence = SEEK_SET}; /* from 0 to whatever the end is */
    return hf__sys.fcntl_lock(fd, wait ? F_OFD_SETLKW : F_OFD_SETLK, &lock);
#else
    (void)fd, (void)type, (void)wait;
    errno = ENOSYS;
    return -1;
#endif
}

int hf__lock_call(hf__file file, int how, int flags, bool wait) {
    int rc;
    if (flags & HF_OFD)
        rc = ofd_call(file, how == HF_SHARED ? F_RDLCK : F_WRLCK, wait);
    else
        rc = hf__sys.flock(file, (how == HF_SHARED ? LOCK_SH : LOCK_EX) | (wait ? 0 : LOCK_NB));
    return rc == 0 ? 0 : lock_error(errno);
}

/* Linux' client of SMB first takes a lock at the server, or by itself while the server lets it, and then in the kernel;
   and it gives them back in the same order. Who comes in between gets the one, is refused the other by EAGAIN, and keeps
   what he got: so nobody has the lock, and all are refused it for ever, himself included, unless he gives it back. What is
   refused by the client or the server is EACCES; to give back then would free the owner's lock, where both share a handle.
   OFD locks do not come to stand still like that, and are told EAGAIN in both cases. */
int hf__lock_try(hf__file file, int how, int flags, bool on_smb) {
    int rc;
    do
        rc = hf__lock_call(file, how, flags, false);
    while (rc == HF_INTERRUPTED); /* over the network even a try can be interrupted */
    if (rc == HF_BUSY && errno != EACCES && on_smb && !(flags & HF_OFD))
        (void)hf__lock_drop(file, flags);
    return rc;
}

int hf__lock_drop(hf__file file, int flags) {
    int rc;
    do
        rc = flags & HF_OFD ? ofd_call(file, F_UNLCK, false) : hf__sys.flock(file, LOCK_UN);
    while (rc != 0 && errno == EINTR);
    return rc == 0 ? 0 : -errno;
}
