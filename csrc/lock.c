/* Locks: who holds them, how often, and the path that must still name the file. */
#include "internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* A lock file replaced this often in the middle of an attempt is a lock somebody else is busy with. */
#define REPLACED_TOO_OFTEN 16

/* The first nap of a wait that polls; each is as long as all before it, in earlier turns, too. */
#define FIRST_NAP 20000 /* nanoseconds */

hf_lock *hf_lock_new(hf_pool *pool, const char *path, unsigned mode, int flags) {
    size_t size = strlen(path) + 1;
    hf_lock *lock = malloc(sizeof *lock + size);
    if (lock == NULL)
        return NULL;
    memset(lock, 0, sizeof *lock);
    memcpy(lock->path, path, size);
    lock->pool = pool;
    lock->mode = mode;
    lock->flags = flags;
    lock->first.lock = lock;
    lock->first.file = lock->first.syncing = HF__NO_FILE;
    return lock;
}

void hf_lock_measure(hf_lock *lock, hf_meter *meter) {
    lock->meter = meter;
}

/* ------------------------------------------------------------------------------------------------------------------ *
 * Holds
 */

/* The hold this thread has of the lock, or NULL. With the mutex held. */
static hf__hold *held_by_me(hf_lock *lock) {
    const hf__thread *me = hf__key_get(lock->pool->thread_key);
    for (hf__hold *hold = &lock->first; hold != NULL; hold = hold->sibling)
        if (hold->state == HF__HELD && (hold->thread == me || (lock->flags & HF_ANY_THREAD)))
            return hold;
    return NULL;
}

/* A hold that nobody has, with an open file if possible, or NULL when there is no memory. With the mutex held. */
static hf__hold *spare_hold(hf_lock *lock) {
    hf__hold *spare = NULL;
    for (hf__hold *hold = &lock->first; hold != NULL; hold = hold->sibling)
        if (hold->state == HF__IDLE && (spare == NULL || spare->file == HF__NO_FILE))
            spare = hold;
    if (spare == NULL && (spare = calloc(1, sizeof *spare)) != NULL) {
        spare->lock = lock;
        spare->file = spare->syncing = HF__NO_FILE;
        spare->sibling = lock->first.sibling;
        lock->first.sibling = spare;
    }
    return spare;
}

/* Whether another thread is acquiring or releasing the one hold of an HF_ANY_THREAD lock. With the mutex held. */
static bool in_transition(const hf_lock *lock) {
    return (lock->flags & HF_ANY_THREAD) && lock->first.state == HF__BUSY;
}

/* Begin an acquisition. 0 with a BUSY hold for this thread to lock, or with NULL where it held the lock already and now
   holds it once more; HF_BUSY while another thread is about to hold it for both; HF_OTHER_MODE; -ENOMEM. */
static int claim(hf_lock *lock, int how, hf__hold **claimed) {
    hf_pool *pool = lock->pool;
    hf__thread *me = hf__thread_current(pool);
    if (me == NULL)
        return -ENOMEM;
    int rc = 0;
    hf__mutex_lock(&pool->mutex);
    hf__hold *hold = held_by_me(lock);
    if (hold != NULL) {
        *claimed = NULL;
        if (hold->how == how)
            hold->count++;
        else
            rc = HF_OTHER_MODE;
    } else if (in_transition(lock)) {
        rc = HF_BUSY;
    } else if ((*claimed = hold = spare_hold(lock)) == NULL) {
        rc = -ENOMEM;
    } else {
        if (hold->file != HF__NO_FILE)
            hf__list_remove(&pool->idle, hold);
        hf__list_push(&pool->used, hold);
        hold->state = HF__BUSY;
        hold->how = how;
        hold->thread = me;
        me->holds++;
    }
    hf__mutex_unlock(&pool->mutex);
    return rc;
}

/* End what made the hold BUSY: now it is held, or nobody's. */
static void settle(hf__hold *hold, bool held) {
    hf_pool *pool = hold->lock->pool;
    hf_meter *meter = hold->lock->meter;
    hf__thread *orphan = NULL;
    if (held && meter != NULL)
        hold->since = hf_now();
    hf__mutex_lock(&pool->mutex);
    if (held) {
        hold->state = HF__HELD;
        hold->count = 1;
        hf__meter_add(meter, HF_ACQUISITIONS, 1);
    } else {
        hf__list_remove(&pool->used, hold);
        if (--hold->thread->holds == 0 && hold->thread->ended)
            orphan = hold->thread;
        hold->thread = NULL;
        hold->state = HF__IDLE;
        if (hold->file != HF__NO_FILE)
            hf__list_push(&pool->idle, hold);
    }
    bool crowded = pool->idle.length > pool->max_idle;
    hf__mutex_unlock(&pool->mutex);
    free(orphan);
    if (crowded)
        hf__pool_evict(pool);
}

/* ------------------------------------------------------------------------------------------------------------------ *
 * Files
 */

/* Open the file of a BUSY hold. */
static int open_file(hf__hold *hold) {
    hf_lock *lock = hold->lock;
    hf_pool *pool = lock->pool;
    for (;;) {
        hf__mutex_lock(&pool->mutex);
        unsigned forks = pool->forks;
        hf__mutex_unlock(&pool->mutex);

        hf__file file;
        hf__identity identity;
        int rc = hf__file_open(lock->path, lock->mode, lock->flags, &file, &identity);
        if ((rc == -EMFILE || rc == -ENFILE) && hf__pool_evict(pool))
            continue;
        if (rc != 0)
            return rc;

        hf__mutex_lock(&pool->mutex);
        bool forked = pool->forks != forks;
        if (!forked) {
            hold->file = file;
            hold->identity = identity;
        }
        hf__mutex_unlock(&pool->mutex);
        if (!forked)
            return 0;
        /* A child forked since may have a copy of this descriptor that it knows nothing of. Now it does no harm; once
           the lock is taken it would keep it alive beyond our death. So take another descriptor. */
        hf__file_close(file);
    }
}

/* Give the lock and the file of a BUSY hold up. Unlocking comes first: a program that another thread is starting at
   this moment has a copy of the descriptor until it runs, and closing ours would not release the lock till then. */
int hf__hold_discard(hf__hold *hold) {
    hf_pool *pool = hold->lock->pool;
    int rc = hf__lock_drop(hold->file, hold->lock->flags);
    if (hold->lock->log != NULL)
        hf__log_before_discard(hold->lock->log);
    hf__mutex_lock(&pool->mutex);
    hf__file file = hold->file;
    hold->file = HF__NO_FILE;
    bool in_use = hold->syncing == file;
    if (hold->lock->log != NULL)
        hf__log_discarded(hold->lock->log);
    hf__mutex_unlock(&pool->mutex);
    if (!in_use)
        hf__file_close(file);
    return rc;
}

/* Whether a lock just taken is the lock the path stands for. If somebody moved or removed the file before we had it,
   the next one to come locks another file: then give this one up. */
static bool confirm(hf__hold *hold) {
    if (hf__file_is_at(hold->lock->path, &hold->identity, &hold->size))
        return true;
    hf__hold_discard(hold);
    return false;
}

/* Lock the file of a BUSY hold, if that needs no waiting. */
int hf__hold_take(hf__hold *hold) {
    for (int replaced = 0; replaced < REPLACED_TOO_OFTEN; replaced++) {
        if (hold->file == HF__NO_FILE) {
            int rc = open_file(hold);
            if (rc != 0)
                return rc;
        }
        int rc = hf__lock_try(hold->file, hold->how, hold->lock->flags, hold->identity.on_smb);
        if (rc == HF_BUSY)
            return rc;
        if (rc != 0) {
            hf__hold_discard(hold); /* what was wrong may be mended, by a permission for example: then open it anew */
            return rc;
        }
        if (confirm(hold))
            return 0;
    }
    return HF_BUSY;
}

/* ------------------------------------------------------------------------------------------------------------------ *
 * Acquiring
 */

int hf_try(hf_lock *lock, int how) {
    hf__hold *hold;
    int rc = claim(lock, how, &hold);
    if (rc != 0 || hold == NULL)
        return rc;
    rc = hf__hold_take(hold);
    settle(hold, rc == 0);
    return rc;
}

/* Whether this thread holds, through another lock, the file that `hold` waits for. */
static bool waits_for_itself(const hf__hold *hold) {
    hf_pool *pool = hold->lock->pool;
    bool found = false;
    hf__mutex_lock(&pool->mutex);
    for (const hf__hold *other = pool->used.head; other != NULL && !found; other = other->next)
        found = other->state == HF__HELD && other->thread == hold->thread &&
                (other->lock->flags & HF_OFD) == (hold->lock->flags & HF_OFD) &&
                hf__same_file(&other->identity, &hold->identity);
    hf__mutex_unlock(&pool->mutex);
    return found;
}

/* Sleep for a nap, but not past the end of the turn, and make the next nap longer. */
static int sleep_a_little(hf__wait_order *order) {
    int64_t left = order->until - hf_now();
    int64_t length = order->nap < left ? order->nap : left;
    order->nap = order->nap * 2 < order->poll ? order->nap * 2 : order->poll;
    return length > 0 ? hf__wait_asleep(order->waiter, length) : 0;
}

/* claim(), waiting while another thread is acquiring the lock for all. It looks again and again: the thread it waits for
   may itself wait in the kernel, and which of the two the caller's deadline or a signal ends is not known before. */
static int claim_in_turn(hf_lock *lock, hf__wait_order *order, hf__hold **claimed) {
    int rc;
    while ((rc = claim(lock, order->how, claimed)) == HF_BUSY) {
        if (hf_now() >= order->until)
            return HF_TIMED_OUT;
        rc = sleep_a_little(order);
        if (rc != 0)
            return rc;
    }
    return rc;
}

/* Wait once, in the kernel if that is possible. 0 with the lock taken, HF_BUSY when it is worth another look.

   Never in the kernel for a lock that another machine has: what becomes of it when the wait is given up, and whether it
   can be, depends on both. With NFS 3 and Linux before 6.4 a lock that is granted at that very moment stays with nobody,
   for ever; and a client of SMB has been seen to wait on for a lock that was free. */
static int wait_once(const hf__hold *hold, hf__wait_order *order, bool *in_kernel) {
    if (*in_kernel && hold->file != HF__NO_FILE && !hold->identity.elsewhere) {
        order->file = hold->file;
        int rc = hf__wait_in_kernel(order);
        if (rc == -ENOSYS)
            *in_kernel = false;
        else if (rc != HF_BUSY || hf_now() >= order->until)
            return rc;
        /* A kernel that says "busy" instead of waiting must not make us spin. */
    }
    int rc = sleep_a_little(order);
    return rc == 0 ? HF_BUSY : rc;
}

int hf__hold_wait(hf__hold *hold, hf__wait_order *order, int64_t deadline) {
    bool in_kernel = !(hold->lock->pool->flags & HF_POLL_ONLY);
    int rc;
    while ((rc = hf__hold_take(hold)) == HF_BUSY) {
        if (deadline == HF_FOREVER && waits_for_itself(hold))
            return HF_SELF_DEADLOCK;
        if (hf_now() >= order->until)
            return HF_TIMED_OUT;
        rc = wait_once(hold, order, &in_kernel);
        if (rc == 0 && confirm(hold))
            return 0;
        if (rc != 0 && rc != HF_BUSY)
            return rc;
    }
    return rc;
}

hf__wait_order hf__hold_order(int how, int flags, int64_t began, int64_t deadline, int64_t poll, hf_waiter *waiter) {
    int64_t now = hf_now(), waited = now - began, turn_ends = now + hf__wait_turn(waited);
    int64_t longest_nap = poll > FIRST_NAP ? poll : FIRST_NAP, nap = waited > FIRST_NAP ? waited : FIRST_NAP;
    return (hf__wait_order){.how = how,
                            .flags = flags,
                            .until = turn_ends < deadline ? turn_ends : deadline,
                            .poll = longest_nap,
                            .nap = nap < longest_nap ? nap : longest_nap,
                            .waiter = waiter};
}

int hf__hold_waited(int rc, const hf__wait_order *order, int64_t deadline) {
    return rc == HF_TIMED_OUT && order->until < deadline ? HF_INTERRUPTED : rc;
}

int hf_wait(hf_lock *lock, int how, int64_t began, int64_t deadline, int64_t poll, hf_waiter *waiter) {
    hf__wait_order order = hf__hold_order(how, lock->flags, began, deadline, poll, waiter);
    hf__hold *hold;
    int rc = claim_in_turn(lock, &order, &hold);
    if (rc == 0 && hold != NULL) {
        rc = hf__hold_wait(hold, &order, deadline);
        settle(hold, rc == 0);
    }
    return hf__hold_waited(rc, &order, deadline);
}

int hf_count(hf_lock *lock) {
    hf__mutex_lock(&lock->pool->mutex);
    const hf__hold *hold = held_by_me(lock);
    int count = hold != NULL ? hold->count : 0;
    hf__mutex_unlock(&lock->pool->mutex);
    return count;
}

int64_t hf_descriptor(hf_lock *lock) {
    hf__mutex_lock(&lock->pool->mutex);
    const hf__hold *hold = held_by_me(lock);
    int64_t descriptor = hold != NULL ? (int64_t)(intptr_t)hold->file : -EPERM;
    hf__mutex_unlock(&lock->pool->mutex);
    return descriptor;
}

/* ------------------------------------------------------------------------------------------------------------------ *
 * Releasing
 */

/* Unlock a BUSY hold. If the kernel refuses, closing the file does it. */
static int unlock(hf__hold *hold) {
    if (hold->lock->meter != NULL)
        hf_meter_held(hold->lock->meter, hf_now() - hold->since);
    int rc = hf__lock_drop(hold->file, hold->lock->flags);
    if (rc != 0)
        hf__hold_discard(hold);
    settle(hold, false);
    return rc;
}

int hf_release(hf_lock *lock) {
    hf__mutex_lock(&lock->pool->mutex);
    hf__hold *hold = held_by_me(lock);
    int left = hold != NULL ? --hold->count : -EPERM;
    if (left == 0)
        hold->state = HF__BUSY;
    hf__mutex_unlock(&lock->pool->mutex);
    return left == 0 ? unlock(hold) : left;
}

/* A hold to be released by hf_release_all(), made BUSY, or NULL. */
static hf__hold *next_to_release(hf_lock *lock, bool everybodys) {
    hf__mutex_lock(&lock->pool->mutex);
    hf__hold *hold = held_by_me(lock);
    for (hf__hold *other = &lock->first; other != NULL && hold == NULL; other = other->sibling)
        if (other->state == HF__HELD && (everybodys || other->thread->ended))
            hold = other;
    if (hold != NULL)
        hold->state = HF__BUSY;
    hf__mutex_unlock(&lock->pool->mutex);
    return hold;
}

static int release_holds(hf_lock *lock, bool everybodys) {
    int first_error = 0;
    for (hf__hold *hold; (hold = next_to_release(lock, everybodys)) != NULL;) {
        int rc = unlock(hold);
        if (first_error == 0)
            first_error = rc;
    }
    return first_error;
}

int hf_release_all(hf_lock *lock) {
    return release_holds(lock, false);
}

size_t hf_holding_threads(hf_lock *lock, uint64_t *threads, size_t capacity) {
    size_t found = 0;
    hf__mutex_lock(&lock->pool->mutex);
    for (const hf__hold *hold = &lock->first; hold != NULL; hold = hold->sibling) {
        if (hold->state != HF__HELD)
            continue;
        if (found < capacity)
            threads[found] = hold->thread->number;
        found++;
    }
    hf__mutex_unlock(&lock->pool->mutex);
    return found;
}

/* The file of an idle hold, which is the caller's now, or HF__NO_FILE. */
static hf__file detach_idle_file(hf_lock *lock) {
    hf__file file = HF__NO_FILE;
    hf__mutex_lock(&lock->pool->mutex);
    for (hf__hold *hold = &lock->first; hold != NULL && file == HF__NO_FILE; hold = hold->sibling) {
        if (hold->state == HF__IDLE && hold->file != HF__NO_FILE) {
            hf__list_remove(&lock->pool->idle, hold);
            file = hold->file;
            hold->file = HF__NO_FILE;
        }
    }
    hf__mutex_unlock(&lock->pool->mutex);
    return file;
}

void hf_close_idle(hf_lock *lock) {
    for (hf__file file; (file = detach_idle_file(lock)) != HF__NO_FILE;)
        hf__file_close(file);
}

void hf_lock_free(hf_lock *lock) {
    if (lock == NULL)
        return;
    release_holds(lock, true);
    hf_close_idle(lock);
    for (hf__hold *hold = lock->first.sibling, *next; hold != NULL; hold = next) {
        next = hold->sibling;
        free(hold);
    }
    free(lock);
}
