/* Programs that take memory in one of the ways that guards get wrong, and say how far they came.
 *
 * hog MODE MAP CAP [OPTION=VALUE]...
 *
 * MAP is a file of MAP_SIZE bytes (struct progress); it is written through a shared mapping, so that
 * what stands in it outlives SIGSTOP and SIGKILL. CAP is the most bytes that all threads and
 * processes of this hog take together: each chunk is reserved in MAP before it is touched.
 *
 * anon      anonymous memory, by `threads` threads
 * bomb      each process starts another each 50 ms, `processes` at most in all
 * memfd     a memfd (memfd_create(2))
 * shared    the file `file`, as a shared mapping: tmpfs or /dev/shm; `unlink=1` removes its name
 * mapped    the existing file `file`, read through a private mapping: the innocent one
 * cow       half of CAP, then a child that writes to what it inherited
 * share     all of CAP, then `processes` children that read it over and over: innocent
 * storm     all of CAP, then `count` times fork and exec: innocent
 * zombie    as anon, but the first thread ends: what ps shows is a zombie
 *
 * Options: threads, processes, count, rate (bytes/s a thread), file, unlink, ignore_term, escape
 * (setsid and double fork before anything else), mark (note when MemAvailable falls below these
 * bytes), exit (end when CAP is reached; else stay and hold it).
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define PAGE 4096UL
#define CHUNK (16 * PAGE)
#define BLOCK (1024 * CHUNK)
#define SLOTS 1023
#define MAX_PROCESSES 50
#define BOMB_NS 50000000L
#define S_NS 1000000000L

/* 64 bytes each: one cache line a writer. tests/helpers/hogs.py reads both. */
struct slot {
    _Atomic int64_t pid, began_ns, last_ns, bytes;
    int64_t spare[4];
};
struct progress {
    _Atomic int64_t slots, reserved, crossed_ns, crossed_bytes, full_ns, done, processes;
    int64_t spare;
    struct slot slot[SLOTS];
};

static struct progress *progress;
static int64_t cap, rate, mark;
static int meminfo = -1;

static int64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * S_NS + t.tv_nsec;
}

static void sleep_until(int64_t at_ns)
{
    struct timespec t = {at_ns / S_NS, at_ns % S_NS};
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL) != 0)
        ;
}

static void fail(const char *what)
{
    perror(what);
    exit(3);
}

static void hold(void)
{
    for (;;)
        pause();
}

static int64_t available_bytes(void)
{
    char text[256];
    ssize_t size = pread(meminfo, text, sizeof text - 1, 0);
    if (size <= 0)
        fail("/proc/meminfo");
    text[size] = 0;
    const char *line = strstr(text, "MemAvailable:");
    return line ? atoll(line + 13) * 1024 : 0;
}

static struct slot *take_slot(void)
{
    int64_t number = atomic_fetch_add(&progress->slots, 1);
    if (number >= SLOTS)
        exit(4);
    struct slot *slot = &progress->slot[number];
    slot->began_ns = slot->last_ns = now_ns();
    slot->pid = getpid();
    return slot;
}

/* Whether CHUNK more may be taken. Said before the memory is touched: the cap holds whatever runs. */
static int reserve(void)
{
    if (atomic_fetch_add(&progress->reserved, CHUNK) + (int64_t)CHUNK <= cap)
        return 1;
    atomic_fetch_sub(&progress->reserved, CHUNK);
    int64_t never = 0;
    atomic_compare_exchange_strong(&progress->full_ns, &never, now_ns());
    return 0;
}

/* The nearer the mark the more often: at the crossing every CHUNK. Returns bytes to the next look. */
static int64_t look(struct slot *slot)
{
    int64_t above = available_bytes() - mark, never = 0;
    if (above > 0)
        return above / 8;
    if (atomic_compare_exchange_strong(&progress->crossed_ns, &never, now_ns()))
        progress->crossed_bytes = slot->bytes;
    return INT64_MAX;
}

/* Touch `size` bytes chunk by chunk; returns 0 when the cap is reached. */
static int eat(struct slot *slot, char *memory, size_t size, int writing)
{
    int64_t next_look = mark ? 0 : INT64_MAX;
    for (size_t done = 0; done < size; done += CHUNK) {
        if (writing && !reserve())
            return 0;
        for (size_t at = done; at < done + CHUNK && at < size; at += PAGE) {
            if (writing)
                memory[at] = 1;
            else
                (void)*(volatile char *)(memory + at);
        }
        slot->bytes += CHUNK;
        slot->last_ns = now_ns();
        if (next_look != INT64_MAX && (next_look -= CHUNK) <= 0)
            next_look = look(slot);
        if (rate)
            sleep_until(slot->began_ns + (int64_t)((double)slot->bytes / rate * S_NS));
    }
    return 1;
}

static char *map(size_t size, int flags, int fd)
{
    char *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, flags | MAP_NORESERVE, fd, 0);
    if (memory == MAP_FAILED)
        fail("mmap");
    /* A huge page would be taken whole: then `bytes` and the cap would not hold to the chunk. */
    madvise(memory, size, MADV_NOHUGEPAGE);
    return memory;
}

static void *anon(void *nothing)
{
    struct slot *slot = take_slot();
    while (eat(slot, map(BLOCK, MAP_PRIVATE | MAP_ANONYMOUS, -1), BLOCK, 1))
        ;
    return nothing;
}

static void threads(long count)
{
    pthread_t thread[256];
    count = count > 256 ? 256 : count;
    for (long i = 1; i < count; i++)
        if (pthread_create(&thread[i], NULL, anon, NULL) != 0)
            fail("pthread_create");
    anon(NULL);
    for (long i = 1; i < count; i++)
        pthread_join(thread[i], NULL);
}

/* Every process eats in a thread and forks in another: children of children, until there are enough. */
static void bomb(long processes)
{
    pthread_t eater;
    for (progress->processes++;;) {
        if (pthread_create(&eater, NULL, anon, NULL) != 0)
            fail("pthread_create");
        int64_t next_ns = now_ns();
        do {
            sleep_until(next_ns += BOMB_NS);
            if (atomic_fetch_add(&progress->processes, 1) >= processes) {
                progress->processes--;
                hold();
            }
        } while (fork() != 0);
    }
}

static void shared(const char *path, int unlinks)
{
    int fd = path ? open(path, O_RDWR | O_CREAT | O_TRUNC, 0600) : memfd_create("hog", 0);
    if (fd < 0 || ftruncate(fd, (off_t)(cap + BLOCK)) != 0)
        fail(path ? path : "memfd");
    if (path && unlinks)
        unlink(path);
    eat(take_slot(), map((size_t)cap, MAP_SHARED, fd), (size_t)cap + CHUNK, 1);
}

static void mapped(const char *path)
{
    int fd = open(path, O_RDONLY);
    off_t size = fd < 0 ? -1 : lseek(fd, 0, SEEK_END);
    if (size <= 0)
        fail(path);
    char *memory = mmap(NULL, (size_t)size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (memory == MAP_FAILED)
        fail("mmap");
    eat(take_slot(), memory, (size_t)size, 0);
}

static char *base(size_t size)
{
    char *memory = map(size, MAP_PRIVATE | MAP_ANONYMOUS, -1);
    eat(take_slot(), memory, size, 1);
    return memory;
}

static void cow(void)
{
    size_t half = (size_t)cap / 2 / CHUNK * CHUNK;
    char *memory = base(half);
    if (fork() == 0)
        eat(take_slot(), memory, half, 1);
}

static void share(long workers)
{
    size_t size = (size_t)cap / CHUNK * CHUNK;
    char *memory = base(size);
    for (long i = 0; i < workers; i++)
        if (fork() == 0)
            for (struct slot *slot = take_slot();; progress->done++)
                eat(slot, memory, size, 0);
}

static void storm(long count)
{
    base((size_t)cap / CHUNK * CHUNK);
    for (long i = 0; i < count; i++) {
        pid_t child = fork();
        if (child == 0)
            execl("/bin/true", "true", (char *)NULL), _exit(1);
        if (child < 0 || waitpid(child, NULL, 0) != child)
            fail("fork");
        progress->done++;
    }
}

static void *later(void *leader)
{
    pthread_join(*(pthread_t *)leader, NULL);
    anon(NULL);
    hold();
    return NULL;
}

/* exit(2) itself, which ends one thread; the C library's ends them all. */
static void zombie(void)
{
    static pthread_t leader;
    pthread_t eater;
    leader = pthread_self();
    if (pthread_create(&eater, NULL, later, &leader) != 0)
        fail("pthread_create");
    pthread_exit(NULL);
}

static void escape(void)
{
    if (fork() != 0)
        hold();
    if (setsid() < 0)
        fail("setsid");
    if (fork() != 0)
        _exit(0);
}

static const char *option(int argc, char **argv, const char *name)
{
    size_t length = strlen(name);
    for (int i = 4; i < argc; i++)
        if (strncmp(argv[i], name, length) == 0 && argv[i][length] == '=')
            return argv[i] + length + 1;
    return NULL;
}

static int64_t number(int argc, char **argv, const char *name, int64_t otherwise)
{
    const char *value = option(argc, argv, name);
    return value ? atoll(value) : otherwise;
}

int main(int argc, char **argv)
{
    if (argc < 4)
        return 2;
    const char *mode = argv[1], *file = option(argc, argv, "file");
    int fd = open(argv[2], O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0 || ftruncate(fd, sizeof *progress) != 0)
        fail(argv[2]);
    progress = mmap(NULL, sizeof *progress, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    meminfo = open("/proc/meminfo", O_RDONLY | O_CLOEXEC);
    if (progress == MAP_FAILED || meminfo < 0)
        fail("progress");
    cap = atoll(argv[3]);
    rate = number(argc, argv, "rate", 0);
    mark = number(argc, argv, "mark", 0);
    long processes = number(argc, argv, "processes", 16);
    processes = processes > MAX_PROCESSES ? MAX_PROCESSES : processes;
    if (number(argc, argv, "ignore_term", 0))
        signal(SIGTERM, SIG_IGN);
    if (number(argc, argv, "escape", 0))
        escape();
    if (strcmp(mode, "anon") == 0)
        threads(number(argc, argv, "threads", 1));
    else if (strcmp(mode, "bomb") == 0)
        bomb(processes);
    else if (strcmp(mode, "memfd") == 0)
        shared(NULL, 0);
    else if (strcmp(mode, "shared") == 0 && file)
        shared(file, (int)number(argc, argv, "unlink", 0));
    else if (strcmp(mode, "mapped") == 0 && file)
        mapped(file);
    else if (strcmp(mode, "cow") == 0)
        cow();
    else if (strcmp(mode, "share") == 0)
        share(processes);
    else if (strcmp(mode, "storm") == 0)
        storm(number(argc, argv, "count", 1000));
    else if (strcmp(mode, "zombie") == 0)
        zombie();
    else
        return 2;
    if (!number(argc, argv, "exit", 0))
        hold();
    return 0;
}
