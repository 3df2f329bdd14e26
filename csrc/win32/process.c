/* When a process started: what tells it from a later one of the same pid. */
#include "../internal.h"
#include "sys.h"

#include <errno.h>

static int64_t start_of(HANDLE process, DWORD pid) {
    /* A process that has ended keeps its pid as long as anybody has a handle of it. And OpenProcess() ignores the two
       lowest bits of a pid. */
    if (hf__sys.WaitForSingleObject(process, 0) == WAIT_OBJECT_0 || hf__sys.GetProcessId(process) != pid)
        return -ESRCH;
    FILETIME created, ended, in_kernel, in_program;
    if (!hf__sys.GetProcessTimes(process, &created, &ended, &in_kernel, &in_program))
        return -ENOSYS;
    return (int64_t)created.dwHighDateTime << 32 | created.dwLowDateTime;
}

int64_t hf_process_start(int64_t pid) {
    if (pid <= 0 || pid > UINT32_MAX)
        return -ESRCH;
    HANDLE process = hf__sys.OpenProcess(SYNCHRONIZE | PROCESS_QUERY_LIMITED_INFORMATION, FALSE, (DWORD)pid);
    if (process == NULL)
        return GetLastError() == ERROR_INVALID_PARAMETER ? -ESRCH : -ENOSYS; /* it is there, but not for us to see */
    int64_t start = start_of(process, (DWORD)pid);
    hf__sys.CloseHandle(process);
    return start;
}
