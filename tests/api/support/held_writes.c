/* While the file named by HELD_WRITES exists, whoever writes to a client of the port in it waits: a worker of a broker hangs then,
 * and its other threads go on. Connections that the broker opened itself have other ports. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dlfcn.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

static int held_port(void)
{
    const char *path = getenv("HELD_WRITES");
    FILE *file = path == NULL ? NULL : fopen(path, "r");
    int port = -1;

    if (file == NULL)
        return -1;
    if (fscanf(file, "%d", &port) != 1)
        port = -1;
    fclose(file);
    return port;
}

static void hold(int socket)
{
    struct sockaddr_in address;
    socklen_t length = sizeof address;

    if (getsockname(socket, (struct sockaddr *)&address, &length) != 0 || address.sin_family != AF_INET)
        return;
    while (held_port() == ntohs(address.sin_port))
        usleep(2000);
}

ssize_t send(int socket, const void *bytes, size_t length, int flags)
{
    hold(socket);
    return ((ssize_t (*)(int, const void *, size_t, int))dlsym(RTLD_NEXT, "send"))(socket, bytes, length, flags);
}

ssize_t writev(int file, const struct iovec *parts, int count)
{
    hold(file);
    return ((ssize_t (*)(int, const struct iovec *, int))dlsym(RTLD_NEXT, "writev"))(file, parts, count);
}
