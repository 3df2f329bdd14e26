/* Markers: that they appear whole, that one remover wins, and what is left when something fails. */
#include "check.h"

#ifndef _WIN32
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>
#else
#include <windows.h>
#endif

static int create(const char *text, hf_marker **marker) {
    return hf_marker_create(test_path("marker"), test_path("scratch"), text, strlen(text), 0644, 0, marker);
}

/* Check the record of a marker, whoever opened it, and as often as it is read. */
static void expect_record(hf_marker *marker, const char *text) {
    for (int i = 0; i < 2; i++) {
        char record[64] = "";
        int64_t age = -1;
        CHECK_IS(hf_marker_read(marker, record, sizeof record - 1, &age), strlen(text));
        CHECK(strcmp(record, text) == 0);
        CHECK(age > -5 * SECONDS && age < 3600 * SECONDS);
    }
}

static void expect_nothing_left(void) {
    CHECK_IS(count_files(test_path(".")), 0);
}

static void lives_and_dies(int variant) {
    (void)variant;
    hf_marker *marker, *seen, *second;
    CHECK_IS(create("me", &marker), 0);
    CHECK_IS(count_files(test_path(".")), 1);
    CHECK_IS(create("you", &second), HF_BUSY);
    CHECK_IS(hf_marker_open(test_path("marker"), &seen), 0);
    expect_record(seen, "me");
    expect_record(marker, "me");
    hf_marker_close(&seen);
    CHECK_IS(hf_marker_remove(marker, 0), 0);
    hf_marker_close(&marker);
    hf_marker_close(&marker); /* once more, to no effect */
    expect_nothing_left();
    CHECK_IS(hf_marker_open(test_path("marker"), &seen), -ENOENT);
    CHECK_IS(create("you", &second), 0);
    expect_record(second, "you");
    CHECK_IS(hf_marker_remove(second, 1), 0);
    hf_marker_close(&second);
    expect_nothing_left();
}

static void reads_as_much_as_wanted(int variant) {
    (void)variant;
    hf_marker *marker;
    char record[4] = "xyz";
    int64_t age;
    CHECK_IS(create("", &marker), 0);
    CHECK_IS(hf_marker_read(marker, record, sizeof record, &age), 0);
    CHECK_IS(hf_marker_remove(marker, 0), 0);
    hf_marker_close(&marker);
    CHECK_IS(create("abcdef", &marker), 0);
    CHECK_IS(hf_marker_read(marker, record, 2, &age), 2);
    CHECK(memcmp(record, "abz", 3) == 0);
    hf_marker_close(&marker);
    CHECK(strcmp(read_text(test_path("marker")), "abcdef") == 0);
}

static void is_refused_by_what_is_no_file(int variant) {
    (void)variant;
    hf_marker *marker;
    make_directory(test_path("marker"));
    CHECK_IS(create("me", &marker), HF_BUSY);
    CHECK_IS(hf_marker_open(test_path("marker"), &marker), HF_NOT_A_FILE);
    CHECK_IS(count_files(test_path(".")), 1);
#ifndef _WIN32
    CHECK_IS(rmdir(test_path("marker")), 0);
    CHECK_IS(symlink("nowhere", test_path("marker")), 0);
    CHECK_IS(create("me", &marker), HF_BUSY);
    CHECK_IS(hf_marker_open(test_path("marker"), &marker), HF_SYMLINK);
    CHECK_IS(unlink(test_path("marker")), 0);
    CHECK_IS(mkfifo(test_path("marker"), 0644), 0);
    CHECK_IS(create("me", &marker), HF_BUSY);
    CHECK_IS(hf_marker_open(test_path("marker"), &marker), HF_NOT_A_FILE);
    CHECK_IS(count_files(test_path(".")), 1);
#endif
}

static void wants_the_directory(int variant) {
    (void)variant;
    hf_marker *marker;
    CHECK_IS(hf_marker_create(test_path("no/marker"), test_path("no/scratch"), "", 0, 0644, 0, &marker), -ENOENT);
    CHECK_IS(hf_marker_open(test_path("no/marker"), &marker), -ENOENT);
}

static void removed_by_somebody_else(int variant) {
    (void)variant;
    hf_marker *mine, *seen, *next;
    CHECK_IS(create("mine", &mine), 0);
    CHECK_IS(hf_marker_open(test_path("marker"), &seen), 0);
    CHECK_IS(hf_marker_remove(seen, 0), 0);
    hf_marker_close(&seen);
    CHECK_IS(create("next", &next), 0);
    CHECK_IS(hf_marker_remove(mine, 0), -ENOENT);
    CHECK_IS(hf_marker_remove(mine, 1), -ENOENT);
    expect_record(next, "next");
    CHECK(strcmp(read_text(test_path("marker")), "next") == 0);
    hf_marker_close(&mine);
    hf_marker_close(&next);
}

/* ------------------------------------------------------------------------------------------------------------------ *
 * Many
 */

#define REMOVERS 4

typedef struct {
    atomic_int *here;
    hf_marker *marker;
    int result;
} remover;

static void remove_together(void *argument) {
    remover *self = argument;
    CHECK_IS(hf_marker_open(test_path("marker"), &self->marker), 0);
    atomic_fetch_add(self->here, 1);
    while (atomic_load(self->here) < REMOVERS)
        ;
    self->result = hf_marker_remove(self->marker, 0);
}

static void one_remover_wins(int variant) {
    (void)variant;
    for (int round = 0; round < (check_slow ? 5 : 100); round++) {
        hf_marker *marker;
        atomic_int here = 0;
        remover removers[REMOVERS];
        thread *threads[REMOVERS];
        CHECK_IS(create("doomed", &marker), 0);
        hf_marker_close(&marker);
        for (int i = 0; i < REMOVERS; i++) {
            removers[i] = (remover){.here = &here};
            threads[i] = thread_start(remove_together, &removers[i]);
        }
        int winners = 0;
        for (int i = 0; i < REMOVERS; i++) {
            thread_join(threads[i]);
            winners += removers[i].result == 0;
            CHECK(removers[i].result == 0 || removers[i].result == -ENOENT || removers[i].result == HF_BUSY);
            hf_marker_close(&removers[i].marker);
        }
        CHECK_IS(winners, 1);
        expect_nothing_left();
    }
}

static void processes_lose_no_count(int variant) {
    (void)variant;
    process *started[4];
    int times = check_slow ? 5 : 50;
    char text[16], scratch[32];
    snprintf(text, sizeof text, "%d", times);
    write_number(test_path("x"), 0);
    for (int i = 0; i < 4; i++) {
        snprintf(scratch, sizeof scratch, "scratch%d", i);
        started[i] =
            process_start("count-by-marker", test_path("marker"), test_path(scratch), text, test_path("x"), NULL);
    }
    for (int i = 0; i < 4; i++)
        CHECK_IS(process_wait(started[i]), 0);
    CHECK_IS(read_number(test_path("x")), 4 * times);
    CHECK_IS(count_files(test_path(".")), 1);
}

static void read_all_the_time(void *argument) {
    atomic_bool *over = argument;
    while (!atomic_load(over)) {
        hf_marker *marker;
        char record[64] = "";
        int64_t age;
        int rc = hf_marker_open(test_path("marker"), &marker);
        if (rc == 0) {
            CHECK_IS(hf_marker_read(marker, record, sizeof record, &age), 10);
            CHECK(memcmp(record, "the record", 10) == 0);
            hf_marker_close(&marker);
        } else {
            CHECK(rc == -ENOENT || rc == HF_BUSY);
        }
    }
}

static void is_never_seen_without_its_record(int variant) {
    (void)variant;
    atomic_bool over = false;
    thread *reader = thread_start(read_all_the_time, &over);
    for (int i = 0; i < (check_slow ? 10 : 300); i++) {
        hf_marker *marker;
        int rc;
        while ((rc = create("the record", &marker)) == HF_BUSY)
            rest(1); /* the reader still has the last one open */
        CHECK_IS(rc, 0);
        while ((rc = hf_marker_remove(marker, 0)) == HF_BUSY)
            rest(1);
        CHECK_IS(rc, 0);
        hf_marker_close(&marker);
    }
    atomic_store(&over, true);
    thread_join(reader);
    expect_nothing_left();
}

#ifndef _WIN32

/* ------------------------------------------------------------------------------------------------------------------ *
 * Failures
 */

static void obeys_mode_and_umask(int flags) {
    mode_t before = umask(027);
    hf_marker *marker;
    struct stat status;
    CHECK_IS(hf_marker_create(test_path("marker"), test_path("scratch"), "", 0, 0666, flags, &marker), 0);
    CHECK_IS(stat(test_path("marker"), &status), 0);
    CHECK_IS(status.st_mode & 0777, flags & HF_EXACT_MODE ? 0666 : 0640);
    hf_marker_close(&marker);
    umask(before);
}

static int (*real_open)(const char *path, int flags, unsigned mode);
static ssize_t (*real_pread)(int fd, void *buffer, size_t size, off_t offset);
static ssize_t (*real_write)(int fd, const void *buffer, size_t size);
static int error_to_give, error_of_rename, reads_to_fail, writes_to_cut;

static int open_without_unnamed_files(const char *path, int flags, unsigned mode) {
    if ((flags & O_TMPFILE) == O_TMPFILE) {
        errno = EOPNOTSUPP;
        return -1;
    }
    return real_open(path, flags, mode);
}

static int failing_link(const char *from, const char *to) {
    (void)from, (void)to;
    errno = error_to_give;
    return -1;
}

static int failing_rename(const char *from, const char *to) {
    (void)from, (void)to;
    errno = error_of_rename;
    return -1;
}

static int failing_link_unnamed(int fd, const char *to) {
    (void)fd, (void)to;
    errno = error_to_give;
    return -1;
}

static ssize_t failing_pread(int fd, void *buffer, size_t size, off_t offset) {
    if (reads_to_fail-- <= 0)
        return real_pread(fd, buffer, size, offset);
    errno = error_to_give;
    return -1;
}

static ssize_t failing_write(int fd, const void *buffer, size_t size) {
    if (writes_to_cut-- > 0 && size > 1)
        return real_write(fd, buffer, 1);
    if (error_to_give == 0)
        return real_write(fd, buffer, size);
    errno = error_to_give;
    return -1;
}

static int failing_fstat(int fd, struct stat *status) {
    (void)fd, (void)status;
    errno = error_to_give;
    return -1;
}

static int failing_fdatasync(int fd) {
    (void)fd;
    errno = error_to_give;
    return -1;
}

static int no_lstat(const char *path, struct stat *status) {
    (void)path, (void)status;
    errno = ENOENT;
    return -1;
}

static void without_unnamed_files(void) {
    real_open = (int (*)(const char *, int, unsigned))hf_sys_get("open");
    hf_sys_set("open", (void *)open_without_unnamed_files);
}

static void expect_it_works(void) {
    hf_marker *marker = NULL;
    CHECK_IS(create("me", &marker), 0);
    CHECK_IS(count_files(test_path(".")), 1);
    if (marker == NULL)
        return;
    expect_record(marker, "me");
    hf_sys_set("lstat", (void *)no_lstat); /* nor does it replace what appears after the first look */
    hf_marker *second;
    CHECK_IS(create("you", &second), HF_BUSY);
    hf_sys_set("lstat", (void *)lstat);
    CHECK_IS(count_files(test_path(".")), 1);
    expect_record(marker, "me");
    CHECK_IS(hf_marker_remove(marker, 0), 0);
    hf_marker_close(&marker);
    expect_nothing_left();
}

static void does_not_replace(int variant) {
    (void)variant;
    expect_it_works();
}

static void works_without_unnamed_files(int variant) {
    (void)variant;
    without_unnamed_files();
    expect_it_works();
}

static void works_without_proc(int variant) {
    (void)variant;
    error_to_give = ENOENT;
    hf_sys_set("link_unnamed", (void *)failing_link_unnamed);
    expect_it_works();
}

static void works_without_hard_links(int error) {
    without_unnamed_files();
    error_to_give = error;
    hf_sys_set("link", (void *)failing_link);
    expect_it_works();
}

#ifdef __linux__
/* As over SMB, where one machine cannot open a file by two names at once, keeps open what was closed until it is removed,
   and has a rename replace what is there. */

static int smb_open(const char *path, int flags, unsigned mode) {
    if (strcmp(path, test_path("marker")) == 0 && file_exists(test_path("scratch"))) {
        errno = EINVAL;
        return -1;
    }
    return open_without_unnamed_files(path, flags, mode);
}

static void over_smb(void) {
    without_unnamed_files();
    hf_sys_set("open", (void *)smb_open);
    hf_sys_set("rename_new", (void *)rename);
    pretend_file_system(0xfe534d42);
}

static void can_be_read_over_smb(int variant) {
    (void)variant;
    over_smb();
    hf_marker *marker;
    CHECK_IS(create("me", &marker), 0);
    CHECK_IS(count_files(test_path(".")), 1);
    expect_record(marker, "me");
    CHECK_IS(hf_marker_remove(marker, 0), 0);
    hf_marker_close(&marker);
    expect_nothing_left();
}

static int late_link(const char *from, const char *to) {
    (void)from;
    write_file(to, "you"); /* another machine was faster */
    errno = EEXIST;
    return -1;
}

static void does_not_replace_over_smb(int variant) {
    (void)variant;
    over_smb();
    hf_sys_set("link", (void *)late_link);
    hf_marker *marker;
    int before = open_files();
    CHECK_IS(create("me", &marker), HF_BUSY);
    CHECK(strcmp(read_text(test_path("marker")), "you") == 0);
    CHECK_IS(count_files(test_path(".")), 1);
    CHECK_IS(open_files(), before);
}

static void needs_hard_links_over_smb(int variant) {
    (void)variant;
    over_smb();
    error_to_give = EOPNOTSUPP;
    hf_sys_set("link", (void *)failing_link);
    hf_marker *marker;
    CHECK_IS(create("me", &marker), HF_NO_LOCKS);
    expect_nothing_left();
}

static void can_be_removed_by_others_if_refused_over_smb(int variant) {
    (void)variant;
    over_smb();
    hf_marker *marker;
    CHECK_IS(create("me", &marker), 0);
    keep_what_is_refused(EAGAIN);
    CHECK_IS(hf_marker_remove(marker, 0), HF_BUSY);
    CHECK(is_free(test_path("marker")));
    CHECK_IS(hf_marker_remove(marker, 1), 0);
    hf_marker_close(&marker);
    expect_nothing_left();
}
#endif

static void is_busy_while_its_remover_keeps_readers_away(int variant) {
    (void)variant;
    char record[8];
    int64_t age;
    hf_marker *marker;
    CHECK_IS(create("me", &marker), 0);
    real_pread = (ssize_t (*)(int, void *, size_t, off_t))hf_sys_get("pread");
    error_to_give = EACCES;
    reads_to_fail = 1;
    hf_sys_set("pread", (void *)failing_pread);
    CHECK_IS(hf_marker_read(marker, record, sizeof record, &age), HF_BUSY);
    CHECK_IS(hf_marker_read(marker, record, sizeof record, &age), 2);
    CHECK_IS(hf_marker_remove(marker, 0), 0);
    hf_marker_close(&marker);
}

/* As over sshfs, where a link is another inode. */
static int copying_link(const char *from, const char *to) {
    char text[64];
    int source = open(from, O_RDONLY), copy = open(to, O_WRONLY | O_CREAT | O_EXCL, 0644);
    ssize_t length = source >= 0 && copy >= 0 ? read(source, text, sizeof text) : -1;
    int rc = length >= 0 && write(copy, text, (size_t)length) == length ? 0 : -1;
    int error = errno;
    close(source);
    close(copy);
    errno = error;
    return rc;
}

static void where_a_link_is_another_inode(void) {
    without_unnamed_files();
    hf_sys_set("link", (void *)copying_link);
}

static void works_where_a_link_is_another_inode(int variant) {
    (void)variant;
    where_a_link_is_another_inode();
    expect_it_works();
}

static void works_where_a_look_at_the_record_is_interrupted(int variant) {
    (void)variant;
    where_a_link_is_another_inode();
    real_pread = (ssize_t (*)(int, void *, size_t, off_t))hf_sys_get("pread");
    error_to_give = EINTR;
    reads_to_fail = 3;
    hf_sys_set("pread", (void *)failing_pread);
    expect_it_works();
}

/* As over SFTP, where a name that is taken by the time of the link is refused like a link that cannot be made. */
static int refused_link(const char *from, const char *to) {
    (void)from;
    close(open(to, O_WRONLY | O_CREAT, 0644));
    errno = EPERM;
    return -1;
}

static void is_busy_where_a_taken_name_is_refused(int variant) {
    (void)variant;
    without_unnamed_files();
    error_of_rename = EINVAL;
    hf_sys_set("link", (void *)refused_link);
    hf_sys_set("rename_new", (void *)failing_rename);
    hf_marker *marker;
    CHECK_IS(create("me", &marker), HF_BUSY);
    CHECK_IS(count_files(test_path(".")), 1);
}

static void says_when_no_name_can_be_given(int error) {
    without_unnamed_files();
    error_to_give = EPERM;
    error_of_rename = error;
    hf_sys_set("link", (void *)failing_link);
    hf_sys_set("rename_new", (void *)failing_rename);
    hf_marker *marker;
    CHECK_IS(create("me", &marker), HF_NO_LOCKS);
    expect_nothing_left();
}

/* One call fails: nothing is left, and the error is the result. By way of an unnamed file, or a scratch file. */
static void fails_cleanly(const char *name, void *function, bool by_scratch, int error) {
    if (by_scratch)
        without_unnamed_files();
    error_to_give = error;
    writes_to_cut = 0;
    CHECK_IS(hf_sys_set(name, function), 0);
    int before = open_files();
    hf_marker *marker;
    CHECK_IS(create("me", &marker), -error);
    CHECK_IS(open_files(), before);
    expect_nothing_left();
    restore_system();
    expect_it_works();
}

static void leaves_nothing_when_it_fails(int by_scratch) {
    fails_cleanly("write", (void *)failing_write, by_scratch, ENOSPC);
    fails_cleanly("write", (void *)failing_write, by_scratch, EIO);
    fails_cleanly("fdatasync", (void *)failing_fdatasync, by_scratch, EIO);
    fails_cleanly("fstat", (void *)failing_fstat, by_scratch, EIO);
    if (by_scratch)
        fails_cleanly("link", (void *)failing_link, true, EIO);
    else
        fails_cleanly("link_unnamed", (void *)failing_link_unnamed, false, EIO);
}

static void leaves_nothing_when_its_record_cannot_be_seen(int error) {
    where_a_link_is_another_inode();
    real_pread = (ssize_t (*)(int, void *, size_t, off_t))hf_sys_get("pread");
    reads_to_fail = 1;
    fails_cleanly("pread", (void *)failing_pread, false, error);
}

static void completes_short_writes(int variant) {
    (void)variant;
    real_write = (ssize_t (*)(int, const void *, size_t))hf_sys_get("write");
    error_to_give = 0;
    writes_to_cut = 3;
    hf_sys_set("write", (void *)failing_write);
    hf_marker *marker;
    CHECK_IS(create("a longer record", &marker), 0);
    expect_record(marker, "a longer record");
    hf_marker_close(&marker);
}

static int no_flock(int fd, int operation) {
    (void)fd, (void)operation;
    errno = ENOLCK;
    return -1;
}

static void asks_for_care_without_locks(int variant) {
    (void)variant;
    hf_marker *marker;
    CHECK_IS(create("me", &marker), 0);
    hf_sys_set("flock", (void *)no_flock);
    CHECK_IS(hf_marker_remove(marker, 0), HF_NO_LOCKS);
    CHECK(file_exists(test_path("marker")));
    CHECK_IS(hf_marker_remove(marker, 1), 0);
    hf_marker_close(&marker);
    expect_nothing_left();
}

static void is_busy_while_somebody_removes_it(int variant) {
    (void)variant;
    hf_marker *marker;
    CHECK_IS(create("me", &marker), 0);
    int fd = open(test_path("marker"), O_RDWR);
    CHECK_IS(flock(fd, LOCK_EX), 0);
    CHECK_IS(hf_marker_remove(marker, 0), HF_BUSY);
    close(fd);
    CHECK_IS(hf_marker_remove(marker, 0), 0);
    hf_marker_close(&marker);
}

#else

static void is_readable_by_ordinary_programs(int variant) {
    (void)variant;
    hf_marker *marker;
    CHECK_IS(create("me", &marker), 0);
    HANDLE reader = CreateFileA(test_path("marker"), GENERIC_READ, FILE_SHARE_READ | FILE_SHARE_WRITE, NULL,
                                OPEN_EXISTING, 0, NULL);
    CHECK(reader != INVALID_HANDLE_VALUE);
    CHECK_IS(hf_marker_remove(marker, 0), HF_BUSY); /* it does not let others remove what it reads */
    CloseHandle(reader);
    CHECK_IS(hf_marker_remove(marker, 0), 0);
    hf_marker_close(&marker);
    expect_nothing_left();
}

static void is_busy_while_somebody_removes_it(int variant) {
    (void)variant;
    hf_marker *marker;
    CHECK_IS(create("me", &marker), 0);
    HANDLE doomed =
        CreateFileA(test_path("marker"), DELETE, FILE_SHARE_READ | FILE_SHARE_WRITE, NULL, OPEN_EXISTING, 0, NULL);
    CHECK(doomed != INVALID_HANDLE_VALUE);
    CHECK_IS(hf_marker_remove(marker, 0), HF_BUSY);
    CloseHandle(doomed);
    CHECK_IS(hf_marker_remove(marker, 0), 0);
    hf_marker_close(&marker);
}

#endif

const check_test markers_tests[] = {
    {"a marker is created once, read, removed and created again", lives_and_dies, 0},
    {"a record is read up to the capacity", reads_as_much_as_wanted, 0},
    {"something at the path that is no marker is kept and named", is_refused_by_what_is_no_file, 0},
    {"the directory of a marker must exist", wants_the_directory, 0},
    {"a marker that somebody else removed is not removed again, nor its successor", removed_by_somebody_else, 0},
    {"of many removers one wins", one_remover_wins, 0},
    {"processes that count under a marker lose no count", processes_lose_no_count, 0},
    {"a marker is never seen without its record", is_never_seen_without_its_record, 0},
    {"a marker is busy while somebody removes it", is_busy_while_somebody_removes_it, 0},
#ifndef _WIN32
    {"a marker has the mode less the umask", obeys_mode_and_umask, 0},
    {"a marker has exactly the mode when that is asked for", obeys_mode_and_umask, HF_EXACT_MODE},
    {"a marker never replaces another", does_not_replace, 0},
    {"a marker is created without unnamed files", works_without_unnamed_files, 0},
    {"a marker is created without /proc", works_without_proc, 0},
    {"a marker is created without hard links (EPERM)", works_without_hard_links, EPERM},
    {"a marker is created without hard links (EOPNOTSUPP)", works_without_hard_links, EOPNOTSUPP},
    {"a marker is removed where a link is another inode", works_where_a_link_is_another_inode, 0},
    {"a marker is created where a look at its record is interrupted", works_where_a_look_at_the_record_is_interrupted,
     0},
#ifdef __linux__
    {"a marker can be read over SMB, where an open file cannot be opened by another name", can_be_read_over_smb, 0},
    {"a marker never replaces another over SMB, where a rename does", does_not_replace_over_smb, 0},
    {"a marker needs hard links over SMB", needs_hard_links_over_smb, 0},
    {"a marker can be removed by others when SMB has refused it", can_be_removed_by_others_if_refused_over_smb, 0},
#endif
    {"a marker is busy while who removes it keeps readers away", is_busy_while_its_remover_keeps_readers_away, 0},
    {"a marker is busy where a name that is taken is refused like a link", is_busy_where_a_taken_name_is_refused, 0},
    {"a file system without any way to name a file is reported (EINVAL)", says_when_no_name_can_be_given, EINVAL},
    {"a file system without any way to name a file is reported (ENOSYS)", says_when_no_name_can_be_given, ENOSYS},
    {"nothing is left of a marker that cannot be created", leaves_nothing_when_it_fails, 0},
    {"nothing is left of a marker that cannot be created by way of a scratch file", leaves_nothing_when_it_fails, 1},
    {"nothing is left of a marker whose record cannot be seen", leaves_nothing_when_its_record_cannot_be_seen, EIO},
    {"a record that is written in pieces is complete", completes_short_writes, 0},
    {"without locks a remover is asked to make sure it is alone", asks_for_care_without_locks, 0},
#else
    {"a marker is readable by ordinary programs, who delay its removal", is_readable_by_ordinary_programs, 0},
#endif
    {NULL, NULL, 0},
};
