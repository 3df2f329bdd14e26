/* Replacing files. */
#include "file.h"
#include "sys.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

int hf_create(const char *path, unsigned mode, int64_t *opened) {
    int fd = hf__open_safely(path, O_RDWR | O_CREAT | O_EXCL, mode);
    if (fd < 0)
        return -errno;
    *opened = fd;
    return 0;
}

int hf_remove(const char *path) {
    return hf__sys.unlink(path) == 0 ? 0 : -errno;
}

/* Whether an error says that something cannot be given to a file, by us or on this file system. */
static bool is_refusal(int error) {
    return error == EPERM || error == EACCES || error == EINVAL || error == ENOSYS || error == EOPNOTSUPP ||
           error == ENOTSUP || error == ENODATA || error == ERANGE;
}

#ifdef __linux__

#define LARGEST 65536 /* of a list of attributes, and of a value: the kernel's limit */

/* One extended attribute. An access control list is one, too. Those that are calculated, or of a security module that
   gives the new file its own, are refused. */
static int copy_attribute(const char *path, int fd, const char *name, char *value) {
    ssize_t length = hf__sys.getxattr(path, name, value, LARGEST);
    if (length >= 0 && hf__sys.fsetxattr(fd, name, value, (size_t)length, 0) == 0)
        return 0;
    return is_refusal(errno) ? 0 : -errno;
}

static int copy_attributes(const char *path, int fd, bool same_group) {
    ssize_t length = hf__sys.listxattr(path, NULL, 0); /* mostly none; and to ask with room for all takes far longer */
    if (length <= 0)
        return length == 0 || is_refusal(errno) ? 0 : -errno;
    char *list = malloc(2 * LARGEST);
    if (list == NULL)
        return -ENOMEM;
    length = hf__sys.listxattr(path, list, LARGEST);
    int rc = length < 0 && !is_refusal(errno) ? -errno : 0;
    for (const char *name = list; rc == 0 && name < list + length; name += strlen(name) + 1)
        if (same_group || strcmp(name, "system.posix_acl_access") != 0) /* which would speak of another group */
            rc = copy_attribute(path, fd, name, list + LARGEST);
    free(list);
    return rc;
}

#elif defined(__APPLE__)

static int copy_attributes(const char *path, int fd, bool same_group) {
    (void)same_group; /* these lists name whom they mean */
    int from = hf__open_safely(path, O_RDONLY, 0);
    if (from < 0)
        return is_refusal(errno) ? 0 : -errno;
    int rc = hf__sys.fcopyfile(from, fd, NULL, COPYFILE_ACL | COPYFILE_XATTR) == 0 || is_refusal(errno) ? 0 : -errno;
    hf__file_close(from);
    return rc;
}

#else

static int copy_attributes(const char *path, int fd, bool same_group) {
    (void)path, (void)fd, (void)same_group;
    return 0;
}

#endif

/* The permissions for a file that is to be like another one. Bits that made it run as its owner or group are kept with
   these only. And a group that is not the old one must not be allowed more than everybody. */
static unsigned permissions(const struct stat *old, const struct stat *new) {
    unsigned mode = old->st_mode & 07777;
    if (new->st_uid != old->st_uid)
        mode &= ~(unsigned)S_ISUID;
    if (new->st_gid != old->st_gid)
        mode &= ~(unsigned)(S_ISGID | S_IRWXG) | (mode & S_IRWXO) << 3;
    return mode;
}

/* Make the open file like the one at `path`, if there is one. */
static int take_over(const char *path, int fd) {
    struct stat old, new;
    if (hf__sys.lstat(path, &old) != 0)
        return errno == ENOENT ? 0 : -errno;
    if (!S_ISREG(old.st_mode))
        return HF_NOT_A_FILE;
    if (hf__sys.fchown(fd, old.st_uid, old.st_gid) != 0) /* all at once is for root; the group, for its members, too */
        (void)hf__sys.fchown(fd, (uid_t)-1, old.st_gid);
    if (hf__sys.fstat(fd, &new) != 0)
        return -errno;
    int rc = copy_attributes(path, fd, new.st_gid == old.st_gid);
    if (rc == -ENOENT)
        return 0; /* it was removed meanwhile: its permissions without its list might allow more than both did */
    if (rc == 0 && hf__sys.fchmod(fd, permissions(&old, &new)) != 0 && !is_refusal(errno))
        rc = -errno;
    return rc;
}

static int sync_file(int fd) {
    int rc;
    do
        rc = hf__sys.fsync(fd);
    while (rc != 0 && errno == EINTR);
    return rc == 0 ? 0 : -errno;
}

/* Hear what the file system has to say when a file is closed: over NFS, or with quotas, only that writes what it has taken.
   Closing any descriptor of the file does it. */
static int close_a_copy(int fd) {
    int copy = hf__sys.dup(fd);
    if (copy < 0)
        return sync_file(fd); /* which hears it, too, and needs no descriptor */
    return hf__sys.close(copy) == 0 || errno == EINTR ? 0 : -errno;
}

/* Whether a server of SMB has denied to rename the open file because somebody has the old one open. Linux' client removes
   the old one then and tries again; until that is closed, it says ENOENT, as if the new one were missing. */
static bool is_denied_by_smb(int error, int fd, const char *scratch) {
    struct stat status;
    return (error == EACCES || error == EBUSY || (error == ENOENT && hf__sys.lstat(scratch, &status) == 0)) &&
           hf__file_is_on_smb(fd);
}

static int put_in_place(int fd, const char *scratch, const char *path) {
    if (hf__sys.rename(scratch, path) == 0)
        return 0;
    int error = errno;
    return is_denied_by_smb(error, fd, scratch) ? HF_BUSY : -error;
}

int hf_replace(int64_t file, const char *scratch, const char *path, int flags) {
    int fd = (int)file;
    int rc = flags & HF_NO_REPLACE ? 0 : take_over(path, fd); /* what there is then is none of our business */
    if (rc == 0)
        rc = flags & HF_DURABLE ? sync_file(fd) : close_a_copy(fd);
    if (rc != 0)
        return rc;
    rc = flags & HF_NO_REPLACE ? hf__data_rename(scratch, path, false) : put_in_place(fd, scratch, path);
    if (rc == 0 && (flags & HF_DURABLE) && hf_directory_sync(path) != 0)
        rc = HF_NOT_DURABLE;
    return rc;
}
