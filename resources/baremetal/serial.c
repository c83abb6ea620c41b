/* COM1, polled, and the little text handling that the commands need. */

#include "guest.h"

#define COM1 0x3f8
#define RBR (COM1 + 0)
#define THR (COM1 + 0)
#define IER (COM1 + 1)
#define MCR (COM1 + 4)
#define LSR (COM1 + 5)
#define FCR (COM1 + 2)
#define LCR (COM1 + 3)

#define IER_RECEIVED 0x01
#define MCR_DTR_RTS_OUT2 0x0b
#define LCR_8N1 0x03
#define LSR_RECEIVED 0x01
#define LSR_THR_EMPTY 0x20

static char line[256];

void serial_interrupts(bool on)
{
    out8(MCR, MCR_DTR_RTS_OUT2);
    out8(IER, on ? IER_RECEIVED : 0);
}

int serial_byte(void)
{
    return in8(LSR) & LSR_RECEIVED ? in8(RBR) : -1;
}

void serial_reset(void)
{
    out8(LCR, LCR_8N1);
    out8(FCR, 0);
    serial_interrupts(false);
    while (serial_byte() >= 0)
        ;
}

static void put(char c)
{
    while (!(in8(LSR) & LSR_THR_EMPTY))
        relax();
    out8(THR, (uint8_t)c);
}

static void put_hex(uint64_t value)
{
    int shift = 60;

    put('0');
    put('x');
    while (shift > 0 && !(value >> shift & 0xf))
        shift -= 4;
    for (; shift >= 0; shift -= 4)
        put("0123456789abcdef"[value >> shift & 0xf]);
}

static void put_decimal(uint32_t value)
{
    char digits[10];
    int n = 0;

    do {
        digits[n++] = (char)('0' + value % 10);
        value /= 10;
    } while (value);
    while (n)
        put(digits[--n]);
}

void say(const char *format, ...)
{
    __builtin_va_list args;

    __builtin_va_start(args, format);
    for (; *format; format++) {
        if (*format != '%') {
            put(*format);
            continue;
        }
        switch (*++format) {
        case 's':
            for (const char *text = __builtin_va_arg(args, const char *); *text; text++)
                put(*text);
            break;
        case 'u':
            put_decimal(__builtin_va_arg(args, uint32_t));
            break;
        case 'x':
            put_hex(__builtin_va_arg(args, uint32_t));
            break;
        case 'X':
            put_hex(__builtin_va_arg(args, uint64_t));
            break;
        case 'c':
            put((char)__builtin_va_arg(args, int));
            break;
        }
    }
    __builtin_va_end(args);
}

/* Reads up to the end of a line; what does not fit is dropped. */
static void read_line(void)
{
    uint32_t length = 0;

    for (;;) {
        int byte = serial_byte();

        if (byte < 0) {
            relax();
            continue;
        }
        if (byte == '\n' || byte == '\r')
            break;
        if (length < sizeof(line) - 1)
            line[length++] = (char)byte;
    }
    line[length] = 0;
}

int read_words(char **words, int max)
{
    int count = 0;
    char *at = line;

    read_line();
    while (count < max) {
        while (*at == ' ')
            at++;
        if (!*at)
            break;
        words[count++] = at;
        while (*at && *at != ' ')
            at++;
        if (*at)
            *at++ = 0;
    }
    return count;
}

bool same(const char *a, const char *b)
{
    while (*a && *a == *b)
        a++, b++;
    return *a == *b;
}

static int digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return 16;
}

bool number(const char *text, uint32_t *value)
{
    uint32_t base = 10, sum = 0;

    if (text[0] == '0' && text[1] == 'x') {
        base = 16;
        text += 2;
    }
    if (!*text)
        return false;
    for (; *text; text++) {
        uint32_t next = (uint32_t)digit(*text);

        if (next >= base || sum > (0xffffffff - next) / base)
            return false;
        sum = sum * base + next;
    }
    *value = sum;
    return true;
}
