/* A layer between a program and the C library that counts every operation on files below watched folders, and can end
 * the process, tear a write or return an error at exactly one of them; or record them all with their bytes, so that the
 * disk can be built as a power cut would have left it. Preloaded (LD_PRELOAD), driven through shim_watch / shim_arm /
 * shim_count / shim_record / shim_mark. Processes that are given the same KROPOT_TEST_SHIM_STATE count together; KROPOT_TEST_SHIM_LOG
 * and KROPOT_TEST_SHIM_RECORDING name what they log and record to.
 *
 * It knows nothing of the program above it: SQLite's writes are all->counted like those of Python.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum kind { COUNT = 0, KILL_BEFORE = 1, KILL_AFTER = 2, TORN = 3, FAIL = 4, KILL_ONE = 5 };

#define FDS 65536
struct state {
    char root[PATH_MAX];
    size_t root_length;
    atomic_long counted;
    long armed_at, armed_last;
    int armed_kind, armed_errno;
    pthread_mutex_t recording;
};
static struct state own = {.recording = PTHREAD_MUTEX_INITIALIZER}, *all = &own;
static int log_fd = -1;
static unsigned char watched[FDS];

#define REAL(type, name, ...)                                  \
    static type (*real)(__VA_ARGS__);                          \
    if (!real) real = (type (*)(__VA_ARGS__))dlsym(RTLD_NEXT, name)

static int is_below(const char *path) {
    return all->root_length && strncmp(path, all->root, all->root_length) == 0 && (path[all->root_length] == '/' || path[all->root_length] == 0);
}

/* Whether path, relative to dirfd, lies below the watched folder. */
static int is_watched_at(int dirfd, const char *path) {
    char folder[PATH_MAX + 32], link[64];
    if (!all->root_length || !path) return 0;
    if (path[0] == '/') return is_below(path);
    if (dirfd == AT_FDCWD) {
        if (!getcwd(folder, PATH_MAX)) return 0;
    } else {
        snprintf(link, sizeof link, "/proc/self/fd/%d", dirfd);
        ssize_t got = readlink(link, folder, PATH_MAX);
        if (got <= 0) return 0;
        folder[got] = 0;
    }
    return is_below(folder);
}

/* Put the absolute form of path, relative to dirfd, into `full`, of PATH_MAX + 64 bytes. */
static const char *absolute(int dirfd, const char *path, char *full) {
    char link[64];
    size_t length;
    if (path[0] == '/') return path;
    if (dirfd == AT_FDCWD) {
        if (!getcwd(full, PATH_MAX)) return path;
    } else {
        snprintf(link, sizeof link, "/proc/self/fd/%d", dirfd);
        ssize_t got = readlink(link, full, PATH_MAX - 1);
        if (got <= 0) return path;
        full[got] = 0;
    }
    length = strlen(full);
    snprintf(full + length, PATH_MAX + 64 - length, "/%s", path);
    return full;
}

/* --- the recording: while it runs, operations are done one after the other, in the order of their records --- */

struct record {
    int32_t kind, pid, fd;
    int64_t at, size;
    uint32_t from, path, data;
} __attribute__((packed));

static int record_fd = -1;

static void hold(void) {
    /* The one that held it may have been killed: by `end` alone, and that is between two operations. */
    if (record_fd >= 0 && pthread_mutex_lock(&all->recording) == EOWNERDEAD) pthread_mutex_consistent(&all->recording);
}

static void release(void) {
    int saved = errno;
    if (record_fd >= 0) pthread_mutex_unlock(&all->recording);
    errno = saved;
}

static void record(char kind, int fd, int64_t at, int64_t size, const char *from, const char *path, const void *data,
                   size_t length) {
    int saved = errno;
    struct record head = {kind, (int32_t)getpid(), fd, at, size, from ? (uint32_t)strlen(from) : 0, path ? (uint32_t)strlen(path) : 0,
                          (uint32_t)length};
    struct iovec parts[4] = {{&head, sizeof head}, {(void *)from, head.from}, {(void *)path, head.path},
                             {(void *)data, length}};
    if (record_fd < 0) return;
    size_t whole = sizeof head + head.from + head.path + length;
    if (syscall(SYS_writev, record_fd, parts, 4) != (long)whole) abort(); /* half a recording would be believed */
    errno = saved;
}

/* Record `done` bytes that were just written where the descriptor's position is now. */
static void record_written(int fd, const void *data, ssize_t done) {
    if (record_fd >= 0 && done > 0)
        record('w', fd, syscall(SYS_lseek, fd, 0L, SEEK_CUR) - done, done, NULL, NULL, data, (size_t)done);
}

static int is_watched_fd(int fd) { return fd >= 0 && fd < FDS && watched[fd]; }

static void note(long number, const char *what, const char *path) {
    char line[PATH_MAX + 64];
    if (log_fd < 0) return;
    int length = snprintf(line, sizeof line, "%ld %s %d %s\n", number, what, (int)getpid(), path ? path : "");
    if (length > 0) syscall(SYS_write, log_fd, line, (size_t)length);
}

/* End the process, or with `everyone` its group. While operations are recorded, nobody is between one and its record. */
static void end(int everyone) {
    hold();
    syscall(SYS_kill, everyone ? 0 : (pid_t)syscall(SYS_getpid), SIGKILL);
    for (;;) pause();
}

/* What is to happen at this operation; ends the process by itself where that is all. */
static int enter(const char *what, const char *path) {
    long number = atomic_fetch_add(&all->counted, 1) + 1;
    note(number, what, path);
    if (all->armed_kind == COUNT || number < all->armed_at || number > all->armed_last) return COUNT;
    if (all->armed_kind == KILL_BEFORE || all->armed_kind == KILL_ONE) end(all->armed_kind == KILL_BEFORE);
    return all->armed_kind;
}

static void leave(int kind) {
    if (kind == KILL_AFTER || kind == TORN) end(1);
}

#define FAILING(kind) ((kind) == FAIL && (errno = all->armed_errno, 1))

/* --- driven from Python --- */

void shim_watch(const char *folder) {
    snprintf(all->root, sizeof all->root, "%s", folder);
    all->root_length = strlen(all->root);
}

void shim_arm(int kind, long at, long last, int number) {
    atomic_store(&all->counted, 0);
    all->armed_kind = kind;
    all->armed_at = at;
    all->armed_last = last;
    all->armed_errno = number;
}

long shim_count(void) { return atomic_load(&all->counted); }

void shim_log(const char *path) {
    if (log_fd >= 0) syscall(SYS_close, log_fd);
    log_fd = path ? (int)syscall(SYS_openat, AT_FDCWD, path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600) : -1;
}

void shim_record(const char *path) {
    if (record_fd >= 0) syscall(SYS_close, record_fd);
    record_fd = path ? (int)syscall(SYS_openat, AT_FDCWD, path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600) : -1;
}

/* Say something between two operations: what the program above has just promised. */
void shim_mark(long value) {
    char text[32];
    snprintf(text, sizeof text, "%ld", value);
    note(atomic_load(&all->counted), "mark", text);
    hold();
    record('!', -1, value, 0, NULL, NULL, NULL, 0);
    release();
}

/* A path that is given to every process; the first one makes the state. */
static void share(const char *path) {
    int fd = (int)syscall(SYS_openat, AT_FDCWD, path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    struct stat status;
    if (fd < 0 || fstat(fd, &status) != 0) abort();
    int is_new = status.st_size == 0;
    if (is_new && syscall(SYS_ftruncate, fd, sizeof own) != 0) abort();
    void *mapped = mmap(NULL, sizeof own, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (mapped == MAP_FAILED) abort();
    syscall(SYS_close, fd);
    all = mapped;
    if (!is_new) return;
    pthread_mutexattr_t kind;
    pthread_mutexattr_init(&kind);
    pthread_mutexattr_setpshared(&kind, PTHREAD_PROCESS_SHARED);
    pthread_mutexattr_setrobust(&kind, PTHREAD_MUTEX_ROBUST);
    pthread_mutex_init(&all->recording, &kind);
}

__attribute__((constructor)) static void begin(void) {
    const char *state = getenv("KROPOT_TEST_SHIM_STATE"), *log = getenv("KROPOT_TEST_SHIM_LOG"),
               *recording = getenv("KROPOT_TEST_SHIM_RECORDING");
    if (state) share(state);
    if (log) shim_log(log);
    if (recording) shim_record(recording);
}

/* --- opening and closing: which descriptors are watched --- */

static int opened(int fd, int is_watched) {
    if (fd >= 0 && fd < FDS) watched[fd] = (unsigned char)is_watched;
    return fd;
}

static int open_any(int (*real)(int, const char *, int, ...), int dirfd, const char *path, int flags, mode_t mode) {
    int below = is_watched_at(dirfd, path);
    int kind = COUNT;
    if (below && (flags & O_CREAT)) {
        struct stat status;
        if (fstatat(dirfd, path, &status, AT_SYMLINK_NOFOLLOW) != 0) {
            kind = enter("create", path);
            if (FAILING(kind)) return -1;
        }
    }
    if (below) hold();
    int fd = opened(real(dirfd, path, flags, mode), below);
    if (below) {
        char full[PATH_MAX + 64];
        if (fd >= 0) record('o', fd, flags & O_TRUNC, flags & O_CREAT, NULL, absolute(dirfd, path, full), NULL, 0);
        release();
    }
    leave(kind);
    return fd;
}

#define MODE                                           \
    mode_t mode = 0;                                   \
    if (flags & (O_CREAT | O_TMPFILE)) {               \
        va_list list;                                  \
        va_start(list, flags);                         \
        mode = (mode_t)va_arg(list, int);              \
        va_end(list);                                  \
    }

static int (*real_openat(void))(int, const char *, int, ...) {
    static int (*real)(int, const char *, int, ...);
    if (!real) real = (int (*)(int, const char *, int, ...))dlsym(RTLD_NEXT, "openat");
    return real;
}

int open(const char *path, int flags, ...) { MODE return open_any(real_openat(), AT_FDCWD, path, flags, mode); }
int open64(const char *path, int flags, ...) {
    MODE return open_any(real_openat(), AT_FDCWD, path, flags | O_LARGEFILE, mode);
}
int openat(int dirfd, const char *path, int flags, ...) { MODE return open_any(real_openat(), dirfd, path, flags, mode); }
int openat64(int dirfd, const char *path, int flags, ...) {
    MODE return open_any(real_openat(), dirfd, path, flags | O_LARGEFILE, mode);
}

int close(int fd) {
    REAL(int, "close", int);
    if (!is_watched_fd(fd)) return real(fd);
    hold();
    watched[fd] = 0;
    record('c', fd, 0, 0, NULL, NULL, NULL, 0);
    int done = real(fd);
    release();
    return done;
}

static int duplicated(int old, int fd) {
    if (fd >= 0 && fd != old && is_watched_fd(old)) {
        opened(fd, 1);
        record('d', fd, old, 0, NULL, NULL, NULL, 0);
    }
    return fd;
}

static int fcntl_any(int (*real)(int, int, ...), int fd, int command, void *argument) {
    int done = real(fd, command, argument);
    return command == F_DUPFD || command == F_DUPFD_CLOEXEC ? duplicated(fd, done) : done;
}

#define FCNTL(name)                                   \
    int name(int fd, int command, ...) {              \
        REAL(int, #name, int, int, ...);              \
        va_list list;                                 \
        va_start(list, command);                      \
        void *argument = va_arg(list, void *);        \
        va_end(list);                                 \
        return fcntl_any(real, fd, command, argument); \
    }

FCNTL(fcntl)
FCNTL(fcntl64)

int dup(int fd) {
    REAL(int, "dup", int);
    return duplicated(fd, real(fd));
}

int dup2(int fd, int to) {
    REAL(int, "dup2", int, int);
    return duplicated(fd, real(fd, to));
}

int dup3(int fd, int to, int flags) {
    REAL(int, "dup3", int, int, int);
    return duplicated(fd, real(fd, to, flags));
}

/* --- writing --- */

static ssize_t torn(ssize_t done, int kind) {
    leave(kind);
    return done;
}

ssize_t write(int fd, const void *data, size_t size) {
    REAL(ssize_t, "write", int, const void *, size_t);
    if (!is_watched_fd(fd)) return real(fd, data, size);
    int kind = enter("write", NULL);
    if (FAILING(kind)) return -1;
    hold();
    ssize_t done = real(fd, data, kind == TORN ? size / 2 : size);
    record_written(fd, data, done);
    release();
    return torn(done, kind);
}

ssize_t pwrite(int fd, const void *data, size_t size, off_t at) {
    REAL(ssize_t, "pwrite", int, const void *, size_t, off_t);
    if (!is_watched_fd(fd)) return real(fd, data, size, at);
    int kind = enter("pwrite", NULL);
    if (FAILING(kind)) return -1;
    hold();
    ssize_t done = real(fd, data, kind == TORN ? size / 2 : size, at);
    if (done > 0) record('w', fd, at, done, NULL, NULL, data, (size_t)done);
    release();
    return torn(done, kind);
}

ssize_t pwrite64(int fd, const void *data, size_t size, off64_t at) {
    REAL(ssize_t, "pwrite64", int, const void *, size_t, off64_t);
    if (!is_watched_fd(fd)) return real(fd, data, size, at);
    int kind = enter("pwrite", NULL);
    if (FAILING(kind)) return -1;
    hold();
    ssize_t done = real(fd, data, kind == TORN ? size / 2 : size, at);
    if (done > 0) record('w', fd, at, done, NULL, NULL, data, (size_t)done);
    release();
    return torn(done, kind);
}

ssize_t writev(int fd, const struct iovec *parts, int count) {
    REAL(ssize_t, "writev", int, const struct iovec *, int);
    if (!is_watched_fd(fd)) return real(fd, parts, count);
    int kind = enter("writev", NULL);
    if (FAILING(kind)) return -1;
    hold();
    ssize_t done = real(fd, parts, kind == TORN ? (count + 1) / 2 : count), left = done;
    for (int each = 0; each < count && left > 0; each++) {
        ssize_t part = left < (ssize_t)parts[each].iov_len ? left : (ssize_t)parts[each].iov_len;
        if (record_fd >= 0)
            record('w', fd, syscall(SYS_lseek, fd, 0L, SEEK_CUR) - left, part, NULL, NULL, parts[each].iov_base,
                   (size_t)part);
        left -= part;
    }
    release();
    return torn(done, kind);
}

ssize_t copy_file_range(int from, off64_t *in, int to, off64_t *out, size_t size, unsigned flags) {
    REAL(ssize_t, "copy_file_range", int, off64_t *, int, off64_t *, size_t, unsigned);
    if (!is_watched_fd(to)) return real(from, in, to, out, size, flags);
    int kind = enter("copy_file_range", NULL);
    if (record_fd >= 0) kind = FAIL, all->armed_errno = ENOSYS; /* its bytes are not seen here: let the caller write */
    if (FAILING(kind)) return -1;
    return torn(real(from, in, to, out, kind == TORN ? size / 2 : size, flags), kind);
}

ssize_t sendfile64(int to, int from, off64_t *at, size_t size) {
    REAL(ssize_t, "sendfile64", int, int, off64_t *, size_t);
    if (!is_watched_fd(to)) return real(to, from, at, size);
    int kind = enter("sendfile", NULL);
    if (record_fd >= 0) kind = FAIL, all->armed_errno = ENOSYS;
    if (FAILING(kind)) return -1;
    return torn(real(to, from, at, kind == TORN ? size / 2 : size), kind);
}

#define PLAIN_FD(name, label, mark, value, params, args, ...)                  \
    int name params {                                                          \
        REAL(int, #name, __VA_ARGS__);                                         \
        if (!is_watched_fd(fd)) return real args;                              \
        int kind = enter(label, NULL);                                         \
        if (FAILING(kind)) return -1;                                          \
        hold();                                                                \
        int done = real args;                                                  \
        if (done == 0) record(mark, fd, 0, value, NULL, NULL, NULL, 0);        \
        release();                                                             \
        leave(kind);                                                           \
        return done;                                                           \
    }

/* What is synced is counted, recorded and made to fail, and not waited for: a killed process loses nothing that the kernel
 * has, and what a power cut would take is read from the recording. A sync that failed is recorded with a size of 1. */
#define SYNC_FD(name, mark)                                                    \
    int name(int fd) {                                                         \
        REAL(int, #name, int);                                                 \
        if (!is_watched_fd(fd)) return real(fd);                               \
        int kind = enter(#name, NULL), failed = FAILING(kind);                 \
        hold();                                                                \
        record(mark, fd, 0, failed, NULL, NULL, NULL, 0);                      \
        release();                                                             \
        if (!failed) leave(kind);                                              \
        if (failed) errno = all->armed_errno;                                  \
        return failed ? -1 : 0;                                                \
    }

SYNC_FD(fsync, 's')
SYNC_FD(fdatasync, 's')
SYNC_FD(syncfs, 'S')
PLAIN_FD(ftruncate, "ftruncate", 't', size, (int fd, off_t size), (fd, size), int, off_t)
PLAIN_FD(ftruncate64, "ftruncate", 't', size, (int fd, off64_t size), (fd, size), int, off64_t)

/* --- names --- */

#define PLAIN_PATH(name, label, mark, value, olddir, old, dir, path, params, args, ...)                            \
    int name params {                                                                                              \
        REAL(int, #name, __VA_ARGS__);                                                                             \
        char first[PATH_MAX + 64], second[PATH_MAX + 64];                                                          \
        const char *was = old;                                                                                     \
        if (!is_watched_at(dir, path)) return real args;                                                           \
        int kind = enter(label, path);                                                                             \
        if (FAILING(kind)) return -1;                                                                              \
        hold();                                                                                                    \
        int done = real args;                                                                                      \
        if (done == 0)                                                                                             \
            record(mark, -1, 0, value, was ? absolute(olddir, was, first) : NULL, absolute(dir, path, second), NULL, 0); \
        release();                                                                                                 \
        leave(kind);                                                                                               \
        return done;                                                                                               \
    }

PLAIN_PATH(rename, "rename", 'r', 0, AT_FDCWD, from, AT_FDCWD, to, (const char *from, const char *to), (from, to),
           const char *, const char *)
PLAIN_PATH(renameat, "rename", 'r', 0, old, from, new, to, (int old, const char *from, int new, const char *to),
           (old, from, new, to), int, const char *, int, const char *)
PLAIN_PATH(renameat2, "rename", 'r', 0, old, from, new, to,
           (int old, const char *from, int new, const char *to, unsigned flags), (old, from, new, to, flags), int,
           const char *, int, const char *, unsigned)
PLAIN_PATH(link, "link", 'l', 0, AT_FDCWD, from, AT_FDCWD, to, (const char *from, const char *to), (from, to),
           const char *, const char *)
PLAIN_PATH(linkat, "link", 'l', 0, old, from, new, to, (int old, const char *from, int new, const char *to, int flags),
           (old, from, new, to, flags), int, const char *, int, const char *, int)
PLAIN_PATH(unlink, "unlink", 'u', 0, AT_FDCWD, NULL, AT_FDCWD, path, (const char *path), (path), const char *)
PLAIN_PATH(unlinkat, "unlink", 'u', 0, at, NULL, at, path, (int at, const char *path, int flags), (at, path, flags), int,
           const char *, int)
PLAIN_PATH(rmdir, "rmdir", 'u', 0, AT_FDCWD, NULL, AT_FDCWD, path, (const char *path), (path), const char *)
PLAIN_PATH(mkdir, "mkdir", 'm', 0, AT_FDCWD, NULL, AT_FDCWD, path, (const char *path, mode_t mode), (path, mode),
           const char *, mode_t)
PLAIN_PATH(mkdirat, "mkdir", 'm', 0, at, NULL, at, path, (int at, const char *path, mode_t mode), (at, path, mode), int,
           const char *, mode_t)
PLAIN_PATH(truncate, "truncate", 'T', size, AT_FDCWD, NULL, AT_FDCWD, path, (const char *path, off_t size), (path, size),
           const char *, off_t)

int symlink(const char *target, const char *path) {
    REAL(int, "symlink", const char *, const char *);
    char full[PATH_MAX + 64];
    if (!is_watched_at(AT_FDCWD, path)) return real(target, path);
    int kind = enter("symlink", path);
    if (FAILING(kind)) return -1;
    hold();
    int done = real(target, path);
    if (done == 0) record('y', -1, 0, 0, target, absolute(AT_FDCWD, path, full), NULL, 0);
    release();
    leave(kind);
    return done;
}

int ioctl(int fd, unsigned long request, ...) {
    REAL(int, "ioctl", int, unsigned long, void *);
    va_list list;
    va_start(list, request);
    void *argument = va_arg(list, void *);
    va_end(list);
    if (request != 0x40049409UL || !is_watched_fd(fd)) return real(fd, request, argument); /* FICLONE */
    int kind = enter("clone", NULL);
    /* A recording has no clones; and the error that a later sync is to meet stays what it is. */
    if (record_fd >= 0) {
        errno = EOPNOTSUPP;
        return -1;
    }
    if (FAILING(kind)) return -1;
    int done = real(fd, request, argument);
    leave(kind);
    return done;
}

/* stdio opens through symbols that are not preloaded; nothing here writes durable files through stdio. */
