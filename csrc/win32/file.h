#ifndef HOLDFAST_FILE_H
#define HOLDFAST_FILE_H

#include "../internal.h"

#define HF__SHARE_ALL (FILE_SHARE_READ | FILE_SHARE_WRITE | FILE_SHARE_DELETE)

/* Whether GetLastError() says that a file cannot be opened because it was removed, though somebody still has it open. */
bool hf__was_removed(void);

/* What GetLastError() says of an attempt to open `path` or to give it to a file, in our words. */
int hf__open_error(const WCHAR *path);

/* Whether an open file is a regular one: 0 and its identity, HF_NOT_A_FILE, HF_SYMLINK, or an error. */
int hf__file_examine(HANDLE file, hf__identity *identity);

/* Which file an open one is. */
int hf__file_identity(HANDLE file, hf__identity *identity);

/* CreateFileW() of a file that must not exist, with `mode`: only its owner's alone means anything here. */
HANDLE hf__file_create(const WCHAR *path, DWORD access, DWORD share, DWORD flags, unsigned mode, bool exact_mode);

#endif
