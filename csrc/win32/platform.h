/* The types of the Windows side. */
#ifndef HOLDFAST_PLATFORM_H
#define HOLDFAST_PLATFORM_H

#ifndef WIN32_LEAN_AND_MEAN
#define WIN32_LEAN_AND_MEAN
#endif
#include <windows.h>

typedef HANDLE hf__file;
#define HF__NO_FILE INVALID_HANDLE_VALUE

typedef SRWLOCK hf__mutex;
typedef CONDITION_VARIABLE hf__condition;
typedef DWORD hf__key;

/* How to end a wait: an event that it watches beside the lock. */
typedef HANDLE hf__wait_state;

/* How many processes count in rows of their own: see meter.c. */
#define HF__METER_ROWS 1

#endif
