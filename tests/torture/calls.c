/* Counts the file calls of a process below some folders, over all its threads, and strikes at one of them.

   Preloaded into a process that forks one child for each life (see forge.py). `torture_begin` starts the count in the child:
   at call number `at` of its kind the process is killed before or after the call, or this and the next `lasts - 1` calls
   fail with an error, or a write is short. What happened is in a file that is mapped, so that it survives SIGKILL. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

enum { KILL_BEFORE = -1, KILL_AFTER = -2, SHORT = -3 }; /* else an errno */
enum { CHANGES = 0, LOOKS = 1 };

struct report {
    atomic_long counted[2];
    char struck[400]; /* the call that was struck, for people */
};

static char roots[4096]; /* folders with a '/' at the end, separated by '\n' */
static long at, lasts;
static int how, kind;
static struct report *report;
static volatile int counting;

void torture_begin(const char *folders, const char *file, int kind_, long at_, int how_, long lasts_) {
    int opened = open(file, O_RDWR | O_CLOEXEC);
    report = mmap(NULL, sizeof *report, PROT_READ | PROT_WRITE, MAP_SHARED, opened, 0);
    close(opened);
    snprintf(roots, sizeof roots, "%s", folders);
    kind = kind_, at = at_, how = how_, lasts = lasts_;
    counting = 1;
}

static int below(const char *path) {
    for (const char *root = roots; *root; root = strchr(root, '\n') + 1) {
        size_t length = strchr(root, '\n') - root;
        if (strncmp(path, root, length) == 0 || (strlen(path) == length - 1 && strncmp(path, root, length - 1) == 0))
            return 1;
    }
    return 0;
}

static int place(int fd, char *path, size_t size) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, size - 1);
    if (length <= 0)
        return 0;
    path[length] = 0;
    return below(path);
}

/* The verdict for one call: 0 lets it happen, 1 kills after it, 2 makes it short, any other number is minus an errno. */
static long judge(int of_kind, const char *call, int fd, const char *name) {
    char path[4096];
    if (!counting)
        return 0;
    int saved = errno;
    int ours = name && name[0] == '/' ? below(name) : fd != AT_FDCWD && place(fd, path, sizeof path);
    errno = saved;
    if (!ours)
        return 0;
    long number = atomic_fetch_add(&report->counted[of_kind], 1) + 1;
    if (of_kind != kind || !at || number < at || number >= at + lasts)
        return 0;
    if (number == at)
        snprintf(report->struck, sizeof report->struck, "%s %s%s%s", call, name && name[0] == '/' ? "" : path,
                 name && name[0] != '/' ? "/" : "", name ? name : "");
    if (how == KILL_BEFORE)
        kill(getpid(), SIGKILL), pause();
    return how == KILL_AFTER ? 1 : how == SHORT ? 2 : -how;
}

static void finish(long verdict) {
    if (verdict == 1)
        kill(getpid(), SIGKILL), pause();
}

#define REAL(name) \
    static __typeof__(name) *real; \
    if (!real) \
        real = (__typeof__(name) *)dlsym(RTLD_NEXT, #name)

#define JUDGED(kind, result, call, fd, path, ...) \
    REAL(call); \
    long verdict = judge(kind, #call, fd, path); \
    if (verdict < 0) { \
        errno = (int)-verdict; \
        return -1; \
    } \
    result done = real(__VA_ARGS__); \
    finish(verdict); \
    return done

#define SIZED(kind, call, fd, size, ...) \
    REAL(call); \
    long verdict = judge(kind, #call, fd, NULL); \
    if (verdict < 0) { \
        errno = (int)-verdict; \
        return -1; \
    } \
    if (verdict == 2 && size > 1) \
        size = size / 2; \
    ssize_t done = real(__VA_ARGS__); \
    finish(verdict); \
    return done

/* Calls that change a disk */

ssize_t write(int fd, const void *data, size_t size) { SIZED(CHANGES, write, fd, size, fd, data, size); }
ssize_t pwrite(int fd, const void *data, size_t size, off_t to) { SIZED(CHANGES, pwrite, fd, size, fd, data, size, to); }
ssize_t pwrite64(int fd, const void *data, size_t size, off_t to) { SIZED(CHANGES, pwrite64, fd, size, fd, data, size, to); }
ssize_t writev(int fd, const struct iovec *data, int count) { SIZED(CHANGES, writev, fd, count, fd, data, count); }
ssize_t pwritev(int fd, const struct iovec *data, int count, off_t to) { SIZED(CHANGES, pwritev, fd, count, fd, data, count, to); }
ssize_t pwritev64(int fd, const struct iovec *data, int count, off_t to) { SIZED(CHANGES, pwritev64, fd, count, fd, data, count, to); }
ssize_t pwritev2(int fd, const struct iovec *data, int count, off_t to, int flags) { SIZED(CHANGES, pwritev2, fd, count, fd, data, count, to, flags); }
ssize_t pwritev64v2(int fd, const struct iovec *data, int count, off_t to, int flags) { SIZED(CHANGES, pwritev64v2, fd, count, fd, data, count, to, flags); }
int ftruncate(int fd, off_t size) { JUDGED(CHANGES, int, ftruncate, fd, NULL, fd, size); }
int ftruncate64(int fd, off_t size) { JUDGED(CHANGES, int, ftruncate64, fd, NULL, fd, size); }
int fsync(int fd) { JUDGED(CHANGES, int, fsync, fd, NULL, fd); }
int fdatasync(int fd) { JUDGED(CHANGES, int, fdatasync, fd, NULL, fd); }
int fallocate(int fd, int mode, off_t from, off_t size) { JUDGED(CHANGES, int, fallocate, fd, NULL, fd, mode, from, size); }
int fallocate64(int fd, int mode, off_t from, off_t size) { JUDGED(CHANGES, int, fallocate64, fd, NULL, fd, mode, from, size); }
ssize_t copy_file_range(int from, off_t *at_from, int to, off_t *at_to, size_t size, unsigned flags) {
    SIZED(CHANGES, copy_file_range, to, size, from, at_from, to, at_to, size, flags);
}
int fchmod(int fd, mode_t mode) { JUDGED(CHANGES, int, fchmod, fd, NULL, fd, mode); }
int chmod(const char *path, mode_t mode) { JUDGED(CHANGES, int, chmod, AT_FDCWD, path, path, mode); }
int fchown(int fd, uid_t user, gid_t group) { JUDGED(CHANGES, int, fchown, fd, NULL, fd, user, group); }
int mkdir(const char *path, mode_t mode) { JUDGED(CHANGES, int, mkdir, AT_FDCWD, path, path, mode); }
int mkdirat(int fd, const char *path, mode_t mode) { JUDGED(CHANGES, int, mkdirat, fd, path, fd, path, mode); }
int rmdir(const char *path) { JUDGED(CHANGES, int, rmdir, AT_FDCWD, path, path); }
int unlink(const char *path) { JUDGED(CHANGES, int, unlink, AT_FDCWD, path, path); }
int unlinkat(int fd, const char *path, int flags) { JUDGED(CHANGES, int, unlinkat, fd, path, fd, path, flags); }
int rename(const char *from, const char *to) { JUDGED(CHANGES, int, rename, AT_FDCWD, to, from, to); }
int renameat(int fd, const char *from, int to_fd, const char *to) { JUDGED(CHANGES, int, renameat, to_fd, to, fd, from, to_fd, to); }
int renameat2(int fd, const char *from, int to_fd, const char *to, unsigned flags) {
    JUDGED(CHANGES, int, renameat2, to_fd, to, fd, from, to_fd, to, flags);
}
int link(const char *from, const char *to) { JUDGED(CHANGES, int, link, AT_FDCWD, to, from, to); }
int linkat(int fd, const char *from, int to_fd, const char *to, int flags) {
    JUDGED(CHANGES, int, linkat, to_fd, to, fd, from, to_fd, to, flags);
}
int symlink(const char *target, const char *path) { JUDGED(CHANGES, int, symlink, AT_FDCWD, path, target, path); }
int symlinkat(const char *target, int fd, const char *path) { JUDGED(CHANGES, int, symlinkat, fd, path, target, fd, path); }

/* Calls that only look, and `open`, which is a change if it makes a file */

static int makes(int flags) { return (flags & (O_CREAT | O_TRUNC)) || (flags & O_TMPFILE) == O_TMPFILE; }

#define OPENED(call, fd, path, flags, ...) \
    va_list more; \
    va_start(more, flags); \
    mode_t mode = makes(flags) ? va_arg(more, mode_t) : 0; \
    va_end(more); \
    JUDGED(makes(flags) ? CHANGES : LOOKS, int, call, fd, path, __VA_ARGS__)

int open(const char *path, int flags, ...) { OPENED(open, AT_FDCWD, path, flags, path, flags, mode); }
int open64(const char *path, int flags, ...) { OPENED(open64, AT_FDCWD, path, flags, path, flags, mode); }
int openat(int fd, const char *path, int flags, ...) { OPENED(openat, fd, path, flags, fd, path, flags, mode); }
int openat64(int fd, const char *path, int flags, ...) { OPENED(openat64, fd, path, flags, fd, path, flags, mode); }
ssize_t read(int fd, void *data, size_t size) { SIZED(LOOKS, read, fd, size, fd, data, size); }
ssize_t pread(int fd, void *data, size_t size, off_t from) { SIZED(LOOKS, pread, fd, size, fd, data, size, from); }
ssize_t pread64(int fd, void *data, size_t size, off_t from) { SIZED(LOOKS, pread64, fd, size, fd, data, size, from); }
int fstatat(int fd, const char *path, struct stat *found, int flags) { JUDGED(LOOKS, int, fstatat, fd, path, fd, path, found, flags); }
int fstatat64(int fd, const char *path, struct stat64 *found, int flags) { JUDGED(LOOKS, int, fstatat64, fd, path, fd, path, found, flags); }
