/*
 * schedule deadline PID... gives each of these processes 60 ms of every 100 ms of a CPU
 * (SCHED_DEADLINE, see sched(7)), whether it needs them or sleeps. Linux refuses to take a CPU offline
 * whose time it has promised; two such processes need more than one CPU.
 *
 * schedule fifo PID... puts each of these processes before all others of its CPU (SCHED_FIFO, highest
 * priority), the kernel's own among them that take a CPU offline. One that never sleeps has it for
 * itself, once /proc/sys/kernel/sched_rt_runtime_us is -1.
 *
 * schedule little PID... leaves each of these processes next to nothing of what it was promised.
 *
 * schedule other PID... makes each of these processes one like all others again.
 *
 * Goes on after an error, and ends with the number of the first one, or 0. Needs no C library, so
 * that it is small: it is part of an image that each test boots.
 */

#include "alone.h"

typedef unsigned long long u64;
typedef unsigned int u32;

/* struct sched_attr, as its first version in linux/sched/types.h. */
struct attributes {
    u32 size;
    u32 policy;
    u64 flags;
    int nice;
    u32 priority;
    u64 runtime;
    u64 deadline;
    u64 period;
};

enum { SYS_SCHED_SETATTR = 314, EINVAL = 22 };
enum { SCHED_OTHER = 0, SCHED_FIFO = 1, SCHED_DEADLINE = 6 };

static const struct attributes OTHER = {
    .size = sizeof(struct attributes),
    .policy = SCHED_OTHER,
};

static const struct attributes FIFO = {
    .size = sizeof(struct attributes),
    .policy = SCHED_FIFO,
    .priority = 99,
};

static const struct attributes DEADLINE = {
    .size = sizeof(struct attributes),
    .policy = SCHED_DEADLINE,
    .runtime = 60 * 1000 * 1000,
    .deadline = 100 * 1000 * 1000,
    .period = 100 * 1000 * 1000,
};

static const struct attributes LITTLE = {
    .size = sizeof(struct attributes),
    .policy = SCHED_DEADLINE,
    .runtime = 10 * 1000,
    .deadline = 1000 * 1000 * 1000,
    .period = 1000 * 1000 * 1000,
};

static const struct attributes *named(const char *name)
{
    if (same(name, "other"))
        return &OTHER;
    if (same(name, "fifo"))
        return &FIFO;
    if (same(name, "little"))
        return &LITTLE;
    return same(name, "deadline") ? &DEADLINE : 0;
}

long program(int count, char **arguments)
{
    const struct attributes *attributes = count < 3 ? 0 : named(arguments[1]);
    long first = 0;

    if (!attributes)
        return EINVAL;
    for (int at = 2; at < count; at++) {
        long error = syscall3(SYS_SCHED_SETATTR, number(arguments[at]), (long)attributes, 0);

        first = first ? first : -error;
    }
    return first;
}
