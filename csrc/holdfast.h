/*
 * holdfast: file locks between processes.
 *
 * This header is the manual of the core, and the only place where its functions are declared: the Python side reads the
 * declarations from here.
 *
 * Purpose
 *   A lock is a file. Whoever holds the kernel's lock on that file holds the lock; the kernel releases it when its
 *   holder dies, however it dies. The core opens the file, waits for the lock until a deadline, checks that the path
 *   still names the locked file, counts nested acquisitions of a thread, and keeps the descriptor open between holds.
 *
 * Calling sequence
 *   pool = hf_pool_new(64, 0);                        once per process
 *   lock = hf_lock_new(pool, "/run/app.lock", 0644, 0);
 *   rc = hf_try(lock, HF_EXCLUSIVE);                  0, or HF_BUSY
 *   if (rc == HF_BUSY)
 *       rc = hf_wait(lock, HF_EXCLUSIVE, hf_now(), hf_now() + 5 * seconds, 50 * milliseconds, NULL);
 *   ... the critical section ...
 *   hf_release(lock);
 *   hf_lock_free(lock);
 *
 * Results
 *   0 or a count is success. A negative errno is an error of the operating system (on Windows its errors are mapped to
 *   errno). The outcomes below are nobody's error and lie outside errno's range, because C and Python disagree on the
 *   values of some errnos on Windows. Unless its comment says otherwise, a function that fails has changed nothing.
 *
 * Threads
 *   Every function may be called from any thread, on the same lock too, unless it says otherwise.
 *
 * Paths
 *   The bytes the system uses for file names; on Windows UTF-8, in which a lone surrogate is encoded like any other
 *   character.
 */
#ifndef HOLDFAST_H
#define HOLDFAST_H

#include <stddef.h>
#include <stdint.h>

#define HF_BUSY -1001          /* somebody else holds the lock */
#define HF_TIMED_OUT -1002     /* the deadline passed */
#define HF_INTERRUPTED -1003   /* run the handlers of signals that arrived, then wait on with the same deadline */
#define HF_CANCELLED -1004     /* hf_waiter_cancel() was called */
#define HF_OTHER_MODE -1005    /* this thread holds the lock in the other mode */
#define HF_SELF_DEADLOCK -1006 /* this thread holds the file through another lock, so the wait would never end */
#define HF_NOT_A_FILE -1007    /* the path names a directory, a FIFO, a device or a socket */
#define HF_SYMLINK -1008       /* the path names a symbolic link, which is never followed */
#define HF_NO_LOCKS -1009      /* the file system does not implement this kind of lock */
#define HF_READ_ONLY -1010     /* this kind of lock needs a writable file, and the file is read-only for us */
#define HF_FULL -1011          /* the log has reached its limits, and wants to be rotated first */
#define HF_SYNC_FAILED -1012   /* what this log wrote did not reach the disk, so it writes no more */
#define HF_CLOSED -1013        /* the log was closed */
#define HF_NOT_DURABLE -1014   /* done, but not known to be on the disk */

/* How a lock is held. */
#define HF_EXCLUSIVE 0
#define HF_SHARED 1

/* The deadline of a wait that never gives up. */
#define HF_FOREVER 0x7fffffffffffffff

/* ------------------------------------------------------------------------------------------------------------------ *
 * The pool: what the locks of one process share.
 *
 * It knows every open lock file of the process. That bounds the descriptors of idle locks, finds a thread that waits
 * for itself, and lets a forked child close what it inherited.
 *
 * After fork() the child holds nothing: the core has closed the descriptors that the child inherited (it could otherwise
 * keep its parent's locks alive, or release them), and its locks can be acquired afresh. fork() never waits for a lock
 * call in another thread. A waiter that another thread was waiting with is lost to the child.
 */
typedef struct hf_pool hf_pool;

/* Never wait in the kernel, always poll: what happens by itself where the system offers nothing better. */
#define HF_POLL_ONLY 1

/* A pool that keeps at most `max_idle` descriptors of locks nobody holds. NULL when there is no memory. */
hf_pool *hf_pool_new(size_t max_idle, int flags);

/* Free the pool. Its locks have been freed before. */
void hf_pool_free(hf_pool *pool);

/* How many descriptors of idle locks are open now. */
size_t hf_pool_idle(hf_pool *pool);

/* ------------------------------------------------------------------------------------------------------------------ *
 * Locks.
 *
 * Each thread holds a lock for itself: two threads exclude each other like two processes. A thread may acquire a lock it
 * holds again, in the same mode, and releases it as often.
 */
typedef struct hf_lock hf_lock;

#define HF_OFD 1        /* lock with OFD (fcntl) locks instead of flock; no meaning on Windows */
#define HF_ANY_THREAD 2 /* one hold for all threads: any of them nests in it and releases it */
#define HF_EXACT_MODE 4 /* a file this lock creates gets exactly `mode`, whatever the umask */

/* A lock on the file `path`, which is opened, and created with the permissions `mode` if need be, when the lock is first
   acquired. Copies `path`. NULL when there is no memory. */
hf_lock *hf_lock_new(hf_pool *pool, const char *path, unsigned mode, int flags);

/* Release the lock whoever holds it, close its descriptors and free it. No thread is inside a call on it. NULL is
   allowed. */
void hf_lock_free(hf_lock *lock);

/* Acquire the lock if that needs no waiting. 0 when it is held, now or again; HF_BUSY; HF_OTHER_MODE; or why the file
   cannot be opened or locked. With HF_ANY_THREAD it is HF_BUSY, too, while another thread is just acquiring the lock. */
int hf_try(hf_lock *lock, int how);

typedef struct hf_waiter hf_waiter;

/* Like hf_try(), but wait until hf_now() is `deadline`: in the kernel where that is possible, else by looking again at
   intervals that grow from microseconds to `poll` nanoseconds. `began` is the moment when the caller began to wait, the
   same when it waits on. Also returns HF_TIMED_OUT, never before the deadline; HF_INTERRUPTED; HF_CANCELLED, through
   `waiter`, which may be NULL; and HF_SELF_DEADLOCK when the deadline is HF_FOREVER.

   HF_INTERRUPTED also comes without a signal, now and then, each time after waiting twice as long. A signal that arrives
   after the caller last looked for signals, and before the kernel's wait begins, interrupts nothing: so it is noticed
   after at most as long again as the wait has lasted. (On Windows nothing interrupts a wait: there it comes often.) */
int hf_wait(hf_lock *lock, int how, int64_t began, int64_t deadline, int64_t poll, hf_waiter *waiter);

/* Undo one acquisition by this thread. The number of acquisitions left, or -EPERM when this thread holds nothing. When
   the kernel refuses to unlock (an error, not one a local file system gives), the descriptor is closed, which releases
   the lock, and the error is returned: the lock is not held in any case. */
int hf_release(hf_lock *lock);

/* Release this thread's hold however often it was acquired, and the holds of threads that have ended. 0, or the first
   error, as from hf_release(). */
int hf_release_all(hf_lock *lock);

/* The numbers, by which the system knows them, of the threads that hold the lock: how many there are, of which the first
   `capacity` are stored. */
size_t hf_holding_threads(hf_lock *lock, uint64_t *threads, size_t capacity);

/* The descriptor, on Windows the handle, of the file by which this thread holds the lock: the lock's, and good until it is
   released. -EPERM when this thread holds nothing. */
int64_t hf_descriptor(hf_lock *lock);

/* Close the descriptors of the lock that nobody holds. */
void hf_close_idle(hf_lock *lock);

/* How often this thread (with HF_ANY_THREAD: the process) has acquired the lock and not released it. */
int hf_count(hf_lock *lock);

/* ------------------------------------------------------------------------------------------------------------------ *
 * Waiters: how one thread ends the wait of another.
 */

/* A waiter for one thread's waits. NULL when there is no memory. */
hf_waiter *hf_waiter_new(void);

/* Free a waiter that no thread waits with. NULL is allowed. */
void hf_waiter_free(hf_waiter *waiter);

/* End the wait that is going on with this waiter, and every one that begins later: at once if it waits in the kernel, at
   its next look if it polls. A lock that was granted at the same moment stays granted: the wait then returns 0. */
void hf_waiter_cancel(hf_waiter *waiter);

/* ------------------------------------------------------------------------------------------------------------------ *
 * Markers: locks whose existence is the lock, for file systems without kernel locks.
 *
 * A marker holds a record of its owner that the caller writes and judges. The record becomes visible together with the
 * name, and is on disk before it, so that neither a crash nor a power cut leaves a marker without one. While a marker is
 * open its identity is pinned: no other file can take its inode number, which is what makes hf_marker_remove() safe.
 */
typedef struct hf_marker hf_marker;

/* Create the marker `path` holding the record `text`, with the permissions `mode` less the umask (with HF_EXACT_MODE
   exactly). The record is first written to the file `scratch` beside it where the system has no unnamed files. 0 and an
   open marker; HF_BUSY when the path exists; HF_NO_LOCKS when the file system has neither hard links nor a rename that
   does not replace. On failure nothing is left. */
int hf_marker_create(const char *path, const char *scratch, const char *text, size_t length, unsigned mode, int flags,
                     hf_marker **created);

/* Open an existing marker to judge it. -ENOENT when there is none; HF_NOT_A_FILE, HF_SYMLINK; on Windows HF_BUSY while it
   is being removed. */
int hf_marker_open(const char *path, hf_marker **opened);

/* Read the record, at most `capacity` bytes of it. The number of bytes. `age`, in nanoseconds, says how long ago the
   marker was written, by the clock of this system. -ENOENT if it was removed meanwhile and cannot be read any more;
   HF_BUSY while somebody is removing it, where that keeps readers away. */
int hf_marker_read(hf_marker *marker, char *record, size_t capacity, int64_t *age);

/* Remove the marker if its path still names it, however many others try the same. 0; -ENOENT when the path names nothing
   or another file by now; HF_BUSY when somebody is removing it at this moment. Where a file system has no locks by which
   removers could take turns, HF_NO_LOCKS: then the caller makes sure that no other is at work, and says so by `alone`. */
int hf_marker_remove(hf_marker *marker, int alone);

/* Close the marker and free it; its file stays. The pointer is NULL from then on, and may be so before. */
void hf_marker_close(hf_marker **marker);

/* ------------------------------------------------------------------------------------------------------------------ *
 * Replacing files: a new file, written under another name in the same directory, takes the place of an old one, whole.
 */

#define HF_DURABLE 32    /* on the disk before it takes the place; and that it has, too */
#define HF_NO_REPLACE 64 /* only where there is no file yet */

/* Create the file `path`, which must not exist, with the permissions `mode` less the umask, for writing. `opened` is a
   descriptor, on Windows a handle, and the caller's; on failure it is unchanged. -EEXIST when there is one. */
int hf_create(const char *path, unsigned mode, int64_t *opened);

/* Put the file `scratch`, which is open as `file`, in the place of `path`. It takes over owner, group, extended attributes
   (with them access control lists) and permissions of the file it replaces, as far as we are allowed to give them, and
   otherwise never lets anybody do more with it. 0; -EEXIST with HF_NO_REPLACE; HF_NOT_A_FILE when there is something else
   at `path`; while somebody has the old file open, over SMB HF_BUSY and on Windows HF_BUSY or -EACCES; or an error. Then
   nothing has changed, but that over SMB the old file may have gone, and the file `scratch` is still the caller's.
   HF_NOT_DURABLE: it is in its place, but a power cut may undo that. */
int hf_replace(int64_t file, const char *scratch, const char *path, int flags);

/* Have the directory that the file `path` is in reach the disk, and with it the names in it. Where directories cannot be
   synced that is no error: there is nothing better to be done. */
int hf_directory_sync(const char *path);

/* Have the system ask anew which names there are in the directory of `path`, where another machine knows that. */
void hf_look_again(const char *path);

/* Remove the file `path`. */
int hf_remove(const char *path);

/* ------------------------------------------------------------------------------------------------------------------ *
 * Logs: files that many processes append to.
 *
 * The lock is on the file itself (on Windows on a byte beyond any data), is taken for each append, and is given back
 * before the call returns. What is appended goes to the file that the path names at that moment, whole or not at all,
 * and begins a line: if somebody was killed in the middle of his, a newline comes first.
 *
 * Threads take turns in one log. It has one descriptor, which stays open. After fork() the child's log has none, and opens
 * its own.
 */
typedef struct hf_log hf_log;
typedef struct hf_meter hf_meter; /* see below */

/* What is appended has to reach the disk: the file is not given up, because it was rotated for example, before it is
   synced. */
#define HF_SYNCED 16

/* A log of the file `path`, which is opened, and created with the permissions `mode` if need be, when it is first needed.
   `flags` are HF_EXACT_MODE, HF_SYNCED. hf_log_append() is to refuse what would make the file longer than `max_bytes`, or
   to append to one older than `max_age` nanoseconds; 0 is no limit. Copies `path`. NULL when there is no memory. */
hf_log *hf_log_new(hf_pool *pool, const char *path, unsigned mode, int flags, int64_t max_bytes, int64_t max_age);

/* Have the log count what it does. Before its first use. */
void hf_log_measure(hf_log *log, hf_meter *meter);

/* Close the log and free it. No thread is inside a call on it. NULL is allowed. */
void hf_log_free(hf_log *log);

/* Append lines, the last of which ends with a newline, if that needs no waiting. 0; HF_BUSY, when another process or
   thread is at work; HF_FULL; HF_SYNC_FAILED; HF_CLOSED; HF_SELF_DEADLOCK, when this thread has locked the log; or an
   error, of opening and locking as from hf_try(), or of writing. Whatever it is, nothing was appended then: what had been
   written of the lines is taken back. (Where even that fails, the next to append ends the line that was begun.)
   `records` says how many there are, for the counts. */
int hf_log_append(hf_log *log, const char *lines, size_t length, size_t records);

/* The same, waiting as hf_wait() does. */
int hf_log_append_wait(hf_log *log, const char *lines, size_t length, size_t records, int64_t began, int64_t deadline,
                       int64_t poll, hf_waiter *waiter);

/* Lock the log, for this thread and process alone; results as above. The log is not to be appended to meanwhile. */
int hf_log_try(hf_log *log);
int hf_log_wait(hf_log *log, int64_t began, int64_t deadline, int64_t poll, hf_waiter *waiter);

/* Unlock it: 0, or -EPERM when this thread has not locked it. */
int hf_log_unlock(hf_log *log);

/* Whether this thread has locked it. 0 or 1. */
int hf_log_is_mine(hf_log *log);

/* With the log locked: whether this many bytes would be refused with HF_FULL. 0, 1, or an error. */
int hf_log_is_full(hf_log *log, size_t length);

/* With the log locked: give its file the name `to`, which must be free (else -EEXIST). The next append, by whatever
   process, creates a new file. */
int hf_log_move(hf_log *log, const char *to);

/* How many times the log was appended to. */
uint64_t hf_log_written(hf_log *log);

/* Have the first `appends` appends reach the disk, and the file's name, too. (Without HF_SYNCED, those to the file that the
   path names now.) Threads share syncs: one that began after the last of these appends was done will do. 0;
   HF_INTERRUPTED, after a while of waiting for another thread's sync, for the caller to run his signal handlers; -EMFILE
   and the like, after which it is worth trying again; HF_CLOSED; or HF_SYNC_FAILED. After a failed sync the log appends
   no more: what the system could not write it has forgotten, and a second attempt would seem to succeed. */
int hf_log_sync(hf_log *log, uint64_t appends);

/* The error of the sync that failed, or 0. */
int hf_log_failure(hf_log *log);

/* Close the file, after syncing it if HF_SYNCED says so. Every later call that needs it returns HF_CLOSED. 0, HF_BUSY when
   another thread is inside, or HF_SYNC_FAILED. */
int hf_log_close(hf_log *log);

/* What the log has done: records appended and their bytes; waits, and how long they took; torn lines that were ended;
   syncs; moves. */
typedef struct {
    uint64_t records, bytes, waits, waited, longest_wait, torn, syncs, moves;
} hf_log_counts;

hf_log_counts hf_log_count(hf_log *log);

/* Open a regular file to read it, so that others may append to it, rename and remove it meanwhile. A link is followed.
   `opened` is a descriptor, on Windows a handle, and the caller's. 0, or on POSIX 1 if another machine has the file: what
   stat() then tells of its path may be a minute old, while what is opened is the file that has the name now. */
int hf_open_to_read(const char *path, int64_t *opened);

/* ------------------------------------------------------------------------------------------------------------------ *
 * Meters: what the locks and files of one name have done.
 *
 * They are counted in memory that the pool's process shares with the children it forks later, and these with theirs. What
 * a process has counted stays when it ends, however that happens.
 */
#define HF_METERS 64     /* how many names there can be */
#define HF_METER_NAME 60 /* bytes, with the NUL at the end */

/* What is counted. Durations are in nanoseconds. */
#define HF_ACQUISITIONS 0
#define HF_CONTENDED 1 /* acquisitions and appends that had to wait, whatever came of it */
#define HF_TIMEOUTS 2
#define HF_RECORDS 3
#define HF_BYTES 4
#define HF_SYNCS 5
#define HF_ROTATIONS 6
#define HF_TORN 7 /* lines that somebody else had left without an end */
#define HF_WRITES 8
#define HF_DELETIONS 9
#define HF_COALESCED 10
#define HF_CONFLICTS 11
#define HF_DROPS 12
#define HF_ERRORS 13
#define HF_PENDING 14 /* what is still to be written; goes with the process */
#define HF_WAITED 15  /* the sum of all waits */
#define HF_HELD 16    /* the sum of all holds */
#define HF_WAITS 17   /* the first of the buckets: the one with number n counts waits below 2 to the power of n */
#define HF_HOLDS 65
#define HF_BUCKETS 48
#define HF_COUNTERS 113

/* The meter of a name. NULL when the name is too long, when there are too many, or when there is no memory. It lives as
   long as the pool. */
hf_meter *hf_meter_of(hf_pool *pool, const char *name);

/* Have the lock count what is acquired and how long it is held. Before its first use. */
void hf_lock_measure(hf_lock *lock, hf_meter *meter);

/* Count something. */
void hf_meter_add(hf_meter *meter, int counter, int64_t number);

/* Count a wait that is over, or a hold of a lock that the core does not know. */
void hf_meter_waited(hf_meter *meter, int64_t nanoseconds);
void hf_meter_held(hf_meter *meter, int64_t nanoseconds);

/* The name and the counts of the meter with this index: of all processes together, or of this one. 1, or 0 when there is
   none. `name` has room for HF_METER_NAME bytes and `counts` for HF_COUNTERS numbers. */
int hf_meter_read(hf_pool *pool, size_t index, int mine, char *name, int64_t *counts);

/* ------------------------------------------------------------------------------------------------------------------ *
 * Processes and time.
 */

/* Nanoseconds of a clock that only runs forward. */
int64_t hf_now(void);

/* When the process started, in a unit of the system's own that tells two processes of the same pid apart (on Linux: only
   within one boot). -ESRCH when there is no such process, or it is dead and only waits to be reaped; -ENOSYS when it
   lives but its start cannot be known. */
int64_t hf_process_start(int64_t pid);

/* ------------------------------------------------------------------------------------------------------------------ *
 * Tests: the table of system calls.
 *
 * Every call to the operating system goes through a table of named function pointers. A test replaces one to see what
 * happens when it fails, and puts it back.
 */

/* The function behind a system call, or NULL when there is none of that name. */
void *hf_sys_get(const char *name);

/* Replace it. 0, or -ENOENT. */
int hf_sys_set(const char *name, void *function);

/* The name of entry `index`, or NULL past the end. */
const char *hf_sys_name(size_t index);

#endif
