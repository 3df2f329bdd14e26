/* Meters: what locks and files have done, counted by name in memory that forked children share.
 *
 * Each process counts in a row of its own, under its pool's mutex, so that nothing has to be atomic but the claiming of
 * rows and names. A row outlives its process: what a worker has counted stays, however it ended. When no row is left the
 * row of a process that is gone is taken over, and counted on in. */
#include "internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define FREE 0
#define CLAIMED 1 /* and about to be named */
#define NAMED 2

/* How often to look whether whoever claims a name at this moment has written it. If it dies in between, the place is lost. */
#define LOOKS 100000

struct hf_meter {
    uint32_t state;
    char name[HF_METER_NAME];
    hf_pool *pool; /* at the same address in every child */
};

struct hf__meters {
    hf_meter meters[HF_METERS];
    uint32_t owners[HF__METER_ROWS]; /* pids; 0 for nobody's */
    int64_t rows[HF__METER_ROWS][HF_METERS][HF_COUNTERS];
};

hf__meters *hf__meters_new(void) {
    return hf__shared_new(sizeof(hf__meters));
}

void hf__meters_free(hf__meters *meters) {
    hf__shared_free(meters, sizeof *meters);
}

/* ------------------------------------------------------------------------------------------------------------------ *
 * Rows
 */

static bool take_row(hf_pool *pool, int row, uint32_t from) {
    hf__meters *meters = pool->meters;
    if (!hf__shared_claim(&meters->owners[row], from, hf__process_number()))
        return false;
    pool->meter_row = row;
    if (from == 0)
        return true;
    for (int meter = 0; meter < HF_METERS; meter++)
        meters->rows[row][meter][HF_PENDING] = 0; /* whatever it was about to do will not be done */
    free(pool->meter_base);
    pool->meter_base = malloc(sizeof meters->rows[row]);
    if (pool->meter_base != NULL)
        memcpy(pool->meter_base, meters->rows[row], sizeof meters->rows[row]);
    return true;
}

/* The counters of this process, for a meter. With the mutex held. */
static int64_t *row_of(const hf_meter *meter) {
    hf_pool *pool = meter->pool;
    hf__meters *meters = pool->meters;
    for (int row = 0; pool->meter_row < 0 && row < HF__METER_ROWS; row++)
        take_row(pool, row, 0);
    for (int row = 0; pool->meter_row < 0 && row < HF__METER_ROWS; row++)
        if (!hf__process_lives(meters->owners[row]))
            take_row(pool, row, meters->owners[row]);
    if (pool->meter_row < 0)
        pool->meter_row =
            HF__METER_ROWS - 1; /* with another living process: a count may be lost when both count at once */
    return meters->rows[pool->meter_row][meter - meters->meters];
}

/* ------------------------------------------------------------------------------------------------------------------ *
 * Names
 */

static bool is_named(hf_meter *meter, const char *name) {
    for (int look = 0; hf__shared_look(&meter->state) == CLAIMED && look < LOOKS; look++)
        hf__thread_pause();
    return hf__shared_look(&meter->state) == NAMED && strcmp(meter->name, name) == 0;
}

hf_meter *hf_meter_of(hf_pool *pool, const char *name) {
    if (pool->meters == NULL || strlen(name) >= HF_METER_NAME)
        return NULL;
    for (hf_meter *meter = pool->meters->meters; meter < pool->meters->meters + HF_METERS; meter++) {
        if (is_named(meter, name))
            return meter;
        if (hf__shared_claim(&meter->state, FREE, CLAIMED)) {
            memcpy(meter->name, name, strlen(name) + 1);
            meter->pool = pool;
            hf__shared_claim(&meter->state, CLAIMED, NAMED);
            return meter;
        }
        if (is_named(meter, name)) /* somebody was just claiming it for the same */
            return meter;
    }
    return NULL;
}

/* ------------------------------------------------------------------------------------------------------------------ *
 * Counting
 */

void hf__meter_add(hf_meter *meter, int counter, int64_t number) {
    if (meter != NULL)
        row_of(meter)[counter] += number;
}

/* The bucket of a duration: bucket n has those below 2 to the power of n nanoseconds that are in none before. */
static int bucket_of(int64_t nanoseconds) {
    int bucket = 0;
    while (bucket < HF_BUCKETS - 1 && nanoseconds >> bucket > 0)
        bucket++;
    return bucket;
}

void hf__meter_time(hf_meter *meter, int total, int buckets, int64_t nanoseconds) {
    int64_t *row = row_of(meter);
    row[total] += nanoseconds;
    row[buckets + bucket_of(nanoseconds)]++;
}

void hf_meter_add(hf_meter *meter, int counter, int64_t number) {
    hf__mutex_lock(&meter->pool->mutex);
    hf__meter_add(meter, counter, number);
    hf__mutex_unlock(&meter->pool->mutex);
}

void hf_meter_waited(hf_meter *meter, int64_t nanoseconds) {
    hf__mutex_lock(&meter->pool->mutex);
    hf__meter_add(meter, HF_CONTENDED, 1);
    hf__meter_time(meter, HF_WAITED, HF_WAITS, nanoseconds);
    hf__mutex_unlock(&meter->pool->mutex);
}

void hf_meter_held(hf_meter *meter, int64_t nanoseconds) {
    hf__mutex_lock(&meter->pool->mutex);
    hf__meter_time(meter, HF_HELD, HF_HOLDS, nanoseconds);
    hf__mutex_unlock(&meter->pool->mutex);
}

/* ------------------------------------------------------------------------------------------------------------------ *
 * Reading
 */

static void add_row(int64_t *counts, const hf_pool *pool, int row, size_t index) {
    const hf__meters *meters = pool->meters;
    const int64_t *counted = meters->rows[row][index];
    for (int counter = 0; counter < HF_COUNTERS; counter++)
        if (counter != HF_PENDING || row == pool->meter_row || hf__process_lives(meters->owners[row]))
            counts[counter] += counted[counter];
}

int hf_meter_read(hf_pool *pool, size_t index, int mine, char *name, int64_t *counts) {
    if (pool->meters == NULL || index >= HF_METERS || hf__shared_look(&pool->meters->meters[index].state) != NAMED)
        return 0;
    memcpy(name, pool->meters->meters[index].name, HF_METER_NAME);
    memset(counts, 0, HF_COUNTERS * sizeof *counts);
    hf__mutex_lock(&pool->mutex);
    for (int row = 0; row < HF__METER_ROWS; row++)
        if (mine ? row == pool->meter_row : pool->meters->owners[row] != 0 || row == pool->meter_row)
            add_row(counts, pool, row, index);
    for (size_t counter = 0; mine && pool->meter_base != NULL && counter < HF_COUNTERS; counter++)
        counts[counter] -= pool->meter_base[index * HF_COUNTERS + counter];
    hf__mutex_unlock(&pool->mutex);
    return 1;
}
