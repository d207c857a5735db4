/* Programs whose first or last instruction is measured. All times: CLOCK_MONOTONIC, ns.
 *
 * probe stamp FILE           write the time of the first instruction to FILE
 * probe blocks COUNT FILE    COUNT writes of 64 kB to stdout; write how long they took to FILE
 * probe lines COUNT FILE     COUNT short lines, one write each; the same
 * probe ticks COUNT          COUNT lines, one each 20 ms, each holding its own time
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static long long now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static void put(int fd, const char *data, size_t size)
{
    while (size > 0) {
        ssize_t done = write(fd, data, size);
        if (done < 0)
            exit(1);
        data += done;
        size -= (size_t)done;
    }
}

/* Written under another name first: whoever sees FILE sees all of it. */
static void note(const char *path, long long value)
{
    char text[32], scratch[4096];
    snprintf(scratch, sizeof scratch, "%s.tmp", path);
    int fd = open(scratch, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    if (fd < 0)
        exit(1);
    put(fd, text, (size_t)snprintf(text, sizeof text, "%lld\n", value));
    close(fd);
    if (rename(scratch, path) != 0)
        exit(1);
}

static void blocks(long count)
{
    static char block[65536];
    memset(block, 'x', sizeof block);
    for (long i = 0; i < count; i++)
        put(1, block, sizeof block);
}

static void lines(long count)
{
    char line[64];
    for (long i = 0; i < count; i++)
        put(1, line, (size_t)snprintf(line, sizeof line, "step %ld loss 0.1234\n", i));
}

static void ticks(long count)
{
    char line[32];
    struct timespec pause = {0, 20000000};
    for (long i = 0; i < count; i++) {
        nanosleep(&pause, NULL);
        put(1, line, (size_t)snprintf(line, sizeof line, "%lld\n", now_ns()));
    }
}

int main(int argc, char **argv)
{
    long long began = now_ns();
    if (argc == 3 && strcmp(argv[1], "stamp") == 0)
        note(argv[2], began);
    else if (argc == 4 && strcmp(argv[1], "blocks") == 0)
        blocks(atol(argv[2])), note(argv[3], now_ns() - began);
    else if (argc == 4 && strcmp(argv[1], "lines") == 0)
        lines(atol(argv[2])), note(argv[3], now_ns() - began);
    else if (argc == 3 && strcmp(argv[1], "ticks") == 0)
        ticks(atol(argv[2]));
    else
        return 2;
    return 0;
}
