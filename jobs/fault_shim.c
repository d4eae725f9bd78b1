/* Preloaded into a raybatch under test: a disk that fills up, a disk that fails, a clock that jumps.
 *
 * RAYBATCH_SHIM names a small file that all processes map (struct controls; jobs/fault_shim.py writes it).
 * Writes fail only for files under RAYBATCH_SHIM_ROOT; the clock is wrong only for the processes listed.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define PIDS_MAX 16

struct controls {
    int64_t write_errno;      /* 0: writes succeed */
    int64_t sync_errno;       /* 0: fsyncs succeed */
    int64_t refused;          /* writes and fsyncs that failed so far */
    int64_t clock_offset_ns;  /* of the wall clock */
    int64_t clock_frozen_ns;  /* 0: it moves */
    int64_t clock_pids[PIDS_MAX];
};

static struct controls *controls;
static char root[PATH_MAX];

__attribute__((constructor)) static void map_controls(void) {
    const char *path = getenv("RAYBATCH_SHIM"), *under = getenv("RAYBATCH_SHIM_ROOT");
    int descriptor = path && under ? open(path, O_RDWR | O_CLOEXEC) : -1;
    if (descriptor < 0) return;
    void *mapped = mmap(NULL, sizeof *controls, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0);
    close(descriptor);
    if (mapped == MAP_FAILED) return;
    snprintf(root, sizeof root, "%s/", under);
    controls = mapped;
}

static int refused(int descriptor, int64_t number) {
    char link[64], path[PATH_MAX];
    if (number == 0) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length <= 0) return 0;
    path[length] = 0;
    if (strncmp(path, root, strlen(root)) != 0) return 0;
    __atomic_add_fetch(&controls->refused, 1, __ATOMIC_SEQ_CST);
    errno = (int)number;
    return 1;
}

#define REAL(name) static __typeof__(&name) real; if (!real) real = dlsym(RTLD_NEXT, #name)
#define WRITES (controls ? controls->write_errno : 0)
#define SYNCS (controls ? controls->sync_errno : 0)

ssize_t write(int fd, const void *buffer, size_t count) {
    REAL(write);
    return refused(fd, WRITES) ? -1 : real(fd, buffer, count);
}
ssize_t writev(int fd, const struct iovec *blocks, int count) {
    REAL(writev);
    return refused(fd, WRITES) ? -1 : real(fd, blocks, count);
}
ssize_t pwrite(int fd, const void *buffer, size_t count, off_t offset) {
    REAL(pwrite);
    return refused(fd, WRITES) ? -1 : real(fd, buffer, count, offset);
}
ssize_t pwrite64(int fd, const void *buffer, size_t count, off64_t offset) {
    REAL(pwrite64);
    return refused(fd, WRITES) ? -1 : real(fd, buffer, count, offset);
}
int fsync(int fd) {
    REAL(fsync);
    return refused(fd, SYNCS) ? -1 : real(fd);
}
int fdatasync(int fd) {
    REAL(fdatasync);
    return refused(fd, SYNCS) ? -1 : real(fd);
}

static void misread(struct timespec *now) {
    if (!controls || (!controls->clock_offset_ns && !controls->clock_frozen_ns)) return;
    int64_t me = getpid();
    for (int i = 0; i < PIDS_MAX; i++) {
        if (controls->clock_pids[i] != me) continue;
        int64_t ns = now->tv_sec * 1000000000LL + now->tv_nsec;
        if (controls->clock_frozen_ns) ns = controls->clock_frozen_ns;
        ns += controls->clock_offset_ns;
        now->tv_sec = ns / 1000000000LL;
        now->tv_nsec = ns % 1000000000LL;
        return;
    }
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    REAL(clock_gettime);
    int failed = real(clock, now);
    if (!failed && clock == CLOCK_REALTIME) misread(now);
    return failed;
}
