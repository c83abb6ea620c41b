/* CPUs: local APICs, starting and stopping, operations on this CPU or another, interrupts. */

#include "guest.h"

#define MSR_APIC_BASE 0x1b
#define APIC_BASE_EXTD 0x400
#define MSR_X2APIC 0x800

/* Local APIC registers; in x2APIC mode they are MSRs, a sixteenth of the offset apart. */
#define APIC_ID 0x020
#define APIC_EOI 0x0b0
#define APIC_SVR 0x0f0
#define APIC_ICR 0x300
#define APIC_ICR_HIGH 0x310
#define SVR_ENABLED 0x100
#define ICR_FIXED 0x04000
#define ICR_INIT 0x04500
#define ICR_STARTUP 0x04600
#define ICR_ALL_BUT_SELF 0xc0000
#define ICR_BUSY 0x01000

#define IOAPIC_SELECT 0x00
#define IOAPIC_WINDOW 0x10
#define IOAPIC_VERSION 1
#define IOAPIC_TABLE 0x10
#define PIN_LEVEL (1u << 15)
#define PIN_MASKED (1u << 16)

/* One page for each CPU: what it does, what it is asked to do, and its stack up to the end. */
struct cpu {
    volatile uint32_t alive;  /* how often it was started */
    volatile uint32_t apic;   /* its own APIC id, as it found it */
    volatile uint32_t mode;
    volatile uint32_t beats;  /* counted up in mode COUNT */
    volatile uint32_t asked, answered;
    volatile bool guarded;    /* an exception ends the operation, not the guest */
    volatile int trap;
    void *rescue;             /* stack on which the operation is given up */
    struct op op;
    uint8_t stack[];
};

struct slot {
    uint8_t page[1 << SLOT_SHIFT];
} __attribute__((aligned(1 << SLOT_SHIFT)));

struct gate {
    uint16_t low, selector, flags, high;
};

struct slot cpus[CPUS] __attribute__((section(".slots, \"aw\", @nobits #")));
struct gate idt[VECTORS];
uint32_t patience = 33;
/* What other CPUs set in their MSR_APIC_BASE. */
uint32_t apic_mode;

static uint8_t known[CPUS];
static volatile uint32_t pin_interrupts;
/* APIC id of the CPU that took the last one. */
static volatile uint32_t pin_cpu;
uint32_t boot_id;

extern const uint32_t stubs[VECTORS];
void attempt(struct op *op, void **rescue);
void abandon(void *rescue) __attribute__((noreturn));
extern const char trampoline[], trampoline_end[], idt_pointer[];

static struct cpu *slot_of(uint32_t id)
{
    return (struct cpu *)&cpus[id];
}

static struct cpu *this_cpu(void)
{
    uint32_t sp;

    __asm__ volatile("movl %%esp, %0" : "=r"(sp));
    return (struct cpu *)((sp - 1) & ~((1u << SLOT_SHIFT) - 1));
}

/* Whether this CPU's local APIC is in x2APIC mode. */
static bool x2apic(void)
{
    return rdmsr(MSR_APIC_BASE) & APIC_BASE_EXTD;
}

static uint32_t apic_read(uint32_t reg)
{
    if (x2apic())
        return (uint32_t)rdmsr(MSR_X2APIC + reg / 16);
    return *(volatile uint32_t *)(APIC_BASE + reg);
}

static void apic_write(uint32_t reg, uint32_t value)
{
    if (x2apic())
        wrmsr(MSR_X2APIC + reg / 16, 0, value);
    else
        *(volatile uint32_t *)(APIC_BASE + reg) = value;
}

static void send_ipi(uint32_t id, uint32_t command)
{
    if (x2apic()) {
        wrmsr(MSR_X2APIC + APIC_ICR / 16, id, command);
        return;
    }
    apic_write(APIC_ICR_HIGH, id << 24);
    apic_write(APIC_ICR, command);
    while (apic_read(APIC_ICR) & ICR_BUSY)
        relax();
}

static void own_apic_init(void)
{
    apic_write(APIC_SVR, SVR_ENABLED | VECTOR_SPURIOUS);
}

static uint32_t own_apic_id(void)
{
    uint32_t id = apic_read(APIC_ID);

    return x2apic() ? id : id >> 24;
}

/* Waits until `*word` is no longer `value`, as long as 2^`bits` ticks. */
static bool await_change(volatile uint32_t *word, uint32_t value, uint32_t bits)
{
    uint64_t start = rdtsc();

    while (*word == value) {
        if ((rdtsc() - start) >> bits)
            return *word != value;
        relax();
    }
    return true;
}

/* Sets the first bytes of a CPU's slot to zero; its stack needs none. */
static void clear_slot(uint32_t id)
{
    uint8_t *byte = (uint8_t *)slot_of(id);

    for (uint32_t i = 0; i < offsetof(struct cpu, stack); i++)
        byte[i] = 0;
    known[id] = 1;
}

void cpu_init(uint32_t id)
{
    volatile uint8_t *target = (volatile uint8_t *)TRAMPOLINE;

    boot_id = id;
    apic_mode = x2apic() ? APIC_BASE_EXTD : 0;
    clear_slot(id);
    for (int vector = 0; vector < VECTORS; vector++) {
        idt[vector].low = (uint16_t)stubs[vector];
        idt[vector].selector = 0x08;
        idt[vector].flags = 0x8e00;
        idt[vector].high = (uint16_t)(stubs[vector] >> 16);
    }
    __asm__ volatile("lidt %0" : : "m"(*idt_pointer));
    for (const char *byte = trampoline; byte != trampoline_end; byte++)
        *target++ = (uint8_t)*byte;
    own_apic_init();
    slot_of(id)->apic = own_apic_id();
    slot_of(id)->alive = 1;
}

/* Called by the stubs with interrupts off. */
void interrupt(uint32_t vector, uint32_t error, uint32_t eip)
{
    struct cpu *cpu = this_cpu();

    if (vector < 32) {
        if (cpu->guarded) {
            cpu->guarded = false;
            cpu->trap = (int)vector;
            abandon(cpu->rescue);
        }
        say("err cpu %u: exception %u, error %x, eip %x\n", cpu->apic, vector, error, eip);
        halt_forever();
    }
    if (vector == VECTOR_PIN) {
        pin_cpu = own_apic_id();
        pin_interrupts++;
    }
    if (vector != VECTOR_SPURIOUS)
        apic_write(APIC_EOI, 0);
}

void halt_forever(void)
{
    for (;;)
        __asm__ volatile("cli; hlt");
}

void triple_fault(void)
{
    static const struct {
        uint16_t limit;
        uint32_t base;
    } __attribute__((packed)) none = { 0, 0 };

    __asm__ volatile("lidt %0; ud2" : : "m"(none));
}

/* ---- operations ---- */

/* What instructions that repeat themselves read and write. */
static uint8_t string[4 * STRING_MAX];

static void access_memory(struct op *op)
{
    volatile void *address = (volatile void *)op->a;

    switch (op->width | (op->kind == WRITE) << 8) {
    case 0x001: op->result[0] = *(volatile uint8_t *)address; break;
    case 0x002: op->result[0] = *(volatile uint16_t *)address; break;
    case 0x004: op->result[0] = *(volatile uint32_t *)address; break;
    case 0x101: *(volatile uint8_t *)address = (uint8_t)op->b; break;
    case 0x102: *(volatile uint16_t *)address = (uint16_t)op->b; break;
    case 0x104: *(volatile uint32_t *)address = op->b; break;
    }
}

/* Eight bytes at once, which only a register of MMX has room for here. Nobody uses those of the x87, which it takes. */
static void access_eight(struct op *op)
{
    uint64_t bytes = (uint64_t)op->c << 32 | op->b;

    if (op->kind == READ)
        __asm__ volatile("movq (%1), %%mm0\n\tmovq %%mm0, %0"
                         : "=m"(bytes) : "r"(op->a) : "memory");
    else
        __asm__ volatile("movq %0, %%mm0\n\tmovq %%mm0, (%1)"
                         : : "m"(bytes), "r"(op->a) : "memory");
    op->result[0] = (uint32_t)bytes;
    op->result[1] = (uint32_t)(bytes >> 32);
}

/* `b` accesses to a port by one instruction. */
static void access_port_repeatedly(struct op *op)
{
    uint32_t count = op->b < STRING_MAX ? op->b : STRING_MAX;
    uint8_t *at = string;

    switch (op->width | (op->kind == STRING_OUT) << 8) {
    case 0x001: __asm__ volatile("rep insb" : "+D"(at), "+c"(count) : "d"(op->a) : "memory"); break;
    case 0x002: __asm__ volatile("rep insw" : "+D"(at), "+c"(count) : "d"(op->a) : "memory"); break;
    case 0x004: __asm__ volatile("rep insl" : "+D"(at), "+c"(count) : "d"(op->a) : "memory"); break;
    case 0x101: __asm__ volatile("rep outsb" : "+S"(at), "+c"(count) : "d"(op->a) : "memory"); break;
    case 0x102: __asm__ volatile("rep outsw" : "+S"(at), "+c"(count) : "d"(op->a) : "memory"); break;
    case 0x104: __asm__ volatile("rep outsl" : "+S"(at), "+c"(count) : "d"(op->a) : "memory"); break;
    }
}

static void access_port(struct op *op)
{
    uint16_t port = (uint16_t)op->a, half;
    uint32_t whole;

    switch (op->width | (op->kind == OUT) << 8) {
    case 0x001: op->result[0] = in8(port); break;
    case 0x002:
        __asm__ volatile("inw %1, %0" : "=a"(half) : "Nd"(port));
        op->result[0] = half;
        break;
    case 0x004:
        __asm__ volatile("inl %1, %0" : "=a"(whole) : "Nd"(port));
        op->result[0] = whole;
        break;
    case 0x101: out8(port, (uint8_t)op->b); break;
    case 0x102: __asm__ volatile("outw %0, %1" : : "a"((uint16_t)op->b), "Nd"(port)); break;
    case 0x104: __asm__ volatile("outl %0, %1" : : "a"(op->b), "Nd"(port)); break;
    }
}

/* Called by `attempt`. */
void perform_guarded(struct op *op)
{
    uint64_t value;

    switch (op->kind) {
    case READ:
    case WRITE:
        if (op->width == 8)
            access_eight(op);
        else
            access_memory(op);
        break;
    case IN:
    case OUT:
        access_port(op);
        break;
    case STRING_IN:
    case STRING_OUT:
        access_port_repeatedly(op);
        break;
    case CPUID:
        __asm__ volatile("cpuid"
                         : "=a"(op->result[0]), "=b"(op->result[1]), "=c"(op->result[2]),
                           "=d"(op->result[3])
                         : "a"(op->a), "c"(op->b));
        break;
    case RDMSR:
        value = rdmsr(op->a);
        op->result[0] = (uint32_t)value;
        op->result[1] = (uint32_t)(value >> 32);
        break;
    case WRMSR:
        wrmsr(op->a, op->b, op->c);
        break;
    case UD:
        __asm__ volatile("ud2");
        break;
    case MODE:
        this_cpu()->mode = op->a;
        break;
    }
}

void perform(struct op *op)
{
    struct cpu *cpu = this_cpu();

    cpu->trap = -1;
    cpu->guarded = true;
    attempt(op, &cpu->rescue);
    cpu->guarded = false;
    op->trap = cpu->trap;
}

bool perform_on(uint32_t id, struct op *op)
{
    struct cpu *cpu = slot_of(id);
    uint32_t before;

    if (id >= CPUS || !known[id] || !cpu->alive)
        return false;
    if (id == boot_id) {
        perform(op);
        return true;
    }
    if (cpu->asked != cpu->answered)
        return false;
    cpu->op = *op;
    before = cpu->answered;
    cpu->asked = before + 1;
    send_ipi(id, ICR_FIXED | VECTOR_WAKE);
    if (!await_change(&cpu->answered, before, patience))
        return false;
    *op = cpu->op;
    return true;
}

/* ---- other CPUs ---- */

bool start_cpu(uint32_t id)
{
    struct cpu *cpu = slot_of(id);
    uint32_t before;

    if (id >= CPUS || id == boot_id)
        return false;
    if (!known[id])
        clear_slot(id);
    before = cpu->alive;
    send_ipi(id, ICR_INIT);
    /* Hardware wants 10 ms between INIT and SIPI; a virtual machine wants none. */
    await_change(&cpu->alive, before, 18);
    cpu->asked = cpu->answered;
    send_ipi(id, ICR_STARTUP | TRAMPOLINE >> 12);
    if (await_change(&cpu->alive, before, 24))
        return true;
    send_ipi(id, ICR_STARTUP | TRAMPOLINE >> 12);
    return await_change(&cpu->alive, before, patience);
}

void provoke(uint32_t id, uint32_t command)
{
    if (id >= CPUS || id == boot_id)
        return;
    if (!known[id])
        clear_slot(id);
    send_ipi(id, command);
}

void provoke_all(uint32_t command)
{
    send_ipi(0, ICR_ALL_BUT_SELF | command);
}

bool show_cpu(uint32_t id)
{
    struct cpu *cpu = slot_of(id);

    if (id >= CPUS || !known[id] || !cpu->alive)
        return false;
    say("ok %u alive apic=%u starts=%u beats=%u\n", id, cpu->apic, cpu->alive, cpu->beats);
    return true;
}

/* Halts until an interrupt, unless there is something to do already. */
static void idle(struct cpu *cpu)
{
    if (cpu->asked == cpu->answered)
        __asm__ volatile("sti; hlt; cli" : : : "memory");
}

void ap_main(uint32_t id)
{
    struct cpu *cpu = slot_of(id);

    cpu->apic = own_apic_id();
    cpu->mode = IDLE;
    cpu->guarded = false;
    own_apic_init();
    cpu->alive++;
    for (;;) {
        if (cpu->asked != cpu->answered) {
            perform(&cpu->op);
            cpu->answered = cpu->asked;
        }
        switch (cpu->mode) {
        case IDLE: idle(cpu); break;
        case SPIN: relax(); break;
        case COUNT: cpu->beats++; break;
        /* As Linux leaves a CPU that it took down: interrupts and local APIC off, halted. */
        case DEAD: apic_write(APIC_SVR, VECTOR_SPURIOUS); halt_forever(); break;
        case HALT: halt_forever(); break;
        case TRIPLE: triple_fault(); break;
        }
    }
}

/* ---- interrupts from devices ---- */

static void ioapic_write(uint32_t reg, uint32_t value)
{
    *(volatile uint32_t *)(IOAPIC_BASE + IOAPIC_SELECT) = reg;
    *(volatile uint32_t *)(IOAPIC_BASE + IOAPIC_WINDOW) = value;
}

static uint32_t ioapic_pins(void)
{
    *(volatile uint32_t *)(IOAPIC_BASE + IOAPIC_SELECT) = IOAPIC_VERSION;
    return (*(volatile uint32_t *)(IOAPIC_BASE + IOAPIC_WINDOW) >> 16 & 0xff) + 1;
}

void open_pin(uint32_t pin)
{
    ioapic_write(IOAPIC_TABLE + 2 * pin + 1, boot_id << 24);
    ioapic_write(IOAPIC_TABLE + 2 * pin, VECTOR_PIN);
}

void close_pin(uint32_t pin)
{
    ioapic_write(IOAPIC_TABLE + 2 * pin, PIN_MASKED | VECTOR_PIN);
}

void close_pins(void)
{
    for (uint32_t pin = 0; pin < ioapic_pins(); pin++)
        close_pin(pin);
}

bool await_pin(uint32_t pin, bool level, uint32_t id)
{
    if (pin >= ioapic_pins())
        return false;
    pin_interrupts = 0;
    /* Bits 8 to 14 of the id are where the extended destination id puts them. */
    ioapic_write(IOAPIC_TABLE + 2 * pin + 1, (id & 0xff) << 24 | id >> 8 << 17);
    ioapic_write(IOAPIC_TABLE + 2 * pin, VECTOR_PIN | (level ? PIN_LEVEL : 0));
    if (pin == PIN_SERIAL)
        serial_interrupts(true);
    say("waiting\n");
    while (!pin_interrupts) {
        if (id == boot_id)
            __asm__ volatile("sti; hlt; cli" : : : "memory");
        else
            relax();
    }
    ioapic_write(IOAPIC_TABLE + 2 * pin, PIN_MASKED | VECTOR_PIN);
    say("ok pin=%u cpu=%u", pin, pin_cpu);
    if (pin == PIN_SERIAL) {
        serial_interrupts(false);
        say(" byte=%x", (uint32_t)serial_byte());
    }
    say("\n");
    return true;
}
