/*
 * vsock echo PORT takes connections to this port of the guest (AF_VSOCK, see vsock(7)) for ever, and sends
 * back what comes, until its end. It says "listens" first.
 *
 * vsock to PORT connects to this port of the host, sends what it reads from standard input, then that it
 * sends no more, and writes to standard output what comes, until its end.
 *
 * Ends with the number of an error, or 0. Needs no C library, so that it is small: it is part of an image
 * that each test boots.
 */

#include "alone.h"

typedef unsigned int u32;
typedef unsigned short u16;
typedef unsigned char u8;

/* struct sockaddr_vm of linux/vm_sockets.h. */
struct address {
    u16 family;
    u16 reserved;
    u32 port;
    u32 cid;
    u8 zero[4];
};

enum {
    SYS_READ = 0,
    SYS_WRITE = 1,
    SYS_CLOSE = 3,
    SYS_SOCKET = 41,
    SYS_CONNECT = 42,
    SYS_ACCEPT = 43,
    SYS_SHUTDOWN = 48,
    SYS_BIND = 49,
    SYS_LISTEN = 50,
    SYS_FORK = 57,
    SYS_WAIT4 = 61,
    EINVAL = 22,
};
enum { AF_VSOCK = 40, SOCK_STREAM = 1, SHUT_WR = 1, WNOHANG = 1 };
enum { CID_ANY = -1, CID_HOST = 2 };
enum { BACKLOG = 64 };

/* Until the end of what comes. */
static long copy(long from, long to)
{
    static char buffer[16384];

    for (;;) {
        long got = syscall3(SYS_READ, from, (long)buffer, sizeof(buffer));

        if (got <= 0)
            return -got;
        for (long sent = 0; sent < got;) {
            long more = syscall3(SYS_WRITE, to, (long)buffer + sent, got - sent);

            if (more < 0)
                return -more;
            sent += more;
        }
    }
}

static long echo(struct address address)
{
    static const char listens[] = "listens\n";
    long listener = syscall3(SYS_SOCKET, AF_VSOCK, SOCK_STREAM, 0);
    long error;

    if (listener < 0)
        return -listener;
    address.cid = CID_ANY;
    error = syscall3(SYS_BIND, listener, (long)&address, sizeof(address));
    error = error ? error : syscall3(SYS_LISTEN, listener, BACKLOG, 0);
    if (error)
        return -error;
    syscall3(SYS_WRITE, 1, (long)listens, sizeof(listens) - 1);
    for (;;) {
        long connection = syscall3(SYS_ACCEPT, listener, 0, 0);

        while (syscall4(SYS_WAIT4, -1, 0, WNOHANG, 0) > 0)
            ;
        if (connection < 0)
            return -connection;
        if (syscall3(SYS_FORK, 0, 0, 0) == 0)
            return copy(connection, connection);
        syscall3(SYS_CLOSE, connection, 0, 0);
    }
}

static long to(struct address address)
{
    long connection = syscall3(SYS_SOCKET, AF_VSOCK, SOCK_STREAM, 0);
    long error;

    if (connection < 0)
        return -connection;
    address.cid = CID_HOST;
    error = syscall3(SYS_CONNECT, connection, (long)&address, sizeof(address));
    if (error)
        return -error;
    if (syscall3(SYS_FORK, 0, 0, 0) == 0) {
        error = copy(0, connection);
        syscall3(SYS_SHUTDOWN, connection, SHUT_WR, 0);
        return error;
    }
    return copy(connection, 1);
}

long program(int count, char **arguments)
{
    struct address address = { .family = AF_VSOCK };

    if (count != 3 || number(arguments[2]) < 0)
        return EINVAL;
    address.port = (u32)number(arguments[2]);
    if (same(arguments[1], "echo"))
        return echo(address);
    return same(arguments[1], "to") ? to(address) : EINVAL;
}
