/* Markers: files that appear whole, and are removed by one remover at a time. */
#include "file.h"
#include "kernlock.h"
#include "sys.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#ifdef __APPLE__
#define MODIFIED st_mtimespec
#else
#define MODIFIED st_mtim
#endif

/* After so many refusals of a name that is free, the file system has no way to give it. */
#define REFUSALS 8

static int write_all(int fd, const char *data, size_t length) {
    while (length > 0) {
        ssize_t written = hf__sys.write(fd, data, length);
        if (written < 0 && errno == EINTR)
            continue;
        if (written < 0)
            return -errno;
        data += written;
        length -= (size_t)written;
    }
    return 0;
}

static int name_error(int error) {
    return error == EEXIST ? HF_BUSY : -error;
}

/* Whether a result says that the file system cannot do this at all, so that another way is worth trying. */
static bool unsupported(int rc) {
    return rc == -ENOSYS || rc == -EOPNOTSUPP || rc == -EINVAL || rc == -EPERM || rc == -EMLINK || rc == -EXDEV;
}

/* The same of O_TMPFILE, which older kernels take for O_DIRECTORY, and whose link needs /proc. */
static bool no_unnamed_files(int rc) {
    return unsupported(rc) || rc == -EISDIR || rc == -ENOENT;
}

/* Everything that must be there before the name is. On disk too: a power cut must not leave the name without the record,
   because an empty marker has no owner who could be found dead. */
static int write_record(int fd, const hf__record *record, hf__identity *identity) {
    if (record->exact_mode)
        (void)hf__sys.fchmod(fd, record->mode); /* as for a lock file: where it fails there are no permissions */
    int rc = write_all(fd, record->text, record->length);
    while (rc == 0 && hf__sys.fdatasync(fd) != 0)
        if (errno != EINTR)
            rc = -errno;
    return rc == 0 ? hf__file_examine(fd, identity) : rc;
}

/* By way of a file that has no name until it is finished: if we die before, nothing is left. */
static int publish_unnamed(const char *path, const hf__record *record, int *file, hf__identity *identity) {
#ifdef O_TMPFILE
    char directory[4096];
    const char *slash = strrchr(path, '/');
    int length = slash != NULL ? (int)(slash - path) + 1 : 2;
    if (snprintf(directory, sizeof directory, "%.*s", length, slash != NULL ? path : "./") >= (int)sizeof directory)
        return -ENAMETOOLONG;
    int fd = hf__open_safely(directory, O_TMPFILE | O_RDWR, record->mode);
    if (fd < 0)
        return -errno;
    int rc = write_record(fd, record, identity);
    if (rc == 0 && identity->elsewhere)
        rc = -EOPNOTSUPP; /* a server of SMB has been told to delete it when it is closed, whatever its names are */
    if (rc == 0 && hf__sys.link_unnamed(fd, path) != 0)
        rc = name_error(errno);
    if (rc == 0)
        *file = fd;
    else
        hf__file_close(fd);
    return rc;
#else
    (void)path, (void)record, (void)file, (void)identity;
    return -ENOSYS;
#endif
}

/* Whether a link was made although link() failed: over a network the answer can get lost, and the second request then
   finds the name taken, by itself. */
static bool was_linked(const char *scratch) {
    struct stat status;
    return hf__sys.lstat(scratch, &status) == 0 && status.st_nlink == 2;
}

static int name_by_link(const char *scratch, const char *path) {
    int error = hf__sys.link(scratch, path) == 0 ? 0 : errno;
    if (error == 0 || (error == EEXIST && was_linked(scratch)))
        return 0;
    return unsupported(-error) ? HF_NO_LOCKS : name_error(error);
}

static int name_by_rename(const char *scratch, const char *path) {
    if (hf__sys.rename_new(scratch, path) == 0)
        return 0;
    return unsupported(-errno) ? HF_NO_LOCKS : name_error(errno);
}

/* Give the finished scratch file its name: by a hard link, or where there are none by a rename that does not replace. A
   program that makes a file system may ignore what it does not know, and replace all the same. So does a server of SMB:
   Linux' client looks whether the name is free, and then has it replace whatever has come meanwhile. */
static int name_by_either(const char *scratch, const char *path, bool on_smb) {
    int rc = name_by_link(scratch, path);
    return rc == HF_NO_LOCKS && !on_smb ? name_by_rename(scratch, path) : rc;
}

/* SFTP has no word for a name that is taken, and refuses it like a link that cannot be made. So where that is refused and
   the name is there, it is taken. If it was removed just now, the next link is made. */
static int move_into_place(const char *scratch, const char *path, bool on_smb) {
    struct stat status;
    for (int i = 0; i < REFUSALS; i++) {
        int rc = name_by_either(scratch, path, on_smb);
        if (rc != HF_NO_LOCKS)
            return rc;
        if (hf__sys.lstat(path, &status) == 0)
            return HF_BUSY;
    }
    return HF_NO_LOCKS;
}

/* Over a network, nothing is given out of a file that somebody has removed meanwhile. */
static int read_error(int error) {
    return error == ESTALE ? -ENOENT : -error;
}

/* As much of a file as there is room for, wherever its position is: how much that was, or an error. */
static int read_record(int fd, char *record, size_t capacity) {
    ssize_t length;
    do
        length = hf__sys.pread(fd, record, capacity, 0);
    while (length < 0 && errno == EINTR);
    return length < 0 ? read_error(errno) : (int)length;
}

/* Whether a marker is the one with this record, and not one that somebody else has put in its place: 0, -ENOENT if it is
   not, or why that cannot be seen. */
static int recognize(int fd, const hf__record *record) {
    char found[1024];
    int expected = record->length < sizeof found ? (int)record->length : (int)sizeof found;
    int length = read_record(fd, found, (size_t)expected);
    if (length < 0)
        return length;
    return length == expected && memcmp(found, record->text, (size_t)expected) == 0 ? 0 : -ENOENT;
}

/* Have the marker that was just created open by its own name; `file` is the scratch file, or -1 if it was closed. On some
   file systems (sshfs, for one) two links to one file have two inode numbers, and that of the scratch file is not the one
   by which the path will be known. */
static int reopen(const char *path, const hf__record *record, int *file, hf__identity *identity) {
    int64_t size;
    if (*file >= 0 && hf__file_is_at(path, identity, &size))
        return 0;
    hf__file named;
    int rc = hf__marker_open(path, &named, identity);
    if (rc == 0) {
        rc = recognize(named, record);
        int unwanted = rc == 0 ? *file : named;
        if (unwanted >= 0)
            hf__file_close(unwanted);
        *file = rc == 0 ? named : *file;
    }
    if (rc == -ENOENT)
        return HF_BUSY; /* somebody has removed it by force, and may have the lock now */
    if (rc != 0)
        (void)hf__sys.unlink(path); /* for nobody else would: it names a living owner */
    return rc;
}

/* By way of a file that has another name until it is finished. Over SMB one machine cannot open a file by two names at
   once, so that nobody could read whose marker it is; and for a second it keeps open what was closed, but not what is
   removed. */
static int publish_scratch(const char *path, const char *scratch, const hf__record *record, int *file,
                           hf__identity *identity) {
    int fd = hf__open_safely(scratch, O_RDWR | O_CREAT | O_EXCL, record->mode);
    if (fd < 0)
        return -errno;
    int rc = write_record(fd, record, identity);
    bool on_smb = rc == 0 && identity->on_smb;
    if (on_smb) {
        hf__file_close(fd);
        fd = -1;
    }
    if (rc == 0)
        rc = move_into_place(scratch, path, on_smb);
    if (on_smb)
        (void)hf__sys.unlink(scratch);
    if (rc == 0)
        rc = reopen(path, record, &fd, identity);
    if (!on_smb)
        (void)hf__sys.unlink(scratch); /* there is none any more if it was renamed */
    if (rc == 0)
        *file = fd;
    else if (fd >= 0)
        hf__file_close(fd);
    return rc;
}

int hf__marker_publish(const char *path, const char *scratch, const hf__record *record, hf__file *file,
                       hf__identity *identity) {
    struct stat status;
    if (hf__sys.lstat(path, &status) == 0)
        return HF_BUSY; /* spare the disk a record that has no place to go */
    int rc = publish_unnamed(path, record, file, identity);
    return no_unnamed_files(rc) ? publish_scratch(path, scratch, record, file, identity) : rc;
}

/* For writing if possible, which is not done: over NFS only such a file can be locked exclusively. */
int hf__marker_open(const char *path, hf__file *file, hf__identity *identity) {
    int fd = hf__open_safely(path, O_RDWR, 0);
    if (fd < 0 && (errno == EACCES || errno == EPERM || errno == EROFS))
        fd = hf__open_safely(path, O_RDONLY, 0);
    if (fd < 0)
        return hf__open_error(errno);
    int rc = hf__file_examine(fd, identity);
    /* A client of SMB keeps a file open for a second after it was closed, for whoever opens it again: so those who look
       again and again would never see that it was removed on the server. Not so after anything to do with locks. */
    if (rc == 0 && identity->elsewhere)
        (void)hf__lock_drop(fd, HF_OFD);
    if (rc == 0)
        *file = fd;
    else
        hf__file_close(fd);
    return rc;
}

#define LONG_AGO 1000000000 /* seconds: more would not fit in 64 bits of nanoseconds */

static int64_t age_of(const struct timespec *written, const struct timespec *now) {
    int64_t seconds = (int64_t)now->tv_sec - (int64_t)written->tv_sec;
    if (seconds > LONG_AGO || seconds < -LONG_AGO)
        seconds = seconds > 0 ? LONG_AGO : -LONG_AGO;
    return seconds * 1000000000 + (now->tv_nsec - written->tv_nsec);
}

int hf__marker_read(hf__file file, char *record, size_t capacity, int64_t *age) {
    struct stat status;
    struct timespec now;
    if (hf__sys.fstat(file, &status) != 0 || hf__sys.clock_gettime(CLOCK_REALTIME, &now) != 0)
        return read_error(errno);
    *age = age_of(&status.MODIFIED, &now);
    int length = read_record(file, record, capacity);
    return length == -EACCES ? HF_BUSY : length; /* over SMB, the lock of one who removes it: see below */
}

/* 0 if the path names the marker, -ENOENT if it names another file or none; what cannot be seen is an error. */
static int look(const char *path, const hf__identity *identity) {
    struct stat status;
    if (identity->elsewhere)
        hf_look_again(path);
    if (hf__sys.lstat(path, &status) != 0)
        return errno == ENOTDIR ? -ENOENT : -errno;
    hf__identity found = {.volume = (uint64_t)status.st_dev, .file = {(uint64_t)status.st_ino, 0}};
    return hf__same_file(&found, identity) ? 0 : -ENOENT;
}

/* Between looking at the path and removing it, another remover could have removed this marker and a new owner put its
   own there. So removers take turns, by locking the marker's file, which is the same for all of them. Owners that create
   a marker need not take part: they create only where there is nothing. */
int hf__marker_remove(const char *path, hf__file file, const hf__identity *identity, bool alone) {
    int rc = alone ? 0 : hf__lock_try(file, HF_EXCLUSIVE, 0, identity->on_smb);
    if (rc != 0)
        return rc;
    rc = look(path, identity);
    if (rc == 0 && hf__sys.unlink(path) != 0)
        rc = -errno;
    if (!alone)
        (void)hf__lock_drop(file, 0);
    return rc;
}
