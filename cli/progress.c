/* The progress line. See progress.h. */
#include "cli/progress.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include "cli/cli.h"

#define SECOND   UINT64_C(1000000000)
#define PATIENCE (SECOND / 2)
#define INTERVAL (SECOND / 10) /* between two drawings */
#define WIDTH    80

static uint64_t now(void)
{
    struct timespec time;

    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * SECOND + (uint64_t)time.tv_nsec;
}

static size_t terminal_width(void)
{
    struct winsize size;

    if (ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 && size.ws_col < WIDTH)
        return size.ws_col;
    return WIDTH;
}

/* "1:02:03" or "2:03". */
static void time_text(char out[24], uint64_t seconds)
{
    uint64_t hours = seconds / 3600, minutes = seconds / 60 % 60;

    if (hours)
        snprintf(out, 24, "%" PRIu64 ":%02" PRIu64 ":%02" PRIu64, hours, minutes, seconds % 60);
    else
        snprintf(out, 24, "%" PRIu64 ":%02" PRIu64, minutes, seconds % 60);
}

static void line_text(char out[WIDTH], const struct cli_progress *progress, uint64_t time)
{
    double seconds = (double)(time - progress->phase) / (double)SECOND;
    double rate = seconds > 0 ? (double)progress->done / seconds : 0;
    double left = rate > 0 ? (double)(progress->total - progress->done) / rate : 0;
    char left_text[24] = "";
    size_t n;

    if (progress->total == 0) {
        snprintf(out, WIDTH, "%s, %s/s", cli_size(progress->done), cli_size((uint64_t)rate));
        return;
    }
    snprintf(
        out, WIDTH, "%s of %s, %.0f%%", cli_size(progress->done), cli_size(progress->total),
        100 * ((double)progress->done / (double)progress->total)
    );
    /* A first report, or one of nothing done, says nothing about speed. */
    if (rate < 1 || left > 359999)
        return;
    n = strlen(out);
    time_text(left_text, (uint64_t)(left + 0.5));
    snprintf(out + n, WIDTH - n, ", %s/s, %s left", cli_size((uint64_t)rate), left_text);
}

static void draw(struct cli_progress *progress, uint64_t time)
{
    size_t room = terminal_width() - 1; /* a full line would wrap */
    char line[WIDTH];

    line_text(line, progress, time);
    size_t width = strlen(line);
    if (width > room)
        width = room;
    size_t rest = progress->width > width ? progress->width - width : 0;
    fprintf(stderr, "\r%.*s%*s", (int)width, line, (int)rest, "");
    fflush(stderr);
    progress->width = width + rest;
    progress->drawn_at = time;
}

static void update(struct progress *self, uint64_t done, uint64_t total)
{
    struct cli_progress *progress = (struct cli_progress *)self;

    if (!progress->wanted)
        return;
    uint64_t time = now();
    bool first = progress->phase == 0 || total != progress->total || done < progress->done;
    if (first)
        progress->phase = time;
    progress->done = total && done > total ? total : done;
    progress->total = total;
    if (progress->forced
            ? first || done == total || time - progress->drawn_at >= INTERVAL
            : time - progress->begin >= PATIENCE && time - progress->drawn_at >= INTERVAL)
        draw(progress, time);
    if (total && done >= total)
        progress_clear(self);
}

void progress_init(struct cli_progress *out)
{
    *out = (struct cli_progress){.base.update = update, .begin = now()};
    out->wanted = isatty(STDERR_FILENO);
}

void progress_want(struct cli_progress *progress, bool on, bool off)
{
    progress->forced = on && !off;
    progress->wanted = (progress->wanted || on) && !off;
}

void progress_clear(struct progress *progress)
{
    struct cli_progress *line = (struct cli_progress *)progress;

    if (line->width == 0)
        return;
    fprintf(stderr, "\r%*s\r", (int)line->width, "");
    fflush(stderr);
    line->width = 0;
}
