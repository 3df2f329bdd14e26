/* What the tests need of Windows. */
#ifdef _WIN32

#include "check.h"

#include <process.h>
#include <stdarg.h>
#include <windows.h>

void enter_new_directory(char *path, size_t size) {
    char parent[MAX_PATH];
    GetTempPathA(sizeof parent, parent);
    snprintf(path, size, "%sholdfast-%lu-%lu", parent, (unsigned long)GetCurrentProcessId(),
             (unsigned long)GetTickCount());
    if (!CreateDirectoryA(path, NULL))
        abort();
}

void make_directory(const char *path) {
    CHECK(CreateDirectoryA(path, NULL));
}

void remove_file(const char *path) {
    CHECK(DeleteFileA(path));
}

static int for_each_file(const char *path, bool removing) {
    char pattern[700], name[1000];
    WIN32_FIND_DATAA entry;
    snprintf(pattern, sizeof pattern, "%s/*", path);
    HANDLE listing = FindFirstFileA(pattern, &entry);
    int count = 0;
    if (listing == INVALID_HANDLE_VALUE)
        return 0;
    do {
        if (strcmp(entry.cFileName, ".") == 0 || strcmp(entry.cFileName, "..") == 0)
            continue;
        count++;
        snprintf(name, sizeof name, "%s/%s", path, entry.cFileName);
        if (removing && !DeleteFileA(name))
            RemoveDirectoryA(name);
    } while (FindNextFileA(listing, &entry));
    FindClose(listing);
    return count;
}

void empty_directory(const char *path) {
    for_each_file(path, true);
}

int count_files(const char *path) {
    return for_each_file(path, false);
}

void remove_directory(const char *path) {
    CHECK(RemoveDirectoryA(path));
}

/* The system opens handles of its own for a thread or a process, now and then: they cannot be told from ours. What is
   left open of a file shows when the directory cannot be removed. */
int open_files(void) {
    return 0;
}

bool is_free(const char *path) {
    HANDLE file = CreateFileA(path, GENERIC_READ | GENERIC_WRITE, FILE_SHARE_READ | FILE_SHARE_WRITE, NULL,
                              OPEN_EXISTING, 0, NULL);
    if (file == INVALID_HANDLE_VALUE)
        return GetLastError() == ERROR_FILE_NOT_FOUND;
    OVERLAPPED start = {0};
    bool available = LockFileEx(file, LOCKFILE_EXCLUSIVE_LOCK | LOCKFILE_FAIL_IMMEDIATELY, 0, 1, 0, &start) &&
                     UnlockFileEx(file, 0, 1, 0, &start);
    CloseHandle(file);
    return available;
}

void rest(int milliseconds) {
    Sleep((DWORD)milliseconds);
}

struct thread {
    HANDLE handle;
    void (*run)(void *);
    void *argument;
};

static unsigned __stdcall enter_thread(void *started) {
    thread *self = started;
    self->run(self->argument);
    return 0;
}

thread *thread_start(void (*run)(void *), void *argument) {
    thread *started = malloc(sizeof *started);
    *started = (thread){.run = run, .argument = argument};
    started->handle = (HANDLE)_beginthreadex(NULL, 0, enter_thread, started, 0, NULL);
    if (started->handle == NULL)
        abort();
    return started;
}

void thread_join(thread *started) {
    WaitForSingleObject(started->handle, INFINITE);
    CloseHandle(started->handle);
    free(started);
}

struct process {
    HANDLE handle, to, from;
    DWORD pid;
};

process *process_start(const char *role, ...) {
    char self[MAX_PATH], line[4096];
    GetModuleFileNameA(NULL, self, sizeof self);
    int length = snprintf(line, sizeof line, "\"%s\" -role %s", self, role);
    va_list arguments;
    va_start(arguments, role);
    for (const char *argument; (argument = va_arg(arguments, const char *)) != NULL;)
        length += snprintf(line + length, sizeof line - (size_t)length, " \"%s\"", argument);
    va_end(arguments);

    SECURITY_ATTRIBUTES inherited = {.nLength = sizeof inherited, .bInheritHandle = TRUE};
    STARTUPINFOA startup = {.cb = sizeof startup, .dwFlags = STARTF_USESTDHANDLES};
    PROCESS_INFORMATION information;
    process *started = malloc(sizeof *started);
    if (!CreatePipe(&startup.hStdInput, &started->to, &inherited, 0) ||
        !CreatePipe(&started->from, &startup.hStdOutput, &inherited, 0))
        abort();
    SetHandleInformation(started->to, HANDLE_FLAG_INHERIT, 0);
    SetHandleInformation(started->from, HANDLE_FLAG_INHERIT, 0);
    startup.hStdError = GetStdHandle(STD_ERROR_HANDLE);
    if (!CreateProcessA(NULL, line, NULL, NULL, TRUE, 0, NULL, NULL, &startup, &information))
        abort();
    CloseHandle(startup.hStdInput);
    CloseHandle(startup.hStdOutput);
    CloseHandle(information.hThread);
    started->handle = information.hProcess;
    started->pid = information.dwProcessId;
    return started;
}

bool process_ready(process *started) {
    char byte;
    DWORD length;
    return ReadFile(started->from, &byte, 1, &length, NULL) && length == 1;
}

void process_go(process *started) {
    DWORD length;
    CHECK(WriteFile(started->to, "g", 1, &length, NULL));
}

int64_t process_id(const process *started) {
    return started->pid;
}

#define KILLED 77

int process_wait(process *started) {
    DWORD status = 0;
    CloseHandle(started->to);
    WaitForSingleObject(started->handle, INFINITE);
    GetExitCodeProcess(started->handle, &status);
    CloseHandle(started->from);
    CloseHandle(started->handle);
    free(started);
    return status == KILLED ? -1 : (int)status;
}

void process_kill(process *started) {
    TerminateProcess(started->handle, KILLED);
    CHECK_IS(process_wait(started), -1);
}

void role_ready(void) {
    DWORD length;
    if (!WriteFile(GetStdHandle(STD_OUTPUT_HANDLE), "r", 1, &length, NULL))
        exit(99);
}

void role_await(void) {
    char byte;
    DWORD length;
    ReadFile(GetStdHandle(STD_INPUT_HANDLE), &byte, 1, &length, NULL);
}

static atomic_int attempts;
static BOOL(WINAPI *real_LockFileEx)(HANDLE, DWORD, DWORD, DWORD, DWORD, OVERLAPPED *);

static BOOL WINAPI counting_LockFileEx(HANDLE file, DWORD flags, DWORD reserved, DWORD low, DWORD high,
                                       OVERLAPPED *overlapped) {
    atomic_fetch_add(&attempts, 1);
    return real_LockFileEx(file, flags, reserved, low, high, overlapped);
}

void watch_attempts(void) {
    atomic_store(&attempts, 0);
    real_LockFileEx = (BOOL(WINAPI *)(HANDLE, DWORD, DWORD, DWORD, DWORD, OVERLAPPED *))hf_sys_get("LockFileEx");
    hf_sys_set("LockFileEx", (void *)counting_LockFileEx);
}

void await_attempts(int count) {
    while (atomic_load(&attempts) < count)
        rest(1);
}

#endif
