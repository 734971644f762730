/* Ends the process before the call that has the number in STOP_AT, of those that change names in a folder whose path has RESTORE_IN
 * in it: as a power failure or SIGKILL could. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int calls;

static void count(const char *path)
{
    const char *number = getenv("STOP_AT"), *folder = getenv("RESTORE_IN");

    if (number == NULL || folder == NULL || path == NULL || strstr(path, folder) == NULL)
        return;
    if (__sync_add_and_fetch(&calls, 1) == atoi(number))
        _exit(137);
}

int rename(const char *from, const char *to)
{
    count(from);
    return ((int (*)(const char *, const char *))dlsym(RTLD_NEXT, "rename"))(from, to);
}

int linkat(int from_folder, const char *from, int to_folder, const char *to, int flags)
{
    count(from);
    return ((int (*)(int, const char *, int, const char *, int))dlsym(RTLD_NEXT, "linkat"))(from_folder, from, to_folder, to, flags);
}

int unlink(const char *path)
{
    count(path);
    return ((int (*)(const char *))dlsym(RTLD_NEXT, "unlink"))(path);
}

int mkdir(const char *path, mode_t mode)
{
    count(path);
    return ((int (*)(const char *, mode_t))dlsym(RTLD_NEXT, "mkdir"))(path, mode);
}
