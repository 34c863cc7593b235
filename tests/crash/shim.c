/*
 * Faults at libc calls that change a file system, for tests of crash safety.
 *
 * Preloaded (LD_PRELOAD) into a Python process. The library maps the file named by
 * RFS_SHIM_CONTROL; whoever runs the sweep maps the same file (see shim.py) and arms it:
 * from then on every call below is counted, across fork and exec, and the call whose
 * number is `at` is killed, torn or failed. With `log_path` set, each successful call is
 * also appended to a log that power.py replays into what a power loss could leave behind.
 *
 * Only regular files and directories count, so that pipes, sockets and terminals need no
 * rules of their own.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <sys/xattr.h>
#include <unistd.h>
#include <utime.h>

#define MAX_KINDS 65536
#define GOINGDOWN 0x8004587dU /* EXT4_IOC_SHUTDOWN and XFS_IOC_GOINGDOWN */

enum fault { NONE, KILL, TORN, FAIL, SHUTDOWN };
enum verdict { PASS, HALF, AFTER, REFUSE };
enum kind { K_WRITE = 1, K_SIZE, K_NAME, K_META, K_SYNC, K_OPEN };
enum op {
    OP_CREATE = 1, OP_LINK, OP_RENAME, OP_REMOVE, OP_WRITE, OP_SIZE, OP_CONTENT,
    OP_META, OP_XATTR, OP_SYNC, OP_SYNC_ALL, OP_SYNC_DATA
};

/* Shared with shim.py: keep the two layouts equal. */
struct control {
    uint32_t armed, fault, error, sticky;
    uint64_t at;
    _Atomic uint64_t count, fired;
    uint32_t drop_syncfs, shutdown_flags, group, unused;
    char log_path[256];
    char graveyard[256];
    char mount[256];
    char what[64];
    uint8_t kinds[MAX_KINDS];
};

struct object {
    uint64_t device, inode, size;
    int64_t mtime_ns;
    uint32_t mode, uid, gid, links;
};

/* Shared with power.py: keep the two layouts equal. */
struct record {
    uint32_t total, op;
    uint64_t number, offset;
    uint32_t flags, name1, name2, data;
    struct object object, dir1, dir2;
};

static struct control *control;

/* The real functions are looked up when first called: another preloaded library's
 * constructor may call one before ours has run. */
#define REAL(ret, name, ...)                                                \
    static ret (*real_##name)(__VA_ARGS__);                                 \
    static void find_##name(void) {                                         \
        if (!real_##name) real_##name = dlsym(RTLD_NEXT, #name);            \
    }

REAL(int, open, const char *, int, ...)
REAL(int, openat, int, const char *, int, ...)
REAL(ssize_t, write, int, const void *, size_t)
REAL(ssize_t, pwrite, int, const void *, size_t, off_t)
REAL(ssize_t, writev, int, const struct iovec *, int)
REAL(ssize_t, pwritev2, int, const struct iovec *, int, off_t, int)
REAL(int, ftruncate, int, off_t)
REAL(int, truncate, const char *, off_t)
REAL(int, fallocate, int, int, off_t, off_t)
REAL(int, posix_fallocate, int, off_t, off_t)
REAL(ssize_t, copy_file_range, int, off_t *, int, off_t *, size_t, unsigned)
REAL(ssize_t, sendfile, int, int, off_t *, size_t)
REAL(int, renameat2, int, const char *, int, const char *, unsigned)
REAL(int, linkat, int, const char *, int, const char *, int)
REAL(int, symlinkat, const char *, int, const char *)
REAL(int, unlinkat, int, const char *, int)
REAL(int, mkdirat, int, const char *, mode_t)
REAL(int, mknodat, int, const char *, mode_t, dev_t)
REAL(int, fchmod, int, mode_t)
REAL(int, fchmodat, int, const char *, mode_t, int)
REAL(int, fchown, int, uid_t, gid_t)
REAL(int, fchownat, int, const char *, uid_t, gid_t, int)
REAL(int, futimens, int, const struct timespec *)
REAL(int, utimensat, int, const char *, const struct timespec *, int)
REAL(int, setxattr, const char *, const char *, const void *, size_t, int)
REAL(int, lsetxattr, const char *, const char *, const void *, size_t, int)
REAL(int, fsetxattr, int, const char *, const void *, size_t, int)
REAL(int, removexattr, const char *, const char *)
REAL(int, lremovexattr, const char *, const char *)
REAL(int, fremovexattr, int, const char *)
REAL(int, fsync, int)
REAL(int, fdatasync, int)
REAL(int, syncfs, int)
REAL(void, sync, void)
REAL(int, sync_file_range, int, off_t, off_t, unsigned)
REAL(int, ioctl, int, unsigned long, ...)
REAL(long, syscall, long, ...)

__attribute__((constructor)) static void begin_shim(void) {
    const char *path = getenv("RFS_SHIM_CONTROL");
    if (!path || control) return;
    find_open();
    int fd = real_open(path, O_RDWR | O_CLOEXEC);
    if (fd < 0) return;
    void *at = mmap(NULL, sizeof(struct control), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (at != MAP_FAILED) control = at;
}

static int armed(void) { return control && control->armed; }

/* ---- what happens at a call ---- */

static void die(void) {
    /* The whole group: a machine takes its worker processes with it. A command that is a
     * session of its own takes the group that started it along. */
    if (control->group) kill(-(pid_t)control->group, SIGKILL);
    kill(0, SIGKILL);
    for (;;) pause();
}

static void lose_power(void) {
    find_open();
    find_ioctl();
    int fd = real_open(control->mount, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    uint32_t flags = control->shutdown_flags;
    if (fd >= 0 && real_ioctl(fd, GOINGDOWN, &flags) == 0) atomic_fetch_add(&control->fired, 1);
    die();
}

static enum verdict enter(enum kind kind, const char *what) {
    if (!armed()) return PASS;
    uint64_t number = atomic_fetch_add(&control->count, 1) + 1;
    if (number < MAX_KINDS) control->kinds[number] = kind;
    if (control->fault == NONE) return PASS;
    if (!(number == control->at || (control->sticky && number > control->at))) return PASS;
    if (number == control->at) strncpy(control->what, what, sizeof control->what - 1);
    if (control->fault == SHUTDOWN) lose_power();
    atomic_fetch_add(&control->fired, 1);
    switch (control->fault) {
    case KILL: die(); break;
    case TORN: return kind == K_WRITE ? HALF : AFTER;
    case FAIL: errno = control->error; return REFUSE;
    default: break;
    }
    return PASS;
}

static int counts(int fd) {
    struct stat st;
    if (!armed() || fstat(fd, &st) != 0) return 0;
    return S_ISREG(st.st_mode) || S_ISDIR(st.st_mode);
}

/* ---- the log ---- */

static int logging(void) { return armed() && control->log_path[0]; }

static void describe(const struct stat *st, struct object *object) {
    object->device = st->st_dev;
    object->inode = st->st_ino;
    object->size = st->st_size;
    object->mtime_ns = st->st_mtim.tv_sec * 1000000000LL + st->st_mtim.tv_nsec;
    object->mode = st->st_mode;
    object->uid = st->st_uid;
    object->gid = st->st_gid;
    object->links = st->st_nlink;
}

static void describe_fd(int fd, struct object *object) {
    struct stat st;
    if (fstat(fd, &st) == 0) describe(&st, object);
}

static void describe_at(int dirfd, const char *path, int flags, struct object *object) {
    struct stat st;
    if (fstatat(dirfd, path, &st, flags) == 0) describe(&st, object);
}

/* Fill `dir` with the folder that holds `path`, and `name` with its last component. */
static void describe_parent(int dirfd, const char *path, struct object *dir, char name[256]) {
    char copy[4096];
    strncpy(copy, path, sizeof copy - 1);
    copy[sizeof copy - 1] = 0;
    size_t length = strlen(copy);
    while (length > 1 && copy[length - 1] == '/') copy[--length] = 0;
    char *slash = strrchr(copy, '/');
    const char *parent = ".", *last = copy;
    if (slash) {
        last = slash + 1;
        *slash = 0;
        parent = slash == copy ? "/" : copy;
    }
    strncpy(name, last, 255);
    name[255] = 0;
    describe_at(dirfd, parent, 0, dir);
}

static void append(struct record *record, const char *name1, const char *name2, const void *data, size_t size) {
    record->name1 = name1 ? strlen(name1) : 0;
    record->name2 = name2 ? strlen(name2) : 0;
    record->data = size;
    record->number = atomic_load(&control->count);
    record->total = sizeof *record + record->name1 + record->name2 + size;
    struct iovec parts[4] = {
        {record, sizeof *record}, {(void *)name1, record->name1}, {(void *)name2, record->name2}, {(void *)data, size}};
    find_open();
    find_writev();
    int fd = real_open(control->log_path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0 || real_writev(fd, parts, 4) != (ssize_t)record->total) {
        static const char text[] = "shim: the log cannot be written\n";
        find_write();
        real_write(2, text, sizeof text - 1);
        abort();
    }
    close(fd);
}

static void log_fd(enum op op, int fd, uint64_t offset, const void *data, size_t size) {
    if (!logging()) return;
    int saved = errno;
    struct record record = {.op = op, .offset = offset};
    describe_fd(fd, &record.object);
    append(&record, NULL, NULL, data, size);
    errno = saved;
}

/* For calls whose data is not at hand: log the whole file as it is now. */
static void log_content(int fd) {
    if (!logging()) return;
    int saved = errno;
    struct record record = {.op = OP_CONTENT};
    describe_fd(fd, &record.object);
    char path[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    find_open();
    int again = real_open(path, O_RDONLY | O_CLOEXEC);
    char *data = malloc(record.object.size + 1);
    ssize_t size = again >= 0 ? pread(again, data, record.object.size, 0) : -1;
    if (again >= 0) close(again);
    append(&record, NULL, NULL, data, size > 0 ? size : 0);
    free(data);
    errno = saved;
}

static void log_at(enum op op, int dirfd, const char *path, int flags) {
    if (!logging()) return;
    int saved = errno;
    struct record record = {.op = op};
    describe_at(dirfd, path, flags, &record.object);
    append(&record, NULL, NULL, NULL, 0);
    errno = saved;
}

static void log_name(enum op op, int dirfd, const char *path, const char *data) {
    if (!logging()) return;
    int saved = errno;
    char name[256];
    struct record record = {.op = op};
    describe_parent(dirfd, path, &record.dir1, name);
    if (op != OP_REMOVE) describe_at(dirfd, path, AT_SYMLINK_NOFOLLOW, &record.object);
    append(&record, name, NULL, data, data ? strlen(data) : 0);
    errno = saved;
}

static void log_xattr(const struct object *object, const char *name, const void *value, size_t size, int gone) {
    int saved = errno;
    struct record record = {.op = OP_XATTR, .object = *object, .flags = gone};
    append(&record, name, NULL, value, size);
    errno = saved;
}

/* Keep the inode whose last name is about to go: power.py may have to bring it back, and a
 * journal may know it by its number. */
static void bury(int dirfd, const char *path) {
    struct stat st;
    if (!logging() || !control->graveyard[0]) return;
    if (fstatat(dirfd, path, &st, AT_SYMLINK_NOFOLLOW) != 0 || S_ISDIR(st.st_mode) || st.st_nlink != 1) return;
    int saved = errno;
    char grave[512];
    snprintf(grave, sizeof grave, "%s/%llu", control->graveyard, (unsigned long long)st.st_ino);
    find_linkat();
    real_linkat(dirfd, path, AT_FDCWD, grave, 0);
    errno = saved;
}

/* Run `call` as the counted call; what follows it logs it when it succeeded. */
#define COUNTED(kind, what, failed, call, ...)                              \
    do {                                                                    \
        enum verdict verdict_ = enter(kind, what);                          \
        if (verdict_ == REFUSE) return failed;                              \
        result = call;                                                      \
        if (armed() && result != (failed)) { __VA_ARGS__; }                 \
        if (verdict_ == AFTER || verdict_ == HALF) die();                   \
        return result;                                                      \
    } while (0)

/* ---- opening ---- */

static int opened(int dirfd, const char *path, int flags, mode_t mode) {
    find_openat();
    int result, create = flags & (O_CREAT | O_TRUNC) || (flags & O_TMPFILE) == O_TMPFILE;
    if (!armed() || !create) return real_openat(dirfd, path, flags, mode);
    struct stat before;
    int existed = fstatat(dirfd, path, &before, 0) == 0;
    /* Opening an existing file with O_CREAT changes nothing. */
    if (existed && !(flags & O_TRUNC) && (flags & O_TMPFILE) != O_TMPFILE)
        return real_openat(dirfd, path, flags, mode);
    if (existed && !S_ISREG(before.st_mode) && !S_ISDIR(before.st_mode)) return real_openat(dirfd, path, flags, mode);
    COUNTED(K_OPEN, "open", -1, real_openat(dirfd, path, flags, mode), {
        if ((flags & O_TMPFILE) == O_TMPFILE) log_fd(OP_CREATE, result, 0, NULL, 0);
        else if (existed) log_fd(OP_SIZE, result, 0, NULL, 0);
        else log_name(OP_CREATE, dirfd, path, NULL);
    });
}

#define OPEN_MODE()                                                         \
    mode_t mode = 0;                                                        \
    if (flags & (O_CREAT | O_TMPFILE)) {                                    \
        va_list list;                                                       \
        va_start(list, flags);                                              \
        mode = va_arg(list, mode_t);                                        \
        va_end(list);                                                       \
    }

int open(const char *path, int flags, ...) { OPEN_MODE(); return opened(AT_FDCWD, path, flags, mode); }
int open64(const char *path, int flags, ...) { OPEN_MODE(); return opened(AT_FDCWD, path, flags, mode); }
int openat(int dirfd, const char *path, int flags, ...) { OPEN_MODE(); return opened(dirfd, path, flags, mode); }
int openat64(int dirfd, const char *path, int flags, ...) { OPEN_MODE(); return opened(dirfd, path, flags, mode); }
int creat(const char *path, mode_t mode) { return opened(AT_FDCWD, path, O_CREAT | O_WRONLY | O_TRUNC, mode); }
int creat64(const char *path, mode_t mode) { return creat(path, mode); }

/* ---- data ---- */

ssize_t write(int fd, const void *data, size_t size) {
    find_write();
    if (!counts(fd)) return real_write(fd, data, size);
    enum verdict verdict = enter(K_WRITE, "write");
    if (verdict == REFUSE) return -1;
    ssize_t done = real_write(fd, data, verdict == HALF ? size / 2 : size);
    if (verdict != PASS) die();
    if (done > 0) log_fd(OP_WRITE, fd, lseek(fd, 0, SEEK_CUR) - done, data, done);
    return done;
}

static ssize_t written_at(int fd, const void *data, size_t size, off_t offset) {
    find_pwrite();
    if (!counts(fd)) return real_pwrite(fd, data, size, offset);
    enum verdict verdict = enter(K_WRITE, "pwrite");
    if (verdict == REFUSE) return -1;
    ssize_t done = real_pwrite(fd, data, verdict == HALF ? size / 2 : size, offset);
    if (verdict != PASS) die();
    if (done > 0) log_fd(OP_WRITE, fd, offset, data, done);
    return done;
}

ssize_t pwrite(int fd, const void *data, size_t size, off_t offset) { return written_at(fd, data, size, offset); }
ssize_t pwrite64(int fd, const void *data, size_t size, off_t offset) { return written_at(fd, data, size, offset); }

/* Half of a vector is its first half of parts, at least the first part's first half. */
static ssize_t vector(int fd, const struct iovec *parts, int count, off_t offset, int flags, const char *what) {
    find_writev();
    find_pwritev2();
    struct iovec half = parts[0];
    enum verdict verdict = counts(fd) ? enter(K_WRITE, what) : PASS;
    if (verdict == REFUSE) return -1;
    if (verdict == HALF && count == 1) half.iov_len /= 2;
    const struct iovec *from = verdict == HALF && count == 1 ? &half : parts;
    int many = verdict == HALF && count > 1 ? count / 2 : count;
    ssize_t done = offset < 0 ? real_writev(fd, from, many) : real_pwritev2(fd, from, many, offset, flags);
    if (verdict != PASS) die();
    if (done > 0 && counts(fd)) log_content(fd);
    return done;
}

ssize_t writev(int fd, const struct iovec *v, int n) { return vector(fd, v, n, -1, 0, "writev"); }
ssize_t pwritev(int fd, const struct iovec *v, int n, off_t at) { return vector(fd, v, n, at, 0, "pwritev"); }
ssize_t pwritev64(int fd, const struct iovec *v, int n, off_t at) { return vector(fd, v, n, at, 0, "pwritev"); }
ssize_t pwritev2(int fd, const struct iovec *v, int n, off_t at, int f) { return vector(fd, v, n, at, f, "pwritev2"); }
ssize_t pwritev64v2(int fd, const struct iovec *v, int n, off_t at, int f) { return vector(fd, v, n, at, f, "pwritev2"); }

ssize_t copy_file_range(int in, off_t *in_at, int out, off_t *out_at, size_t size, unsigned flags) {
    find_copy_file_range();
    if (!counts(out)) return real_copy_file_range(in, in_at, out, out_at, size, flags);
    enum verdict verdict = enter(K_WRITE, "copy_file_range");
    if (verdict == REFUSE) return -1;
    ssize_t done = real_copy_file_range(in, in_at, out, out_at, verdict == HALF ? (size + 1) / 2 : size, flags);
    if (verdict != PASS) die();
    if (done > 0) log_content(out);
    return done;
}

static ssize_t sent(int out, int in, off_t *offset, size_t size) {
    find_sendfile();
    if (!counts(out)) return real_sendfile(out, in, offset, size);
    enum verdict verdict = enter(K_WRITE, "sendfile");
    if (verdict == REFUSE) return -1;
    ssize_t done = real_sendfile(out, in, offset, verdict == HALF ? (size + 1) / 2 : size);
    if (verdict != PASS) die();
    if (done > 0) log_content(out);
    return done;
}

ssize_t sendfile(int out, int in, off_t *offset, size_t size) { return sent(out, in, offset, size); }
ssize_t sendfile64(int out, int in, off_t *offset, size_t size) { return sent(out, in, offset, size); }

/* ---- size ---- */

static int resized(int fd, off_t size) {
    int result;
    find_ftruncate();
    if (!counts(fd)) return real_ftruncate(fd, size);
    COUNTED(K_SIZE, "ftruncate", -1, real_ftruncate(fd, size), log_fd(OP_SIZE, fd, size, NULL, 0));
}

int ftruncate(int fd, off_t size) { return resized(fd, size); }
int ftruncate64(int fd, off_t size) { return resized(fd, size); }

static int resized_at(const char *path, off_t size) {
    int result;
    find_truncate();
    COUNTED(K_SIZE, "truncate", -1, real_truncate(path, size), {
        if (logging()) {
            struct record record = {.op = OP_SIZE, .offset = size};
            describe_at(AT_FDCWD, path, 0, &record.object);
            append(&record, NULL, NULL, NULL, 0);
        }
    });
}

int truncate(const char *path, off_t size) { return resized_at(path, size); }
int truncate64(const char *path, off_t size) { return resized_at(path, size); }

static int allocated(int fd, int mode, off_t offset, off_t size) {
    int result;
    find_fallocate();
    if (!counts(fd)) return real_fallocate(fd, mode, offset, size);
    COUNTED(K_SIZE, "fallocate", -1, real_fallocate(fd, mode, offset, size), log_content(fd));
}

int fallocate(int fd, int mode, off_t offset, off_t size) { return allocated(fd, mode, offset, size); }
int fallocate64(int fd, int mode, off_t offset, off_t size) { return allocated(fd, mode, offset, size); }

static int allocated_posix(int fd, off_t offset, off_t size) {
    find_posix_fallocate();
    if (!counts(fd)) return real_posix_fallocate(fd, offset, size);
    enum verdict verdict = enter(K_SIZE, "posix_fallocate");
    if (verdict == REFUSE) return errno; /* it returns its error */
    int error = real_posix_fallocate(fd, offset, size);
    if (verdict != PASS) die();
    struct stat now; /* it only ever makes a file longer, by zeros */
    if (!error && !fstat(fd, &now)) log_fd(OP_SIZE, fd, now.st_size, NULL, 0);
    return error;
}

int posix_fallocate(int fd, off_t offset, off_t size) { return allocated_posix(fd, offset, size); }
int posix_fallocate64(int fd, off_t offset, off_t size) { return allocated_posix(fd, offset, size); }

/* ---- names ---- */

static int renamed(int d1, const char *p1, int d2, const char *p2, unsigned flags, const char *what) {
    int result;
    find_renameat2();
    COUNTED(K_NAME, what, -1, (flags ? (void)0 : bury(d2, p2), real_renameat2(d1, p1, d2, p2, flags)), {
        if (logging()) {
            int saved = errno;
            char n1[256], n2[256];
            struct record record = {.op = OP_RENAME, .flags = flags};
            describe_parent(d1, p1, &record.dir1, n1);
            describe_parent(d2, p2, &record.dir2, n2);
            append(&record, n1, n2, NULL, 0);
            errno = saved;
        }
    });
}

int rename(const char *from, const char *to) { return renamed(AT_FDCWD, from, AT_FDCWD, to, 0, "rename"); }
int renameat(int d1, const char *p1, int d2, const char *p2) { return renamed(d1, p1, d2, p2, 0, "renameat"); }
int renameat2(int d1, const char *p1, int d2, const char *p2, unsigned flags) {
    return renamed(d1, p1, d2, p2, flags, flags & RENAME_EXCHANGE ? "exchange" : "renameat2");
}

int linkat(int d1, const char *p1, int d2, const char *p2, int flags) {
    int result;
    find_linkat();
    COUNTED(K_NAME, "link", -1, real_linkat(d1, p1, d2, p2, flags), log_name(OP_LINK, d2, p2, NULL));
}
int link(const char *from, const char *to) { return linkat(AT_FDCWD, from, AT_FDCWD, to, 0); }

int symlinkat(const char *target, int dirfd, const char *path) {
    int result;
    find_symlinkat();
    COUNTED(K_NAME, "symlink", -1, real_symlinkat(target, dirfd, path), log_name(OP_CREATE, dirfd, path, target));
}
int symlink(const char *target, const char *path) { return symlinkat(target, AT_FDCWD, path); }

int unlinkat(int dirfd, const char *path, int flags) {
    int result;
    find_unlinkat();
    /* SQLite unlinks journals that are not there; such a call changes nothing. */
    struct stat st;
    if (!armed() || fstatat(dirfd, path, &st, AT_SYMLINK_NOFOLLOW) != 0) return real_unlinkat(dirfd, path, flags);
    COUNTED(K_NAME, flags & AT_REMOVEDIR ? "rmdir" : "unlink", -1,
            (bury(dirfd, path), real_unlinkat(dirfd, path, flags)),
            log_name(OP_REMOVE, dirfd, path, NULL));
}
int unlink(const char *path) { return unlinkat(AT_FDCWD, path, 0); }
int rmdir(const char *path) { return unlinkat(AT_FDCWD, path, AT_REMOVEDIR); }
int remove(const char *path) {
    int result = unlinkat(AT_FDCWD, path, 0);
    return result == -1 && errno == EISDIR ? rmdir(path) : result;
}

int mkdirat(int dirfd, const char *path, mode_t mode) {
    int result;
    find_mkdirat();
    COUNTED(K_NAME, "mkdir", -1, real_mkdirat(dirfd, path, mode), log_name(OP_CREATE, dirfd, path, NULL));
}
int mkdir(const char *path, mode_t mode) { return mkdirat(AT_FDCWD, path, mode); }

int mknodat(int dirfd, const char *path, mode_t mode, dev_t device) {
    int result;
    find_mknodat();
    COUNTED(K_NAME, "mknod", -1, real_mknodat(dirfd, path, mode, device), log_name(OP_CREATE, dirfd, path, NULL));
}
int mknod(const char *path, mode_t mode, dev_t device) { return mknodat(AT_FDCWD, path, mode, device); }
int mkfifoat(int dirfd, const char *path, mode_t mode) { return mknodat(dirfd, path, mode | S_IFIFO, 0); }
int mkfifo(const char *path, mode_t mode) { return mkfifoat(AT_FDCWD, path, mode); }

/* ---- metadata ---- */

int fchmod(int fd, mode_t mode) {
    int result;
    find_fchmod();
    if (!counts(fd)) return real_fchmod(fd, mode);
    COUNTED(K_META, "fchmod", -1, real_fchmod(fd, mode), log_fd(OP_META, fd, 0, NULL, 0));
}
int fchmodat(int dirfd, const char *path, mode_t mode, int flags) {
    int result;
    find_fchmodat();
    COUNTED(K_META, "chmod", -1, real_fchmodat(dirfd, path, mode, flags), log_at(OP_META, dirfd, path, flags));
}
int chmod(const char *path, mode_t mode) { return fchmodat(AT_FDCWD, path, mode, 0); }
int lchmod(const char *path, mode_t mode) { return fchmodat(AT_FDCWD, path, mode, AT_SYMLINK_NOFOLLOW); }

int fchown(int fd, uid_t uid, gid_t gid) {
    int result;
    find_fchown();
    if (!counts(fd)) return real_fchown(fd, uid, gid);
    COUNTED(K_META, "fchown", -1, real_fchown(fd, uid, gid), log_fd(OP_META, fd, 0, NULL, 0));
}
int fchownat(int dirfd, const char *path, uid_t uid, gid_t gid, int flags) {
    int result;
    find_fchownat();
    COUNTED(K_META, "chown", -1, real_fchownat(dirfd, path, uid, gid, flags), log_at(OP_META, dirfd, path, flags));
}
int chown(const char *path, uid_t uid, gid_t gid) { return fchownat(AT_FDCWD, path, uid, gid, 0); }
int lchown(const char *path, uid_t uid, gid_t gid) { return fchownat(AT_FDCWD, path, uid, gid, AT_SYMLINK_NOFOLLOW); }

int futimens(int fd, const struct timespec times[2]) {
    int result;
    find_futimens();
    if (!counts(fd)) return real_futimens(fd, times);
    COUNTED(K_META, "futimens", -1, real_futimens(fd, times), log_fd(OP_META, fd, 0, NULL, 0));
}
int utimensat(int dirfd, const char *path, const struct timespec times[2], int flags) {
    int result;
    find_utimensat();
    COUNTED(K_META, "utimensat", -1, real_utimensat(dirfd, path, times, flags), log_at(OP_META, dirfd, path, flags));
}

#define XATTR(call, where, value, size, gone)                               \
    COUNTED(K_META, gone ? "removexattr" : "setxattr", -1, call, {          \
        if (logging()) {                                                    \
            struct object object = {0};                                     \
            where;                                                          \
            log_xattr(&object, name, value, size, gone);                    \
        }                                                                   \
    })

int setxattr(const char *path, const char *name, const void *value, size_t size, int flags) {
    int result;
    find_setxattr();
    XATTR(real_setxattr(path, name, value, size, flags), describe_at(AT_FDCWD, path, 0, &object), value, size, 0);
}
int lsetxattr(const char *path, const char *name, const void *value, size_t size, int flags) {
    int result;
    find_lsetxattr();
    XATTR(real_lsetxattr(path, name, value, size, flags), describe_at(AT_FDCWD, path, AT_SYMLINK_NOFOLLOW, &object),
          value, size, 0);
}
int fsetxattr(int fd, const char *name, const void *value, size_t size, int flags) {
    int result;
    find_fsetxattr();
    XATTR(real_fsetxattr(fd, name, value, size, flags), describe_fd(fd, &object), value, size, 0);
}
int removexattr(const char *path, const char *name) {
    int result;
    find_removexattr();
    XATTR(real_removexattr(path, name), describe_at(AT_FDCWD, path, 0, &object), NULL, 0, 1);
}
int lremovexattr(const char *path, const char *name) {
    int result;
    find_lremovexattr();
    XATTR(real_lremovexattr(path, name), describe_at(AT_FDCWD, path, AT_SYMLINK_NOFOLLOW, &object), NULL, 0, 1);
}
int fremovexattr(int fd, const char *name) {
    int result;
    find_fremovexattr();
    XATTR(real_fremovexattr(fd, name), describe_fd(fd, &object), NULL, 0, 1);
}

int ioctl(int fd, unsigned long request, ...) {
    int result;
    va_list list;
    va_start(list, request);
    void *argument = va_arg(list, void *);
    va_end(list);
    find_ioctl();
    int content = request == FICLONE || request == FICLONERANGE;
    int flags = request == FS_IOC_SETFLAGS || request == FS_IOC_FSSETXATTR;
    if ((!content && !flags) || !counts(fd)) return real_ioctl(fd, request, argument);
    COUNTED(K_META, "ioctl", -1, real_ioctl(fd, request, argument), {
        if (content) log_content(fd);
    });
}

/* ---- durability ---- */

int fsync(int fd) {
    int result;
    find_fsync();
    if (!counts(fd)) return real_fsync(fd);
    COUNTED(K_SYNC, "fsync", -1, real_fsync(fd), log_fd(OP_SYNC, fd, 0, NULL, 0));
}
int fdatasync(int fd) {
    int result;
    find_fdatasync();
    if (!counts(fd)) return real_fdatasync(fd);
    COUNTED(K_SYNC, "fdatasync", -1, real_fdatasync(fd), log_fd(OP_SYNC_DATA, fd, 0, NULL, 0));
}
int syncfs(int fd) {
    int result;
    find_syncfs();
    if (!counts(fd)) return real_syncfs(fd);
    if (control->drop_syncfs) return 0;
    COUNTED(K_SYNC, "syncfs", -1, real_syncfs(fd), log_fd(OP_SYNC_ALL, fd, 0, NULL, 0));
}
void sync(void) {
    find_sync();
    if (enter(K_SYNC, "sync") == REFUSE) return;
    real_sync();
    if (logging()) {
        struct record record = {.op = OP_SYNC_ALL};
        append(&record, NULL, NULL, NULL, 0);
    }
}
int sync_file_range(int fd, off_t offset, off_t size, unsigned flags) {
    int result;
    find_sync_file_range();
    if (!counts(fd)) return real_sync_file_range(fd, offset, size, flags);
    /* It promises nothing about durability, so it is counted and not logged. */
    COUNTED(K_SYNC, "sync_file_range", -1, real_sync_file_range(fd, offset, size, flags), (void)0);
}

/* ---- raw system calls that ctypes may use ---- */

long syscall(long number, ...) {
    long a[6];
    va_list list;
    va_start(list, number);
    for (int i = 0; i < 6; i++) a[i] = va_arg(list, long);
    va_end(list);
    find_syscall();
    if (!armed()) return real_syscall(number, a[0], a[1], a[2], a[3], a[4], a[5]);
    switch (number) {
    case SYS_renameat2: return renameat2(a[0], (char *)a[1], a[2], (char *)a[3], a[4]);
    case SYS_syncfs: return syncfs(a[0]);
    case SYS_fsync: return fsync(a[0]);
    case SYS_copy_file_range:
        return copy_file_range(a[0], (off_t *)a[1], a[2], (off_t *)a[3], a[4], a[5]);
    case SYS_openat2: {
        /* Only reading opens are expected; a creating one would be a hole in the sweep. */
        uint64_t flags = *(uint64_t *)a[2];
        if (flags & (O_CREAT | O_TRUNC)) {
            enum verdict verdict = enter(K_OPEN, "openat2");
            if (verdict == REFUSE) return -1;
            long result = real_syscall(number, a[0], a[1], a[2], a[3]);
            if (verdict != PASS) die();
            if (result >= 0) log_name(OP_CREATE, a[0], (char *)a[1], NULL);
            return result;
        }
        return real_syscall(number, a[0], a[1], a[2], a[3]);
    }
    default: return real_syscall(number, a[0], a[1], a[2], a[3], a[4], a[5]);
    }
}
