/*
 * A bare-metal guest that does what it is told over COM1: a line with a command in, a line with `ok` or
 * `err` and the answer out. README.md lists the commands.
 */

#include "guest.h"

#define WORDS 6

struct access {
    const char *name;
    enum kind kind;
    uint32_t width;
    int args;
};

static const struct access accesses[] = {
    { "rd8", READ, 1, 1 },    { "rd16", READ, 2, 1 },   { "rd32", READ, 4, 1 },
    { "wr8", WRITE, 1, 2 },   { "wr16", WRITE, 2, 2 },  { "wr32", WRITE, 4, 2 },
    { "in8", IN, 1, 1 },      { "in16", IN, 2, 1 },     { "in32", IN, 4, 1 },
    { "out8", OUT, 1, 2 },    { "out16", OUT, 2, 2 },   { "out32", OUT, 4, 2 },
    { "cpuid", CPUID, 0, 2 }, { "rdmsr", RDMSR, 0, 1 }, { "wrmsr", WRMSR, 0, 3 },
    { "ud", UD, 0, 0 },
};

static const char *const modes[] = { "idle", "spin", "count", "hlt", "dead", "triple" };

static void answer(const struct op *op)
{
    const uint32_t *r = op->result;

    if (op->trap >= 0) {
        say("err trap=%u\n", (uint32_t)op->trap);
        return;
    }
    switch (op->kind) {
    case READ:
    case IN:
        say("ok %x\n", r[0]);
        break;
    case RDMSR:
        say("ok %X\n", (uint64_t)r[1] << 32 | r[0]);
        break;
    case CPUID:
        say("ok eax=%x ebx=%x ecx=%x edx=%x\n", r[0], r[1], r[2], r[3]);
        break;
    default:
        say("ok\n");
    }
}

/* Reads an access out of the words; false if they are none. */
static bool parse(char **words, int count, struct op *op)
{
    uint32_t args[3] = { 0, 0, 0 };

    for (uint32_t i = 0; i < sizeof(accesses) / sizeof(accesses[0]); i++) {
        const struct access *access = &accesses[i];

        if (!same(access->name, words[0]))
            continue;
        if (count != access->args + 1)
            return false;
        for (int n = 0; n < access->args; n++)
            if (!number(words[n + 1], &args[n]))
                return false;
        *op = (struct op){ .kind = access->kind, .width = access->width, .a = args[0],
                           .b = args[1], .c = args[2] };
        return true;
    }
    return false;
}

static void usage(const char *text)
{
    say("err usage: %s\n", text);
}

static void do_sipi(char **words, int count)
{
    uint32_t id;

    if (count != 2 || !number(words[1], &id))
        usage("sipi ID");
    else if (!start_cpu(id))
        say("err timeout\n");
    else
        show_cpu(id);
}

static void do_ap(char **words, int count)
{
    uint32_t id, mode = 0;
    struct op op;

    if (count < 2 || !number(words[1], &id)) {
        usage("ap ID [idle|spin|count|hlt|dead|triple]");
        return;
    }
    if (count == 2) {
        if (!show_cpu(id))
            say("err never started\n");
        return;
    }
    while (mode <= TRIPLE && !same(modes[mode], words[2]))
        mode++;
    op = (struct op){ .kind = MODE, .a = mode };
    if (mode > TRIPLE)
        say("err no such mode\n");
    else if (!perform_on(id, &op))
        say("err timeout\n");
    else
        answer(&op);
}

static void do_on(char **words, int count)
{
    uint32_t id;
    struct op op;

    if (count < 3 || !number(words[1], &id) || !parse(words + 2, count - 2, &op))
        usage("on ID ACCESS");
    else if (!perform_on(id, &op))
        say("err timeout\n");
    else
        answer(&op);
}

static void do_irq(char **words, int count)
{
    uint32_t pin, id = boot_id;
    bool level = count == 3 && same(words[2], "level");

    if (count < 2 || !number(words[1], &pin) || count > 3 ||
        (count == 3 && !level && !number(words[2], &id)))
        usage("irq PIN [level|ID]");
    else if (!await_pin(pin, level, id))
        say("err no such pin\n");
}

static void do_off(char **words, int count)
{
    uint32_t type;

    if (count != 2 || !number(words[1], &type) || type > 7)
        usage("off TYPE");
    else if (!fadt_sleep((uint8_t)type))
        say("err no sleep control register\n");
    else
        halt_forever();
}

/* Goes on at an address, with the stack as it is. */
static void do_jump(char **words, int count)
{
    uint32_t address;

    if (count != 2 || !number(words[1], &address))
        usage("jump ADDR");
    else
        ((void (*)(void))address)();
}

static void do_reset(void)
{
    if (!fadt_reset())
        say("err no reset register\n");
    else
        halt_forever();
}

static void do_hostile(char **words, int count)
{
    uint32_t seed, number_of, accesses;
    bool faults = count == 4 && same(words[3], "triple");
    bool resets = count == 4 && same(words[3], "reset");

    if (!(count == 3 || faults || resets) || !number(words[1], &seed) || !number(words[2], &number_of)) {
        usage("hostile SEED COUNT [reset|triple]");
        return;
    }
    accesses = hostile(seed, number_of);
    /* In the midst of whatever the host is doing. */
    if (faults)
        triple_fault();
    if (resets)
        do_reset();
    say("\nok accesses=%u\n", accesses);
}

static void do_patience(char **words, int count)
{
    uint32_t bits;

    if (count != 2 || !number(words[1], &bits) || bits > 40) {
        usage("patience LOG2-OF-TICKS");
        return;
    }
    patience = bits;
    say("ok\n");
}

static void run(char **words, int count)
{
    const char *command = words[0];
    struct op op;

    if (same(command, "ping"))
        say("ok pong\n");
    else if (same(command, "cpus"))
        show_cpus();
    else if (same(command, "tables"))
        show_tables();
    else if (same(command, "facp"))
        show_fadt();
    else if (same(command, "mem"))
        show_memory();
    else if (same(command, "cmdline"))
        show_cmdline();
    else if (same(command, "sipi"))
        do_sipi(words, count);
    else if (same(command, "ap"))
        do_ap(words, count);
    else if (same(command, "on"))
        do_on(words, count);
    else if (same(command, "irq"))
        do_irq(words, count);
    else if (same(command, "serve"))
        say("ok events=%u\n", serve());
    else if (same(command, "hostile"))
        do_hostile(words, count);
    else if (same(command, "patience"))
        do_patience(words, count);
    else if (same(command, "off"))
        do_off(words, count);
    else if (same(command, "reset"))
        do_reset();
    else if (same(command, "jump"))
        do_jump(words, count);
    else if (same(command, "triple"))
        triple_fault();
    else if (same(command, "hltloop"))
        halt_forever();
    else if (parse(words, count, &op)) {
        perform(&op);
        answer(&op);
    } else
        say("err no such command, or not these arguments: %s\n", command);
}

void boot_main(uint32_t id, uint32_t start_info)
{
    char *words[WORDS];

    cpu_init(id);
    acpi_init(start_info);
    serial_interrupts(false);
    say("ready apic=%u\n", id);
    for (;;) {
        int count = read_words(words, WORDS);

        if (count)
            run(words, count);
    }
}
