/* Lock files: opening them without surprises, and telling them apart. */
#include "file.h"
#include "path.h"
#include "sys.h"

#include <errno.h>
#include <sddl.h>
#include <string.h>

/* Status codes of the kernel, which the Windows error ERROR_ACCESS_DENIED lumps together. */
#define DELETE_PENDING ((LONG)0xc0000056)

/* FILE_FLAG_OPEN_REPARSE_POINT: whoever can put a link at the path must not choose what we open or create.
   FILE_FLAG_OVERLAPPED:         a wait for the lock can be given up. */
#define SAFELY (FILE_FLAG_OPEN_REPARSE_POINT | FILE_FLAG_OVERLAPPED)

/* Without FILE_SHARE_DELETE nobody removes or renames the file while it is open; the filelock package opens its files
   the same way. */
#define SHARE (FILE_SHARE_READ | FILE_SHARE_WRITE)

#define NAME_SURROGATE 0x20000000u /* the bit of a reparse tag that says: this stands for another file */

bool hf__was_removed(void) {
    DWORD error = GetLastError();
    return error == ERROR_DELETE_PENDING ||
           (error == ERROR_ACCESS_DENIED && hf__sys.RtlGetLastNtStatus() == DELETE_PENDING);
}

int hf__open_error(const WCHAR *path) {
    DWORD error = GetLastError();
    if (hf__was_removed())
        return HF_BUSY; /* the name is free when those who have it open close it */
    if (error == ERROR_ACCESS_DENIED) {
        DWORD attributes = hf__sys.GetFileAttributesW(path);
        if (attributes != INVALID_FILE_ATTRIBUTES && (attributes & FILE_ATTRIBUTE_DIRECTORY))
            return attributes & FILE_ATTRIBUTE_REPARSE_POINT ? HF_SYMLINK : HF_NOT_A_FILE;
    }
    return hf__error(error);
}

/* Junctions, symbolic links and the like; not files that are merely stored elsewhere (deduplicated, in a cloud). */
static bool is_link(HANDLE file) {
    FILE_ATTRIBUTE_TAG_INFO tag;
    return !hf__sys.GetFileInformationByHandleEx(file, FileAttributeTagInfo, &tag, sizeof tag) ||
           (tag.ReparseTag & NAME_SURROGATE);
}

int hf__file_identity(HANDLE file, hf__identity *identity) {
    FILE_ID_INFO id;
    if (hf__sys.GetFileInformationByHandleEx(file, FileIdInfo, &id, sizeof id)) {
        *identity = (hf__identity){.volume = id.VolumeSerialNumber};
        memcpy(identity->file, &id.FileId, sizeof identity->file);
        return 0;
    }
    /* FAT, and file servers that only know short numbers. */
    BY_HANDLE_FILE_INFORMATION info;
    if (!hf__sys.GetFileInformationByHandle(file, &info))
        return hf__error(GetLastError());
    *identity = (hf__identity){.volume = info.dwVolumeSerialNumber,
                               .file = {(uint64_t)info.nFileIndexHigh << 32 | info.nFileIndexLow, 0}};
    return 0;
}

int hf__file_examine(HANDLE file, hf__identity *identity) {
    BY_HANDLE_FILE_INFORMATION info;
    if (hf__sys.GetFileType(file) != FILE_TYPE_DISK) /* NUL, COM1, a pipe: reserved names are in every directory */
        return HF_NOT_A_FILE;
    if (!hf__sys.GetFileInformationByHandle(file, &info))
        return hf__error(GetLastError());
    if ((info.dwFileAttributes & FILE_ATTRIBUTE_REPARSE_POINT) && is_link(file))
        return HF_SYMLINK;
    if (info.dwFileAttributes & FILE_ATTRIBUTE_DIRECTORY)
        return HF_NOT_A_FILE;
    return hf__file_identity(file, identity);
}

HANDLE hf__file_create(const WCHAR *path, DWORD access, DWORD share, DWORD flags, unsigned mode, bool exact_mode) {
    SECURITY_ATTRIBUTES security = {.nLength = sizeof security};
    /* The owner, the system and administrators, who could take the file anyway; nothing from the directory. */
    if (exact_mode && (mode & 077) == 0 &&
        !hf__sys.ConvertStringSecurityDescriptorToSecurityDescriptorW(
            L"D:P(A;;FA;;;SY)(A;;FA;;;BA)(A;;FA;;;OW)", SDDL_REVISION_1, &security.lpSecurityDescriptor, NULL))
        return INVALID_HANDLE_VALUE;
    HANDLE file = hf__sys.CreateFileW(path, access, share, &security, CREATE_NEW, FILE_ATTRIBUTE_NORMAL | flags, NULL);
    DWORD error = GetLastError();
    if (security.lpSecurityDescriptor != NULL)
        hf__sys.LocalFree(security.lpSecurityDescriptor);
    SetLastError(error);
    return file;
}

static HANDLE open_existing(const WCHAR *path, DWORD access, DWORD share) {
    return hf__sys.CreateFileW(path, access, share, NULL, OPEN_EXISTING, SAFELY, NULL);
}

/* A file created in the place of one that was renamed a moment ago gets that one's time of creation ("tunneling"), and would
   be as old. */
static void set_birth(HANDLE file) {
    FILETIME now;
    hf__sys.GetSystemTimeAsFileTime(&now);
    FILE_BASIC_INFO info = {.CreationTime = {.LowPart = now.dwLowDateTime, .HighPart = (LONG)now.dwHighDateTime}};
    (void)hf__sys.SetFileInformationByHandle(file, FileBasicInfo, &info, sizeof info); /* the other times, 0, stay */
}

/* Open the file, or create it. Opening comes first: it is what nearly always works. */
static int open_or_create(const WCHAR *path, unsigned mode, int flags, HANDLE *file) {
    const DWORD share = flags & HF__DATA ? HF__SHARE_ALL : SHARE;
    for (;;) {
        *file = open_existing(path, GENERIC_READ | GENERIC_WRITE, share);
        int rc = *file == INVALID_HANDLE_VALUE ? hf__open_error(path) : 0;
        if (!(flags & HF__DATA) && (rc == -EACCES || rc == -EROFS)) {
            *file = open_existing(path, GENERIC_READ, share); /* enough for every kind of lock */
            return *file == INVALID_HANDLE_VALUE ? rc : 0;
        }
        if (rc != -ENOENT)
            return rc;
        *file = hf__file_create(path, GENERIC_READ | GENERIC_WRITE, share, SAFELY, mode, flags & HF_EXACT_MODE);
        rc = *file == INVALID_HANDLE_VALUE ? hf__open_error(path) : 0;
        if (rc == 0 && (flags & HF__DATA))
            set_birth(*file);
        if (rc != -EEXIST)
            return rc;
        /* Somebody created it meanwhile: open that. */
    }
}

int hf__file_open(const char *path, unsigned mode, int flags, hf__file *file, hf__identity *identity) {
    hf__path wide;
    HANDLE opened;
    int rc = hf__path_convert(path, &wide);
    if (rc == 0)
        rc = open_or_create(wide.text, mode, flags, &opened);
    if (rc != 0)
        return rc;
    rc = hf__file_examine(opened, identity);
    if (rc == 0)
        *file = opened;
    else
        hf__file_close(opened);
    return rc;
}

void hf__file_close(hf__file file) {
    (void)hf__sys.CloseHandle(file);
}

/* A lock file itself cannot have been removed or renamed: that takes a handle with DELETE access, which SHARE refuses on
   every local file system. (A file with data can.) But a path is more than its last component. A junction, a link or a substituted drive above
   the file can be pointed elsewhere while it is open, and a file server may not keep to the rules. So look, by a handle
   without any access, which conflicts with nobody's. */
bool hf__file_is_at(const char *path, const hf__identity *identity, int64_t *size) {
    hf__path wide;
    if (hf__path_convert(path, &wide) != 0)
        return false;
    HANDLE there =
        hf__sys.CreateFileW(wide.text, 0, HF__SHARE_ALL, NULL, OPEN_EXISTING, FILE_FLAG_OPEN_REPARSE_POINT, NULL);
    if (there == INVALID_HANDLE_VALUE)
        return false;
    hf__identity found;
    BY_HANDLE_FILE_INFORMATION info;
    bool same = hf__file_identity(there, &found) == 0 && hf__same_file(&found, identity) &&
                hf__sys.GetFileInformationByHandle(there, &info);
    if (same)
        *size = (int64_t)info.nFileSizeHigh << 32 | info.nFileSizeLow;
    hf__file_close(there);
    return same;
}

/* NTFS journals the names in a directory, and offers no way to wait for that but to flush the whole volume, which takes an
   administrator. */
int hf_directory_sync(const char *path) {
    (void)path;
    return 0;
}

void hf_look_again(const char *path) {
    (void)path;
}
