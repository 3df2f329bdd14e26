/* Replacing files. */
#include "../internal.h"
#include "file.h"
#include "path.h"
#include "sys.h"

#include <errno.h>
#include <stddef.h>
#include <stdlib.h>

/* FileRenameInfoEx and its flags, which headers hide from programs that also run on older systems, as ours does. */
#define RENAME_EX ((FILE_INFO_BY_HANDLE_CLASS)22)
#define REPLACE 1u
#define POSIX_SEMANTICS 2u

int hf_create(const char *path, unsigned mode, int64_t *opened) {
    hf__path wide;
    int rc = hf__path_convert(path, &wide);
    if (rc != 0)
        return rc;
    HANDLE file =
        hf__file_create(wide.text, GENERIC_READ | GENERIC_WRITE | WRITE_DAC, HF__SHARE_ALL, 0, mode, (mode & 077) == 0);
    if (file == INVALID_HANDLE_VALUE)
        return hf__open_error(wide.text);
    *opened = (int64_t)(intptr_t)file;
    return 0;
}

int hf_remove(const char *path) {
    hf__path wide;
    int rc = hf__path_convert(path, &wide);
    if (rc != 0)
        return rc;
    return hf__sys.DeleteFileW(wide.text) ? 0 : hf__error(GetLastError());
}

/* Give the open file the access control list of the one at `path`. What is not allowed is left as it is: a new file has
   what its directory gives to all. */
static int copy_access(const WCHAR *path, HANDLE file) {
    DWORD size = 0;
    (void)hf__sys.GetFileSecurityW(path, DACL_SECURITY_INFORMATION, NULL, 0, &size);
    if (size == 0)
        return 0;
    PSECURITY_DESCRIPTOR descriptor = malloc(size);
    if (descriptor == NULL)
        return -ENOMEM;
    if (hf__sys.GetFileSecurityW(path, DACL_SECURITY_INFORMATION, descriptor, size, &size))
        (void)hf__sys.SetKernelObjectSecurity(file, DACL_SECURITY_INFORMATION, descriptor);
    free(descriptor);
    return 0;
}

/* Make the open file like the one at `path`, if there is one. */
static int take_over(const WCHAR *path, HANDLE file) {
    DWORD attributes = hf__sys.GetFileAttributesW(path);
    if (attributes == INVALID_FILE_ATTRIBUTES)
        return 0;
    if (attributes & FILE_ATTRIBUTE_DIRECTORY)
        return HF_NOT_A_FILE;
    return copy_access(path, file);
}

/* Rename a file to a name that others may have open. False where the system or file system cannot. Whoever opens the new
   name like an ordinary file, without sharing deletion, is refused as long as somebody has it open with DELETE access: so
   this handle exists no longer than the renaming. */
static bool rename_over(const WCHAR *scratch, const WCHAR *path) {
    union {
        FILE_RENAME_INFO info;
        BYTE room[sizeof(FILE_RENAME_INFO) + sizeof(hf__path)];
    } order = {.info = {.RootDirectory = NULL}};

    WCHAR *name = (WCHAR *)(order.room + offsetof(FILE_RENAME_INFO, FileName));
    DWORD length = hf__sys.GetFullPathNameW(path, HF__PATH_SIZE, name, NULL);
    if (length == 0 || length >= HF__PATH_SIZE)
        return false;
    *(DWORD *)(void *)order.room = REPLACE | POSIX_SEMANTICS; /* in the place of ReplaceIfExists */
    order.info.FileNameLength = length * (DWORD)sizeof(WCHAR);
    HANDLE file = hf__sys.CreateFileW(scratch, DELETE | SYNCHRONIZE, HF__SHARE_ALL, NULL, OPEN_EXISTING,
                                      FILE_FLAG_OPEN_REPARSE_POINT, NULL);
    if (file == INVALID_HANDLE_VALUE)
        return false;
    bool renamed = hf__sys.SetFileInformationByHandle(file, RENAME_EX, &order, sizeof order);
    hf__file_close(file);
    return renamed;
}

static int put_in_place(const WCHAR *scratch, const WCHAR *path, int flags) {
    if (!(flags & HF_NO_REPLACE) && rename_over(scratch, path))
        return 0;
    DWORD how =
        (flags & HF_NO_REPLACE ? 0 : MOVEFILE_REPLACE_EXISTING) | (flags & HF_DURABLE ? MOVEFILE_WRITE_THROUGH : 0);
    return hf__sys.MoveFileExW(scratch, path, how) ? 0 : hf__open_error(path);
}

int hf_replace(int64_t file, const char *scratch, const char *path, int flags) {
    HANDLE handle = (HANDLE)(intptr_t)file;
    hf__path from, to;
    int rc = hf__path_convert(scratch, &from);
    if (rc == 0)
        rc = hf__path_convert(path, &to);
    if (rc == 0)
        rc = take_over(to.text, handle);
    if (rc == 0 && (flags & HF_DURABLE) && !hf__sys.FlushFileBuffers(handle))
        rc = hf__error(GetLastError());
    return rc == 0 ? put_in_place(from.text, to.text, flags) : rc;
}
