/* The floor: what the system calls of a lock cost when nothing is added to them. */
#include <fcntl.h>
#include <stdint.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec * 1e-9;
}

/* Seconds for each of `rounds` cycles on a descriptor that stays open: lock, look whether the path still names it,
   unlock. */
double held(const char *path, int rounds) {
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    struct stat status;
    double start = now();
    for (int i = 0; i < rounds; i++) {
        flock(fd, LOCK_EX | LOCK_NB);
        lstat(path, &status);
        flock(fd, LOCK_UN);
    }
    double seconds = now() - start;
    close(fd);
    return seconds / rounds;
}

/* The same without looking at the path: what a lock costs that does not notice a removed or replaced lock file. */
double unchecked(const char *path, int rounds) {
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    double start = now();
    for (int i = 0; i < rounds; i++) {
        flock(fd, LOCK_EX | LOCK_NB);
        flock(fd, LOCK_UN);
    }
    double seconds = now() - start;
    close(fd);
    return seconds / rounds;
}

/* The first with a descriptor opened and closed each time. */
double opened(const char *path, int rounds) {
    struct stat status;
    double start = now();
    for (int i = 0; i < rounds; i++) {
        int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
        fstat(fd, &status);
        flock(fd, LOCK_EX | LOCK_NB);
        lstat(path, &status);
        flock(fd, LOCK_UN);
        close(fd);
    }
    return (now() - start) / rounds;
}

/* Seconds for each of `rounds` appends on a descriptor that stays open: the first with a write inside. */
double appended(const char *path, int rounds, const char *line, size_t length) {
    int fd = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0644);
    struct stat status;
    ssize_t written = (ssize_t)length;
    double start = now();
    for (int i = 0; i < rounds && written == (ssize_t)length; i++) {
        flock(fd, LOCK_EX | LOCK_NB);
        lstat(path, &status);
        written = write(fd, line, length);
        flock(fd, LOCK_UN);
    }
    double seconds = now() - start;
    close(fd);
    return seconds / rounds;
}
