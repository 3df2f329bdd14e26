#ifndef HOLDFAST_FILE_H
#define HOLDFAST_FILE_H

#include "../internal.h"

/* open() without surprises, and without EINTR. The descriptor, or -1 and errno. */
int hf__open_safely(const char *path, int flags, unsigned mode);

/* What errno says of an attempt to open a file, in our words. */
int hf__open_error(int error);

/* Whether an open file is a regular one: 0 and its identity, HF_NOT_A_FILE, or an error. */
int hf__file_examine(int fd, hf__identity *identity);

/* Whether an open file is on a server of SMB. */
bool hf__file_is_on_smb(int fd);

#endif
