/* A disk that fails on demand: loaded before libc, it counts the writes and syncs of files named *ledger.sqlite* and
   spoils the one that it was armed for. Modes, at call number `at` (0 is the first):
   1 the sync fails once   2 every sync from there on fails   3 the write fails once (EIO)
   4 every write from there on finds no space, after half of it was written
   5 half of the write is written, then the process dies   6 the process dies before the write   7 ... before the sync
   8 half of the write is written, and said so (a short write, which the caller must go on from) */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

static int mode;
static long at, writes, syncs;

void arm(int chosen, long call) { mode = chosen; at = call; writes = syncs = 0; }
long count_writes(void) { return writes; }
long count_syncs(void) { return syncs; }

static int ours(int file) {
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return strstr(path, "ledger.sqlite") != NULL;
}

static void die(void) { kill(getpid(), SIGKILL); pause(); }

/* How many of `size` bytes to write; -1 to fail. */
static ssize_t allowed(int file, size_t size, int *then_die) {
    if (!mode || !ours(file)) return (ssize_t)size;
    long number = writes++;
    if (mode == 6 && number == at) die();
    if (mode == 3 && number == at) { errno = EIO; return -1; }
    if (mode == 4 && number > at) { errno = ENOSPC; return -1; }
    if ((mode == 4 || mode == 5 || mode == 8) && number == at) { *then_die = mode == 5; return (ssize_t)(size / 2); }
    return (ssize_t)size;
}

#define WRITE(name, declared, passed)                                                       \
    ssize_t name declared {                                                                 \
        static ssize_t (*real) declared;                                                    \
        int then_die = 0;                                                                   \
        if (!real) real = dlsym(RTLD_NEXT, #name);                                          \
        ssize_t size = allowed(file, asked, &then_die);                                     \
        if (size < 0) return -1;                                                            \
        ssize_t done = real passed;                                                         \
        if (then_die) die();                                                                \
        return done;                                                                        \
    }
WRITE(write, (int file, const void *bytes, size_t asked), (file, bytes, (size_t)size))
WRITE(pwrite, (int file, const void *bytes, size_t asked, off_t offset), (file, bytes, (size_t)size, offset))
WRITE(pwrite64, (int file, const void *bytes, size_t asked, off64_t offset), (file, bytes, (size_t)size, offset))

#define SYNC(name)                                                                          \
    int name(int file) {                                                                    \
        static int (*real)(int);                                                            \
        if (!real) real = dlsym(RTLD_NEXT, #name);                                          \
        if (mode && ours(file)) {                                                           \
            long number = syncs++;                                                          \
            if (mode == 7 && number == at) die();                                           \
            if ((mode == 1 && number == at) || (mode == 2 && number >= at)) { errno = EIO; return -1; } \
        }                                                                                   \
        return real(file);                                                                  \
    }
SYNC(fsync)
SYNC(fdatasync)
