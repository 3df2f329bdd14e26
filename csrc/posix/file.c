/* Lock files: opening them without surprises, and telling them apart. */
#include "file.h"
#include "sys.h"

#include <errno.h>
#include <string.h>
#ifdef __linux__
#include <sys/sysmacros.h>
#endif

/* O_NOFOLLOW: whoever can put a link at the path must not choose what we open or create.
   O_NONBLOCK: neither a FIFO nor another process's lease on the file makes open() hang.
   O_NOCTTY:   nor does a terminal at the path become ours. */
#define SAFELY (O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY)

static hf__identity identity_of(const struct stat *status) {
    return (hf__identity){.volume = (uint64_t)status->st_dev, .file = {(uint64_t)status->st_ino, 0}};
}

int hf__open_error(int error) {
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

int hf__open_safely(const char *path, int flags, unsigned mode) {
    int fd;
    do
        fd = hf__sys.open(path, flags | SAFELY, mode);
    while (fd < 0 && errno == EINTR);
    return fd;
}

/* Create the file, which must not exist. */
static int create(const char *path, int append, unsigned mode, bool exact_mode) {
    int fd = hf__open_safely(path, O_RDWR | O_CREAT | O_EXCL | append, mode);
    /* Only the creator sets the mode. On a file system without permissions the attempt fails, and nothing is lost. */
    if (fd >= 0 && exact_mode)
        (void)hf__sys.fchmod(fd, mode);
    return fd;
}

/* Open the file, or create it. Opening comes first: it is what nearly always works, and in a sticky directory O_CREAT is
   refused on a file of somebody else's. */
static int open_or_create(const char *path, unsigned mode, int flags) {
    const int append = flags & HF__DATA ? O_APPEND : 0;
    for (;;) {
        int fd = hf__open_safely(path, O_RDWR | append, 0);
        if (fd >= 0)
            return fd;
        if (!(flags & HF__DATA) && (errno == EACCES || errno == EROFS || errno == EPERM)) {
            int error = errno;
            fd = hf__open_safely(path, O_RDONLY, 0);
            if (fd < 0)
                errno = error;
            return fd;
        }
        if (errno != ENOENT)
            return -1;
        fd = create(path, append, mode, flags & HF_EXACT_MODE);
        if (fd >= 0 || errno != EEXIST)
            return fd;
        /* Somebody created it meanwhile: open that. */
    }
}

#ifdef __linux__
/* Those of linux/magic.h, which older ones have not all. */
static bool is_smb(const struct statfs *kind) {
    switch ((uint32_t)kind->f_type) {
    case 0x0000517b: /* its versions, from the first on */
    case 0xff534d42:
    case 0xfe534d42:
        return true;
    default:
        return false;
    }
}

static bool belongs_to_another_machine(const struct statfs *kind) {
    switch ((uint32_t)kind->f_type) {
    case 0x00006969: /* NFS */
    case 0x00c36400: /* Ceph */
    case 0x0bd00bd0: /* Lustre */
    case 0x5346414f: /* AFS, by OpenAFS and by the kernel */
    case 0x6b414653:
    case 0x01021997: /* 9P */
        return true;
    default:
        return is_smb(kind);
    }
}
#else
static bool is_smb(const struct statfs *kind) {
    return strcmp(kind->f_fstypename, "smbfs") == 0;
}

static bool belongs_to_another_machine(const struct statfs *kind) {
    return (kind->f_flags & MNT_LOCAL) == 0;
}
#endif

static void see_where_it_is(int fd, const struct stat *status, hf__identity *identity) {
    struct statfs kind;
#ifdef __linux__
    if (major(status->st_dev) != 0)
        return; /* what has a device is on this machine, and is spared the question */
#else
    (void)status;
#endif
    bool answered = hf__sys.fstatfs(fd, &kind) == 0;
    identity->elsewhere = !answered || belongs_to_another_machine(&kind); /* a server may not have answered */
    identity->on_smb = answered && is_smb(&kind);
}

bool hf__file_is_on_smb(int fd) {
    struct statfs kind;
    return hf__sys.fstatfs(fd, &kind) == 0 && is_smb(&kind);
}

int hf__file_examine(int fd, hf__identity *identity) {
    struct stat status;
    if (hf__sys.fstat(fd, &status) != 0)
        return -errno;
    *identity = identity_of(&status);
    see_where_it_is(fd, &status, identity);
    return S_ISREG(status.st_mode) ? 0 : HF_NOT_A_FILE;
}

/* Over SMB, the processes of one Linux that open a file alike share one handle with the server, and any of them that closes
   its file gives back what that handle has locked. So a lock is taken on a file that is opened only to be written, which
   shares no handle. The first file is closed afterwards: clients from 6.13 on look for what could be shared among those to
   be written, too, and come upon the first one. What may only be read has to do as it is. */
static int open_for_the_lock_alone(const char *path, int *fd) {
    int ours = hf__open_safely(path, O_WRONLY, 0);
    if (ours < 0 && (errno == EACCES || errno == EPERM || errno == EROFS))
        return 0;
    int rc = ours >= 0 ? 0 : errno == ENOENT ? HF_BUSY : hf__open_error(errno); /* busy: another look creates it */
    hf__file_close(*fd);
    *fd = ours;
    return rc;
}

int hf__file_open(const char *path, unsigned mode, int flags, hf__file *file, hf__identity *identity) {
    int fd = open_or_create(path, mode, flags);
    if (fd < 0)
        return hf__open_error(errno);
    int rc = hf__file_examine(fd, identity);
    if (rc == 0 && identity->on_smb && !(flags & (HF__DATA | HF_OFD))) { /* OFD locks are spared, and data is read */
        rc = open_for_the_lock_alone(path, &fd);
        if (rc == 0)
            rc = hf__file_examine(fd, identity);
    }
    if (rc == 0)
        *file = fd;
    else if (fd >= 0)
        hf__file_close(fd);
    return rc;
}

void hf__file_close(hf__file file) {
    (void)hf__sys.close(file);
}

bool hf__file_is_at(const char *path, const hf__identity *identity, int64_t *size) {
    struct stat status;
    if (identity->elsewhere)
        hf_look_again(path);
    if (hf__sys.lstat(path, &status) != 0)
        return false;
    *size = status.st_size;
    hf__identity found = identity_of(&status);
    return hf__same_file(&found, identity);
}

/* Whether an error says that this file system syncs no directories. */
static bool syncs_no_directories(int error) {
    return error == EINVAL || error == ENOSYS || error == EOPNOTSUPP || error == ENOTSUP || error == EBADF ||
           error == EACCES; /* one that may be written and searched but not read, cannot be opened */
}

/* Open the directory of a path: a descriptor, or -errno. */
static int open_directory_of(const char *path) {
    char directory[4096] = "./";
    const char *slash = strrchr(path, '/');
    size_t length = slash != NULL ? (size_t)(slash - path) + 1 : 2;
    if (length >= sizeof directory)
        return -ENAMETOOLONG;
    if (slash != NULL)
        memcpy(directory, path, length);
    directory[length] = 0;
    int fd;
    do
        fd = hf__sys.open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0);
    while (fd < 0 && errno == EINTR);
    return fd >= 0 ? fd : -errno;
}

int hf_directory_sync(const char *path) {
    int fd = open_directory_of(path), error = 0;
    if (fd == -ENAMETOOLONG)
        return fd;
    if (fd >= 0) {
        while (hf__sys.fsync(fd) != 0 && (error = errno) == EINTR)
            error = 0;
        hf__file_close(fd);
    } else {
        error = -fd;
    }
    return syncs_no_directories(error) ? 0 : -error;
}

/* A client of NFS remembers for up to a minute which names a directory has and which it has not. It asks the server when
   the directory is opened. */
void hf_look_again(const char *path) {
    int fd = open_directory_of(path);
    if (fd >= 0)
        hf__file_close(fd);
}
