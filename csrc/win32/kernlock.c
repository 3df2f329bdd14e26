/* LockFileEx().
 *
 * Its locks belong to the handle, and no handle is inherited. They are mandatory: nobody reads or writes a locked byte.
 * We lock one byte. Of a lock file it is the first, which is the one the filelock package locks, so that both exclude each
 * other; of a file that holds data it is the last that a file could ever have, so that readers are left alone.
 */
#include "kernlock.h"
#include "sys.h"

#include <errno.h>

/* What a locking call says, in our words. */
static int lock_error(DWORD error) {
    switch (error) {
    case ERROR_IO_PENDING:
        return HF__PENDING;
    case ERROR_OPERATION_ABORTED:
        return -ECANCELED;
    case ERROR_INVALID_FUNCTION:
    case ERROR_NOT_SUPPORTED:
    case ERROR_CALL_NOT_IMPLEMENTED:
        return HF_NO_LOCKS;
    default:
        return hf__error(error);
    }
}

/* Put the offset of the byte that is locked into `overlapped`. */
static void aim(OVERLAPPED *overlapped, int flags) {
    overlapped->Offset = flags & HF__DATA ? 0xfffffffe : 0;
    overlapped->OffsetHigh = flags & HF__DATA ? 0x7fffffff : 0;
}

int hf__lock_call(hf__file file, int how, int flags, bool wait, OVERLAPPED *overlapped) {
    DWORD manner = (how == HF_SHARED ? 0 : LOCKFILE_EXCLUSIVE_LOCK) | (wait ? 0 : LOCKFILE_FAIL_IMMEDIATELY);
    aim(overlapped, flags);
    return hf__sys.LockFileEx(file, manner, 0, 1, 0, overlapped) ? 0 : lock_error(GetLastError());
}

int hf__lock_result(hf__file file, OVERLAPPED *overlapped) {
    DWORD nothing;
    return hf__sys.GetOverlappedResult(file, overlapped, &nothing, TRUE) ? 0 : lock_error(GetLastError());
}

/* On a handle for overlapped operations even a try may go on, over the network for example; it ends by itself. */
int hf__lock_try(hf__file file, int how, int flags, bool on_smb) {
    (void)on_smb;
    OVERLAPPED overlapped = {0};
    int rc = hf__lock_call(file, how, flags, false, &overlapped);
    return rc == HF__PENDING ? hf__lock_result(file, &overlapped) : rc;
}

int hf__lock_drop(hf__file file, int flags) {
    OVERLAPPED overlapped = {0};
    aim(&overlapped, flags);
    return hf__sys.UnlockFileEx(file, 0, 1, 0, &overlapped) ? 0 : hf__error(GetLastError());
}
