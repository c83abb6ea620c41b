/* CPUs that come and go, served as an operating system does it. */

#include "guest.h"

/* The generic event device: a register that reading clears, and its pin. */
#define GED 0xfeb00000
#define GED_CPUS 1u
#define PIN_GED 16

/* The controller (QEMU's docs/specs/acpi_cpu_hotplug.rst). */
#define SELECTOR 0xfeb01000
#define FLAGS 0xfeb01004
#define COMMAND 0xfeb01005
#define DATA 0xfeb01008
#define INSERT 2
#define REMOVE 4
#define EJECT 8
#define NEXT_WITH_EVENT 0
#define OST_SOURCE 1
#define OST_STATUS 2

/* What _OST says (ACPI 6.3, section 6.3.5). */
#define INSERTION 1
#define EJECTION 3
#define DONE 0
#define FAILED 1
#define BEGUN 0x84

static uint32_t read32(uint32_t address)
{
    return *(volatile uint32_t *)address;
}

static void write32(uint32_t address, uint32_t value)
{
    *(volatile uint32_t *)address = value;
}

static void write8(uint32_t address, uint8_t value)
{
    *(volatile uint8_t *)address = value;
}

static void ost(uint32_t source, uint32_t status)
{
    write8(COMMAND, OST_SOURCE);
    write32(DATA, source);
    write8(COMMAND, OST_STATUS);
    write32(DATA, status);
}

static void take_in(uint32_t id)
{
    write8(FLAGS, INSERT);
    ost(INSERTION, DONE);
    start_cpu(id);
}

static void give_back(uint32_t id)
{
    struct op op = { .kind = MODE, .a = DEAD };

    write8(FLAGS, REMOVE);
    ost(EJECTION, BEGUN);
    if (!perform_on(id, &op)) {
        ost(EJECTION, FAILED);
        return;
    }
    write8(FLAGS, EJECT);
    ost(EJECTION, DONE);
}

/* Does what the events of all CPUs ask for; returns how many there were. */
static uint32_t scan(void)
{
    uint32_t events = 0;

    write32(SELECTOR, 0);
    for (;; events++) {
        uint8_t flags;
        uint32_t id;

        write8(COMMAND, NEXT_WITH_EVENT);
        flags = *(volatile uint8_t *)FLAGS;
        if (!(flags & (INSERT | REMOVE)))
            return events;
        id = read32(DATA);
        if (flags & INSERT)
            take_in(id);
        else
            give_back(id);
    }
}

uint32_t serve(void)
{
    uint32_t events = 0;

    open_pin(PIN_GED);
    open_pin(PIN_SERIAL);
    serial_interrupts(true);
    say("serving\n");
    /* Interrupts are on in the halt alone: one that comes before it ends it. */
    while (serial_byte() < 0) {
        if (read32(GED) & GED_CPUS)
            events += scan();
        else
            __asm__ volatile("sti; hlt; cli" : : : "memory");
    }
    serial_interrupts(false);
    close_pin(PIN_SERIAL);
    close_pin(PIN_GED);
    return events;
}
