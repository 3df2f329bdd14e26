/* What the tests need of a POSIX system. */
#ifndef _WIN32

#include "check.h"

#include <dirent.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <stdarg.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#ifdef __linux__
#include <sys/vfs.h>
#endif

extern char **environ;

void enter_new_directory(char *path, size_t size) {
    const char *parent = getenv("TMPDIR");
    snprintf(path, size, "%s/holdfast-XXXXXX", parent != NULL ? parent : "/tmp");
    if (mkdtemp(path) == NULL)
        abort();
}

void make_directory(const char *path) {
    CHECK_IS(mkdir(path, 0755), 0);
}

void remove_file(const char *path) {
    CHECK_IS(unlink(path), 0);
}

static int for_each_file(const char *path, bool removing) {
    DIR *listing = opendir(path);
    int count = 0;
    for (struct dirent *entry; listing != NULL && (entry = readdir(listing)) != NULL;) {
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
            continue;
        count++;
        if (removing && unlinkat(dirfd(listing), entry->d_name, 0) != 0)
            (void)unlinkat(dirfd(listing), entry->d_name, AT_REMOVEDIR);
    }
    if (listing != NULL)
        closedir(listing);
    return count;
}

void empty_directory(const char *path) {
    for_each_file(path, true);
}

int count_files(const char *path) {
    return for_each_file(path, false);
}

void remove_directory(const char *path) {
    CHECK_IS(rmdir(path), 0);
}

#ifdef __linux__
static uint32_t pretended_type;

static int pretended_fstat(int fd, struct stat *status) {
    int rc = fstat(fd, status);
    status->st_dev = PRETENDED_DEVICE;
    return rc;
}

static int pretended_lstat(const char *path, struct stat *status) {
    int rc = lstat(path, status);
    status->st_dev = PRETENDED_DEVICE;
    return rc;
}

static int pretended_fstatfs(int fd, struct statfs *status) {
    (void)fd;
    *status = (struct statfs){.f_type = (__typeof__(status->f_type))pretended_type};
    return 0;
}

void pretend_file_system(uint32_t type) {
    pretended_type = type;
    hf_sys_set("fstat", (void *)pretended_fstat);
    hf_sys_set("lstat", (void *)pretended_lstat);
    hf_sys_set("fstatfs", (void *)pretended_fstatfs);
}

static int refusal;

static int keeping_flock(int fd, int operation) {
    int rc = flock(fd, operation);
    if (rc != 0 || operation == LOCK_UN)
        return rc;
    errno = refusal;
    return -1;
}

static int keeping_fcntl_lock(int fd, int command, struct flock *lock) {
    int rc = fcntl(fd, command, lock);
    if (rc != 0 || lock->l_type == F_UNLCK)
        return rc;
    errno = refusal;
    return -1;
}

void keep_what_is_refused(int error) {
    refusal = error;
    hf_sys_set("flock", (void *)keeping_flock);
    hf_sys_set("fcntl_lock", (void *)keeping_fcntl_lock);
}
#endif

int open_files(void) {
    return count_files("/dev/fd") - 1; /* less the one that looks */
}

bool is_free(const char *path) {
    int fd = open(path, O_RDWR | O_CLOEXEC);
    if (fd < 0)
        return true;
    struct flock whole = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    bool available = flock(fd, LOCK_EX | LOCK_NB) == 0;
#ifdef F_OFD_SETLK
    available = available && fcntl(fd, F_OFD_SETLK, &whole) == 0;
#endif
    (void)whole;
    close(fd);
    return available;
}

void rest(int milliseconds) {
    struct timespec length = {.tv_sec = milliseconds / 1000, .tv_nsec = milliseconds % 1000 * 1000000L};
    nanosleep(&length, NULL);
}

struct thread {
    pthread_t id;
    void (*run)(void *);
    void *argument;
};

static void *enter_thread(void *started) {
    thread *self = started;
    self->run(self->argument);
    return NULL;
}

thread *thread_start(void (*run)(void *), void *argument) {
    thread *started = malloc(sizeof *started);
    *started = (thread){.run = run, .argument = argument};
    if (pthread_create(&started->id, NULL, enter_thread, started) != 0)
        abort();
    return started;
}

void thread_join(thread *started) {
    pthread_join(started->id, NULL);
    free(started);
}

struct process {
    pid_t pid;
    int to, from;
};

static const char *self(void) {
    static char path[1024];
    ssize_t length = readlink("/proc/self/exe", path, sizeof path - 1);
    if (length <= 0)
        abort();
    return path;
}

process *process_start(const char *role, ...) {
    const char *arguments[16] = {self(), "-role", role};
    va_list rest_of;
    va_start(rest_of, role);
    for (int i = 3; i < 15 && (arguments[i] = va_arg(rest_of, const char *)) != NULL; i++)
        ;
    va_end(rest_of);

    int in[2], out[2];
    if (pipe2(in, O_CLOEXEC) != 0 || pipe2(out, O_CLOEXEC) != 0)
        abort();
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, in[0], 0);
    posix_spawn_file_actions_adddup2(&actions, out[1], 1);
    process *started = malloc(sizeof *started);
    *started = (process){.to = in[1], .from = out[0]};
    if (posix_spawn(&started->pid, arguments[0], &actions, NULL, (char *const *)arguments, environ) != 0)
        abort();
    posix_spawn_file_actions_destroy(&actions);
    close(in[0]);
    close(out[1]);
    return started;
}

bool process_ready(process *started) {
    char byte;
    return read(started->from, &byte, 1) == 1;
}

void process_go(process *started) {
    CHECK_IS(write(started->to, "g", 1), 1);
}

int64_t process_id(const process *started) {
    return started->pid;
}

int process_wait(process *started) {
    int status;
    close(started->to);
    waitpid(started->pid, &status, 0);
    close(started->from);
    free(started);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

void process_kill(process *started) {
    kill(started->pid, SIGKILL);
    CHECK_IS(process_wait(started), -1);
}

void role_ready(void) {
    if (write(1, "r", 1) != 1)
        exit(99);
}

void role_await(void) {
    char byte;
    if (read(0, &byte, 1) < 0)
        exit(99);
}

static atomic_int attempts;
static int (*real_flock)(int fd, int operation);
static int (*real_fcntl_lock)(int fd, int command, struct flock *lock);

static int counting_flock(int fd, int operation) {
    atomic_fetch_add(&attempts, 1);
    return real_flock(fd, operation);
}

static int counting_fcntl_lock(int fd, int command, struct flock *lock) {
    atomic_fetch_add(&attempts, 1);
    return real_fcntl_lock(fd, command, lock);
}

void watch_attempts(void) {
    atomic_store(&attempts, 0);
    real_flock = (int (*)(int, int))hf_sys_get("flock");
    hf_sys_set("flock", (void *)counting_flock);
    real_fcntl_lock = (int (*)(int, int, struct flock *))hf_sys_get("fcntl_lock");
    hf_sys_set("fcntl_lock", (void *)counting_fcntl_lock);
}

void await_attempts(int count) {
    while (atomic_load(&attempts) < count)
        rest(1);
}

#endif
