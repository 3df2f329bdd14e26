/* Markers: what is the same everywhere. */
#include "internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct hf_marker {
    hf__file file;
    hf__identity identity;
    char path[];
};

static hf_marker *new_marker(const char *path) {
    size_t size = strlen(path) + 1;
    hf_marker *marker = malloc(sizeof *marker + size);
    if (marker != NULL)
        memcpy(marker->path, path, size);
    return marker;
}

int hf_marker_create(const char *path, const char *scratch, const char *text, size_t length, unsigned mode, int flags,
                     hf_marker **created) {
    hf_marker *marker = new_marker(path);
    if (marker == NULL)
        return -ENOMEM;
    hf__record record = {.text = text, .length = length, .mode = mode, .exact_mode = flags & HF_EXACT_MODE};
    int rc = hf__marker_publish(path, scratch, &record, &marker->file, &marker->identity);
    if (rc != 0) {
        free(marker);
        return rc;
    }
    *created = marker;
    return 0;
}

int hf_marker_open(const char *path, hf_marker **opened) {
    hf_marker *marker = new_marker(path);
    if (marker == NULL)
        return -ENOMEM;
    int rc = hf__marker_open(path, &marker->file, &marker->identity);
    if (rc != 0) {
        free(marker);
        return rc;
    }
    *opened = marker;
    return 0;
}

int hf_marker_read(hf_marker *marker, char *record, size_t capacity, int64_t *age) {
    return hf__marker_read(marker->file, record, capacity, age);
}

int hf_marker_remove(hf_marker *marker, int alone) {
    return hf__marker_remove(marker->path, marker->file, &marker->identity, alone);
}

void hf_marker_close(hf_marker **marker) {
    hf_marker *closing = *marker;
    if (closing == NULL)
        return;
    *marker = NULL; /* first: a child forked in the middle must not close it again */
    hf__file_close(closing->file);
    free(closing);
}
