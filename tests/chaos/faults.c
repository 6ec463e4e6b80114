/* Preloaded into the daemon, to hurt it where a test cannot reach it from outside.
 *
 * DISK_FAULT names a file. While it says "sync" or "write", those fail (EIO); "read-only": the journal's files can
 * neither be written nor opened for writing (EROFS), as on a disk that its file system has made read-only.
 * CLOCK_OFFSET names a file with seconds by which the wall clock is wrong; clocks that only run forward are not.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/types.h>
#include <time.h>
#include <unistd.h>

static ssize_t said(const char *variable, char *text, size_t size)
{
    const char *path = getenv(variable);
    int file = path ? (int)syscall(SYS_openat, AT_FDCWD, path, O_RDONLY) : -1;
    ssize_t length;
    if (file < 0)
        return 0;
    length = syscall(SYS_read, file, text, size - 1);
    syscall(SYS_close, file);
    text[length < 0 ? 0 : length] = 0;
    return length;
}

static int fault(char kind)
{
    char text[16];
    return said("DISK_FAULT", text, sizeof text) > 0 && text[0] == kind;
}

static int fail(int with)
{
    errno = with;
    return -1;
}

int fdatasync(int fd)
{
    return fault('s') ? fail(EIO) : (int)syscall(SYS_fdatasync, fd);
}

int fsync(int fd)
{
    return fault('s') ? fail(EIO) : (int)syscall(SYS_fsync, fd);
}

ssize_t pwrite64(int fd, const void *bytes, size_t count, off64_t offset)
{
    if (fault('w'))
        return fail(EIO);
    if (fault('r'))
        return fail(EROFS);
    return syscall(SYS_pwrite64, fd, bytes, count, offset);
}

ssize_t pwrite(int fd, const void *bytes, size_t count, off_t offset)
{
    return pwrite64(fd, bytes, count, offset);
}

int open64(const char *path, int flags, ...)
{
    va_list rest;
    int mode;
    va_start(rest, flags);
    mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, int) : 0;
    va_end(rest);
    if (flags & (O_WRONLY | O_RDWR | O_CREAT) && strstr(path, "/journal/") && fault('r'))
        return fail(EROFS);
    return (int)syscall(SYS_openat, AT_FDCWD, path, flags, mode);
}

int open(const char *path, int flags, ...)
{
    va_list rest;
    int mode;
    va_start(rest, flags);
    mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, int) : 0;
    va_end(rest);
    return open64(path, flags, mode);
}

static time_t wrong_by(void)
{
    char text[16];
    return said("CLOCK_OFFSET", text, sizeof text) > 0 ? atol(text) : 0;
}

int clock_gettime(clockid_t clock, struct timespec *now)
{
    int failed = (int)syscall(SYS_clock_gettime, clock, now);
    if (!failed && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
        now->tv_sec += wrong_by();
    return failed;
}

int gettimeofday(struct timeval *now, void *zone)
{
    int failed = (int)syscall(SYS_gettimeofday, now, zone);
    if (!failed)
        now->tv_sec += wrong_by();
    return failed;
}

time_t time(time_t *result)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (result)
        *result = now.tv_sec;
    return now.tv_sec;
}
