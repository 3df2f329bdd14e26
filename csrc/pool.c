/* The pool: the open lock files of a process, and the threads that use them. */
#include "internal.h"

#include <errno.h>
#include <stdlib.h>

/* A thread's record outlives the thread while a hold of it does: see hf__thread. */
static void thread_ended(void *record) {
    hf__thread *thread = record;
    hf_pool *pool = thread->pool;
    hf__mutex_lock(&pool->mutex);
    thread->ended = true;
    bool unused = thread->holds == 0;
    hf__mutex_unlock(&pool->mutex);
    if (unused)
        free(thread);
}

hf_pool *hf_pool_new(size_t max_idle, int flags) {
    hf_pool *pool = calloc(1, sizeof *pool);
    if (pool == NULL)
        return NULL;
    if (hf__key_new(&pool->thread_key, thread_ended) != 0) {
        free(pool);
        return NULL;
    }
    hf__mutex_init(&pool->mutex);
    pool->max_idle = max_idle;
    pool->flags = flags;
    pool->meters = hf__meters_new(); /* now, so that children forked later share them */
    pool->meter_row = -1;
    if (hf__fork_watch(pool) != 0) {
        hf_pool_free(pool);
        return NULL;
    }
    return pool;
}

void hf_pool_free(hf_pool *pool) {
    hf__fork_unwatch(pool);
    free(hf__key_get(pool->thread_key));
    hf__key_free(pool->thread_key);
    hf__mutex_destroy(&pool->mutex);
    hf__meters_free(pool->meters);
    free(pool->meter_base);
    free(pool);
}

hf__thread *hf__thread_current(hf_pool *pool) {
    hf__thread *thread = hf__key_get(pool->thread_key);
    if (thread != NULL || (thread = calloc(1, sizeof *thread)) == NULL)
        return thread;
    thread->pool = pool;
    thread->number = hf__thread_number();
    if (hf__key_set(pool->thread_key, thread) == 0)
        return thread;
    free(thread); /* a hold of a thread that is not known again could never be released */
    return NULL;
}

void hf__list_push(hf__list *list, hf__hold *hold) {
    hold->previous = NULL;
    hold->next = list->head;
    if (list->head != NULL)
        list->head->previous = hold;
    else
        list->tail = hold;
    list->head = hold;
    list->length++;
}

void hf__list_remove(hf__list *list, hf__hold *hold) {
    if (hold->previous != NULL)
        hold->previous->next = hold->next;
    else
        list->head = hold->next;
    if (hold->next != NULL)
        hold->next->previous = hold->previous;
    else
        list->tail = hold->previous;
    hold->previous = hold->next = NULL;
    list->length--;
}

bool hf__pool_evict(hf_pool *pool) {
    hf__file file = HF__NO_FILE;
    hf__mutex_lock(&pool->mutex);
    hf__hold *oldest = pool->idle.tail;
    if (oldest != NULL) {
        hf__list_remove(&pool->idle, oldest);
        file = oldest->file;
        oldest->file = HF__NO_FILE;
    }
    hf__mutex_unlock(&pool->mutex);
    if (oldest == NULL)
        return false;
    hf__file_close(file);
    return true;
}

size_t hf_pool_idle(hf_pool *pool) {
    hf__mutex_lock(&pool->mutex);
    size_t length = pool->idle.length;
    hf__mutex_unlock(&pool->mutex);
    return length;
}

void hf__pool_before_fork(hf_pool *pool) {
    hf__mutex_lock(&pool->mutex);
    pool->forks++;
}

void hf__pool_after_fork_parent(hf_pool *pool) {
    hf__mutex_unlock(&pool->mutex);
}

/* Forget a hold in the child. Its file is closed and not unlocked: the lock belongs to the open file description, which
   the parent still uses. */
static void disown(hf__list *list, hf__hold *hold) {
    hf__list_remove(list, hold);
    if (hold->file != HF__NO_FILE)
        hf__file_close(hold->file);
    if (hold->syncing != HF__NO_FILE && hold->syncing != hold->file)
        hf__file_close(hold->syncing);
    hold->file = hold->syncing = HF__NO_FILE;
    hold->thread = NULL;
    hold->count = 0;
    hold->state = HF__IDLE;
}

void hf__pool_after_fork_child(hf_pool *pool) {
    while (pool->used.head != NULL)
        disown(&pool->used, pool->used.head);
    while (pool->idle.head != NULL)
        disown(&pool->idle, pool->idle.head);
    /* The records of the other threads are lost with them: a few bytes each, once. */
    hf__thread *thread = hf__key_get(pool->thread_key);
    if (thread != NULL)
        thread->holds = 0;
    pool->meter_row = -1;
    free(pool->meter_base);
    pool->meter_base = NULL;
    hf__mutex_unlock(&pool->mutex); /* which this thread locked before it forked */
}
