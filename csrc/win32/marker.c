/* Markers: files that appear whole, and are removed by one remover at a time. */
#include "../internal.h"
#include "file.h"
#include "path.h"
#include "sys.h"

#include <errno.h>
#include <stddef.h>

/* FileDispositionInfoEx, which headers hide from programs that also run on older systems, as ours does. */
#define DISPOSITION_EX ((FILE_INFO_BY_HANDLE_CLASS)21)

static int write_all(HANDLE file, const char *data, size_t length) {
    while (length > 0) {
        DWORD size = length < 0x10000000 ? (DWORD)length : 0x10000000, written;
        if (!hf__sys.WriteFile(file, data, size, &written, NULL))
            return hf__error(GetLastError());
        data += written;
        length -= written;
    }
    return 0;
}

/* Write the record to the scratch file, which nobody else knows. What is kept open has no DELETE access, because who
   opens the marker like an ordinary file, without sharing that, would be refused. */
static int write_scratch(const WCHAR *scratch, const hf__record *record, HANDLE *file, hf__identity *identity) {
    *file = hf__file_create(scratch, GENERIC_READ | GENERIC_WRITE, HF__SHARE_ALL, 0, record->mode, record->exact_mode);
    if (*file == INVALID_HANDLE_VALUE)
        return hf__open_error(scratch);
    int rc = write_all(*file, record->text, record->length);
    if (rc == 0 && !hf__sys.FlushFileBuffers(*file)) /* a power cut must not leave the name without the record */
        rc = hf__error(GetLastError());
    return rc == 0 ? hf__file_identity(*file, identity) : rc;
}

/* Give the scratch file its name, unless there is one; an open handle that shares DELETE does not hinder. */
static int move_into_place(const WCHAR *scratch, const WCHAR *path) {
    if (hf__sys.MoveFileExW(scratch, path, 0))
        return 0;
    int rc = hf__open_error(path);
    return rc == -EEXIST || rc == HF_NOT_A_FILE || rc == HF_SYMLINK ? HF_BUSY : rc;
}

int hf__marker_publish(const char *path, const char *scratch, const hf__record *record, hf__file *file,
                       hf__identity *identity) {
    hf__path wide, wide_scratch;
    int rc = hf__path_convert(path, &wide);
    if (rc == 0)
        rc = hf__path_convert(scratch, &wide_scratch);
    if (rc != 0)
        return rc;
    if (hf__sys.GetFileAttributesW(wide.text) != INVALID_FILE_ATTRIBUTES)
        return HF_BUSY; /* spare the disk a record that has no place to go */
    HANDLE written;
    rc = write_scratch(wide_scratch.text, record, &written, identity);
    if (written == INVALID_HANDLE_VALUE)
        return rc;
    if (rc == 0)
        rc = move_into_place(wide_scratch.text, wide.text);
    if (rc == 0) {
        *file = written;
    } else {
        (void)hf__sys.DeleteFileW(wide_scratch.text);
        hf__file_close(written);
    }
    return rc;
}

int hf__marker_open(const char *path, hf__file *file, hf__identity *identity) {
    hf__path wide;
    int rc = hf__path_convert(path, &wide);
    if (rc != 0)
        return rc;
    HANDLE opened = hf__sys.CreateFileW(wide.text, GENERIC_READ, HF__SHARE_ALL, NULL, OPEN_EXISTING,
                                        FILE_FLAG_OPEN_REPARSE_POINT, NULL);
    if (opened == INVALID_HANDLE_VALUE)
        return hf__open_error(wide.text);
    rc = hf__file_examine(opened, identity);
    if (rc == 0)
        *file = opened;
    else
        hf__file_close(opened);
    return rc;
}

static int64_t ticks(FILETIME time) {
    return (int64_t)time.dwHighDateTime << 32 | time.dwLowDateTime;
}

int hf__marker_read(hf__file file, char *record, size_t capacity, int64_t *age) {
    BY_HANDLE_FILE_INFORMATION info;
    OVERLAPPED start = {0}; /* from the beginning, wherever the file's position is */
    FILETIME now;
    DWORD size = capacity < INT32_MAX ? (DWORD)capacity : INT32_MAX, length = 0;
    if (!hf__sys.GetFileInformationByHandle(file, &info))
        return hf__error(GetLastError());
    if (!hf__sys.ReadFile(file, record, size, &length, &start) && GetLastError() != ERROR_HANDLE_EOF)
        return hf__error(GetLastError());
    hf__sys.GetSystemTimeAsFileTime(&now);
    *age = (ticks(now) - ticks(info.ftLastWriteTime)) * 100;
    return (int)length;
}

/* Give the open file another name beside its own. */
static bool move_aside(HANDLE file, const WCHAR *path) {
    union {
        FILE_RENAME_INFO info;
        BYTE room[sizeof(FILE_RENAME_INFO) + sizeof(hf__path)];
    } order = {.info = {.RootDirectory = NULL}};
    WCHAR *name = (WCHAR *)(order.room + offsetof(FILE_RENAME_INFO, FileName));
    DWORD length = hf__sys.GetFullPathNameW(path, HF__PATH_SIZE - HF__RANDOM_NAME - 1, name, NULL);
    if (length == 0 || length >= HF__PATH_SIZE - HF__RANDOM_NAME - 1 || !hf__random_name(name + length))
        return false;
    order.info.FileNameLength = (length + HF__RANDOM_NAME) * (DWORD)sizeof(WCHAR);
    return hf__sys.SetFileInformationByHandle(file, FileRenameInfo, &order, sizeof order);
}

/* Remove the open file. With the semantics of POSIX its name is free as soon as we close it. Otherwise (FAT, file
   servers) it would stay until everybody who looks at the marker has closed it, so it is taken off first. */
static int dispose(HANDLE file, const WCHAR *path) {
    FILE_DISPOSITION_INFO_EX now = {.Flags = FILE_DISPOSITION_FLAG_DELETE | FILE_DISPOSITION_FLAG_POSIX_SEMANTICS};
    if (hf__sys.SetFileInformationByHandle(file, DISPOSITION_EX, &now, sizeof now))
        return 0;
    bool moved = move_aside(file, path);
    FILE_DISPOSITION_INFO later = {.DeleteFile = TRUE};
    if (hf__sys.SetFileInformationByHandle(file, FileDispositionInfo, &later, sizeof later) || moved)
        return 0; /* at worst a file of another name is left */
    return hf__error(GetLastError());
}

/* Removers take turns by the very handle they remove with: it has DELETE access and does not share it, so there is one at
   a time. And it removes the file it has open, which has been compared, whatever the path names by then. */
int hf__marker_remove(const char *path, hf__file file, const hf__identity *identity, bool alone) {
    (void)file, (void)alone;
    hf__path wide;
    int rc = hf__path_convert(path, &wide);
    if (rc != 0)
        return rc;
    HANDLE doomed = hf__sys.CreateFileW(wide.text, DELETE | FILE_READ_ATTRIBUTES, FILE_SHARE_READ | FILE_SHARE_WRITE,
                                        NULL, OPEN_EXISTING, FILE_FLAG_OPEN_REPARSE_POINT, NULL);
    if (doomed == INVALID_HANDLE_VALUE)
        return hf__open_error(wide.text);
    hf__identity found;
    rc = hf__file_identity(doomed, &found);
    if (rc == 0)
        rc = hf__same_file(&found, identity) ? dispose(doomed, wide.text) : -ENOENT;
    hf__file_close(doomed);
    return rc;
}
