/* The types of the POSIX side. */
#ifndef HOLDFAST_PLATFORM_H
#define HOLDFAST_PLATFORM_H

#include <pthread.h>
#include <signal.h>
#include <time.h>

typedef int hf__file;
#define HF__NO_FILE (-1)

typedef pthread_mutex_t hf__mutex;
typedef pthread_cond_t hf__condition;
typedef pthread_key_t hf__key;

/* The others among the BSDs have had EVFILT_USER for too short a time. */
#if defined(__APPLE__) || defined(__FreeBSD__) || defined(__DragonFly__)
#define HF__KQUEUE
#endif

/* How to end a wait: the timer that interrupts it, or the queue that it watches. */
#ifdef __linux__
typedef timer_t hf__wait_state;
#else
typedef int hf__wait_state;
#endif

/* How many processes count in rows of their own: see meter.c. */
#define HF__METER_ROWS 128

#endif
