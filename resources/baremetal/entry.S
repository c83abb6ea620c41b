/* Entries: from the loader (PVH), from a start-up IPI, and from interrupts and exceptions. */

#include "layout.h"

#define MSR_APIC_BASE 0x1b
#define APIC_BASE_EXTD 0x400
#define MSR_X2APIC_ID 0x802
#define CODE 0x08
#define DATA 0x10

    .section .note.pvh, "a", @note
    .balign 4
    .long 4, 4, 18                      /* XEN_ELFNOTE_PHYS32_ENTRY */
    .asciz "Xen"
    .long entry

/* Loads the flat data segments. */
.macro flat
    movw $DATA, %ax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %ss
    xorl %eax, %eax
    movw %ax, %fs
    movw %ax, %gs
.endm

/*
 * Finds this CPU's slot by its local APIC id, makes the slot's end the stack, and leaves the id in EAX.
 * A CPU whose id has no slot halts.
 */
.macro slot
    movl $MSR_APIC_BASE, %ecx
    rdmsr
    testl $APIC_BASE_EXTD, %eax
    jz 10f
    movl $MSR_X2APIC_ID, %ecx
    rdmsr
    jmp 11f
10: movl APIC_BASE + 0x20, %eax
    shrl $24, %eax
11: cmpl $CPUS, %eax
    jb 13f
12: cli
    hlt
    jmp 12b
13: movl %eax, %ecx
    incl %ecx
    shll $SLOT_SHIFT, %ecx
    leal cpus(%ecx), %esp
.endm

    .text
    .globl entry
entry:
    cli
    cld
    movl %ebx, %esi
    lgdt gdt_pointer
    ljmp $CODE, $1f
1:  flat
    movl $bss_start, %edi
2:  cmpl $bss_end, %edi
    jae 3f
    movl $0, (%edi)
    addl $4, %edi
    jmp 2b
3:  slot
    pushl %esi
    pushl %eax
    call boot_main
4:  cli
    hlt
    jmp 4b

/* The real-mode half of an AP's start, copied to TRAMPOLINE. */
    .code16
    .globl trampoline, trampoline_end
trampoline:
    cli
    cld
    movw %cs, %ax
    movw %ax, %ds
    lgdtl trampoline_gdt - trampoline
    movl %cr0, %eax
    andl $0x9fffffff, %eax              /* caches on */
    orl $1, %eax
    movl %eax, %cr0
    ljmpl $CODE, $started
trampoline_gdt:
    .word gdt_end - gdt - 1
    .long gdt
trampoline_end:

    .code32
started:
    flat
    lidt idt_pointer
    /* An APIC id above 255 can be told in x2APIC mode only; be in the boot CPU's mode. */
    movl $MSR_APIC_BASE, %ecx
    rdmsr
    orl apic_mode, %eax
    wrmsr
    slot
    pushl %eax
    call ap_main
5:  cli
    hlt
    jmp 5b

/*
 * Stubs: vector number and error code on the stack, then the common part. The CPU pushes an error code
 * for exceptions 8, 10 to 14, 17, 21, 29 and 30.
 */

.macro stub n, error
stub_\n:
    .if !\error
    pushl $0
    .endif
    pushl $\n
    jmp common
    .section .rodata
    .long stub_\n
    .text
.endm

    .section .rodata
    .globl stubs
stubs:
    .text
    .altmacro
    .set n, 0
    .rept VECTORS
    .set e, -(((n) == 8) | (((n) >= 10) & ((n) <= 14)) | ((n) == 17) | ((n) == 21) | ((n) == 29) | ((n) == 30)) & 1
    stub %n, %e
    .set n, n + 1
    .endr
    .noaltmacro

common:
    pushal
    movl 32(%esp), %eax                 /* vector */
    movl 36(%esp), %edx                 /* error code */
    movl 40(%esp), %ecx                 /* EIP */
    pushl %ecx
    pushl %edx
    pushl %eax
    call interrupt
    addl $12, %esp
    popal
    addl $8, %esp
    /*
     * Not IRET: a KVM that interprets its guests lacks it in protected mode. Interrupts come only while
     * the CPU halts, so the flags need no restoring, and they stay off, as everywhere else.
     */
    lret $4

/*
 * void attempt(struct op *op, void **rescue): calls perform_guarded(op) such that `abandon(*rescue)`, from
 * an exception in the midst of it, makes it return.
 */
    .globl attempt, abandon
attempt:
    pushl %ebx
    pushl %esi
    pushl %edi
    pushl %ebp
    movl 24(%esp), %eax
    movl %esp, (%eax)
    pushl 20(%esp)
    call perform_guarded
    addl $4, %esp
6:  popl %ebp
    popl %edi
    popl %esi
    popl %ebx
    ret
abandon:
    movl 4(%esp), %esp
    jmp 6b

    .section .rodata
    .balign 8
gdt:
    .quad 0
    .quad 0x00cf9b000000ffff            /* code, 4 GiB */
    .quad 0x00cf93000000ffff            /* data, 4 GiB */
gdt_end:
gdt_pointer:
    .word gdt_end - gdt - 1
    .long gdt
    .globl idt_pointer
    .balign 8
idt_pointer:
    .word VECTORS * 8 - 1
    .long idt
