/*
 * What the files of the core share. The declarations under "The platform" are implemented twice, in posix/ and in
 * win32/, file by file the same; everything else is the same everywhere.
 */
#ifndef HOLDFAST_INTERNAL_H
#define HOLDFAST_INTERNAL_H

#include "holdfast.h"

#include <stdbool.h>

#ifdef _WIN32
#include "win32/platform.h"
#else
#include "posix/platform.h"
#endif

/* ------------------------------------------------------------------------------------------------------------------ *
 * The platform. Functions return 0 or a negative result as holdfast.h describes.
 */

/* Which file it is, whatever its name: two of them are equal when they mean the same file, as long as it exists. */
typedef struct {
    uint64_t volume;
    uint64_t file[2];
    bool elsewhere; /* another machine has it, where it may get another name without this one's noticing */
    bool on_smb;    /* by this protocol */
} hf__identity;

static inline bool hf__same_file(const hf__identity *a, const hf__identity *b) {
    return a->file[0] == b->file[0] && a->file[1] == b->file[1] && a->volume == b->volume;
}

/* file.c: lock files. hf__file and HF__NO_FILE come from platform.h. */

/* A flag of locks beside those of holdfast.h: the file does not only stand for the lock but holds data, to be appended to.
   It may be renamed and removed while it is open. */
#define HF__DATA 0x100

/* Open a regular file to lock it, and create it with `mode` (HF_EXACT_MODE: exactly, else less the umask) if it is
   missing. Never follows a link in the last component, never blocks, never truncates, is never inherited by another
   program. A file that may only be read is opened for reading, unless it is for data. */
int hf__file_open(const char *path, unsigned mode, int flags, hf__file *file, hf__identity *identity);

/* Close a file. Errors of close() say nothing about the lock, which is gone, and it must not be called again. */
void hf__file_close(hf__file file);

/* Whether `path` names the open file `identity`, and if so the size of the file. */
bool hf__file_is_at(const char *path, const hf__identity *identity, int64_t *size);

/* kernlock.c: the kernel's locks on an open file. */

/* Take the lock of a file, which may be on SMB, if it is free: 0, HF_BUSY, HF_NO_LOCKS, HF_READ_ONLY. */
int hf__lock_try(hf__file file, int how, int flags, bool on_smb);

/* Give it back. */
int hf__lock_drop(hf__file file, int flags);

/* wait.c: the kernel's wait for a lock. */
typedef struct {
    hf__file file;
    int how;
    int flags;
    int64_t until;
    int64_t poll; /* the longest nap of a wait that polls */
    int64_t nap;  /* the next one */
    hf_waiter *waiter;
} hf__wait_order;

/* How long to wait, after having waited this long, until the caller gets the chance to run its signal handlers. */
int64_t hf__wait_turn(int64_t waited);

/* Wait for the lock in the kernel: 0 with the lock held, HF_BUSY when the time is over or it is worth trying again,
   HF_INTERRUPTED, HF_CANCELLED, -ENOSYS where the kernel cannot wait until a given time now, or an error of
   hf__lock_try(). */
int hf__wait_in_kernel(const hf__wait_order *order);

/* Sleep, but not past a signal or a cancellation: 0, HF_INTERRUPTED, HF_CANCELLED. */
int hf__wait_asleep(hf_waiter *waiter, int64_t nanoseconds);

/* Make the wait that entered its waiter with this state return, now or when it comes to wait. hf__wait_state comes from
   platform.h. */
void hf__wait_end(const hf__wait_state *state);

/* thread.c: a mutex that is never held across a blocking call, and a pointer of each thread's own. hf__mutex and hf__key
   come from platform.h. */
void hf__mutex_init(hf__mutex *mutex);
void hf__mutex_destroy(hf__mutex *mutex);
void hf__mutex_lock(hf__mutex *mutex);
void hf__mutex_unlock(hf__mutex *mutex);

/* Threads that wait, with the mutex held but for the wait itself, for another to wake all of them, or until hf_now() is
   `until`. hf__condition comes from platform.h. */
void hf__condition_init(hf__condition *condition);
void hf__condition_destroy(hf__condition *condition);
void hf__condition_wait(hf__condition *condition, hf__mutex *mutex, int64_t until);
void hf__condition_wake(hf__condition *condition);

/* The system's number of the calling thread, which is also Python's. A later thread may get the same. */
uint64_t hf__thread_number(void);

/* `at_exit` runs with the thread's pointer when a thread that has set one ends. */
int hf__key_new(hf__key *key, void (*at_exit)(void *));
void hf__key_free(hf__key key);
void *hf__key_get(hf__key key);
int hf__key_set(hf__key key, void *value);

/* fork.c: have hf__pool_before_fork() and its like called around every fork of the process; of a pool that is watched.
   0 or -ENOMEM. */
int hf__fork_watch(hf_pool *pool);
void hf__fork_unwatch(hf_pool *pool);

/* marker.c: the files behind markers. */
typedef struct {
    const char *text;
    size_t length;
    unsigned mode;
    bool exact_mode;
} hf__record;

int hf__marker_publish(const char *path, const char *scratch, const hf__record *record, hf__file *file,
                       hf__identity *identity);
int hf__marker_open(const char *path, hf__file *file, hf__identity *identity);
int hf__marker_read(hf__file file, char *record, size_t capacity, int64_t *age);
int hf__marker_remove(const char *path, hf__file file, const hf__identity *identity, bool alone);

/* data.c: files that hold data. */

/* The byte before the end of a file of this size, or an error. */
int hf__data_last_byte(hf__file file, int64_t size);

/* Append all of it, or fail; `written` then is how much was appended all the same. */
int hf__data_append(hf__file file, const char *data, size_t length, int64_t *written);

/* Make the file as long as it was, if what it grew by is what was written: else somebody else has written behind it. */
void hf__data_roll_back(hf__file file, int64_t size, int64_t written);

/* Have what was written reach the disk. */
int hf__data_sync(hf__file file);

/* When the file was created, or as early as can be told, and what time it is, in nanoseconds of the system's clock. */
int hf__data_born(hf__file file, int64_t *born);
int64_t hf__data_clock(void);

/* Rename a file, unless there is one of the new name: then -EEXIST. `alone`: nobody else creates one meanwhile, so that
   where the system has no such call looking first will do. It is better than what else there is, to link and to unlink:
   who dies between the two leaves the file with both names. */
int hf__data_rename(const char *from, const char *to, bool alone);

/* shared.c: memory, all zero, that forked children share, at the same address. NULL when there is none. */
void *hf__shared_new(size_t size);
void hf__shared_free(void *memory, size_t size);

/* Change a word in it from one value to another, if nobody was faster; and look at it. */
bool hf__shared_claim(uint32_t *word, uint32_t from, uint32_t to);
uint32_t hf__shared_look(const uint32_t *word);

/* The pid of this process, and whether there still is one that shared the memory. */
uint32_t hf__process_number(void);
bool hf__process_lives(uint32_t number);

/* Let another thread run. */
void hf__thread_pause(void);

/* sys.c: the table of system calls, in which each side has its own. A list of its entries ends with a name of NULL. */
typedef struct {
    const char *name;
    void *pointer; /* where the table keeps the function */
} hf__sys_entry;

#define HF__SYS_ENTRY(name) {#name, &hf__sys.name}

extern const hf__sys_entry hf__sys_entries[];

/* ------------------------------------------------------------------------------------------------------------------ *
 * The same everywhere.
 */

/* A thread that has used the pool. Lives as long as the thread or a hold of it, whichever is longer, so that its address
   is never taken for that of a later thread. */
typedef struct {
    hf_pool *pool;
    uint64_t number;
    unsigned holds;
    bool ended;
} hf__thread;

typedef enum {
    HF__IDLE, /* nobody's; its file may be open, and then it is in the pool's idle list */
    HF__BUSY, /* one thread is opening, waiting for, unlocking or closing the file */
    HF__HELD, /* the lock is held */
} hf__state;

/* One open file of a lock, and who holds the lock through it. Guarded by the pool's mutex, but for a BUSY hold's file and
   identity, which belong to the thread that made it BUSY (a forking thread may read the file all the same: it is
   changed under the mutex). */
typedef struct hf__hold {
    struct hf__hold *previous, *next; /* in one of the pool's two lists */
    struct hf__hold *sibling;         /* the next hold of the same lock */
    hf_lock *lock;
    hf__thread *thread;
    hf__file file;
    hf__file syncing; /* the file, while another thread syncs it; if it is given up meanwhile, that thread closes it */
    hf__identity identity;
    int64_t size; /* of the file, when it was locked */
    int how;
    int count;
    int64_t since; /* when it was acquired, if that is measured */
    hf__state state;
} hf__hold;

struct hf_lock {
    hf_pool *pool;
    hf_log *log;     /* whose lock it is, or NULL */
    hf_meter *meter; /* or NULL */
    hf__hold first;  /* the rest, for further threads that hold it at the same time, are allocated */
    unsigned mode;
    int flags;
    char path[];
};

/* lock.c, for log.c: a BUSY hold is the caller's alone, and these do with it what they say. */

/* Lock the file, if that needs no waiting. */
int hf__hold_take(hf__hold *hold);

/* Lock the file, waiting until `order` says and with HF_FOREVER as the deadline seeing to it that the thread does not wait
   for itself. */
int hf__hold_wait(hf__hold *hold, hf__wait_order *order, int64_t deadline);

/* What a wait of the caller's is to be like in this turn, and what its result means to the caller. */
hf__wait_order hf__hold_order(int how, int flags, int64_t began, int64_t deadline, int64_t poll, hf_waiter *waiter);
int hf__hold_waited(int rc, const hf__wait_order *order, int64_t deadline);

/* Give up the lock and the file. */
int hf__hold_discard(hf__hold *hold);

/* log.c: what was written to the file that is about to be given up reaches the disk, if it has to; and the file has been
   given up, with the mutex held. */
void hf__log_before_discard(hf_log *log);
void hf__log_discarded(hf_log *log);

/* pool.c */
typedef struct {
    hf__hold *head, *tail;
    size_t length;
} hf__list;

typedef struct hf__meters hf__meters;

struct hf_pool {
    hf__mutex mutex;
    hf__key thread_key;
    hf__list used; /* every BUSY and HELD hold */
    hf__list idle; /* IDLE holds with an open file, the latest used first */
    size_t max_idle;
    unsigned forks;
    int flags;
    hf_pool *next_watched; /* for fork.c */
    hf__meters *meters;    /* NULL when there was no memory for them */
    int meter_row;         /* where this process counts, or -1 until it does */
    int64_t *meter_base;   /* what another had counted there before, or NULL */
};

struct hf_waiter {
    hf__mutex mutex;
    bool cancelled;
    bool waiting; /* then `state` says how to end the wait */
    hf__wait_state state;
};

void hf__list_push(hf__list *list, hf__hold *hold);
void hf__list_remove(hf__list *list, hf__hold *hold);

/* The calling thread's record, or NULL when there is no memory. */
hf__thread *hf__thread_current(hf_pool *pool);

/* Around a fork: no other thread changes the pool between the first and one of the others. In the child, close every
   file and hold nothing. */
void hf__pool_before_fork(hf_pool *pool);
void hf__pool_after_fork_parent(hf_pool *pool);
void hf__pool_after_fork_child(hf_pool *pool);

/* Close the idle file used longest ago, if there is one. For when descriptors run out. */
bool hf__pool_evict(hf_pool *pool);

/* meter.c: the second and third with the mutex held. `total` and `buckets` say what kind of duration it is. */
hf__meters *hf__meters_new(void);
void hf__meters_free(hf__meters *meters);
void hf__meter_add(hf_meter *meter, int counter, int64_t number); /* NULL is allowed */
void hf__meter_time(hf_meter *meter, int total, int buckets, int64_t nanoseconds);

/* waiter.c: called around a wait, with NULL for one that nobody can cancel. HF_CANCELLED when it is to end. Between the
   two, `state` stays valid. */
int hf__waiter_enter(hf_waiter *waiter, hf__wait_state state);
int hf__waiter_leave(hf_waiter *waiter);

#endif
