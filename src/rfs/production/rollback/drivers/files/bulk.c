/* Many entries of an open folder asked about, or read, in one call. See bulk.py, which does without where this was not built.

   A plain C library, without Python's headers: one build serves every version of Python. It holds no state and allocates
   nothing. Whatever is in any way unusual is left to Python, which knows what to do; so no error needs a text here. */

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/openat2.h>
#include <linux/stat.h>
#include <stdint.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <sys/xattr.h>
#include <unistd.h>

/* The numbers of a row, as in tree.py, and flags, as in meta.py. */
enum { R_INODE, R_CTIME, R_MTIME, R_SIZE, R_MODE, R_UID, R_GID, R_LINKS, ROW };
#define KEPT_FLAGS 0x100F8
#define TYPE 0170000
#define REGULAR 0100000
#define BILLION 1000000000ull

/* To be raised with every change of what is said here; bulk.py asks for it. */
int rfs_bulk_version(void) { return 1; }

/* What no row tells: units of 512 bytes on the disk, and the file system. */
struct more { uint64_t blocks, device; };

/* By number: the functions of the C library for this are younger than some that are in use. */
static int look(int fd, const char *name, int flags, uint64_t *row, struct more *more)
{
    struct statx s;

    if (syscall(SYS_statx, fd, name, flags, STATX_BASIC_STATS, &s) != 0 ||
        (s.stx_mask & STATX_BASIC_STATS) != STATX_BASIC_STATS)
        return -1;
    row[R_INODE] = s.stx_ino;
    row[R_CTIME] = (uint64_t)s.stx_ctime.tv_sec * BILLION + s.stx_ctime.tv_nsec;
    row[R_MTIME] = (uint64_t)s.stx_mtime.tv_sec * BILLION + s.stx_mtime.tv_nsec;
    row[R_SIZE] = s.stx_size;
    row[R_MODE] = s.stx_mode;
    row[R_UID] = s.stx_uid;
    row[R_GID] = s.stx_gid;
    row[R_LINKS] = s.stx_nlink;
    more->blocks = s.stx_blocks;
    more->device = (uint64_t)s.stx_dev_major << 32 | s.stx_dev_minor;
    return 0;
}

/* Fill `rows` with what there is to know about `count` entries; `names` are joined by NUL. Links are not followed.
   Return 0, or -1 when one of them cannot be asked about. */
int rfs_bulk_rows(int fd, const char *names, size_t count, uint64_t *rows)
{
    struct more more;

    for (size_t at = 0; at < count; at++, rows += ROW, names += strlen(names) + 1)
        if (look(fd, names, AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT, rows, &more) != 0)
            return -1;
    return 0;
}

static int has_none(int error)
{
    return error == ENOTTY || error == EOPNOTSUPP || error == ENOSYS || error == EINVAL;
}

/* Tell whether an open file has neither extended attributes nor flags that belong to the state. */
static int is_plain(int file)
{
    unsigned int flags[2] = {0, 0}; /* the kernel writes an int, but the number of the call speaks of a long */

    if (flistxattr(file, NULL, 0) != 0 && !(errno == EOPNOTSUPP || errno == ENOSYS))
        return 0;
    if (ioctl(file, FS_IOC_GETFLAGS, flags) != 0)
        return has_none(errno);
    return (flags[0] & KEPT_FLAGS) == 0;
}

/* Read a file that is as `row` says before and after; return its length, or -1 when anything about it is unusual. */
static int64_t read_plain(int dir, const char *name, const uint64_t *row, int how, char *room)
{
    uint64_t now[ROW];
    struct more more;
    int64_t length = (int64_t)row[R_SIZE];
    int good, file = openat(dir, name, how);

    if (file < 0)
        return -1;
    good = read(file, room, (size_t)length + 1) == length && is_plain(file) &&
           look(file, "", AT_EMPTY_PATH, now, &more) == 0 && memcmp(row, now, sizeof now) == 0 &&
           more.blocks * 512 >= (uint64_t)length;
    close(file);
    return good ? length : -1;
}

/* As Reader.is_settled: times of whole seconds come from file systems that know no finer ones, other clocks tick. */
static int is_settled(const uint64_t *row, uint64_t started)
{
    uint64_t slack = row[R_CTIME] % BILLION == 0 ? 2 * BILLION : 20000000;
    uint64_t latest = row[R_CTIME] > row[R_MTIME] ? row[R_CTIME] : row[R_MTIME];

    return latest < started && latest + slack < started;
}

/* Read regular files of an open folder one after the other into `room`.

   names:   of all entries, joined by NUL, and `rows` what was seen of them
   places:  which of the entries are to be read, ascending, and `count` how many
   how:     the flags of open(2)
   started: nanoseconds since 1970; what may have changed since without its times telling is left to Python
   most:    bytes; so is what is larger
   lengths: for each place the bytes of its content, or -1 where that is left to Python

   Return how many places were dealt with before the room was full; 0 when there is no room for the first of them. */
size_t rfs_bulk_read(int dir, const char *names, const uint64_t *rows, const int64_t *places, size_t count, int how,
                     uint64_t started, uint64_t most, char *room, size_t size, int64_t *lengths)
{
    int64_t name = 0;
    size_t done, used = 0;

    for (done = 0; done < count; done++) {
        const uint64_t *row = rows + places[done] * ROW;

        for (; name < places[done]; name++)
            names += strlen(names) + 1;
        lengths[done] = -1;
        if ((row[R_MODE] & TYPE) != REGULAR || !is_settled(row, started) || row[R_SIZE] > most)
            continue;
        if (size - used <= row[R_SIZE])
            break;
        lengths[done] = read_plain(dir, names, row, how, room + used);
        if (lengths[done] > 0)
            used += (size_t)lengths[done];
    }
    return done;
}

/* Open a folder somewhere below an open one; no link on the way is followed, and no other file system entered. */
static int open_below(int root, const char *path)
{
    struct open_how how = {
        .flags = O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC,
        .resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_XDEV,
    };

    return (int)syscall(SYS_openat2, root, *path ? path : ".", &how, sizeof how);
}

/* Look at one folder and at `count` entries of it, and fill `seen` with their rows.
   Return what rfs_bulk_folders says of it, and set *`names` to what follows its names. */
static char look_into(int root, uint64_t device, const char *path, const uint64_t *stamp, const char **names, size_t count,
                      const uint64_t *rows, uint64_t *seen)
{
    uint64_t own[ROW];
    struct more more;
    char told = 0;
    size_t at = 0;
    int folder = open_below(root, path);

    if (folder >= 0 && look(folder, "", AT_EMPTY_PATH, own, &more) == 0 && more.device == device &&
        own[R_INODE] == stamp[0] && own[R_CTIME] == stamp[1] && own[R_MTIME] == stamp[2])
        told = 2;
    for (; at < count; at++, *names += strlen(*names) + 1)
        if (told && look(folder, *names, AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT, seen + at * ROW, &more) != 0)
            told = 0;
    if (told && memcmp(rows, seen, count * ROW * sizeof *rows) == 0)
        told = 1;
    if (folder >= 0)
        close(folder);
    return told;
}

/* Tell of folders below an open one whether they are just as they are known.

   paths:  from the open one, each ended by NUL
   stamps: for each folder its own inode, change time and modification time
   counts: for each how many entries it has
   names:  of all entries of all folders, each ended by NUL, and `rows` what is known of them
   seen:   is filled with rows
   told:   is filled for each folder: 1, it is as known; 2, the same names are in it, and `seen` tells the rest;
           0, that is to be found out in another way */
void rfs_bulk_folders(int root, const char *paths, const uint64_t *stamps, const int64_t *counts, size_t folders,
                      const char *names, const uint64_t *rows, uint64_t *seen, char *told)
{
    uint64_t own[ROW];
    struct more more;

    memset(told, 0, folders);
    if (look(root, "", AT_EMPTY_PATH, own, &more) != 0)
        return;
    for (size_t at = 0; at < folders; at++, stamps += 3, paths += strlen(paths) + 1) {
        size_t count = (size_t)counts[at];

        told[at] = look_into(root, more.device, paths, stamps, &names, count, rows, seen);
        rows += count * ROW;
        seen += count * ROW;
    }
}
