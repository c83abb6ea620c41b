#ifndef GUEST_H
#define GUEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "layout.h"

/* ---- serial.c: COM1, text ---- */

/* Prints: %s text, %u decimal, %x hexadecimal with 0x, %X the same of 64 bits, %c. */
void say(const char *format, ...);
/* The next line of input, cut into words. Returns their number, at most `max`. */
int read_words(char **words, int max);
/* A decimal or 0x number; false if it is none or does not fit. */
bool number(const char *text, uint32_t *value);
bool same(const char *a, const char *b);
/* Interrupts for received bytes, on or off. */
void serial_interrupts(bool on);
/* A received byte, or -1. */
int serial_byte(void);
/* The port as it was at the start, whatever was done to it, without what it has received. */
void serial_reset(void);

/* ---- acpi.c: what the machine says about itself ---- */

void acpi_init(uint32_t start_info);
void show_tables(void);
void show_cpus(void);
void show_fadt(void);
void show_memory(void);
void show_cmdline(void);
/* Writes the FADT's registers; false if the machine has none. */
bool fadt_sleep(uint8_t type);
bool fadt_reset(void);

/* ---- cpu.c: this CPU and the others ---- */

/* One access or instruction that a CPU is told to do. */
enum kind { READ, WRITE, IN, OUT, STRING_IN, STRING_OUT, CPUID, RDMSR, WRMSR, UD, MODE };
enum mode { IDLE, SPIN, COUNT, HALT, DEAD, TRIPLE };

/* Most accesses of one STRING_IN or STRING_OUT. */
#define STRING_MAX 64

struct op {
    enum kind kind;
    uint32_t width; /* bytes, of READ, WRITE, IN, OUT, STRING_IN, STRING_OUT */
    uint32_t a, b, c;
    uint32_t result[4];
    int trap; /* exception that the operation ended with, or -1 */
};

void cpu_init(uint32_t id);
void perform(struct op *op);
/* Has another CPU perform it; false if that CPU does not answer. */
bool perform_on(uint32_t id, struct op *op);
/* Starts another CPU; false if it does not come alive. */
bool start_cpu(uint32_t id);
/* Sends another CPU an interrupt command, or all but this one, and does not look what becomes of it. */
void provoke(uint32_t id, uint32_t command);
void provoke_all(uint32_t command);
/* Whether the CPU was ever started, and prints its slot. */
bool show_cpu(uint32_t id);
/* APIC id of the CPU that was entered. */
extern uint32_t boot_id;
/* Pin of COM1. */
#define PIN_SERIAL 4
/* Waits for one interrupt of an I/O APIC pin; false if there is no such pin. */
bool await_pin(uint32_t pin, bool level, uint32_t id);
/* Lets an I/O APIC pin interrupt the boot CPU by edges, and no longer. */
void open_pin(uint32_t pin);
void close_pin(uint32_t pin);
void close_pins(void);
void triple_fault(void);
void halt_forever(void);
/* How long to wait for other CPUs, as the logarithm of a number of TSC ticks. */
extern uint32_t patience;

/* ---- hotplug.c: CPUs that come and go ---- */

/* Serves them until a byte comes in; returns how many events there were. */
uint32_t serve(void);

/* ---- hostile.c: what no operating system does ---- */

/* Makes at least so many accesses, the same ones for the same seed; returns how many, 0 if none was of eight bytes. */
uint32_t hostile(uint32_t seed, uint32_t count);

/* ---- instructions ---- */

static inline uint8_t in8(uint16_t port)
{
    uint8_t value;
    __asm__ volatile("inb %1, %0" : "=a"(value) : "Nd"(port));
    return value;
}

static inline void out8(uint16_t port, uint8_t value)
{
    __asm__ volatile("outb %0, %1" : : "a"(value), "Nd"(port));
}

static inline uint64_t rdmsr(uint32_t index)
{
    uint32_t low, high;
    __asm__ volatile("rdmsr" : "=a"(low), "=d"(high) : "c"(index));
    return (uint64_t)high << 32 | low;
}

static inline void wrmsr(uint32_t index, uint32_t high, uint32_t low)
{
    __asm__ volatile("wrmsr" : : "c"(index), "a"(low), "d"(high) : "memory");
}

static inline uint64_t rdtsc(void)
{
    uint32_t low, high;
    __asm__ volatile("rdtsc" : "=a"(low), "=d"(high));
    return (uint64_t)high << 32 | low;
}

static inline void relax(void)
{
    __asm__ volatile("pause" : : : "memory");
}

#endif
