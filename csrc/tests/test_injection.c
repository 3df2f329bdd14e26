/* Every system call fails once, at each of its turns, in every way: whatever the core then answers, the answer is true,
   and nothing is lost, leaked or left locked. */
#include "check.h"

#ifdef _WIN32
#include "fail_win32.h"
#else
#include "fail_posix.h"
#endif

/* The call that is to fail next: the `turn`th one of this name. */
typedef struct {
    const char *name;
    int turn, seen, error;
    bool armed;
} failure;

static failure plan;

bool fails(const char *name) {
    if (!plan.armed || strcmp(plan.name, name) != 0 || ++plan.seen != plan.turn)
        return false;
    set_error(plan.error);
    return true;
}

/* ------------------------------------------------------------------------------------------------------------------ *
 * What is tried while it fails
 */

/* An acquisition either holds the lock or does not, and the system agrees. Then release it. */
static void expect_truth(hf_lock *lock, const char *path, int rc) {
    CHECK(rc <= 0);
    CHECK_IS(hf_count(lock), rc == 0);
    CHECK_IS(is_free(path), rc != 0);
    if (rc == 0) {
        CHECK(hf_release(lock) <= 0);
        CHECK_IS(hf_count(lock), 0);
        CHECK(is_free(path));
    }
}

static void acquire_and_release(hf_pool *pool, const char *path, int flags) {
    hf_pool *others = hf_pool_new(1, 0);
    hf_lock *lock = hf_lock_new(pool, path, 0600, flags), *other = hf_lock_new(others, path, 0600, flags);
    plan.armed = true;
    expect_truth(lock, path, hf_try(lock, HF_EXCLUSIVE));
    expect_truth(lock, path, hf_wait(lock, HF_EXCLUSIVE, hf_now(), hf_now() + MILLISECONDS, 0, NULL));
    plan.armed = false;
    CHECK_IS(hf_try(other, HF_EXCLUSIVE), 0);
    plan.armed = true;
    CHECK(hf_wait(lock, HF_EXCLUSIVE, hf_now(), hf_now() + MILLISECONDS, 0, NULL) < 0);
    CHECK_IS(hf_count(lock), 0);
    plan.armed = false;
    CHECK_IS(hf_release(other), 0);
    CHECK_IS(hf_try(lock, HF_EXCLUSIVE), 0);
    CHECK_IS(hf_release(lock), 0);
    hf_lock_free(other);
    hf_lock_free(lock);
    hf_pool_free(others);
}

static void create_and_remove(const char *path, const char *scratch) {
    hf_marker *marker = NULL, *seen = NULL;
    char record[16];
    int64_t age;
    plan.armed = true;
    int rc = hf_marker_create(path, scratch, "record", 6, 0600, HF_EXACT_MODE, &marker);
    if (rc != 0) {
        CHECK(rc < 0);
        CHECK(!file_exists(path));
        CHECK(!file_exists(scratch) || strcmp(plan.name, REMOVING_CALL) == 0);
    } else {
        CHECK(strcmp(read_text(path), "record") == 0);
        if (hf_marker_open(path, &seen) == 0) {
            rc = hf_marker_read(seen, record, sizeof record, &age);
            CHECK(rc < 0 || (rc == 6 && memcmp(record, "record", 6) == 0));
            hf_marker_close(&seen);
        }
        rc = hf_marker_remove(marker, 0);
        CHECK(rc <= 0);
        plan.armed = false;
        hf_marker_close(&marker);
        CHECK_IS(file_exists(path), rc != 0);
    }
    plan.armed = false;
    if (file_exists(path))
        remove_file(path);
    if (file_exists(scratch))
        remove_file(scratch);
}

static void scenario(int lock_flags) {
    int before = open_files();
    hf_pool *pool = hf_pool_new(8, 0);
    acquire_and_release(pool, test_path("lock"), lock_flags);
    create_and_remove(test_path("marker"), test_path("scratch"));
    plan.armed = true;
    int64_t start = hf_process_start(own_pid());
    plan.armed = false;
    CHECK(start > 0 || start == -ENOSYS);
    hf_pool_free(pool);
    CHECK_IS(open_files(), before);
    remove_file(test_path("lock"));
}

/* Let each turn of one call fail. How often the scenario makes it. */
static int fail_every_turn(const char *name, int error, int lock_flags) {
    for (int turn = 1;; turn++) {
        plan = (failure){.name = name, .turn = turn, .error = error};
        scenario(lock_flags);
        if (plan.seen < turn)
            return plan.seen;
    }
}

static void every_failure_is_survived(int lock_flags) {
    if (check_slow && (lock_flags & HF_OFD))
        SKIP("valgrind does not know that F_OFD_SETLKW blocks, and holds back the signal that would end it");
    replace_all();
    int called = 0;
    for (size_t i = 0; hf_sys_name(i) != NULL; i++) {
        if (!CHECK(can_fail(hf_sys_name(i)))) {
            printf("    %s is replaced by no function that fails\n", hf_sys_name(i));
            continue;
        }
        int turns = 0;
        for (size_t j = 0; j < sizeof errors / sizeof *errors && (j < 2 || !check_slow); j++)
            turns = fail_every_turn(hf_sys_name(i), errors[j], lock_flags);
        called += turns > 0;
    }
    CHECK(called > 10);
}

const check_test injection_tests[] = {
    {"every failure of a system call is survived", every_failure_is_survived, 0},
    {"every failure of a system call is survived (OFD)", every_failure_is_survived, HF_OFD},
    {NULL, NULL, 0},
};
