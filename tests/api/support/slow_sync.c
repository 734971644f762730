/* Delays fsync and fdatasync while the file named by SLOW_SYNC exists: a COMMIT of SQLite takes that long. Each delayed call
 * appends a byte to the file that is named so with `.delayed` behind it. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static void delay(void)
{
    const char *held = getenv("SLOW_SYNC");
    char delayed[4096];
    int file;

    if (held == NULL || access(held, F_OK) != 0)
        return;
    snprintf(delayed, sizeof delayed, "%s.delayed", held);
    file = open(delayed, O_WRONLY | O_CREAT | O_APPEND, 0600);
    if (file >= 0) {
        if (write(file, "x", 1) != 1)
            perror("slow_sync");
        close(file);
    }
    while (access(held, F_OK) == 0)
        usleep(2000);
}

int fsync(int file)
{
    delay();
    return ((int (*)(int))dlsym(RTLD_NEXT, "fsync"))(file);
}

int fdatasync(int file)
{
    delay();
    return ((int (*)(int))dlsym(RTLD_NEXT, "fdatasync"))(file);
}
