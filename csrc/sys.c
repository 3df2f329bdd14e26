/* The table of system calls, by name. */
#include "internal.h"

#include <errno.h>
#include <string.h>

static void *find_entry(const char *name) {
    for (const hf__sys_entry *entry = hf__sys_entries; entry->name != NULL; entry++)
        if (strcmp(entry->name, name) == 0)
            return entry->pointer;
    return NULL;
}

const char *hf_sys_name(size_t index) {
    for (const hf__sys_entry *entry = hf__sys_entries; entry->name != NULL; entry++)
        if (index-- == 0)
            return entry->name;
    return NULL;
}

/* A function pointer goes through memcpy, because ISO C has no cast between it and void *. */
void *hf_sys_get(const char *name) {
    void *function = NULL;
    const void *entry = find_entry(name);
    if (entry != NULL)
        memcpy(&function, entry, sizeof function);
    return function;
}

int hf_sys_set(const char *name, void *function) {
    void *entry = find_entry(name);
    if (entry == NULL)
        return -ENOENT;
    memcpy(entry, &function, sizeof function);
    return 0;
}
