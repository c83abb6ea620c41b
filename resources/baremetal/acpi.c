/*
 * PVH start info and ACPI tables, as the guest finds them. Nothing here trusts the VMM more than an
 * operating system would: each table is reached from the start info, and each checksum is looked at.
 */

#include "guest.h"

/* xen/include/public/arch-x86/hvm/start_info.h */
#define START_INFO_MAGIC 0x336ec578

struct start_info {
    uint32_t magic, version, flags, modules;
    uint64_t module_list, cmdline, rsdp, memory_map;
    uint32_t memory_entries, reserved;
} __attribute__((packed));

struct memory_entry {
    uint64_t address, size;
    uint32_t type, reserved;
} __attribute__((packed));

/* ACPI 6.3, 5.2.5.3, 5.2.6, 5.2.3.2 */
struct rsdp {
    char signature[8];
    uint8_t checksum;
    char oem[6];
    uint8_t revision;
    uint32_t rsdt, length;
    uint64_t xsdt;
} __attribute__((packed));

struct header {
    char signature[4];
    uint32_t length;
    uint8_t revision, checksum;
    char oem[6], oem_table[8];
    uint32_t oem_revision, creator, creator_revision;
} __attribute__((packed));

struct gas {
    uint8_t space, width, offset, access;
    uint64_t address;
} __attribute__((packed));

/* ACPI 6.3, 5.2.9: offsets into the FADT. */
#define FADT_FLAGS 112
#define FADT_RESET_REG 116
#define FADT_RESET_VALUE 128
#define FADT_MINOR 131
#define FADT_DSDT 40
#define FADT_X_DSDT 140
#define FADT_SLEEP_CONTROL 244
#define FADT_SLEEP_STATUS 256
#define FADT_HW_REDUCED (1u << 20)
#define FADT_RESET_SUPPORTED (1u << 10)
#define SLEEP_ENABLE 0x20
#define SLEEP_TYPE_SHIFT 2

/* ACPI 6.3, 5.2.12: interrupt controller structures follow the MADT's first 44 bytes. */
#define MADT_FIRST 44
#define LOCAL_APIC 0
#define LOCAL_X2APIC 9

static const struct start_info *info;

/* Physical addresses are pointers here, below 4 GiB. */
static const void *at(uint64_t address)
{
    return address >> 32 ? NULL : (const void *)(uint32_t)address;
}

static uint32_t u32_at(const void *table, uint32_t offset)
{
    return *(const uint32_t *)((const char *)table + offset);
}

static bool sums_to_zero(const void *start, uint32_t length)
{
    const uint8_t *byte = start;
    uint8_t sum = 0;

    while (length--)
        sum = (uint8_t)(sum + *byte++);
    return sum == 0;
}

static bool signed_as(const char *signature, const char *wanted)
{
    for (int i = 0; i < 4; i++)
        if (signature[i] != wanted[i])
            return false;
    return true;
}

void acpi_init(uint32_t start_info)
{
    info = (const void *)start_info;
}

static const struct rsdp *find_rsdp(void)
{
    const struct rsdp *rsdp = info->magic == START_INFO_MAGIC ? at(info->rsdp) : NULL;

    return rsdp && signed_as(rsdp->signature, "RSD ") && signed_as(rsdp->signature + 4, "PTR ")
               ? rsdp
               : NULL;
}

/* The XSDT, or the RSDT of a machine older than ACPI 2. */
static const struct header *find_root(void)
{
    const struct rsdp *rsdp = find_rsdp();

    if (!rsdp)
        return NULL;
    return rsdp->revision >= 2 && rsdp->xsdt ? at(rsdp->xsdt) : at(rsdp->rsdt);
}

/* The table that the root names in place `n`, or NULL after the last. */
static const struct header *nth_table(uint32_t n)
{
    const struct header *root = find_root();
    uint32_t width, offset;

    if (!root)
        return NULL;
    width = signed_as(root->signature, "XSDT") ? 8 : 4;
    offset = sizeof(*root) + n * width;
    if (offset + width > root->length)
        return NULL;
    if (width == 8 && u32_at(root, offset + 4))
        return NULL;
    return (const void *)u32_at(root, offset);
}

static const void *find(const char *signature)
{
    const struct header *table;

    for (uint32_t n = 0; (table = nth_table(n)); n++)
        if (signed_as(table->signature, signature))
            return table;
    return NULL;
}

static void show_sum(const struct header *table)
{
    const char *s = table->signature;

    say(" %c%c%c%c=%s", s[0], s[1], s[2], s[3],
        sums_to_zero(table, table->length) ? "good" : "bad");
}

void show_tables(void)
{
    const struct rsdp *rsdp = find_rsdp();
    const struct header *root = find_root(), *table;

    if (!rsdp || !root) {
        say("err no tables\n");
        return;
    }
    say("ok RSDP=%s",
        sums_to_zero(rsdp, 20) && (rsdp->revision < 2 || sums_to_zero(rsdp, rsdp->length))
            ? "good"
            : "bad");
    show_sum(root);
    for (uint32_t n = 0; (table = nth_table(n)); n++) {
        show_sum(table);
        if (signed_as(table->signature, "FACP")) {
            uint32_t dsdt = table->length > FADT_X_DSDT + 8 ? u32_at(table, FADT_X_DSDT) : 0;

            show_sum((const void *)(dsdt ? dsdt : u32_at(table, FADT_DSDT)));
        }
    }
    say("\n");
}

/* A CPU of the MADT. */
struct madt_cpu {
    uint32_t type, id, uid, flags;
};

/* Takes the next CPU from the MADT at `offset`, which moves behind it; false after the last. */
static bool next_cpu(const struct header *madt, uint32_t *offset, struct madt_cpu *cpu)
{
    while (*offset + 2 <= madt->length) {
        const uint8_t *entry = (const uint8_t *)madt + *offset;

        if (entry[1] < 2)
            return false;
        *offset += entry[1];
        cpu->type = entry[0];
        if (entry[0] == LOCAL_APIC) {
            cpu->uid = entry[2];
            cpu->id = entry[3];
            cpu->flags = u32_at(entry, 4);
            return true;
        }
        if (entry[0] == LOCAL_X2APIC) {
            cpu->id = u32_at(entry, 4);
            cpu->flags = u32_at(entry, 8);
            cpu->uid = u32_at(entry, 12);
            return true;
        }
    }
    return false;
}

static const char *const states[] = { "disabled", "enabled", "capable", "both" };

/* Runs of CPUs whose ids follow each other and whose type and state are the same. */
void show_cpus(void)
{
    const struct header *madt = find("APIC");
    uint32_t offset = MADT_FIRST, total = 0, odd = 0;
    struct madt_cpu cpu, first = { 0 }, last = { 0 };

    if (!madt) {
        say("err no MADT\n");
        return;
    }
    say("ok");
    while (next_cpu(madt, &offset, &cpu)) {
        bool follows = total && cpu.id == last.id + 1 && cpu.type == last.type &&
                       ((cpu.flags ^ last.flags) & 3) == 0;

        if (!follows) {
            if (total)
                say(" %u-%u:%s:%u", first.id, last.id, states[last.flags & 3], last.type);
            first = cpu;
        }
        odd += cpu.uid != cpu.id;
        last = cpu;
        total++;
    }
    if (total)
        say(" %u-%u:%s:%u", first.id, last.id, states[last.flags & 3], last.type);
    say(" total=%u uid-differs=%u\n", total, odd);
}

static const struct gas *fadt_register(uint32_t offset)
{
    const struct header *fadt = find("FACP");
    const struct gas *gas = (const void *)((const char *)fadt + offset);

    if (!fadt || fadt->length < offset + sizeof(*gas) || !gas->address || gas->address >> 32)
        return NULL;
    return gas->space <= 1 ? gas : NULL;
}

static void show_register(const char *name, const struct gas *gas)
{
    if (gas)
        say(" %s=%s:%X", name, gas->space ? "io" : "memory", gas->address);
    else
        say(" %s=none", name);
}

static bool write_register(const struct gas *gas, uint8_t value)
{
    if (!gas)
        return false;
    if (gas->space)
        out8((uint16_t)gas->address, value);
    else
        *(volatile uint8_t *)(uint32_t)gas->address = value;
    return true;
}

void show_fadt(void)
{
    const struct header *fadt = find("FACP");
    const uint8_t *bytes = (const uint8_t *)fadt;

    if (!fadt) {
        say("err no FADT\n");
        return;
    }
    say("ok revision=%u.%u length=%u hw-reduced=%u", fadt->revision,
        fadt->length > FADT_MINOR ? bytes[FADT_MINOR] & 0xfu : 0u, fadt->length,
        u32_at(fadt, FADT_FLAGS) & FADT_HW_REDUCED ? 1u : 0u);
    show_register("reset", fadt_register(FADT_RESET_REG));
    show_register("sleep-control", fadt_register(FADT_SLEEP_CONTROL));
    show_register("sleep-status", fadt_register(FADT_SLEEP_STATUS));
    say("\n");
}

bool fadt_sleep(uint8_t type)
{
    return write_register(fadt_register(FADT_SLEEP_CONTROL),
                          (uint8_t)(type << SLEEP_TYPE_SHIFT | SLEEP_ENABLE));
}

bool fadt_reset(void)
{
    const struct header *fadt = find("FACP");

    if (!fadt || !(u32_at(fadt, FADT_FLAGS) & FADT_RESET_SUPPORTED))
        return false;
    return write_register(fadt_register(FADT_RESET_REG), ((const uint8_t *)fadt)[FADT_RESET_VALUE]);
}

void show_memory(void)
{
    const struct memory_entry *map = info->version ? at(info->memory_map) : NULL;

    if (!map) {
        say("err no memory map\n");
        return;
    }
    say("ok");
    for (uint32_t i = 0; i < info->memory_entries; i++)
        say(" %X+%X:%u", map[i].address, map[i].size, map[i].type);
    say("\n");
}

void show_cmdline(void)
{
    const char *cmdline = at(info->cmdline);

    say("ok %s\n", cmdline ? cmdline : "");
}
