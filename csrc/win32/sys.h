/* The table of system calls. Everything else in this folder calls the system through hf__sys, with the results and
   GetLastError() of the calls themselves. */
#ifndef HOLDFAST_SYS_H
#define HOLDFAST_SYS_H

#include "../internal.h"

struct hf__sys {
    HANDLE(WINAPI *CreateFileW)
    (const WCHAR *path, DWORD access, DWORD share, SECURITY_ATTRIBUTES *attributes, DWORD how, DWORD flags,
     HANDLE model);
    BOOL(WINAPI *CloseHandle)(HANDLE handle);
    DWORD(WINAPI *GetFileType)(HANDLE file);
    BOOL(WINAPI *GetFileInformationByHandle)(HANDLE file, BY_HANDLE_FILE_INFORMATION *information);
    BOOL(WINAPI *GetFileInformationByHandleEx)(HANDLE file, FILE_INFO_BY_HANDLE_CLASS kind, void *information,
                                               DWORD size);
    BOOL(WINAPI *SetFileInformationByHandle)(HANDLE file, FILE_INFO_BY_HANDLE_CLASS kind, void *information,
                                             DWORD size);
    BOOL(WINAPI *GetFileSecurityW)(const WCHAR *path, SECURITY_INFORMATION what, PSECURITY_DESCRIPTOR descriptor,
                                   DWORD size, DWORD *needed);
    BOOL(WINAPI *SetKernelObjectSecurity)(HANDLE object, SECURITY_INFORMATION what, PSECURITY_DESCRIPTOR descriptor);
    DWORD(WINAPI *GetFileAttributesW)(const WCHAR *path);
    DWORD(WINAPI *GetFullPathNameW)(const WCHAR *path, DWORD capacity, WCHAR *full, WCHAR **name);
    BOOL(WINAPI *ReadFile)(HANDLE file, void *buffer, DWORD size, DWORD *done, OVERLAPPED *overlapped);
    BOOL(WINAPI *WriteFile)(HANDLE file, const void *buffer, DWORD size, DWORD *done, OVERLAPPED *overlapped);
    BOOL(WINAPI *FlushFileBuffers)(HANDLE file);
    BOOL(WINAPI *MoveFileExW)(const WCHAR *from, const WCHAR *to, DWORD flags);
    BOOL(WINAPI *DeleteFileW)(const WCHAR *path);
    BOOL(WINAPI *LockFileEx)(HANDLE file, DWORD flags, DWORD reserved, DWORD low, DWORD high, OVERLAPPED *overlapped);
    BOOL(WINAPI *UnlockFileEx)(HANDLE file, DWORD reserved, DWORD low, DWORD high, OVERLAPPED *overlapped);
    BOOL(WINAPI *GetOverlappedResult)(HANDLE file, OVERLAPPED *overlapped, DWORD *done, BOOL wait);
    BOOL(WINAPI *CancelIoEx)(HANDLE file, OVERLAPPED *overlapped);
    HANDLE(WINAPI *CreateEventW)(SECURITY_ATTRIBUTES *attributes, BOOL manual, BOOL set, const WCHAR *name);
    BOOL(WINAPI *SetEvent)(HANDLE event);
    DWORD(WINAPI *WaitForSingleObject)(HANDLE object, DWORD milliseconds);
    DWORD(WINAPI *WaitForMultipleObjects)(DWORD count, const HANDLE *objects, BOOL all, DWORD milliseconds);
    HANDLE(WINAPI *CreateWaitableTimerExW)
    (SECURITY_ATTRIBUTES *attributes, const WCHAR *name, DWORD flags, DWORD access);
    BOOL(WINAPI *SetWaitableTimer)(HANDLE timer, const LARGE_INTEGER *due, LONG period, PTIMERAPCROUTINE routine,
                                   void *argument, BOOL resume);
    void(WINAPI *Sleep)(DWORD milliseconds);
    BOOL(WINAPI *QueryPerformanceCounter)(LARGE_INTEGER *count);
    BOOL(WINAPI *QueryPerformanceFrequency)(LARGE_INTEGER *frequency);
    void(WINAPI *GetSystemTimeAsFileTime)(FILETIME *now);
    HANDLE(WINAPI *OpenProcess)(DWORD access, BOOL inherit, DWORD pid);
    DWORD(WINAPI *GetProcessId)(HANDLE process);
    BOOL(WINAPI *GetProcessTimes)(HANDLE process, FILETIME *created, FILETIME *ended, FILETIME *in_kernel,
                                  FILETIME *in_program);
    DWORD(WINAPI *GetTempPathW)(DWORD capacity, WCHAR *path);
    BOOLEAN(WINAPI *RtlGenRandom)(void *buffer, ULONG size);
    BOOL(WINAPI *ConvertStringSecurityDescriptorToSecurityDescriptorW)(const WCHAR *text, DWORD revision,
                                                                       PSECURITY_DESCRIPTOR *descriptor, ULONG *size);
    HLOCAL(WINAPI *LocalFree)(HLOCAL memory);
    LONG(WINAPI *RtlGetLastNtStatus)(void);
    BOOLEAN(WINAPI *RtlDllShutdownInProgress)(void);
};

extern struct hf__sys hf__sys;

/* A Windows error in our words: a negative errno, or HF_BUSY where the trouble is another handle's and passes. */
int hf__error(DWORD error);

#endif
