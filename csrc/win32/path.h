#ifndef HOLDFAST_PATH_H
#define HOLDFAST_PATH_H

#include "../internal.h"

/* The longest path, in UTF-16 units with the final zero. Windows knows paths of 32767 units; this many fit on the stack
   of any thread, and PATH_MAX of Linux is no more. */
#define HF__PATH_SIZE 4096

typedef struct {
    WCHAR text[HF__PATH_SIZE];
} hf__path;

/* A path as Windows wants it. -EINVAL for what is not UTF-8, -ENAMETOOLONG. */
int hf__path_convert(const char *utf8, hf__path *path);

/* A name that nobody guesses and nothing has: this many letters and a zero. */
#define HF__RANDOM_NAME 24
bool hf__random_name(WCHAR *name);

#endif
