/* Time, processes, and the table of system calls. */
#include "check.h"

#ifndef _WIN32
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>
#else
#include <windows.h>
#endif

static void time_runs_forward(int variant) {
    (void)variant;
    int64_t last = hf_now();
    for (int i = 0; i < 100000; i++) {
        int64_t now = hf_now();
        if (now < last)
            CHECK(now >= last);
        last = now;
    }
    int64_t before = hf_now();
    rest(20);
    CHECK(hf_now() - before >= 10 * MILLISECONDS);
    CHECK(hf_now() - before < 100 * SECONDS);
}

static int64_t own_pid(void) {
#ifdef _WIN32
    return GetCurrentProcessId();
#else
    return getpid();
#endif
}

static void knows_its_own_start(int variant) {
    (void)variant;
    int64_t start = hf_process_start(own_pid());
    CHECK(start > 0);
    CHECK_IS(hf_process_start(own_pid()), start);
}

static void knows_when_another_process_started(int variant) {
    (void)variant;
    process *other = process_start("stay", NULL);
    CHECK(process_ready(other));
    int64_t start = hf_process_start(process_id(other));
    CHECK(start >= hf_process_start(own_pid()));
    CHECK_IS(hf_process_start(process_id(other)), start);
    process_go(other);
    CHECK_IS(process_wait(other), 0);
}

static void all_see_the_same_start(int variant) {
    (void)variant;
    char pid[24], start[24];
    snprintf(pid, sizeof pid, "%lld", (long long)own_pid());
    snprintf(start, sizeof start, "%lld", (long long)hf_process_start(own_pid()));
    CHECK_IS(process_wait(process_start("see-start", pid, start, NULL)), 0);
}

static void a_dead_process_is_none(int variant) {
    (void)variant;
    process *other = process_start("stay", NULL);
    CHECK(process_ready(other));
    int64_t pid = process_id(other);
    CHECK_IS(process_wait(other), 0);
    CHECK_IS(hf_process_start(pid), -ESRCH);
}

static void impossible_pids_are_none(int variant) {
    (void)variant;
    static const int64_t pids[] = {0, -1, INT64_MIN, INT64_MAX, (int64_t)1 << 32 | 1};
    for (size_t i = 0; i < sizeof pids / sizeof *pids; i++)
        CHECK_IS(hf_process_start(pids[i]), -ESRCH);
}

/* Dead, but still there: nobody has asked for its exit status, or closed its handle. */
static void an_unreaped_process_is_none(int variant) {
    (void)variant;
#ifdef _WIN32
    STARTUPINFOA startup = {.cb = sizeof startup};
    PROCESS_INFORMATION information;
    char self[MAX_PATH], line[MAX_PATH + 32];
    GetModuleFileNameA(NULL, self, sizeof self);
    snprintf(line, sizeof line, "\"%s\" -role none", self);
    CHECK(CreateProcessA(NULL, line, NULL, NULL, FALSE, 0, NULL, NULL, &startup, &information));
    WaitForSingleObject(information.hProcess, INFINITE);
    CHECK_IS(hf_process_start(information.dwProcessId), -ESRCH);
    CloseHandle(information.hProcess);
    CloseHandle(information.hThread);
#else
    process *other = process_start("stay", NULL);
    CHECK(process_ready(other));
    CHECK_IS(kill((pid_t)process_id(other), SIGKILL), 0);
    siginfo_t dead;
    CHECK_IS(waitid(P_PID, (id_t)process_id(other), &dead, WEXITED | WNOWAIT), 0);
    CHECK_IS(hf_process_start(process_id(other)), -ESRCH);
    CHECK_IS(process_wait(other), -1);
#endif
}

#ifdef _WIN32

static void a_pid_is_taken_exactly(int variant) {
    (void)variant;
    for (int i = 1; i < 4; i++)
        CHECK_IS(hf_process_start(own_pid() + i), -ESRCH); /* which OpenProcess() takes for ours */
}

static HANDLE WINAPI no_OpenProcess(DWORD access, BOOL inherit, DWORD pid) {
    (void)access, (void)inherit, (void)pid;
    SetLastError(ERROR_ACCESS_DENIED);
    return NULL;
}

static void a_hidden_process_lives(int variant) {
    (void)variant;
    hf_sys_set("OpenProcess", (void *)no_OpenProcess);
    CHECK_IS(hf_process_start(own_pid()), -ENOSYS);
}

#else

static int no_open(const char *path, int flags, unsigned mode) {
    (void)path, (void)flags, (void)mode;
    errno = ENOENT;
    return -1;
}

static int no_kill(pid_t pid, int number) {
    (void)pid, (void)number;
    errno = EPERM;
    return -1;
}

static void a_hidden_process_lives(int variant) {
    (void)variant;
    hf_sys_set("open", (void *)no_open);
    CHECK_IS(hf_process_start(own_pid()), -ENOSYS);
}

static void a_process_of_somebody_else_lives(int variant) {
    (void)variant;
    hf_sys_set("kill", (void *)no_kill);
    CHECK(hf_process_start(own_pid()) > 0);
}

#endif

static void another_function(void) {
}

static void every_call_has_a_name(int variant) {
    (void)variant;
    size_t count = 0;
    for (const char *name; (name = hf_sys_name(count)) != NULL; count++) {
        void *function = hf_sys_get(name);
        CHECK(function != NULL);
        CHECK_IS(hf_sys_set(name, (void *)another_function), 0);
        CHECK(hf_sys_get(name) == (void *)another_function);
        CHECK_IS(hf_sys_set(name, function), 0);
        CHECK(hf_sys_get(name) == function);
        for (size_t other = 0; other < count; other++)
            CHECK(strcmp(hf_sys_name(other), name) != 0);
    }
    CHECK(count > 10);
    CHECK(hf_sys_name(count + 1) == NULL);
    CHECK(hf_sys_name((size_t)-1) == NULL);
    CHECK(hf_sys_get("no such call") == NULL);
    CHECK_IS(hf_sys_set("no such call", NULL), -ENOENT);
}

const check_test system_tests[] = {
    {"time runs forward, in nanoseconds", time_runs_forward, 0},
    {"this process has a start", knows_its_own_start, 0},
    {"another process has a start, whatever its name", knows_when_another_process_started, 0},
    {"another process sees the same start as the process itself", all_see_the_same_start, 0},
    {"a dead process has none", a_dead_process_is_none, 0},
    {"a process that is dead but still known has none", an_unreaped_process_is_none, 0},
    {"an impossible pid is nobody's", impossible_pids_are_none, 0},
    {"a process whose start is hidden lives", a_hidden_process_lives, 0},
#ifdef _WIN32
    {"a pid is taken exactly", a_pid_is_taken_exactly, 0},
#else
    {"a process that may not be signalled lives", a_process_of_somebody_else_lives, 0},
#endif
    {"every system call has a name of its own and can be replaced", every_call_has_a_name, 0},
    {NULL, NULL, 0},
};
