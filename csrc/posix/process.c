/* When a process started: what tells it from a later one of the same pid. */
#include "../internal.h"
#include "sys.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#if defined(__linux__)

/* Read a small file whole, as text. The length, or -errno. */
static ssize_t read_text(const char *path, char *text, size_t capacity) {
    int fd = hf__sys.open(path, O_RDONLY | O_CLOEXEC, 0);
    if (fd < 0)
        return -errno;
    ssize_t length = hf__sys.read(fd, text, capacity - 1);
    int error = errno;
    hf__sys.close(fd);
    if (length < 0)
        return -error;
    text[length] = '\0';
    return length;
}

static int64_t start_of(int64_t pid) {
    char path[64], text[1024];
    /* By its first thread, which starts with it: for /proc/PID/stat of itself, a process under QEMU gets an answer that QEMU
       makes up, with another start than everybody else sees. */
    snprintf(path, sizeof path, "/proc/%lld/task/%lld/stat", (long long)pid, (long long)pid);
    if (read_text(path, text, sizeof text) <= 0)
        return -ENOSYS; /* it exists; /proc is missing or hidden from us */
    /* "pid (name) state ...": the name may itself contain spaces and parentheses, the last one ends it. After the state,
       field 3, come the number of threads as field 20 and the start time as field 22. */
    const char *field = strrchr(text, ')');
    if (field == NULL || field[1] != ' ' || field[2] == '\0')
        return -ENOSYS;
    char state = field[2];
    long long threads, start;
    if (sscanf(field + 3, "%*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %lld %*d %lld", &threads,
               &start) != 2)
        return -ENOSYS;
    /* A process whose first thread has ended is a zombie by its state while other threads live on. */
    if ((state == 'Z' || state == 'X') && threads <= 1)
        return -ESRCH;
    return start;
}

#elif defined(__APPLE__)

#include <sys/sysctl.h>

static int64_t start_of(int64_t pid) {
    int name[4] = {CTL_KERN, KERN_PROC, KERN_PROC_PID, (int)pid};
    struct kinfo_proc info;
    size_t size = sizeof info;
    if (hf__sys.sysctl(name, 4, &info, &size, NULL, 0) != 0)
        return -ENOSYS;
    if (size == 0 || info.kp_proc.p_stat == SZOMB)
        return -ESRCH;
    const struct timeval *start = &info.kp_proc.p_starttime;
    return (int64_t)start->tv_sec * 1000000 + start->tv_usec;
}

#else

static int64_t start_of(int64_t pid) {
    (void)pid;
    return -ENOSYS;
}

#endif

int64_t hf_process_start(int64_t pid) {
    if (pid <= 0 || pid > INT32_MAX)
        return -ESRCH; /* to kill(), 0 and negative numbers are groups of processes */
    /* First of all kill(): a process hidden in /proc must not pass for dead. */
    if (hf__sys.kill((pid_t)pid, 0) != 0 && errno == ESRCH)
        return -ESRCH;
    return start_of(pid);
}
