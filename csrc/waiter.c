/* Waiters: the handle by which one thread ends the wait of another. */
#include "internal.h"

#include <stdlib.h>

hf_waiter *hf_waiter_new(void) {
    hf_waiter *waiter = calloc(1, sizeof *waiter);
    if (waiter != NULL)
        hf__mutex_init(&waiter->mutex);
    return waiter;
}

void hf_waiter_free(hf_waiter *waiter) {
    if (waiter == NULL)
        return;
    hf__mutex_destroy(&waiter->mutex);
    free(waiter);
}

void hf_waiter_cancel(hf_waiter *waiter) {
    hf__mutex_lock(&waiter->mutex);
    waiter->cancelled = true;
    if (waiter->waiting)
        hf__wait_end(&waiter->state);
    hf__mutex_unlock(&waiter->mutex);
}

int hf__waiter_enter(hf_waiter *waiter, hf__wait_state state) {
    if (waiter == NULL)
        return 0;
    hf__mutex_lock(&waiter->mutex);
    bool cancelled = waiter->cancelled;
    waiter->waiting = !cancelled;
    waiter->state = state;
    hf__mutex_unlock(&waiter->mutex);
    return cancelled ? HF_CANCELLED : 0;
}

int hf__waiter_leave(hf_waiter *waiter) {
    if (waiter == NULL)
        return 0;
    hf__mutex_lock(&waiter->mutex);
    waiter->waiting = false;
    bool cancelled = waiter->cancelled;
    hf__mutex_unlock(&waiter->mutex);
    return cancelled ? HF_CANCELLED : 0;
}
