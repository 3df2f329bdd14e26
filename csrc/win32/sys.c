/* The table of system calls, and the few calls that have no import library on every compiler. */
#include "sys.h"

#include <errno.h>
#include <sddl.h>

/* RtlGenRandom() under the name that advapi32 exports. */
BOOLEAN NTAPI SystemFunction036(PVOID buffer, ULONG size);

/* ERROR_DISK_QUOTA_EXCEEDED, which some headers lack. */
#define DISK_QUOTA_EXCEEDED 1295

typedef void (*any_function)(void);

/* A function of ntdll, which every process has loaded. */
static any_function from_ntdll(const char *name) {
    HMODULE ntdll = GetModuleHandleW(L"ntdll.dll");
    return ntdll != NULL ? (any_function)GetProcAddress(ntdll, name) : NULL;
}

/* The finer status behind GetLastError(), or 0. */
static LONG WINAPI sys_RtlGetLastNtStatus(void) {
    LONG(WINAPI * function)(void) = (LONG(WINAPI *)(void))from_ntdll("RtlGetLastNtStatus");
    return function != NULL ? function() : 0;
}

static BOOLEAN WINAPI sys_RtlDllShutdownInProgress(void) {
    BOOLEAN(WINAPI * function)(void) = (BOOLEAN(WINAPI *)(void))from_ntdll("RtlDllShutdownInProgress");
    return function != NULL ? function() : FALSE;
}

struct hf__sys hf__sys = {
    .CreateFileW = CreateFileW,
    .CloseHandle = CloseHandle,
    .GetFileType = GetFileType,
    .GetFileInformationByHandle = GetFileInformationByHandle,
    .GetFileInformationByHandleEx = GetFileInformationByHandleEx,
    .SetFileInformationByHandle = SetFileInformationByHandle,
    .GetFileSecurityW = GetFileSecurityW,
    .SetKernelObjectSecurity = SetKernelObjectSecurity,
    .GetFileAttributesW = GetFileAttributesW,
    .GetFullPathNameW = GetFullPathNameW,
    .ReadFile = ReadFile,
    .WriteFile = WriteFile,
    .FlushFileBuffers = FlushFileBuffers,
    .MoveFileExW = MoveFileExW,
    .DeleteFileW = DeleteFileW,
    .LockFileEx = LockFileEx,
    .UnlockFileEx = UnlockFileEx,
    .GetOverlappedResult = GetOverlappedResult,
    .CancelIoEx = CancelIoEx,
    .CreateEventW = CreateEventW,
    .SetEvent = SetEvent,
    .WaitForSingleObject = WaitForSingleObject,
    .WaitForMultipleObjects = WaitForMultipleObjects,
    .CreateWaitableTimerExW = CreateWaitableTimerExW,
    .SetWaitableTimer = SetWaitableTimer,
    .Sleep = Sleep,
    .QueryPerformanceCounter = QueryPerformanceCounter,
    .QueryPerformanceFrequency = QueryPerformanceFrequency,
    .GetSystemTimeAsFileTime = GetSystemTimeAsFileTime,
    .OpenProcess = OpenProcess,
    .GetProcessId = GetProcessId,
    .GetProcessTimes = GetProcessTimes,
    .GetTempPathW = GetTempPathW,
    .RtlGenRandom = SystemFunction036,
    .ConvertStringSecurityDescriptorToSecurityDescriptorW = ConvertStringSecurityDescriptorToSecurityDescriptorW,
    .LocalFree = LocalFree,
    .RtlGetLastNtStatus = sys_RtlGetLastNtStatus,
    .RtlDllShutdownInProgress = sys_RtlDllShutdownInProgress,
};

const hf__sys_entry hf__sys_entries[] = {
    HF__SYS_ENTRY(CreateFileW),
    HF__SYS_ENTRY(CloseHandle),
    HF__SYS_ENTRY(GetFileType),
    HF__SYS_ENTRY(GetFileInformationByHandle),
    HF__SYS_ENTRY(GetFileInformationByHandleEx),
    HF__SYS_ENTRY(SetFileInformationByHandle),
    HF__SYS_ENTRY(GetFileSecurityW),
    HF__SYS_ENTRY(SetKernelObjectSecurity),
    HF__SYS_ENTRY(GetFileAttributesW),
    HF__SYS_ENTRY(GetFullPathNameW),
    HF__SYS_ENTRY(ReadFile),
    HF__SYS_ENTRY(WriteFile),
    HF__SYS_ENTRY(FlushFileBuffers),
    HF__SYS_ENTRY(MoveFileExW),
    HF__SYS_ENTRY(DeleteFileW),
    HF__SYS_ENTRY(LockFileEx),
    HF__SYS_ENTRY(UnlockFileEx),
    HF__SYS_ENTRY(GetOverlappedResult),
    HF__SYS_ENTRY(CancelIoEx),
    HF__SYS_ENTRY(CreateEventW),
    HF__SYS_ENTRY(SetEvent),
    HF__SYS_ENTRY(WaitForSingleObject),
    HF__SYS_ENTRY(WaitForMultipleObjects),
    HF__SYS_ENTRY(CreateWaitableTimerExW),
    HF__SYS_ENTRY(SetWaitableTimer),
    HF__SYS_ENTRY(Sleep),
    HF__SYS_ENTRY(QueryPerformanceCounter),
    HF__SYS_ENTRY(QueryPerformanceFrequency),
    HF__SYS_ENTRY(GetSystemTimeAsFileTime),
    HF__SYS_ENTRY(OpenProcess),
    HF__SYS_ENTRY(GetProcessId),
    HF__SYS_ENTRY(GetProcessTimes),
    HF__SYS_ENTRY(GetTempPathW),
    HF__SYS_ENTRY(RtlGenRandom),
    HF__SYS_ENTRY(ConvertStringSecurityDescriptorToSecurityDescriptorW),
    HF__SYS_ENTRY(LocalFree),
    HF__SYS_ENTRY(RtlGetLastNtStatus),
    HF__SYS_ENTRY(RtlDllShutdownInProgress),
    {NULL, NULL},
};

int hf__error(DWORD error) {
    switch (error) {
    case ERROR_SHARING_VIOLATION:
    case ERROR_LOCK_VIOLATION:
    case ERROR_DELETE_PENDING:
        return HF_BUSY;
    case ERROR_FILE_NOT_FOUND:
    case ERROR_PATH_NOT_FOUND:
    case ERROR_INVALID_DRIVE:
    case ERROR_BAD_NETPATH:
    case ERROR_BAD_NET_NAME:
    case ERROR_BAD_PATHNAME:
        return -ENOENT;
    case ERROR_ACCESS_DENIED:
    case ERROR_CURRENT_DIRECTORY:
    case ERROR_NETWORK_ACCESS_DENIED:
    case ERROR_CANNOT_MAKE:
    case ERROR_PRIVILEGE_NOT_HELD:
        return -EACCES;
    case ERROR_TOO_MANY_OPEN_FILES:
        return -EMFILE;
    case ERROR_FILE_EXISTS:
    case ERROR_ALREADY_EXISTS:
        return -EEXIST;
    case ERROR_HANDLE_DISK_FULL:
    case ERROR_DISK_FULL:
    case DISK_QUOTA_EXCEEDED:
        return -ENOSPC;
    case ERROR_WRITE_PROTECT:
        return -EROFS;
    case ERROR_FILENAME_EXCED_RANGE:
    case ERROR_BUFFER_OVERFLOW:
        return -ENAMETOOLONG;
    case ERROR_INVALID_NAME:
    case ERROR_INVALID_PARAMETER:
    case ERROR_DIRECTORY:
        return -EINVAL;
    case ERROR_INVALID_HANDLE:
        return -EBADF;
    case ERROR_NOT_ENOUGH_MEMORY:
    case ERROR_OUTOFMEMORY:
    case ERROR_NO_SYSTEM_RESOURCES:
    case ERROR_NOT_ENOUGH_QUOTA:
    case ERROR_WORKING_SET_QUOTA:
    case ERROR_COMMITMENT_LIMIT:
        return -ENOMEM;
    case ERROR_INVALID_FUNCTION:
    case ERROR_NOT_SUPPORTED:
    case ERROR_CALL_NOT_IMPLEMENTED:
        return -ENOSYS;
    case ERROR_NOT_SAME_DEVICE:
        return -EXDEV;
    default:
        return -EIO;
    }
}
