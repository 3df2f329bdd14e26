/* Numbers that tell the order of events in all processes and threads, whatever their clocks and locks do. */
#include <stdatomic.h>
#include <stdint.h>

uint64_t take_ticket(_Atomic uint64_t *counter) {
    return atomic_fetch_add(counter, 1) + 1;
}
