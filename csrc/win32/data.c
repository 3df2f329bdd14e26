/* Files that hold data: appending, taking back, syncing. */
#include "../internal.h"
#include "file.h"
#include "path.h"
#include "sys.h"

#include <errno.h>

#define LARGEST_WRITE 0x10000000

int hf_open_to_read(const char *path, int64_t *opened) {
    hf__path wide;
    int rc = hf__path_convert(path, &wide);
    if (rc != 0)
        return rc;
    HANDLE file = hf__sys.CreateFileW(wide.text, GENERIC_READ, HF__SHARE_ALL, NULL, OPEN_EXISTING, 0, NULL);
    if (file == INVALID_HANDLE_VALUE)
        return hf__was_removed() ? -ENOENT : hf__open_error(wide.text);
    hf__identity identity;
    rc = hf__file_examine(file, &identity);
    if (rc == 0)
        *opened = (int64_t)(intptr_t)file;
    else
        hf__file_close(file);
    return rc;
}

/* Handles for overlapped operations say "pending" and go on in the background; here the result is waited for. A log is
   used by one thread at a time, so the handle itself may tell that the operation has ended. */
static bool finished(HANDLE file, BOOL done, OVERLAPPED *overlapped, DWORD *count) {
    if (!done && GetLastError() != ERROR_IO_PENDING)
        return false;
    return hf__sys.GetOverlappedResult(file, overlapped, count, TRUE);
}

int hf__data_last_byte(hf__file file, int64_t size) {
    unsigned char byte;
    DWORD count = 0;
    OVERLAPPED place = {.Offset = (DWORD)(size - 1), .OffsetHigh = (DWORD)((size - 1) >> 32)};
    if (!finished(file, hf__sys.ReadFile(file, &byte, 1, NULL, &place), &place, &count) &&
        GetLastError() != ERROR_HANDLE_EOF)
        return hf__error(GetLastError());
    return count == 1 ? byte : '\n'; /* somebody has truncated the file since we looked */
}

int hf__data_append(hf__file file, const char *data, size_t length, int64_t *written) {
    while (length > 0) {
        DWORD size = length < LARGEST_WRITE ? (DWORD)length : LARGEST_WRITE, count = 0;
        OVERLAPPED end = {.Offset = 0xffffffff, .OffsetHigh = 0xffffffff}; /* means the end, atomically */
        if (!finished(file, hf__sys.WriteFile(file, data, size, NULL, &end), &end, &count))
            return hf__error(GetLastError());
        if (count == 0)
            return -EIO;
        *written += count;
        data += count;
        length -= count;
    }
    return 0;
}

void hf__data_roll_back(hf__file file, int64_t size, int64_t written) {
    BY_HANDLE_FILE_INFORMATION info;
    if (!hf__sys.GetFileInformationByHandle(file, &info) ||
        ((int64_t)info.nFileSizeHigh << 32 | info.nFileSizeLow) != size + written)
        return;
    FILE_END_OF_FILE_INFO end = {.EndOfFile = {.QuadPart = size}};
    (void)hf__sys.SetFileInformationByHandle(file, FileEndOfFileInfo, &end, sizeof end);
}

int hf__data_sync(hf__file file) {
    return hf__sys.FlushFileBuffers(file) ? 0 : hf__error(GetLastError());
}

#define UNIX_EPOCH 116444736000000000 /* in Windows' time */

static int64_t nanoseconds(FILETIME time) {
    return (((int64_t)time.dwHighDateTime << 32 | time.dwLowDateTime) - UNIX_EPOCH) * 100;
}

int hf__data_born(hf__file file, int64_t *born) {
    BY_HANDLE_FILE_INFORMATION info;
    if (!hf__sys.GetFileInformationByHandle(file, &info))
        return hf__error(GetLastError());
    *born = nanoseconds(info.ftCreationTime);
    return 0;
}

int64_t hf__data_clock(void) {
    FILETIME now;
    hf__sys.GetSystemTimeAsFileTime(&now);
    return nanoseconds(now);
}

int hf__data_rename(const char *from, const char *to, bool alone) {
    (void)alone;
    hf__path old, new;
    int rc = hf__path_convert(from, &old);
    if (rc == 0)
        rc = hf__path_convert(to, &new);
    if (rc != 0)
        return rc;
    return hf__sys.MoveFileExW(old.text, new.text, 0) ? 0 : hf__open_error(old.text);
}
