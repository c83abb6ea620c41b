/* What the assembler and the compiler both need to know. */
#ifndef LAYOUT_H
#define LAYOUT_H

/* Local APICs while they are in xAPIC mode, and the I/O APIC. */
#define APIC_BASE 0xfee00000
#define IOAPIC_BASE 0xfec00000

/* Where APs start: page 0x10, which is the vector in the start-up IPI. */
#define TRAMPOLINE 0x10000

/* Slots, one for each APIC id below CPUS; a slot ends with the CPU's stack. */
#define CPUS 1024
#define SLOT_SHIFT 12

/* Vectors: 32 exceptions, then ours. */
#define VECTOR_PIN 0x20
#define VECTOR_WAKE 0x21
#define VECTOR_SPURIOUS 0x2f
#define VECTORS 0x30

#endif
