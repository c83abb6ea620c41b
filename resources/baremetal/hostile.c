/* A guest that does what no operating system would, as fast as it can, and lives on. */

#include "guest.h"

#define GED 0xfeb00000
#define CONTROLLER 0xfeb01000
#define SELECTOR 0x0
#define FLAGS 0x4
#define COMMAND 0x5
#define DATA 0x8
#define EJECT 8

#define COM1 0x3f8
#define POWER 0x600
#define POWER_LENGTH 4
/* Where devices are, and nothing else but the I/O APIC. */
#define DEVICES 0xfeb00000
#define DEVICES_LENGTH 0x100000
#define RESET 2
#define SLEEP_ENABLE 0x20

#define ICR_INIT 0x04500
#define ICR_STARTUP 0x04600

/* CPUs that it knows of; most machines have fewer. */
#define SOME_CPUS 10

static uint32_t state;
static uint32_t accesses;
/* Those of eight bytes that did not end with an exception. */
static uint32_t eights;

/* Xorshift (Marsaglia, 2003): never zero. */
static uint32_t any(void)
{
    state ^= state << 13;
    state ^= state >> 17;
    state ^= state << 5;
    return state;
}

static uint32_t below(uint32_t end)
{
    return any() % end;
}

/* A value that means something, or any. */
static uint32_t value(void)
{
    static const uint32_t known[] = { 0, 1, 2, 3, 4, 8, 0x80, 0x82, 0x84, 0x103, 0x200, ~0u };

    return below(4) ? known[below(sizeof(known) / sizeof(known[0]))] : any();
}

static void act(enum kind kind, uint32_t width, uint32_t at, uint32_t what)
{
    struct op op = { .kind = kind, .width = width, .a = at, .b = what, .c = width == 8 ? any() : 0 };

    perform(&op);
    accesses++;
    eights += width == 8 && op.trap < 0;
}

static uint32_t width(void)
{
    return 1u << below(3);
}

/* Of an access to memory, which may be eight bytes at once. */
static uint32_t wide(void)
{
    return 1u << below(4);
}

/* Any access to a device's registers, or just behind them. */
static void strike(uint32_t base, uint32_t length)
{
    act(below(2) ? READ : WRITE, wide(), base + below(length + 4), value());
}

/* Where nothing is, most of the time. */
static void hole(void)
{
    uint32_t at = below(2) ? below(DEVICES_LENGTH) : CONTROLLER - DEVICES + 0x1000 - below(8);

    act(below(2) ? READ : WRITE, wide(), DEVICES + at, value());
}

/* Any port, once or by an instruction that repeats itself, but for those that end the machine. */
static void port(void)
{
    static const enum kind kinds[] = { IN, OUT, STRING_IN, STRING_OUT };
    uint32_t at = below(4) ? COM1 + below(8) : any() & 0xffff, bytes = width();
    enum kind kind = kinds[below(4)];

    if (at + bytes > POWER && at < POWER + POWER_LENGTH)
        return;
    act(kind, bytes, at, kind == IN || kind == OUT ? value() : below(STRING_MAX + 1));
}

static void select(uint32_t cpu)
{
    act(WRITE, 4, CONTROLLER + SELECTOR, cpu);
}

/* A register of the controller, as it is meant to be used. */
static void controller(void)
{
    switch (below(6)) {
    case 0: select(below(8) ? below(SOME_CPUS) : any()); break;
    case 1: act(WRITE, 1, CONTROLLER + FLAGS, below(32)); break;
    case 2: act(READ, 1, CONTROLLER + FLAGS, 0); break;
    case 3: act(WRITE, 1, CONTROLLER + COMMAND, below(6)); break;
    case 4: act(WRITE, 4, CONTROLLER + DATA, value()); break;
    case 5: act(READ, 4, CONTROLLER + DATA, 0); break;
    }
}

/* Ejects all CPUs, itself first. */
static void eject_storm(void)
{
    for (uint32_t cpu = 0; cpu < SOME_CPUS; cpu++) {
        select(cpu);
        act(WRITE, 1, CONTROLLER + FLAGS, EJECT);
    }
}

/* Speaks of events that were, or were not. */
static void lies(void)
{
    select(below(SOME_CPUS));
    act(WRITE, 1, CONTROLLER + COMMAND, 1);
    act(WRITE, 4, CONTROLLER + DATA, value());
    act(WRITE, 1, CONTROLLER + COMMAND, 2);
    act(WRITE, 4, CONTROLLER + DATA, value());
}

/* Starts CPUs that are there, or are not, or run already, and stops them in the midst of it. */
static void ipi_storm(void)
{
    uint32_t cpu = 1 + below(SOME_CPUS), all = below(4) == 0;

    for (uint32_t n = below(8); n; n--) {
        uint32_t command = below(2) ? ICR_INIT : ICR_STARTUP | TRAMPOLINE >> 12;

        if (all)
            provoke_all(command);
        else
            provoke(cpu, command);
        accesses++;
    }
}

/* Has another CPU do it, eject itself for one, or halt for ever with its interrupts off. */
static void elsewhere(void)
{
    struct op op = { .kind = WRITE, .width = 1, .a = CONTROLLER + FLAGS, .b = EJECT };
    uint32_t cpu = 1 + below(SOME_CPUS);

    select(cpu);
    if (below(4) == 0)
        op = (struct op){ .kind = MODE, .a = below(2) ? HALT : SPIN };
    perform_on(cpu, &op);
    accesses++;
}

/* The I/O APIC, whose interrupts go to CPUs in no way that would stop this one: fixed, by the one vector. */
static void ioapic(void)
{
    uint32_t at = below(2) ? below(0x24) : below(2) * 0x10;

    act(below(3) ? WRITE : READ, below(4) ? 4 : width(), IOAPIC_BASE + at,
        at < 0x10 ? any() : (value() & ~0x7ffu) | VECTOR_PIN);
    if (below(8) == 0)
        close_pins();
}

/* Anything but what ends the machine. */
static void power(void)
{
    uint32_t at = below(4), what = value() & ~(uint32_t)SLEEP_ENABLE;

    if (at == RESET && (what & 0xff) == 1)
        what = 2;
    act(below(2) ? IN : OUT, at == RESET ? 1 : width(), POWER + at, what);
}

static void strike_once(void)
{
    switch (below(20)) {
    case 0: strike(CONTROLLER, 12); break;
    case 1: strike(GED, 4); break;
    case 2: act(below(2) ? IN : OUT, width(), COM1 + below(8), value()); break;
    case 3: power(); break;
    case 4: ioapic(); break;
    case 5: eject_storm(); break;
    case 6: lies(); break;
    case 7: ipi_storm(); break;
    case 8: elsewhere(); break;
    case 9: hole(); break;
    case 10: port(); break;
    default: controller(); break;
    }
}

uint32_t hostile(uint32_t seed, uint32_t count)
{
    uint32_t before = patience;

    state = seed ? seed : 1;
    accesses = eights = 0;
    /* It waits for nobody. */
    patience = 12;
    while (accesses < count)
        strike_once();
    patience = before;
    close_pins();
    serial_reset();
    return eights ? accesses : 0;
}
