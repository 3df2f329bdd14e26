/* Every system call of an operation, whoever makes it: counted, failed, cut short, or the last one of its process.
 *
 * A seccomp filter turns the calls into SIGSYS, so that none is missed, whether it comes from the core, from Python or
 * from the C library itself. The handler decides what becomes of a call, and makes it by an instruction of its own, which
 * the filter lets pass. Loaded into a running process; Linux on x86-64 only. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#define MOST 8192   /* calls that are kept */
#define NUMBERS 512 /* more than there are system calls */

enum { NOTHING, FAIL, CUT, DIE_BEFORE, DIE_AFTER };

typedef struct {
    int32_t number;
    int64_t arguments[6];
    int64_t result;
    char path[128];
} faults_call;

/* Shared by the process that is meddled with and the one that watches it, so that it outlives the first. */
typedef struct {
    int32_t armed;
    int32_t paused;      /* a thread whose calls are let alone all the same; 0 for none */
    int32_t number, nth; /* which call it is: of this number the nth, from 1. What other calls there are may vary. */
    int32_t how;         /* what becomes of it */
    int32_t error;       /* with FAIL, and of what follows a CUT; 0 there for death */
    int32_t size;        /* with CUT: how many bytes are read or written */
    int32_t times;       /* how many calls of this number fail, from here on; 0 for every later one in `others` */
    int32_t no_unnamed_files, no_rename_flags; /* a file system that lacks these */
    int32_t count, hit, left;
    int32_t go; /* for who waits for strace */
    int32_t counts[NUMBERS];
    uint8_t others[NUMBERS];
    uint8_t trapped[NUMBERS];
    faults_call calls[MOST];
} faults_area;

static faults_area *area;

long faults_raw(long number, long a, long b, long c, long d, long e, long f);
extern char faults_raw_end[];
__asm__(
    ".text\n.globl faults_raw\n.type faults_raw, @function\nfaults_raw:\n"
    "mov %rdi, %rax\nmov %rsi, %rdi\nmov %rdx, %rsi\nmov %rcx, %rdx\nmov %r8, %r10\nmov %r9, %r8\nmov 8(%rsp), %r9\n"
    "syscall\n.globl faults_raw_end\nfaults_raw_end:\nret\n");

static long make(const faults_call *call) {
    const int64_t *a = call->arguments;
    return faults_raw(call->number, a[0], a[1], a[2], a[3], a[4], a[5]);
}

/* Less than the call asks for, also if that is less than when it was counted, as a time in decimals may be. */
static long make_a_part(const faults_call *call, long size) {
    faults_call cut = *call;
    if (size >= cut.arguments[2])
        size = cut.arguments[2] - 1;
    cut.arguments[2] = size;
    return make(&cut);
}

static void die(void) {
    faults_raw(SYS_kill, faults_raw(SYS_getpid, 0, 0, 0, 0, 0, 0), SIGKILL, 0, 0, 0, 0);
}

/* Where the path is among the arguments; -1 for calls that have a descriptor. */
static int place_of_path(long number) {
    switch (number) {
    case SYS_open:
    case SYS_stat:
    case SYS_lstat:
    case SYS_rename:
    case SYS_link:
    case SYS_unlink:
    case SYS_mkdir:
    case SYS_rmdir:
    case SYS_readlink:
    case SYS_access:
    case SYS_getxattr:
    case SYS_listxattr:
    case SYS_chmod:
        return 0;
    case SYS_openat:
    case SYS_newfstatat:
    case SYS_statx:
    case SYS_unlinkat:
    case SYS_readlinkat:
    case SYS_mkdirat:
    case SYS_faccessat:
    case SYS_faccessat2:
    case SYS_renameat:
    case SYS_renameat2:
    case SYS_linkat:
    case SYS_utimensat:
        return 1;
    default:
        return -1;
    }
}

static void note_path(faults_call *call) {
    int place = place_of_path(call->number);
    const char *path = place >= 0 ? (const char *)call->arguments[place] : NULL;
    if (path != NULL && path[0] != 0) {
        strncpy(call->path, path, sizeof call->path - 1);
        return;
    }
    char link[32] = "/proc/self/fd/";
    size_t length = strlen(link);
    int64_t descriptor = call->arguments[0];
    if (descriptor < 0 || descriptor > 99999)
        return;
    char digits[8];
    int n = 0;
    do
        digits[n++] = (char)('0' + descriptor % 10);
    while ((descriptor /= 10) > 0);
    while (n > 0)
        link[length++] = digits[--n];
    faults_raw(SYS_readlink, (long)link, (long)call->path, sizeof call->path - 1, 0, 0, 0);
}

/* Whether the fault goes on with a call that is not the one that was chosen. */
static bool is_struck_too(const faults_call *call) {
    if (area->times == 0)
        return area->hit && area->others[call->number];
    return area->left > 0 && area->number == call->number;
}

static long strike(const faults_call *call, bool chosen) {
    int how = chosen || area->how != CUT ? area->how : area->error != 0 ? FAIL : DIE_BEFORE;
    area->hit += chosen;
    area->left = chosen ? area->times - 1 : area->left - 1;
    if (how == DIE_BEFORE)
        die();
    long result = 0;
    if (how == CUT)
        result = make_a_part(call, area->size);
    else if (how != FAIL || call->number == SYS_close)
        result = make(call);
    if (how == DIE_AFTER)
        die();
    return how == FAIL ? -area->error : result; /* close() closes, whatever it says */
}

static long decide(faults_call *call) {
    if (area->no_unnamed_files && call->number == SYS_openat && (call->arguments[2] & O_TMPFILE) == O_TMPFILE)
        return -EOPNOTSUPP;
    if (area->no_rename_flags && call->number == SYS_renameat2)
        return -EINVAL;
    int turn = __atomic_add_fetch(&area->count, 1, __ATOMIC_SEQ_CST);
    if (turn > MOST)
        return make(call);
    int nth = __atomic_add_fetch(&area->counts[call->number], 1, __ATOMIC_SEQ_CST);
    if (area->nth == 0)
        note_path(call);
    area->calls[turn - 1] = *call;
    bool chosen = nth == area->nth && call->number == area->number;
    long result = chosen || is_struck_too(call) ? strike(call, chosen) : make(call);
    area->calls[turn - 1].result = result;
    return result;
}

static bool counts_now(void) {
    return area->armed && (area->paused == 0 || area->paused != faults_raw(SYS_gettid, 0, 0, 0, 0, 0, 0));
}

static void on_trap(int number, siginfo_t *info, void *context) {
    (void)number;
    greg_t *r = ((ucontext_t *)context)->uc_mcontext.gregs;
    faults_call call = {.number = info->si_syscall,
                        .arguments = {r[REG_RDI], r[REG_RSI], r[REG_RDX], r[REG_R10], r[REG_R8], r[REG_R9]}};
    r[REG_RAX] = counts_now() ? decide(&call) : make(&call);
}

/* ------------------------------------------------------------------------------------------------------------------ *
 * For Python
 */

faults_area *faults_new(void) {
    area = mmap(NULL, sizeof *area, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    return area == MAP_FAILED ? NULL : area;
}

static struct sock_filter load(size_t offset) {
    return (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, (uint32_t)offset);
}

static struct sock_filter unless(uint32_t value, uint8_t skip) {
    return (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, value, 0, skip);
}

static struct sock_filter answer(uint32_t action) {
    return (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, action);
}

/* From here on this process's calls of the numbers in `trapped` go through the handler. Its parent's death is its own. */
int faults_begin(void) {
    static struct sock_filter program[2 * NUMBERS + 16];
    unsigned short n = 0;
    uint64_t ours = (uint64_t)(uintptr_t)faults_raw_end;
    program[n++] = load(offsetof(struct seccomp_data, arch));
    program[n++] = unless(AUDIT_ARCH_X86_64, 4);
    program[n++] = load(offsetof(struct seccomp_data, instruction_pointer));
    program[n++] = unless((uint32_t)ours, 3);
    program[n++] = load(offsetof(struct seccomp_data, instruction_pointer) + 4);
    program[n++] = unless((uint32_t)(ours >> 32), 1);
    program[n++] = answer(SECCOMP_RET_ALLOW);
    program[n++] = load(offsetof(struct seccomp_data, nr));
    for (uint32_t number = 0; number < NUMBERS; number++) {
        if (!area->trapped[number])
            continue;
        program[n++] = unless(number, 1);
        program[n++] = answer(SECCOMP_RET_TRAP);
    }
    program[n++] = answer(SECCOMP_RET_ALLOW);
    struct sock_fprog filter = {.len = n, .filter = program};
    struct sigaction action = {.sa_sigaction = on_trap, .sa_flags = SA_SIGINFO | SA_NODEFER};
    if (prctl(PR_SET_PDEATHSIG, SIGKILL) != 0 || sigaction(SIGSYS, &action, NULL) != 0 ||
        prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0)
        return -errno;
    return syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &filter) == 0 ? 0 : -errno;
}
