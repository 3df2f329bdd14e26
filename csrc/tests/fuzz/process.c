/* What a system, or somebody who has mounted his own /proc, says of a process. */
#include "fuzz.h"

static int (*real_open)(const char *, int, unsigned);

static int open_ours(const char *path, int flags, unsigned mode) {
    CHECK(strncmp(path, "/proc/", 6) == 0);
    return fuzz_fails() ? -1 : real_open("stat", flags, mode);
}

int LLVMFuzzerTestOneInput(const unsigned char *input, size_t length) {
    if (real_open == NULL) {
        real_open = hf_sys_get("open");
        CHECK(hf_sys_set("open", (void *)open_ours) == 0);
    }
    size_t skip = fuzz_begin(input, length);
    fuzz_write_file("stat", input + skip, length - skip);
    (void)hf_process_start(getpid());
    return 0;
}
