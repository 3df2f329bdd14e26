/* What is at the path: files that come and go, things that are no files, and files that cannot be opened. */
#include "check.h"

#ifndef _WIN32
#include <fcntl.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>
#else
#include <windows.h>
#endif

typedef struct {
    hf_pool *pool;
    hf_lock *lock;
} opened;

static opened open_lock(const char *path, unsigned mode, int flags) {
    hf_pool *pool = hf_pool_new(8, 0);
    return (opened){pool, hf_lock_new(pool, path, mode, flags)};
}

static void close_lock(opened of) {
    hf_lock_free(of.lock);
    hf_pool_free(of.pool);
}

/* What a first attempt at the path says. */
static int try_path(const char *path, int flags) {
    opened of = open_lock(path, 0644, flags);
    int rc = hf_try(of.lock, HF_EXCLUSIVE);
    CHECK_IS(hf_count(of.lock), rc == 0);
    CHECK_IS(hf_pool_idle(of.pool), 0);
    close_lock(of);
    return rc;
}

static void keeps_the_content(int variant) {
    (void)variant;
    const char *path = test_path("lock");
    write_file(path, "precious");
    opened of = open_lock(path, 0644, 0);
    CHECK_IS(hf_try(of.lock, HF_EXCLUSIVE), 0);
    CHECK_IS(hf_release(of.lock), 0);
    close_lock(of);
    CHECK(strcmp(read_text(path), "precious") == 0);
}

static void refuses_a_directory(int variant) {
    (void)variant;
    make_directory(test_path("folder"));
    CHECK_IS(try_path(test_path("folder"), 0), HF_NOT_A_FILE);
    CHECK_IS(count_files(test_path("folder")), 0);
}

static void wants_the_directory(int variant) {
    (void)variant;
    CHECK_IS(try_path(test_path("missing/lock"), 0), -ENOENT);
    CHECK_IS(try_path("", 0), -ENOENT);
}

#ifndef _WIN32

/* ------------------------------------------------------------------------------------------------------------------ *
 * Files that come and go
 */

static void expect_taken(const char *path) {
    CHECK(file_exists(path));
    CHECK_IS(process_wait(process_start("try", path, "0", "0", "0", NULL)), 1);
}

static void comes_back_when_removed(int variant) {
    (void)variant;
    const char *path = test_path("lock");
    opened of = open_lock(path, 0644, 0);
    CHECK_IS(hf_try(of.lock, HF_EXCLUSIVE), 0);
    CHECK_IS(hf_release(of.lock), 0);
    CHECK_IS(unlink(path), 0);
    CHECK_IS(hf_try(of.lock, HF_EXCLUSIVE), 0);
    expect_taken(path);
    CHECK_IS(hf_release(of.lock), 0);
    CHECK_IS(rename(path, test_path("moved")), 0);
    CHECK_IS(hf_try(of.lock, HF_EXCLUSIVE), 0);
    expect_taken(path);
    close_lock(of);
}

static void sees_the_holder_of_the_new_file(int variant) {
    (void)variant;
    const char *path = test_path("lock");
    opened of = open_lock(path, 0644, 0);
    CHECK_IS(hf_try(of.lock, HF_EXCLUSIVE), 0);
    CHECK_IS(hf_release(of.lock), 0);
    CHECK_IS(unlink(path), 0);
    process *holder = process_start("hold", path, "0", "0", "0", NULL);
    CHECK(process_ready(holder));
    CHECK_IS(hf_try(of.lock, HF_EXCLUSIVE), HF_BUSY);
    CHECK_IS(process_wait(holder), 0);
    CHECK_IS(hf_try(of.lock, HF_EXCLUSIVE), 0);
    close_lock(of);
}

static int no_lstat(const char *path, struct stat *status) {
    (void)path, (void)status;
    errno = ENOENT;
    return -1;
}

static void gives_up_on_a_file_that_never_stays(int variant) {
    (void)variant;
    opened of = open_lock(test_path("lock"), 0644, 0);
    hf_sys_set("lstat", (void *)no_lstat);
    CHECK_IS(hf_try(of.lock, HF_EXCLUSIVE), HF_BUSY);
    CHECK_IS(hf_count(of.lock), 0);
    CHECK(is_free(test_path("lock")));
    CHECK_IS(wait_on(of.lock, HF_EXCLUSIVE, hf_now() + 2 * MILLISECONDS, NULL), HF_TIMED_OUT);
    restore_system();
    CHECK_IS(hf_try(of.lock, HF_EXCLUSIVE), 0);
    close_lock(of);
}

#ifdef __linux__

/* ------------------------------------------------------------------------------------------------------------------ *
 * Files that another machine has: ours remembers names until the directory is opened, as a client of NFS does.
 */

static bool has_asked;
static struct stat remembered;
static const char *created_there; /* a path that was missing when we last asked */

static int nfs_lstat(const char *path, struct stat *status) {
    int rc = has_asked ? lstat(path, status) : 0;
    if (!has_asked)
        *status = remembered;
    status->st_dev = PRETENDED_DEVICE;
    return rc;
}

static int nfs_open(const char *path, int flags, unsigned mode) {
    has_asked |= (flags & O_DIRECTORY) != 0;
    if (created_there != NULL && !has_asked && strcmp(path, created_there) == 0) {
        errno = ENOENT;
        return -1;
    }
    return open(path, flags, mode);
}

#define NFS 0x6969

static void pretend_nfs(void) {
    has_asked = false;
    pretend_file_system(NFS);
    hf_sys_set("lstat", (void *)nfs_lstat);
    hf_sys_set("open", (void *)nfs_open);
}

static void sees_what_another_machine_renamed(int variant) {
    (void)variant;
    const char *path = test_path("lock");
    pretend_nfs();
    opened of = open_lock(path, 0644, 0);
    write_file(path, "");
    CHECK_IS(lstat(path, &remembered), 0);
    CHECK_IS(hf_try(of.lock, HF_EXCLUSIVE), 0);
    CHECK_IS(hf_release(of.lock), 0);
    CHECK_IS(rename(path, test_path("renamed elsewhere")), 0);
    process *holder = process_start("hold", path, "0", "0", "0", NULL);
    CHECK(process_ready(holder));
    has_asked = false;
    CHECK_IS(hf_try(of.lock, HF_EXCLUSIVE), HF_BUSY);
    CHECK_IS(process_wait(holder), 0);
    close_lock(of);
}

static int error_of_rename;

static int denied_rename(const char *from, const char *to) {
    (void)from, (void)to;
    errno = error_of_rename;
    return -1;
}

static void expect_a_denied_replacement(uint32_t type, int error, int expected) {
    int64_t file;
    const char *path = test_path("file");
    char scratch[4096];
    snprintf(scratch, sizeof scratch, "%s", test_path("new"));
    write_file(path, "old");
    CHECK_IS(hf_create(scratch, 0666, &file), 0);
    pretend_file_system(type);
    error_of_rename = error;
    hf_sys_set("rename", (void *)denied_rename);
    CHECK_IS(hf_replace(file, scratch, path, 0), expected);
    hf_sys_set("rename", (void *)rename);
    CHECK_IS(hf_replace(file, scratch, path, 0), 0);
    CHECK_IS(close((int)file), 0);
}

static void is_busy_over_smb(int error) {
    expect_a_denied_replacement(0xfe534d42, error, HF_BUSY);
}

static void is_reported_over_nfs(int error) {
    expect_a_denied_replacement(NFS, error, -error);
}

static int no_dup(int fd) {
    (void)fd;
    errno = EMFILE;
    return -1;
}

static void replaces_without_a_descriptor_left(int variant) {
    (void)variant;
    int64_t file;
    const char *path = test_path("file");
    write_file(path, "old");
    CHECK_IS(hf_create(test_path("new"), 0666, &file), 0);
    hf_sys_set("dup", (void *)no_dup);
    CHECK_IS(hf_replace(file, test_path("new"), path, 0), 0);
    CHECK(strcmp(read_text(path), "") == 0);
    CHECK_IS(close((int)file), 0);
}

static void takes_nothing_over_from_what_it_must_not_replace(int variant) {
    (void)variant;
    int64_t file;
    struct stat status;
    const char *path = test_path("file");
    write_file(path, "old");
    CHECK_IS(chmod(path, 0666), 0);
    CHECK_IS(hf_create(test_path("new"), 0600, &file), 0);
    CHECK_IS(hf_replace(file, test_path("new"), path, HF_NO_REPLACE), -EEXIST);
    CHECK_IS(fstat((int)file, &status), 0);
    CHECK_IS(status.st_mode & 0777, 0600);
    CHECK_IS(close((int)file), 0);
}

static void misses_the_new_file_over_smb(int variant) {
    (void)variant;
    int64_t file;
    const char *path = test_path("file");
    write_file(path, "old");
    CHECK_IS(hf_create(test_path("new"), 0666, &file), 0);
    CHECK_IS(unlink(test_path("new")), 0);
    pretend_file_system(0xfe534d42);
    CHECK_IS(hf_replace(file, test_path("new"), path, 0), -ENOENT);
    CHECK_IS(close((int)file), 0);
}

static void reads_what_another_machine_created(int variant) {
    (void)variant;
    int64_t file;
    pretend_nfs();
    created_there = test_path("created elsewhere");
    CHECK_IS(hf_open_to_read(created_there, &file), -ENOENT);
    write_file(created_there, "new");
    has_asked = false;
    CHECK_IS(hf_open_to_read(created_there, &file), 1);
    CHECK_IS(close((int)file), 0);
    created_there = NULL;
}

#endif

/* ------------------------------------------------------------------------------------------------------------------ *
 * Things that are no files
 */

static void refuses_a_symbolic_link(int variant) {
    (void)variant;
    write_file(test_path("target"), "");
    CHECK_IS(symlink("target", test_path("link")), 0);
    CHECK_IS(try_path(test_path("link"), 0), HF_SYMLINK);
    CHECK_IS(symlink("nowhere", test_path("dangling")), 0);
    CHECK_IS(try_path(test_path("dangling"), 0), HF_SYMLINK);
    CHECK(!file_exists(test_path("nowhere")));
}

static void refuses_a_fifo(int variant) {
    (void)variant;
    CHECK_IS(mkfifo(test_path("fifo"), 0644), 0);
    CHECK_IS(try_path(test_path("fifo"), 0), HF_NOT_A_FILE);
}

static void refuses_a_device(int variant) {
    (void)variant;
    CHECK_IS(try_path("/dev/null", 0), HF_NOT_A_FILE);
}

static void refuses_a_socket(int variant) {
    (void)variant;
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    snprintf(address.sun_path, sizeof address.sun_path, "%.100s", test_path("socket"));
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    CHECK_IS(bind(fd, (struct sockaddr *)&address, sizeof address), 0);
    CHECK_IS(try_path(test_path("socket"), 0), HF_NOT_A_FILE);
    close(fd);
}

static void reports_a_long_name(int variant) {
    (void)variant;
    char name[300];
    memset(name, 'x', sizeof name - 1);
    name[sizeof name - 1] = '\0';
    CHECK_IS(try_path(test_path(name), 0), -ENAMETOOLONG);
}

/* ------------------------------------------------------------------------------------------------------------------ *
 * Opening
 */

static int (*real_open)(const char *path, int flags, unsigned mode);
static int open_errors[2]; /* for reading and writing, for reading */
static int opened_flags, last_opened, interruptions;

static int failing_open(const char *path, int flags, unsigned mode) {
    int error = open_errors[(flags & O_ACCMODE) == O_RDONLY];
    if (error == EINTR && interruptions-- <= 0)
        error = 0;
    if (error != 0) {
        errno = error;
        return -1;
    }
    opened_flags = flags;
    return last_opened = real_open(path, flags, mode);
}

static void make_open_fail(int writing, int reading) {
    real_open = (int (*)(const char *, int, unsigned))hf_sys_get("open");
    open_errors[0] = writing;
    open_errors[1] = reading;
    hf_sys_set("open", (void *)failing_open);
}

static void locks_a_read_only_file(int error) {
    write_file(test_path("lock"), "");
    opened of = open_lock(test_path("lock"), 0644, 0);
    make_open_fail(error, 0);
    CHECK_IS(hf_try(of.lock, HF_EXCLUSIVE), 0);
    CHECK(!is_free(test_path("lock")));
    restore_system();
    close_lock(of);
}

#ifdef __linux__
#define SMB 0xfe534d42

static void expect_refused(int flags, bool given_back) {
    opened of = open_lock(test_path("lock"), 0644, flags);
    CHECK_IS(hf_try(of.lock, HF_EXCLUSIVE), HF_BUSY);
    CHECK_IS(is_free(test_path("lock")), given_back);
    close_lock(of);
}

static void gives_back_what_the_kernel_refused_over_smb(int variant) {
    (void)variant;
    pretend_file_system(SMB);
    keep_what_is_refused(EAGAIN);
    expect_refused(0, true);
}

static void gives_back_nothing_that_the_server_refused(int variant) {
    (void)variant;
    pretend_file_system(SMB);
    keep_what_is_refused(EACCES);
    expect_refused(0, false);
}

static void gives_back_no_ofd_lock_over_smb(int variant) {
    (void)variant;
    pretend_file_system(SMB);
    keep_what_is_refused(EAGAIN);
    expect_refused(HF_OFD, false);
}

static void gives_back_nothing_on_this_machine(int variant) {
    (void)variant;
    keep_what_is_refused(EAGAIN);
    expect_refused(0, false);
}

static int access_of(const opened *of) {
    return fcntl((int)hf_descriptor(of->lock), F_GETFL) & O_ACCMODE;
}

/* Where a file is to be had for reading, processes of a machine share one handle with a server of SMB. */
static void shares_no_handle_over_smb(int flags) {
    int descriptors = open_files();
    pretend_file_system(SMB);
    opened of = open_lock(test_path("lock"), 0644, flags);
    CHECK_IS(hf_try(of.lock, HF_EXCLUSIVE), 0);
    CHECK_IS(access_of(&of), flags & HF_OFD ? O_RDWR : O_WRONLY);
    CHECK_IS(open_files(), descriptors + 1);
    close_lock(of);
}

/* No descriptor is left for the second one. */
static int only_the_first_open(const char *path, int flags, unsigned mode) {
    if ((flags & O_ACCMODE) == O_WRONLY) {
        errno = EMFILE;
        return -1;
    }
    return open(path, flags, mode);
}

static void reports_that_it_cannot_be_opened_again_over_smb(int variant) {
    (void)variant;
    int descriptors = open_files();
    pretend_file_system(SMB);
    hf_sys_set("open", (void *)only_the_first_open);
    opened of = open_lock(test_path("lock"), 0644, 0);
    CHECK_IS(hf_try(of.lock, HF_EXCLUSIVE), -EMFILE);
    CHECK_IS(open_files(), descriptors);
    close_lock(of);
}

static void locks_a_read_only_file_over_smb(int variant) {
    (void)variant;
    write_file(test_path("lock"), "");
    pretend_file_system(SMB);
    opened of = open_lock(test_path("lock"), 0644, 0);
    make_open_fail(EACCES, 0);
    CHECK_IS(hf_try(of.lock, HF_EXCLUSIVE), 0);
    CHECK_IS(access_of(&of), O_RDONLY);
    restore_system();
    close_lock(of);
}
#endif

static void names_the_first_error(int variant) {
    (void)variant;
    write_file(test_path("lock"), "");
    make_open_fail(EACCES, ENOENT);
    CHECK_IS(try_path(test_path("lock"), 0), -EACCES);
    restore_system();
    make_open_fail(EROFS, ENOENT);
    CHECK_IS(try_path(test_path("missing"), 0), -EROFS);
}

static void ofd_needs_a_writable_file(int variant) {
    (void)variant;
    write_file(test_path("lock"), "");
    opened of = open_lock(test_path("lock"), 0644, HF_OFD);
    make_open_fail(EACCES, 0);
    CHECK_IS(hf_try(of.lock, HF_EXCLUSIVE), HF_READ_ONLY);
    CHECK_IS(hf_try(of.lock, HF_SHARED), 0);
    restore_system();
    close_lock(of);
}

static void is_not_inherited(int variant) {
    (void)variant;
    opened of = open_lock(test_path("lock"), 0644, 0);
    make_open_fail(0, 0);
    CHECK_IS(hf_try(of.lock, HF_EXCLUSIVE), 0);
    CHECK(opened_flags & O_CLOEXEC);
    CHECK(fcntl(last_opened, F_GETFD) & FD_CLOEXEC);
    close_lock(of);
}

static void open_goes_on_when_interrupted(int variant) {
    (void)variant;
    opened of = open_lock(test_path("lock"), 0644, 0);
    interruptions = 3;
    make_open_fail(EINTR, 0);
    CHECK_IS(hf_try(of.lock, HF_EXCLUSIVE), 0);
    close_lock(of);
}

static void obeys_mode_and_umask(int flags) {
    mode_t before = umask(027);
    opened of = open_lock(test_path("lock"), 0666, flags);
    CHECK_IS(hf_try(of.lock, HF_EXCLUSIVE), 0);
    struct stat status;
    CHECK_IS(stat(test_path("lock"), &status), 0);
    CHECK_IS(status.st_mode & 0777, flags & HF_EXACT_MODE ? 0666 : 0640);
    close_lock(of);
    CHECK_IS(chmod(test_path("lock"), 0604), 0);
    of = open_lock(test_path("lock"), 0666, flags); /* only who creates a file sets its mode */
    CHECK_IS(hf_try(of.lock, HF_EXCLUSIVE), 0);
    CHECK_IS(stat(test_path("lock"), &status), 0);
    CHECK_IS(status.st_mode & 0777, 0604);
    close_lock(of);
    umask(before);
}

/* ------------------------------------------------------------------------------------------------------------------ *
 * No descriptors left
 */

#define IDLE 3
#define MOST 4000

/* Use all descriptors up. How many it took; the limit is lowered, or that would be a long loop. */
static int use_up(int *descriptors, struct rlimit *before) {
    CHECK_IS(getrlimit(RLIMIT_NOFILE, before), 0);
    struct rlimit low = *before;
    low.rlim_cur = 200;
    CHECK_IS(setrlimit(RLIMIT_NOFILE, &low), 0);
    int count = 0;
    while (count < MOST && (descriptors[count] = dup(1)) >= 0)
        count++;
    return count;
}

static void closes_idle_files_when_descriptors_run_out(int variant) {
    (void)variant;
    static int descriptors[MOST];
    struct rlimit before;
    hf_pool *pool = hf_pool_new(8, 0);
    hf_lock *locks[IDLE + 1];
    for (int i = 0; i <= IDLE; i++) {
        char name[16];
        snprintf(name, sizeof name, "%d", i);
        locks[i] = hf_lock_new(pool, test_path(name), 0644, 0);
        if (i < IDLE) {
            CHECK_IS(hf_try(locks[i], HF_EXCLUSIVE), 0);
            CHECK_IS(hf_release(locks[i]), 0);
        }
    }
    int count = use_up(descriptors, &before);
    CHECK_IS(hf_try(locks[IDLE], HF_EXCLUSIVE), 0);
    CHECK_IS(hf_pool_idle(pool), IDLE - 1);
    for (int i = 0; i < IDLE; i++) /* two files are still idle: the first was closed, and opening it costs another */
        CHECK_IS(hf_try(locks[i], HF_EXCLUSIVE), i < IDLE - 1 ? 0 : -EMFILE);
    for (int i = 0; i < count; i++)
        close(descriptors[i]);
    CHECK_IS(setrlimit(RLIMIT_NOFILE, &before), 0);
    for (int i = 0; i <= IDLE; i++)
        hf_lock_free(locks[i]);
    hf_pool_free(pool);
}

static void reports_that_descriptors_ran_out(int variant) {
    (void)variant;
    make_open_fail(EMFILE, EMFILE);
    CHECK_IS(try_path(test_path("lock"), 0), -EMFILE);
    restore_system();
    make_open_fail(ENFILE, ENFILE);
    CHECK_IS(try_path(test_path("lock"), 0), -ENFILE);
}

/* ------------------------------------------------------------------------------------------------------------------ *
 * The locking call fails
 */

static int (*real_flock)(int fd, int operation);
static int flock_operation, flock_error, flock_times;

static int failing_flock(int fd, int operation) {
    if ((operation & flock_operation) && flock_times-- > 0) {
        errno = flock_error;
        return -1;
    }
    return real_flock(fd, operation);
}

static void make_flock_fail(int operation, int error, int times) {
    real_flock = (int (*)(int, int))hf_sys_get("flock");
    flock_operation = operation;
    flock_error = error;
    flock_times = times;
    hf_sys_set("flock", (void *)failing_flock);
}

static void releases_even_when_unlocking_fails(int nested) {
    const char *path = test_path("lock");
    opened of = open_lock(path, 0644, 0);
    CHECK_IS(hf_try(of.lock, HF_EXCLUSIVE), 0);
    if (nested)
        CHECK_IS(hf_try(of.lock, HF_EXCLUSIVE), 0);
    make_flock_fail(LOCK_UN, EIO, 100);
    CHECK_IS(nested ? hf_release_all(of.lock) : hf_release(of.lock), -EIO);
    restore_system();
    CHECK_IS(hf_count(of.lock), 0);
    CHECK(is_free(path));
    CHECK_IS(hf_try(of.lock, HF_EXCLUSIVE), 0);
    close_lock(of);
}

static void says_when_there_are_no_locks(int variant) {
    (void)variant;
    static const int errors[] = {ENOLCK, ENOSYS, EOPNOTSUPP};
    for (size_t i = 0; i < sizeof errors / sizeof *errors; i++) {
        make_flock_fail(LOCK_EX, errors[i], 1);
        opened of = open_lock(test_path("lock"), 0644, 0);
        CHECK_IS(hf_try(of.lock, HF_EXCLUSIVE), HF_NO_LOCKS);
        CHECK_IS(hf_count(of.lock), 0);
        close_lock(of);
        restore_system();
    }
}

static void an_access_error_means_busy(int variant) {
    (void)variant;
    make_flock_fail(LOCK_EX, EACCES, 1);
    opened of = open_lock(test_path("lock"), 0644, 0);
    CHECK_IS(hf_try(of.lock, HF_EXCLUSIVE), HF_BUSY);
    CHECK_IS(hf_try(of.lock, HF_EXCLUSIVE), 0);
    close_lock(of);
}

static void a_try_goes_on_when_interrupted(int variant) {
    (void)variant;
    make_flock_fail(LOCK_EX | LOCK_UN, EINTR, 3);
    opened of = open_lock(test_path("lock"), 0644, 0);
    CHECK_IS(hf_try(of.lock, HF_EXCLUSIVE), 0);
    flock_times = 3;
    CHECK_IS(hf_release(of.lock), 0);
    CHECK(is_free(test_path("lock")));
    close_lock(of);
}

#else

static void an_open_file_stays(int variant) {
    (void)variant;
    const char *path = test_path("lock");
    opened of = open_lock(path, 0644, 0);
    CHECK_IS(hf_try(of.lock, HF_EXCLUSIVE), 0);
    CHECK(!DeleteFileA(path));
    CHECK(!MoveFileA(path, test_path("moved")));
    CHECK_IS(hf_release(of.lock), 0);
    CHECK(!DeleteFileA(path)); /* idle, but open */
    hf_close_idle(of.lock);
    CHECK(DeleteFileA(path));
    CHECK_IS(hf_try(of.lock, HF_EXCLUSIVE), 0);
    CHECK(file_exists(path));
    close_lock(of);
}

static void a_file_being_moved_is_busy(int variant) {
    (void)variant;
    const char *path = test_path("lock");
    HANDLE mover =
        CreateFileA(path, DELETE, FILE_SHARE_READ | FILE_SHARE_WRITE | FILE_SHARE_DELETE, NULL, CREATE_NEW, 0, NULL);
    CHECK(mover != INVALID_HANDLE_VALUE);
    CHECK_IS(try_path(path, 0), HF_BUSY);
    CloseHandle(mover);
    CHECK_IS(try_path(path, 0), 0);
}

static void a_file_pending_deletion_is_busy(int variant) {
    (void)variant;
    const char *path = test_path("lock");
    HANDLE other = CreateFileA(path, GENERIC_READ, FILE_SHARE_READ | FILE_SHARE_WRITE | FILE_SHARE_DELETE, NULL,
                               CREATE_NEW, 0, NULL);
    HANDLE doomed =
        CreateFileA(path, DELETE, FILE_SHARE_READ | FILE_SHARE_WRITE | FILE_SHARE_DELETE, NULL, OPEN_EXISTING, 0, NULL);
    FILE_DISPOSITION_INFO remove = {.DeleteFile = TRUE};
    CHECK(SetFileInformationByHandle(doomed, FileDispositionInfo, &remove, sizeof remove));
    CloseHandle(doomed);
    int rc = try_path(path, 0);
    CHECK(rc == HF_BUSY || rc == 0); /* 0 where the name vanishes at once */
    CloseHandle(other);
    CHECK_IS(try_path(path, 0), 0);
}

static HANDLE WINAPI pending_CreateFileW(const WCHAR *path, DWORD access, DWORD share, SECURITY_ATTRIBUTES *security,
                                         DWORD how, DWORD flags, HANDLE model) {
    (void)path, (void)access, (void)share, (void)security, (void)how, (void)flags, (void)model;
    SetLastError(ERROR_ACCESS_DENIED);
    return INVALID_HANDLE_VALUE;
}

static LONG WINAPI pending_status(void) {
    return (LONG)0xc0000056; /* STATUS_DELETE_PENDING */
}

static void a_file_pending_deletion_is_missing_to_readers(int variant) {
    (void)variant;
    int64_t file;
    hf_sys_set("CreateFileW", (void *)pending_CreateFileW);
    CHECK_IS(hf_open_to_read(test_path("log"), &file), -EACCES);
    hf_sys_set("RtlGetLastNtStatus", (void *)pending_status);
    CHECK_IS(hf_open_to_read(test_path("log"), &file), -ENOENT);
}

static void a_replaced_file_is_open_to_all(int variant) {
    (void)variant;
    const char *path = test_path("settings"), *scratch = test_path("scratch");
    int64_t file;
    write_file(path, "old");
    CHECK_IS(hf_create(scratch, 0666, &file), 0);
    CHECK_IS(hf_replace(file, scratch, path, 0), 0);
    /* Like open() of C and Python, which share no deletion; and `file` is still open. */
    HANDLE reader = CreateFileA(path, GENERIC_READ, FILE_SHARE_READ | FILE_SHARE_WRITE, NULL, OPEN_EXISTING, 0, NULL);
    CHECK(reader != INVALID_HANDLE_VALUE);
    CloseHandle(reader);
    CloseHandle((HANDLE)(intptr_t)file);
}

static void locks_a_read_only_file(int variant) {
    (void)variant;
    const char *path = test_path("lock");
    write_file(path, "");
    CHECK(SetFileAttributesA(path, FILE_ATTRIBUTE_READONLY));
    opened of = open_lock(path, 0644, 0);
    CHECK_IS(hf_try(of.lock, HF_EXCLUSIVE), 0);
    CHECK_IS(process_wait(process_start("try", path, "0", "0", "0", NULL)), 1);
    close_lock(of);
    CHECK(SetFileAttributesA(path, FILE_ATTRIBUTE_NORMAL));
}

static void refuses_a_device(int variant) {
    (void)variant;
    CHECK_IS(try_path("NUL", 0), HF_NOT_A_FILE);
}

static void creates_for_the_owner_alone(int variant) {
    (void)variant;
    opened of = open_lock(test_path("lock"), 0600, HF_EXACT_MODE);
    CHECK_IS(hf_try(of.lock, HF_EXCLUSIVE), 0);
    CHECK_IS(hf_release(of.lock), 0);
    hf_close_idle(of.lock);
    CHECK_IS(hf_try(of.lock, HF_EXCLUSIVE), 0); /* the owner still may */
    close_lock(of);
}

static void refuses_what_is_not_utf8(int variant) {
    (void)variant;
    static const char *const names[] = {
        "\x80",             /* a continuation alone */
        "\xc3",             /* cut off */
        "\xe2\x82",         /* cut off */
        "\xc0\xaf",         /* longer than needed */
        "\xe0\x80\xaf",     /* longer than needed */
        "\xf0\x80\x80\xaf", /* longer than needed */
        "\xf4\x90\x80\x80", /* past the last character */
        "\xff",
    };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        CHECK_IS(try_path(test_path(names[i]), 0), -EINVAL);
}

/* Seen by the system, not by a file system: Wine cannot store a lone surrogate. */
static WCHAR seen[8][16];
static unsigned looks;

static HANDLE WINAPI noting_CreateFileW(const WCHAR *path, DWORD access, DWORD share, SECURITY_ATTRIBUTES *attributes,
                                        DWORD how, DWORD flags, HANDLE model) {
    (void)access, (void)share, (void)attributes, (void)how, (void)flags, (void)model;
    wcsncpy(seen[looks++ % 8], path, 15);
    SetLastError(ERROR_PATH_NOT_FOUND);
    return INVALID_HANDLE_VALUE;
}

static void converts_every_name_exactly(int variant) {
    (void)variant;
    static const struct {
        const char *utf8;
        const WCHAR utf16[4];
    } names[] = {
        {"a", {'a'}},
        {"\xc3\xa4", {0xe4}},
        {"\xef\xbf\xbd", {0xfffd}},
        {"\xed\xa0\x80", {0xd800}},
        {"\xed\xbf\xbf", {0xdfff}},
        {"\xf0\x9f\x98\x80", {0xd83d, 0xde00}},
        {"\xf4\x8f\xbf\xbf", {0xdbff, 0xdfff}},
    };
    hf_sys_set("CreateFileW", (void *)noting_CreateFileW);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        looks = 0;
        CHECK_IS(try_path(names[i].utf8, 0), -ENOENT);
        CHECK_IS(wcscmp(seen[0], names[i].utf16), 0);
    }
}

static void locks_at_the_end_of_a_long_path(int variant) {
    (void)variant;
    char path[2000], part[101];
    WCHAR wide[2000], *end;
    memset(part, 'x', 100);
    part[100] = '\0';
    snprintf(path, sizeof path, "%s", test_path("long"));
    make_directory(path);
    wcscpy(wide, L"\\\\?\\");
    MultiByteToWideChar(CP_UTF8, 0, path, -1, wide + 4, 1000);
    for (WCHAR *slash = wide + 4; *slash != 0; slash++)
        if (*slash == L'/')
            *slash = L'\\';
    for (int i = 0; i < 4; i++) {
        snprintf(path + strlen(path), 200, "/%s", part);
        end = wide + wcslen(wide);
        wcscpy(end, L"\\");
        MultiByteToWideChar(CP_UTF8, 0, part, -1, end + 1, 200);
        CHECK(CreateDirectoryW(wide, NULL));
    }
    snprintf(path + strlen(path), 200, "/../%s/lock", part);
    CHECK_IS(try_path(path, 0), 0);
    end = wide + wcslen(wide);
    wcscpy(end, L"\\lock");
    CHECK(DeleteFileW(wide));
    for (int i = 0; i < 4; i++) {
        *wcsrchr(wide, L'\\') = 0;
        CHECK(RemoveDirectoryW(wide));
    }
}

static void reports_a_long_name(int variant) {
    (void)variant;
    static char name[5000];
    memset(name, 'x', sizeof name - 1);
    CHECK_IS(try_path(name, 0), -ENAMETOOLONG);
}

#endif

const check_test files_tests[] = {
    {"a file keeps its content", keeps_the_content, 0},
    {"a directory at the path is refused", refuses_a_directory, 0},
    {"the directory of the file must exist", wants_the_directory, 0},
#ifndef _WIN32
    {"a lock file that was removed or renamed comes back", comes_back_when_removed, 0},
    {"whoever holds the file now at the path is respected", sees_the_holder_of_the_new_file, 0},
    {"a file that is replaced at every attempt counts as busy", gives_up_on_a_file_that_never_stays, 0},
#ifdef __linux__
    {"a lock file that another machine has renamed is no longer locked", sees_what_another_machine_renamed, 0},
    {"a file that another machine has created is read", reads_what_another_machine_created, 0},
    {"a file that is open over SMB counts as busy when it is replaced", is_busy_over_smb, EACCES},
    {"a file that a server of SMB calls busy counts as busy when it is replaced", is_busy_over_smb, EBUSY},
    {"a file that is open and removed over SMB counts as busy when it is replaced", is_busy_over_smb, ENOENT},
    {"a new file that is missing over SMB is reported", misses_the_new_file_over_smb, 0},
    {"a file that may not be replaced over NFS is reported", is_reported_over_nfs, EACCES},
    {"a file is replaced when no descriptor is left", replaces_without_a_descriptor_left, 0},
    {"a new file takes nothing over from one that it must not replace",
     takes_nothing_over_from_what_it_must_not_replace, 0},
#endif
    {"a symbolic link is refused, and its target not created", refuses_a_symbolic_link, 0},
    {"a FIFO is refused, without waiting for its other end", refuses_a_fifo, 0},
    {"a device is refused", refuses_a_device, 0},
    {"a socket is refused", refuses_a_socket, 0},
    {"a name that is too long is reported", reports_a_long_name, 0},
    {"a file we may only read can be locked", locks_a_read_only_file, EACCES},
    {"a file on a read-only file system can be locked", locks_a_read_only_file, EROFS},
#ifdef __linux__
    {"a lock file shares no handle over SMB", shares_no_handle_over_smb, 0},
    {"a lock file may share its handle over SMB with OFD locks", shares_no_handle_over_smb, HF_OFD},
    {"a file we may only read can be locked over SMB", locks_a_read_only_file_over_smb, 0},
    {"a lock file that cannot be opened again over SMB is reported", reports_that_it_cannot_be_opened_again_over_smb,
     0},
    {"a lock that the kernel refuses over SMB is given back", gives_back_what_the_kernel_refused_over_smb, 0},
    {"a lock that the server refuses is not given back", gives_back_nothing_that_the_server_refused, 0},
    {"an OFD lock that is refused over SMB is not given back", gives_back_no_ofd_lock_over_smb, 0},
    {"a lock that is refused on this machine is not given back", gives_back_nothing_on_this_machine, 0},
#endif
    {"a file that can be opened in no way is reported with the first reason", names_the_first_error, 0},
    {"OFD locks a read-only file only for reading, and says so", ofd_needs_a_writable_file, 0},
    {"no other program inherits a lock file", is_not_inherited, 0},
    {"opening goes on when a signal interrupts it", open_goes_on_when_interrupted, 0},
    {"a new file has the mode less the umask", obeys_mode_and_umask, 0},
    {"a new file has exactly the mode when that is asked for", obeys_mode_and_umask, HF_EXACT_MODE},
    {"idle files are closed when descriptors run out", closes_idle_files_when_descriptors_run_out, 0},
    {"running out of descriptors is reported when nothing is idle", reports_that_descriptors_ran_out, 0},
    {"a lock is free even when unlocking it fails", releases_even_when_unlocking_fails, 0},
    {"a nested lock is free even when unlocking it fails", releases_even_when_unlocking_fails, 1},
    {"a file system without locks is reported", says_when_there_are_no_locks, 0},
    {"what a network file system calls no access is a busy lock", an_access_error_means_busy, 0},
    {"trying and unlocking go on when a signal interrupts them", a_try_goes_on_when_interrupted, 0},
#else
    {"an open lock file can be neither removed nor renamed", an_open_file_stays, 0},
    {"a file that somebody has open to move it counts as busy", a_file_being_moved_is_busy, 0},
    {"a file that is pending deletion counts as busy", a_file_pending_deletion_is_busy, 0},
    {"a file that is pending deletion is missing to readers", a_file_pending_deletion_is_missing_to_readers, 0},
    {"a file that was just replaced can be opened like any other", a_replaced_file_is_open_to_all, 0},
    {"a read-only file can be locked", locks_a_read_only_file, 0},
    {"a reserved name is refused", refuses_a_device, 0},
    {"a file for its owner alone is created", creates_for_the_owner_alone, 0},
    {"a path that is not UTF-8 is refused", refuses_what_is_not_utf8, 0},
    {"lone surrogates and all other characters are converted exactly", converts_every_name_exactly, 0},
    {"a file at the end of a long path is locked", locks_at_the_end_of_a_long_path, 0},
    {"a path that is too long is reported", reports_a_long_name, 0},
#endif
    {NULL, NULL, 0},
};
