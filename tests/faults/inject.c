/* Faults at exact places: an LD_PRELOAD library that counts the calls by which a process changes
 * files, and at one of them kills the process or makes the call fail.
 *
 * Nothing is armed until inject_arm() is called, in the process that is to suffer. Counted are calls on
 * files below a directory and, optionally, whose path contains a text, by all threads of the process and
 * of those that it forks together: this is what strace's injection cannot do, which counts for each thread on its own. Between
 * two counted calls nothing changes in the file system, so to kill before each of them is to kill
 * everywhere. An event that is sent to a PostgreSQL counts like a file of its type's name. Each counted call is written to a log, with its number, before it is made.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/un.h>
#include <unistd.h>

enum { NOTHING, KILL, FAIL };

static volatile int armed = NOTHING;
static long first;
/* What the daemon's processes share: the launcher is forked after inject_arm(). */
static struct { pthread_mutex_t lock; long count; } *shared;
static int error, log_fd;
static char below[PATH_MAX], part[PATH_MAX], calls[256];

/* At counted call `at` (from 1): kill (fail == 0), or fail this and all later ones with errno `fail`.
 * `names` is a list like ",fsync,fdatasync," or "" for all calls; at == 0 only counts. */
void inject_arm(const char *directory, const char *contains, const char *names, long at, int fail,
                int log)
{
    strncpy(below, directory, sizeof below - 1);
    strncpy(part, contains, sizeof part - 1);
    strncpy(calls, names, sizeof calls - 1);
    pthread_mutexattr_t attributes;
    shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    pthread_mutexattr_init(&attributes);
    pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
    /* A process killed at its call holds the lock. */
    pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
    pthread_mutex_init(&shared->lock, &attributes);
    first = at, error = fail, log_fd = log;
    armed = fail ? FAIL : KILL;
}

/* True when the call is to fail; errno is set then. */
static int strikes(const char *call, const char *path)
{
    char name[64], line[PATH_MAX + 96];
    int fails = 0;
    if (armed == NOTHING || (path[0] == '/' && strncmp(path, below, strlen(below)) != 0) ||
        strstr(path, part) == NULL)
        return 0;
    snprintf(name, sizeof name, ",%s,", call);
    if (calls[0] && strstr(calls, name) == NULL)
        return 0;
    if (pthread_mutex_lock(&shared->lock) == EOWNERDEAD)
        pthread_mutex_consistent(&shared->lock);
    long count = ++shared->count;
    int length = snprintf(line, sizeof line, "%ld %s %s\n", count, call, path);
    if (write(log_fd, line, length) != length)
        _exit(120);
    if (armed == KILL && count == first) {
        kill(getpid(), SIGKILL);
        for (;;)
            pause();
    }
    fails = armed == FAIL && count >= first;
    pthread_mutex_unlock(&shared->lock);
    if (fails)
        errno = error;
    return fails;
}

static int strikes_fd(const char *call, int fd)
{
    char link[64], path[PATH_MAX];
    ssize_t length;
    if (armed == NOTHING || fd == log_fd)
        return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    length = readlink(link, path, sizeof path - 1);
    if (length <= 0 || path[0] != '/')
        return 0; /* a pipe or a socket */
    path[length] = 0;
    return strikes(call, path);
}

/* What was sent last on a descriptor and has no answer yet: the type of an event. */
static char unanswered[1024][64];

/* An event of the log that is sent to PostgreSQL, and the first part of the answer. Between the two the server
 * may have committed. */
static int strikes_event(const char *call, int fd, const char *content, size_t size)
{
    struct sockaddr_un peer = {0};
    socklen_t length = sizeof peer - 1;
    const char *type;
    char name[64];
    if (armed == NOTHING || fd < 0 || fd >= 1024)
        return 0;
    if (content == NULL) {
        memcpy(name, unanswered[fd], sizeof name);
        unanswered[fd][0] = 0;
        return name[0] && strikes(call, name);
    }
    unanswered[fd][0] = 0;
    if (getpeername(fd, (struct sockaddr *)&peer, &length) != 0 || peer.sun_family != AF_UNIX ||
        strstr(peer.sun_path, ".s.PGSQL.") == NULL)
        return 0;
    type = memmem(content, size, "\"type\":\"", 8);
    if (type == NULL || sscanf(type + 8, "%63[A-Za-z]", unanswered[fd]) != 1)
        return 0;
    return strikes(call, unanswered[fd]);
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))
#define WRAP(type, name, parameters, arguments, condition)                                         \
    type name parameters                                                                           \
    {                                                                                              \
        static __typeof__(&name) real;                                                             \
        if (!real)                                                                                 \
            real = REAL(name);                                                                     \
        return (condition) ? -1 : real arguments;                                                  \
    }

WRAP(ssize_t, write, (int fd, const void *b, size_t n), (fd, b, n), strikes_fd("write", fd))
WRAP(ssize_t, pwrite, (int fd, const void *b, size_t n, off_t o), (fd, b, n, o),
     strikes_fd("pwrite64", fd))
WRAP(ssize_t, pwrite64, (int fd, const void *b, size_t n, off64_t o), (fd, b, n, o),
     strikes_fd("pwrite64", fd))
WRAP(int, fsync, (int fd), (fd), strikes_fd("fsync", fd))
WRAP(int, fdatasync, (int fd), (fd), strikes_fd("fdatasync", fd))
WRAP(int, syncfs, (int fd), (fd), strikes_fd("syncfs", fd))
WRAP(int, ftruncate, (int fd, off_t n), (fd, n), strikes_fd("ftruncate", fd))
WRAP(int, ftruncate64, (int fd, off64_t n), (fd, n), strikes_fd("ftruncate", fd))
WRAP(int, fchmod, (int fd, mode_t m), (fd, m), strikes_fd("fchmod", fd))
WRAP(ssize_t, send, (int fd, const void *b, size_t n, int f), (fd, b, n, f),
     strikes_event("send", fd, b, n))
WRAP(ssize_t, recv, (int fd, void *b, size_t n, int f), (fd, b, n, f),
     strikes_event("recv", fd, NULL, 0))
WRAP(int, rename, (const char *a, const char *b), (a, b), strikes("rename", b))
WRAP(int, link, (const char *a, const char *b), (a, b), strikes("link", b))
WRAP(int, linkat, (int d, const char *a, int e, const char *b, int f), (d, a, e, b, f),
     strikes("linkat", b))
WRAP(int, symlink, (const char *a, const char *b), (a, b), strikes("symlink", b))
WRAP(int, mkdir, (const char *p, mode_t m), (p, m), strikes("mkdir", p))
WRAP(int, rmdir, (const char *p), (p), strikes("rmdir", p))
WRAP(int, unlink, (const char *p), (p), strikes("unlink", p))
WRAP(int, unlinkat, (int d, const char *p, int f), (d, p, f), strikes("unlinkat", p))

#define WRAP_OPEN(name)                                                                            \
    int name(const char *path, int flags, ...)                                                     \
    {                                                                                              \
        static int (*real)(const char *, int, ...);                                                \
        va_list rest;                                                                              \
        va_start(rest, flags);                                                                     \
        mode_t mode = flags & (O_CREAT | __O_TMPFILE) ? va_arg(rest, mode_t) : 0;                  \
        va_end(rest);                                                                              \
        if (!real)                                                                                 \
            real = (int (*)(const char *, int, ...))dlsym(RTLD_NEXT, #name);                       \
        if (flags & O_CREAT && strikes("creat", path))                                             \
            return -1;                                                                             \
        return real(path, flags, mode);                                                            \
    }
WRAP_OPEN(open)
WRAP_OPEN(open64)
