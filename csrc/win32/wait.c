/* Waiting: for an overlapped LockFileEx(), or by sleeping.
 *
 * The kernel grants the lock to an operation that goes on in the background and sets an event; the thread waits for this
 * event, for one that hf_waiter_cancel() sets, and for the time. Nothing on Windows interrupts such a wait when Ctrl-C is
 * pressed, or when another thread wants a Python signal handler to run. So the turns of a wait are short: the caller runs
 * its handlers and waits on. The price is the place in the kernel's queue. (A console handler of our own would run before
 * Python's, and wake us too early.)
 */
#include "../internal.h"
#include "kernlock.h"
#include "path.h"
#include "sys.h"

#include <errno.h>

#define SECOND 1000000000
#define MILLISECOND 1000000
#define TURN (100 * MILLISECOND)

int64_t hf_now(void) {
    LARGE_INTEGER count, frequency;
    hf__sys.QueryPerformanceCounter(&count);
    hf__sys.QueryPerformanceFrequency(&frequency);
    int64_t seconds = count.QuadPart / frequency.QuadPart, rest = count.QuadPart % frequency.QuadPart;
    return seconds * SECOND + rest * SECOND / frequency.QuadPart; /* no overflow below a frequency of 9 GHz */
}

/* ------------------------------------------------------------------------------------------------------------------ *
 * In the kernel
 */

void hf__wait_end(const hf__wait_state *cancel) {
    (void)hf__sys.SetEvent(*cancel);
}

static HANDLE new_event(void) {
    return hf__sys.CreateEventW(NULL, TRUE, FALSE, NULL);
}

static DWORD whole_milliseconds(int64_t nanoseconds) {
    return (DWORD)((nanoseconds + MILLISECOND - 1) / MILLISECOND);
}

int64_t hf__wait_turn(int64_t waited) {
    (void)waited;
    return TURN;
}

static DWORD milliseconds_until(int64_t moment) {
    int64_t left = moment - hf_now();
    return left > 0 ? whole_milliseconds(left) : 0;
}

/* Wait for `ended`, which the operation sets, or `cancel`. */
static int wait_with(HANDLE ended, HANDLE cancel, const hf__wait_order *order) {
    int rc = hf__waiter_enter(order->waiter, cancel);
    if (rc != 0)
        return rc;
    HANDLE events[] = {ended, cancel};
    OVERLAPPED overlapped = {.hEvent = ended};
    DWORD waited = WAIT_OBJECT_0;
    rc = hf__lock_call(order->file, order->how, order->flags, true, &overlapped);
    if (rc == HF__PENDING) {
        waited = hf__sys.WaitForMultipleObjects(2, events, FALSE, milliseconds_until(order->until));
        /* `overlapped` must outlive the operation, and only its result tells whether the lock was granted after all:
           then it stays so. An operation that has ended cannot be cancelled, and that is well. */
        (void)hf__sys.CancelIoEx(order->file, &overlapped);
        rc = hf__lock_result(order->file, &overlapped);
    }
    int cancelled = hf__waiter_leave(order->waiter);
    if (rc != -ECANCELED && rc != HF_BUSY)
        return rc;
    if (cancelled != 0)
        return cancelled;
    return waited == WAIT_FAILED ? -ENOSYS : HF_BUSY;
}

/* ------------------------------------------------------------------------------------------------------------------ *
 * The proof that the kernel can do this. Under Wine such an operation neither ends nor can be cancelled.
 */

#define LONG_ENOUGH 200 /* milliseconds for what happens at once, if it happens */

/* Two handles of a new file that goes away with them. Nobody guesses its name, and CREATE_NEW opens nothing that is
   there. */
static bool open_trial_file(HANDLE files[2]) {
    WCHAR path[MAX_PATH + HF__RANDOM_NAME + 1];
    DWORD length = hf__sys.GetTempPathW(MAX_PATH, path);
    if (length == 0 || length > MAX_PATH || !hf__random_name(path + length))
        return false;
    const DWORD share = FILE_SHARE_READ | FILE_SHARE_WRITE | FILE_SHARE_DELETE;
    const DWORD flags = FILE_ATTRIBUTE_TEMPORARY | FILE_FLAG_DELETE_ON_CLOSE | FILE_FLAG_OVERLAPPED;
    files[0] = hf__sys.CreateFileW(path, GENERIC_READ | GENERIC_WRITE | DELETE, share, NULL, CREATE_NEW, flags, NULL);
    if (files[0] == INVALID_HANDLE_VALUE)
        return false;
    files[1] =
        hf__sys.CreateFileW(path, GENERIC_READ | GENERIC_WRITE, share, NULL, OPEN_EXISTING, FILE_FLAG_OVERLAPPED, NULL);
    if (files[1] == INVALID_HANDLE_VALUE)
        hf__file_close(files[0]);
    return files[1] != INVALID_HANDLE_VALUE;
}

/* Whether a wait on files[1], for the lock that files[0] has, can be cancelled, and another one is granted. */
static bool try_waiting(HANDLE files[2], OVERLAPPED trials[2]) {
    if (hf__lock_try(files[0], HF_EXCLUSIVE, 0, false) != 0)
        return false;
    if (hf__lock_call(files[1], HF_EXCLUSIVE, 0, true, &trials[0]) != HF__PENDING ||
        !hf__sys.CancelIoEx(files[1], &trials[0]) ||
        hf__sys.WaitForSingleObject(trials[0].hEvent, LONG_ENOUGH) != WAIT_OBJECT_0 ||
        hf__lock_result(files[1], &trials[0]) != -ECANCELED)
        return false;
    return hf__lock_call(files[1], HF_EXCLUSIVE, 0, true, &trials[1]) == HF__PENDING &&
           hf__lock_drop(files[0], 0) == 0 &&
           hf__sys.WaitForSingleObject(trials[1].hEvent, LONG_ENOUGH) == WAIT_OBJECT_0 &&
           hf__lock_result(files[1], &trials[1]) == 0;
}

/* What an operation that does not end would write to must stay for ever: so it is static, and the events and files of a
   failed trial are never closed. */
static BOOL CALLBACK find_out(INIT_ONCE *once, void *argument, void **works) {
    static OVERLAPPED trials[2];
    (void)once, (void)argument;
    HANDLE files[2];
    if (!open_trial_file(files))
        return TRUE;
    trials[0].hEvent = new_event();
    trials[1].hEvent = new_event();
    if (trials[0].hEvent == NULL || trials[1].hEvent == NULL || !try_waiting(files, trials))
        return TRUE;
    for (int i = 0; i < 2; i++) {
        hf__sys.CloseHandle(trials[i].hEvent);
        hf__file_close(files[1 - i]);
    }
    *works = trials; /* anything but NULL */
    return TRUE;
}

static bool kernel_can_wait(void) {
    static INIT_ONCE once = INIT_ONCE_STATIC_INIT;
    void *works = NULL;
    return InitOnceExecuteOnce(&once, find_out, NULL, &works) && works != NULL;
}

int hf__wait_in_kernel(const hf__wait_order *order) {
    if (!kernel_can_wait())
        return -ENOSYS;
    HANDLE ended = new_event(), cancel = new_event();
    int rc = ended != NULL && cancel != NULL ? wait_with(ended, cancel, order) : -ENOSYS;
    if (ended != NULL)
        hf__sys.CloseHandle(ended);
    if (cancel != NULL)
        hf__sys.CloseHandle(cancel);
    return rc;
}

/* ------------------------------------------------------------------------------------------------------------------ *
 * Asleep
 */

#ifndef CREATE_WAITABLE_TIMER_HIGH_RESOLUTION
#define CREATE_WAITABLE_TIMER_HIGH_RESOLUTION 2
#endif

/* Sleep() is as coarse as the system's clock, 16 ms; a timer of high resolution, from Windows 10 1803 on, is not. */
static void nap(int64_t nanoseconds) {
    HANDLE timer = hf__sys.CreateWaitableTimerExW(NULL, NULL, CREATE_WAITABLE_TIMER_HIGH_RESOLUTION,
                                                  SYNCHRONIZE | TIMER_MODIFY_STATE);
    LARGE_INTEGER due = {.QuadPart = -(nanoseconds / 100 + 1)}; /* negative: from now on */
    bool slept = timer != NULL && hf__sys.SetWaitableTimer(timer, &due, 0, NULL, NULL, FALSE) &&
                 hf__sys.WaitForSingleObject(timer, INFINITE) == WAIT_OBJECT_0;
    if (timer != NULL)
        hf__sys.CloseHandle(timer);
    if (!slept)
        hf__sys.Sleep(whole_milliseconds(nanoseconds));
}

int hf__wait_asleep(hf_waiter *waiter, int64_t nanoseconds) {
    nap(nanoseconds);
    return hf__waiter_leave(waiter);
}
