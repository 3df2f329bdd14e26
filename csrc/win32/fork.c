/* Windows does not fork. */
#include "../internal.h"

int hf__fork_watch(hf_pool *pool) {
    (void)pool;
    return 0;
}

void hf__fork_unwatch(hf_pool *pool) {
    (void)pool;
}
