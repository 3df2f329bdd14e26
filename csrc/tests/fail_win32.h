/* For test_injection.c: every entry of the table that can fail, made to fail. */
#include <windows.h>

bool fails(const char *name);

static const int errors[] = {ERROR_GEN_FAILURE,       ERROR_ACCESS_DENIED, ERROR_TOO_MANY_OPEN_FILES,
                             ERROR_SHARING_VIOLATION, ERROR_NOT_SUPPORTED, ERROR_NOT_ENOUGH_MEMORY};

#define REMOVING_CALL "DeleteFileW"

static void set_error(int error) {
    SetLastError((DWORD)error);
}

static int64_t own_pid(void) {
    return GetCurrentProcessId();
}

/* Function `name` of the table returns `failed` when it is to fail. */
#define FAILING(type, name, parameters, arguments, failed)                                                             \
    static type(WINAPI *real_##name) parameters;                                                                       \
    static type WINAPI failing_##name parameters {                                                                     \
        return fails(#name) ? failed : real_##name arguments;                                                          \
    }

/* One that has done its work all the same. */
#define FAILING_AFTERWARDS(type, name, parameters, arguments, failed)                                                  \
    static type(WINAPI *real_##name) parameters;                                                                       \
    static type WINAPI failing_##name parameters {                                                                     \
        type result = real_##name arguments;                                                                           \
        return fails(#name) ? failed : result;                                                                         \
    }

FAILING(HANDLE, CreateFileW,
        (const WCHAR *path, DWORD access, DWORD share, SECURITY_ATTRIBUTES *security, DWORD how, DWORD flags,
         HANDLE model),
        (path, access, share, security, how, flags, model), INVALID_HANDLE_VALUE)
FAILING_AFTERWARDS(BOOL, CloseHandle, (HANDLE handle), (handle), FALSE)
FAILING(DWORD, GetFileType, (HANDLE file), (file), FILE_TYPE_UNKNOWN)
FAILING(BOOL, GetFileInformationByHandle, (HANDLE file, BY_HANDLE_FILE_INFORMATION *information), (file, information),
        FALSE)
FAILING(BOOL, GetFileInformationByHandleEx,
        (HANDLE file, FILE_INFO_BY_HANDLE_CLASS kind, void *information, DWORD size), (file, kind, information, size),
        FALSE)
FAILING(BOOL, SetFileInformationByHandle, (HANDLE file, FILE_INFO_BY_HANDLE_CLASS kind, void *information, DWORD size),
        (file, kind, information, size), FALSE)
FAILING(BOOL, GetFileSecurityW,
        (const WCHAR *path, SECURITY_INFORMATION what, PSECURITY_DESCRIPTOR descriptor, DWORD size, DWORD *needed),
        (path, what, descriptor, size, needed), FALSE)
FAILING(BOOL, SetKernelObjectSecurity, (HANDLE object, SECURITY_INFORMATION what, PSECURITY_DESCRIPTOR descriptor),
        (object, what, descriptor), FALSE)
FAILING(DWORD, GetFileAttributesW, (const WCHAR *path), (path), INVALID_FILE_ATTRIBUTES)
FAILING(DWORD, GetFullPathNameW, (const WCHAR *path, DWORD capacity, WCHAR *full, WCHAR **name),
        (path, capacity, full, name), 0)
FAILING(BOOL, ReadFile, (HANDLE file, void *buffer, DWORD size, DWORD *done, OVERLAPPED *overlapped),
        (file, buffer, size, done, overlapped), FALSE)
FAILING(BOOL, WriteFile, (HANDLE file, const void *buffer, DWORD size, DWORD *done, OVERLAPPED *overlapped),
        (file, buffer, size, done, overlapped), FALSE)
FAILING(BOOL, FlushFileBuffers, (HANDLE file), (file), FALSE)
FAILING(BOOL, MoveFileExW, (const WCHAR *from, const WCHAR *to, DWORD flags), (from, to, flags), FALSE)
FAILING(BOOL, DeleteFileW, (const WCHAR *path), (path), FALSE)
FAILING(BOOL, LockFileEx, (HANDLE file, DWORD flags, DWORD reserved, DWORD low, DWORD high, OVERLAPPED *overlapped),
        (file, flags, reserved, low, high, overlapped), FALSE)
FAILING(BOOL, UnlockFileEx, (HANDLE file, DWORD reserved, DWORD low, DWORD high, OVERLAPPED *overlapped),
        (file, reserved, low, high, overlapped), FALSE)
FAILING(HANDLE, CreateEventW, (SECURITY_ATTRIBUTES * security, BOOL manual, BOOL set, const WCHAR *name),
        (security, manual, set, name), NULL)
FAILING(BOOL, SetEvent, (HANDLE event), (event), FALSE)
FAILING(DWORD, WaitForSingleObject, (HANDLE object, DWORD milliseconds), (object, milliseconds), WAIT_FAILED)
FAILING(DWORD, WaitForMultipleObjects, (DWORD count, const HANDLE *objects, BOOL all, DWORD milliseconds),
        (count, objects, all, milliseconds), WAIT_FAILED)
FAILING(HANDLE, CreateWaitableTimerExW, (SECURITY_ATTRIBUTES * security, const WCHAR *name, DWORD flags, DWORD access),
        (security, name, flags, access), NULL)
FAILING(BOOL, SetWaitableTimer,
        (HANDLE timer, const LARGE_INTEGER *due, LONG period, PTIMERAPCROUTINE routine, void *argument, BOOL resume),
        (timer, due, period, routine, argument, resume), FALSE)
FAILING(HANDLE, OpenProcess, (DWORD access, BOOL inherit, DWORD pid), (access, inherit, pid), NULL)
FAILING(BOOL, GetProcessTimes, (HANDLE of, FILETIME *created, FILETIME *ended, FILETIME *kernel, FILETIME *user),
        (of, created, ended, kernel, user), FALSE)
FAILING(DWORD, GetTempPathW, (DWORD capacity, WCHAR *path), (capacity, path), 0)
FAILING(BOOLEAN, RtlGenRandom, (void *buffer, ULONG size), (buffer, size), FALSE)
FAILING(BOOL, ConvertStringSecurityDescriptorToSecurityDescriptorW,
        (const WCHAR *text, DWORD revision, PSECURITY_DESCRIPTOR *descriptor, ULONG *size),
        (text, revision, descriptor, size), FALSE)

#define ENTRY(name) {#name, (void *)failing_##name, &real_##name}

static const struct {
    const char *name;
    void *function;
    void *real; /* where the function behind it is kept */
} failing[] = {
    ENTRY(CreateFileW),
    ENTRY(CloseHandle),
    ENTRY(GetFileType),
    ENTRY(GetFileInformationByHandle),
    ENTRY(GetFileInformationByHandleEx),
    ENTRY(SetFileInformationByHandle),
    ENTRY(GetFileSecurityW),
    ENTRY(SetKernelObjectSecurity),
    ENTRY(GetFileAttributesW),
    ENTRY(GetFullPathNameW),
    ENTRY(ReadFile),
    ENTRY(WriteFile),
    ENTRY(FlushFileBuffers),
    ENTRY(MoveFileExW),
    ENTRY(DeleteFileW),
    ENTRY(LockFileEx),
    ENTRY(UnlockFileEx),
    ENTRY(CreateEventW),
    ENTRY(SetEvent),
    ENTRY(WaitForSingleObject),
    ENTRY(WaitForMultipleObjects),
    ENTRY(CreateWaitableTimerExW),
    ENTRY(SetWaitableTimer),
    ENTRY(OpenProcess),
    ENTRY(GetProcessTimes),
    ENTRY(GetTempPathW),
    ENTRY(RtlGenRandom),
    ENTRY(ConvertStringSecurityDescriptorToSecurityDescriptorW),
};

/* These cannot fail, or not while the arguments are right; and an operation that is going on must be waited for. */
static const char *const infallible[] = {
    "GetOverlappedResult",     "CancelIoEx",   "Sleep",     "QueryPerformanceCounter", "QueryPerformanceFrequency",
    "GetSystemTimeAsFileTime", "GetProcessId", "LocalFree", "RtlGetLastNtStatus",      "RtlDllShutdownInProgress",
};

static bool can_fail(const char *name) {
    for (size_t i = 0; i < sizeof failing / sizeof *failing; i++)
        if (strcmp(failing[i].name, name) == 0)
            return true;
    for (size_t i = 0; i < sizeof infallible / sizeof *infallible; i++)
        if (strcmp(infallible[i], name) == 0)
            return true;
    return false;
}

static void replace_all(void) {
    for (size_t i = 0; i < sizeof failing / sizeof *failing; i++) {
        void *real = hf_sys_get(failing[i].name);
        memcpy(failing[i].real, &real, sizeof real);
        CHECK_IS(hf_sys_set(failing[i].name, failing[i].function), 0);
    }
}
