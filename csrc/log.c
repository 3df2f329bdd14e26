/* Logs: appending whole lines to a file that others append to, too. */
#include "internal.h"

#include <errno.h>
#include <stdlib.h>

/* How long a thread waits for another before its caller may run his signal handlers, which do not end such a wait. */
#define TURN 50000000 /* nanoseconds */

/* How often a waiter tries again before he lets the kernel put him to sleep: for about as long as a few appends take. */
#define TRIES 30

/* A log has a lock of its own, of which it uses the one hold. That hold is BUSY from first to last: so nobody evicts its
   descriptor, and a forked child closes it.

   What is written here by the thread inside alone is `born`; the rest is guarded by the pool's mutex. */
struct hf_log {
    hf_lock *lock;
    int64_t max_bytes, max_age;
    int64_t born;             /* when the open file was created, or 0 when that was not asked yet */
    const hf__thread *inside; /* the one that is at work */
    hf__condition changed;    /* nobody is inside any more, or a sync has ended */
    unsigned waiting;
    uint64_t written, synced; /* appends; the first so many of them are on the disk */
    bool syncing;
    bool name_synced; /* the directory was synced since the file was opened */
    bool closed;
    int failure;
    hf_log_counts counts;
    hf_meter *meter; /* or NULL */
};

hf_log *hf_log_new(hf_pool *pool, const char *path, unsigned mode, int flags, int64_t max_bytes, int64_t max_age) {
    hf_log *log = calloc(1, sizeof *log);
    if (log == NULL)
        return NULL;
    log->lock = hf_lock_new(pool, path, mode, flags | HF__DATA);
    if (log->lock == NULL) {
        free(log);
        return NULL;
    }
    log->lock->log = log;
    log->max_bytes = max_bytes;
    log->max_age = max_age;
    return log;
}

void hf_log_measure(hf_log *log, hf_meter *meter) {
    log->meter = meter;
}

static void lock_mutex(hf_log *log) {
    hf__mutex_lock(&log->lock->pool->mutex);
}

static void unlock_mutex(hf_log *log) {
    hf__mutex_unlock(&log->lock->pool->mutex);
}

/* Make the hold BUSY if it is not: it is new, or a fork has taken it from this process. With the mutex held. */
static void own_hold(hf_log *log) {
    hf__hold *hold = &log->lock->first;
    if (hold->state == HF__BUSY)
        return;
    hf__list_push(&log->lock->pool->used, hold);
    hold->state = HF__BUSY;
    hold->how = HF_EXCLUSIVE;
    /* Of the threads that were at work or waiting here, none has come along into the child. */
    hf__condition_init(&log->changed);
    log->inside = NULL;
    log->waiting = 0;
    log->syncing = false;
    log->synced = log->written;
    log->name_synced = false;
    log->born = 0;
}

/* Wait for a change until a time, at most for a turn. With the mutex held. */
static void await_change(hf_log *log, int64_t until) {
    log->waiting++;
    hf__condition_wait(&log->changed, &log->lock->pool->mutex, until);
    log->waiting--;
}

static void tell_of_change(hf_log *log) {
    if (log->waiting > 0)
        hf__condition_wake(&log->changed);
}

static int64_t end_of_turn(int64_t deadline) {
    int64_t turn = hf_now() + TURN;
    return turn < deadline ? turn : deadline;
}

/* ------------------------------------------------------------------------------------------------------------------ *
 * Syncing
 */

int hf_log_failure(hf_log *log) {
    lock_mutex(log);
    int failure = log->failure;
    unlock_mutex(log);
    return failure;
}

uint64_t hf_log_written(hf_log *log) {
    lock_mutex(log);
    uint64_t written = log->written;
    unlock_mutex(log);
    return written;
}

/* Whether an error says only that the directory could not be opened now. */
static bool is_shortage(int rc) {
    return rc == -EMFILE || rc == -ENFILE || rc == -ENOMEM;
}

/* Sync the log for all threads, of which one at a time does that: the kernel tells a failure to one caller only. With the
   mutex held, which is let go meanwhile. 0, also when the failure is in the log now, or an error after which it is worth
   trying again. */
static int lead(hf_log *log) {
    hf__hold *hold = &log->lock->first;
    hf__file file = hold->file;
    uint64_t covered = log->written;
    bool name_too = !log->name_synced;
    int rc = 0;
    if (file != HF__NO_FILE) {
        hold->syncing = file;
        log->syncing = true;
        log->counts.syncs++;
        hf__meter_add(log->meter, HF_SYNCS, 1);
        unlock_mutex(log);
        rc = hf__data_sync(file);
        if (rc == 0 && name_too)
            rc = hf_directory_sync(log->lock->path);
        lock_mutex(log);
        hold->syncing = HF__NO_FILE;
        log->syncing = false;
    }
    bool given_up = file != HF__NO_FILE && hold->file != file;
    if (rc == 0) {
        log->synced = covered;
        log->name_synced |= name_too && !given_up;
    } else if (!is_shortage(rc)) {
        log->failure = -rc;
    }
    tell_of_change(log);
    if (given_up) {
        unlock_mutex(log);
        hf__file_close(file);
        lock_mutex(log);
    }
    return is_shortage(rc) ? rc : 0;
}

/* Called while the file is still the hold's. Whoever begins to sync after it is given up finds everything that was written
   to it on the disk, or the failure in the log. */
void hf__log_before_discard(hf_log *log) {
    lock_mutex(log);
    while (log->syncing)
        await_change(log, end_of_turn(HF_FOREVER));
    if ((log->lock->flags & HF_SYNCED) && log->synced < log->written && log->failure == 0)
        (void)lead(log);
    unlock_mutex(log);
}

void hf__log_discarded(hf_log *log) {
    log->name_synced = false;
    log->born = 0;
}

int hf_log_sync(hf_log *log, uint64_t appends) {
    int64_t until = end_of_turn(HF_FOREVER);
    int rc = 0;
    lock_mutex(log);
    own_hold(log);
    while (rc == 0 && log->failure == 0 && log->synced < appends) {
        if (log->closed)
            rc = HF_CLOSED;
        else if (!log->syncing)
            rc = lead(log);
        else if (hf_now() < until)
            await_change(log, until);
        else
            rc = HF_INTERRUPTED;
    }
    if (log->failure != 0)
        rc = HF_SYNC_FAILED;
    unlock_mutex(log);
    return rc;
}

/* ------------------------------------------------------------------------------------------------------------------ *
 * Locking: first among the threads, then among the processes.
 */

/* Let this thread in, unless another is. With the mutex held. */
static int enter(hf_log *log, hf__thread *me) {
    if (log->closed)
        return HF_CLOSED;
    if (log->failure != 0)
        return HF_SYNC_FAILED;
    own_hold(log);
    if (log->inside != NULL)
        return log->inside == me ? HF_SELF_DEADLOCK : HF_BUSY;
    log->inside = me;
    log->lock->first.thread = me; /* for finding out whether it waits for itself */
    return 0;
}

static void leave(hf_log *log) {
    lock_mutex(log);
    log->inside = NULL;
    log->lock->first.thread = NULL;
    tell_of_change(log);
    unlock_mutex(log);
}

/* Unlock the file, which closing does when the kernel refuses. */
static void unlock_file(hf_log *log) {
    if (hf__lock_drop(log->lock->first.file, log->lock->flags) != 0)
        hf__hold_discard(&log->lock->first);
}

/* What comes of a thread that is inside and has tried to lock the file. Giving up a file that was rotated away may have
   shown that it could not be synced. */
static int locked(hf_log *log, int rc) {
    if (rc == 0 && (!(log->lock->flags & HF_SYNCED) || hf_log_failure(log) == 0))
        return 0;
    if (rc == 0)
        unlock_file(log);
    leave(log);
    return rc == 0 ? HF_SYNC_FAILED : rc;
}

int hf_log_try(hf_log *log) {
    hf__thread *me = hf__thread_current(log->lock->pool);
    if (me == NULL)
        return -ENOMEM;
    lock_mutex(log);
    int rc = enter(log, me);
    unlock_mutex(log);
    return rc == 0 ? locked(log, hf__hold_take(&log->lock->first)) : rc;
}

/* enter(), waiting for other threads. */
static int enter_in_turn(hf_log *log, hf__thread *me, int64_t deadline) {
    int64_t until = end_of_turn(deadline);
    lock_mutex(log);
    int rc;
    while ((rc = enter(log, me)) == HF_BUSY && hf_now() < until)
        await_change(log, until);
    unlock_mutex(log);
    if (rc != HF_BUSY)
        return rc;
    return until < deadline ? HF_INTERRUPTED : HF_TIMED_OUT;
}

static int take_patiently(hf__hold *hold, hf__wait_order *order, int64_t deadline) {
    for (int i = 0; i < TRIES && !hold->identity.elsewhere; i++) {
        int rc = hf__hold_take(hold);
        if (rc != HF_BUSY)
            return rc;
    }
    return hf__hold_wait(hold, order, deadline);
}

static int wait_for(hf_log *log, int64_t began, int64_t deadline, int64_t poll, hf_waiter *waiter) {
    hf__thread *me = hf__thread_current(log->lock->pool);
    if (me == NULL)
        return -ENOMEM;
    int rc = enter_in_turn(log, me, deadline);
    if (rc != 0)
        return rc;
    hf__wait_order order = hf__hold_order(HF_EXCLUSIVE, log->lock->flags, began, deadline, poll, waiter);
    rc = locked(log, take_patiently(&log->lock->first, &order, deadline));
    return hf__hold_waited(rc, &order, deadline);
}

int hf_log_wait(hf_log *log, int64_t began, int64_t deadline, int64_t poll, hf_waiter *waiter) {
    int rc = wait_for(log, began, deadline, poll, waiter);
    if (rc == HF_INTERRUPTED)
        return rc;
    uint64_t waited = (uint64_t)(hf_now() - began);
    lock_mutex(log);
    log->counts.waits++;
    log->counts.waited += waited;
    if (waited > log->counts.longest_wait)
        log->counts.longest_wait = waited;
    if (log->meter != NULL)
        hf__meter_time(log->meter, HF_WAITED, HF_WAITS, (int64_t)waited);
    hf__meter_add(log->meter, HF_CONTENDED, 1);
    hf__meter_add(log->meter, HF_TIMEOUTS, rc == HF_TIMED_OUT);
    unlock_mutex(log);
    return rc;
}

int hf_log_is_mine(hf_log *log) {
    const hf__thread *me = hf__key_get(log->lock->pool->thread_key);
    lock_mutex(log);
    bool inside = me != NULL && log->inside == me && log->lock->first.state == HF__BUSY;
    unlock_mutex(log);
    return inside;
}

int hf_log_unlock(hf_log *log) {
    if (!hf_log_is_mine(log)) /* a child forked in between is not, either */
        return -EPERM;
    unlock_file(log);
    leave(log);
    return 0;
}

/* ------------------------------------------------------------------------------------------------------------------ *
 * Appending
 */

int hf_log_is_full(hf_log *log, size_t length) {
    const hf__hold *hold = &log->lock->first;
    if (hold->size == 0)
        return 0; /* an empty file takes anything: rotating it would not help */
    if (log->max_bytes > 0 && hold->size + (int64_t)length > log->max_bytes)
        return 1;
    if (log->max_age == 0)
        return 0;
    int rc = log->born == 0 ? hf__data_born(hold->file, &log->born) : 0;
    return rc != 0 ? rc : hf__data_clock() - log->born >= log->max_age;
}

/* End the line that somebody else could not end. If we are killed before our own lines follow, no harm is done. */
static int end_torn_line(const hf__hold *hold, int64_t *written) {
    int last = hold->size > 0 ? hf__data_last_byte(hold->file, hold->size) : '\n';
    if (last < 0 || last == '\n')
        return last < 0 ? last : 0;
    return hf__data_append(hold->file, "\n", 1, written);
}

/* Append to the locked file. */
static int append(hf_log *log, const char *lines, size_t length, bool *torn) {
    const hf__hold *hold = &log->lock->first;
    int rc = hf_log_is_full(log, length);
    if (rc != 0)
        return rc < 0 ? rc : HF_FULL;
    int64_t written = 0;
    rc = end_torn_line(hold, &written);
    *torn = written > 0;
    if (rc == 0)
        rc = hf__data_append(hold->file, lines, length, &written);
    if (rc != 0 && written > 0)
        hf__data_roll_back(hold->file, hold->size, written);
    return rc;
}

/* Append to the locked file, and unlock it. */
static int append_and_leave(hf_log *log, const char *lines, size_t length, size_t records) {
    bool torn = false;
    int rc = append(log, lines, length, &torn);
    if (rc == 0) {
        lock_mutex(log); /* before the file can be given up: then it is known to be unsynced */
        log->written++;
        log->counts.records += records;
        log->counts.bytes += length;
        log->counts.torn += torn;
        hf__meter_add(log->meter, HF_RECORDS, (int64_t)records);
        hf__meter_add(log->meter, HF_BYTES, (int64_t)length);
        hf__meter_add(log->meter, HF_TORN, torn);
        unlock_mutex(log);
    }
    unlock_file(log);
    leave(log);
    return rc;
}

int hf_log_append(hf_log *log, const char *lines, size_t length, size_t records) {
    int rc = hf_log_try(log);
    return rc == 0 ? append_and_leave(log, lines, length, records) : rc;
}

int hf_log_append_wait(hf_log *log, const char *lines, size_t length, size_t records, int64_t began, int64_t deadline,
                       int64_t poll, hf_waiter *waiter) {
    int rc = hf_log_wait(log, began, deadline, poll, waiter);
    return rc == 0 ? append_and_leave(log, lines, length, records) : rc;
}

int hf_log_move(hf_log *log, const char *to) {
    if (!hf_log_is_mine(log))
        return -EPERM;
    int rc = hf__data_rename(log->lock->path, to, true); /* who has the lock is alone */
    lock_mutex(log);
    log->counts.moves += rc == 0;
    hf__meter_add(log->meter, HF_ROTATIONS, rc == 0);
    unlock_mutex(log);
    return rc;
}

hf_log_counts hf_log_count(hf_log *log) {
    lock_mutex(log);
    hf_log_counts counts = log->counts;
    unlock_mutex(log);
    return counts;
}

/* ------------------------------------------------------------------------------------------------------------------ *
 * The end
 */

int hf_log_close(hf_log *log) {
    lock_mutex(log);
    own_hold(log);
    bool busy = log->inside != NULL, closing = !busy && !log->closed;
    log->closed |= closing;
    unlock_mutex(log);
    if (busy)
        return HF_BUSY;
    if (closing && log->lock->first.file != HF__NO_FILE)
        (void)hf__hold_discard(&log->lock->first); /* unlocking what is not locked does no harm */
    return hf_log_failure(log) != 0 ? HF_SYNC_FAILED : 0;
}

void hf_log_free(hf_log *log) {
    if (log == NULL)
        return;
    log->inside = NULL;
    (void)hf_log_close(log);
    lock_mutex(log);
    hf__list_remove(&log->lock->pool->used, &log->lock->first);
    log->lock->first.state = HF__IDLE;
    unlock_mutex(log);
    hf__condition_destroy(&log->changed);
    hf_lock_free(log->lock);
    free(log);
}
