/* Printing: lines for people, JSON for programs. See cli.h. */
#include "cli/output.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "cli/progress.h"
#include "format/text.h"

#define WIDTH_DEFAULT 80
#define WIDTH_MIN     25
#define WIDTH_MAX     10000

size_t output_plain_length(struct bytes text)
{
    size_t n = utf8_length(text);

    if (n == 1 && (text.data[0] < 0x20 || text.data[0] == 0x7f))
        return 0;
    if (n == 2 && text.data[0] == 0xc2 && text.data[1] < 0xa0)
        return 0;
    return n;
}

void output_plain(FILE *file, struct bytes text)
{
    size_t done = 0;

    for (size_t i = 0; i < text.len;) {
        size_t n = output_plain_length((struct bytes){text.data + i, text.len - i});
        if (n == 0) {
            fwrite(text.data + done, 1, i - done, file);
            fprintf(file, "\\x%02x", text.data[i]);
            done = i + 1;
        }
        i += n ? n : 1;
    }
    fwrite(text.data + done, 1, text.len - done, file);
}

/* One line of any length. */
static PRINTF_LIKE(2, 0) void print_line(FILE *file, const char *fmt, va_list ap)
{
    AUTO_FREE(char, heap);
    char stack[512];
    char *text = stack;
    va_list again;

    va_copy(again, ap);
    int len = vsnprintf(stack, sizeof(stack), fmt, ap);
    if (len >= (int)sizeof(stack)) {
        heap = array_new((size_t)len + 1, 1);
        if (heap) {
            vsnprintf(heap, (size_t)len + 1, fmt, again);
            text = heap;
        }
    }
    va_end(again);
    output_plain(file, text_bytes(text));
    fputc('\n', file);
}

void cli_say(struct cli *cli, const char *fmt, ...)
{
    va_list ap;

    progress_clear(cli->progress);
    va_start(ap, fmt);
    print_line(cli->human, fmt, ap);
    va_end(ap);
}

size_t cli_width(void)
{
    struct winsize size;
    uint64_t columns;

    if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0)
        return size.ws_col >= WIDTH_MIN ? size.ws_col : WIDTH_DEFAULT;
    const char *text = getenv("COLUMNS");
    if (text && text_parse_uint64(&columns, text_bytes(text)) && columns >= WIDTH_MIN &&
        columns <= WIDTH_MAX)
        return (size_t)columns;
    return WIDTH_DEFAULT;
}

size_t cli_room(void)
{
    return isatty(STDOUT_FILENO) ? cli_width() : SIZE_MAX;
}

/* How many bytes the first `count` characters have; a byte that is of none is one by itself. */
static size_t bytes_of_characters(struct bytes text, size_t count)
{
    size_t at = 0;

    for (; count > 0 && at < text.len; count--) {
        size_t n = utf8_length((struct bytes){text.data + at, text.len - at});
        at += n ? n : 1;
    }
    return at;
}

size_t cli_columns(struct bytes text)
{
    size_t count = 0;

    for (size_t at = 0; at < text.len; count++)
        at += bytes_of_characters((struct bytes){text.data + at, text.len - at}, 1);
    return count;
}

int cli_fit(struct buf *out, const char *text, size_t width)
{
    struct bytes all = text_bytes(text);
    size_t has = cli_columns(all), head = (width - 2) / 2;
    int err;

    if (has <= width)
        return buf_append(out, all.data, all.len);
    size_t left = bytes_of_characters(all, head);
    size_t right = bytes_of_characters(all, has - (width - 2 - head));
    if ((err = buf_append(out, all.data, left)) < 0 || (err = buf_append_text(out, "..")) < 0)
        return err;
    return buf_append(out, all.data + right, all.len - right);
}

void cli_note(const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    print_line(stderr, fmt, ap);
    va_end(ap);
}

int cli_usage_error(const char *fmt, ...)
{
    char text[1024];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    return error_set(CLI_USAGE, "%s", text);
}

static void print_error(const char *message, const char *hint)
{
    size_t len = strcspn(message, "\n");

    fputs("vera: ", stderr);
    output_plain(stderr, (struct bytes){(const uint8_t *)message, len});
    fputc('\n', stderr);
    while (message[len]) {
        message += len + 1;
        len = strcspn(message, "\n");
        output_plain(stderr, (struct bytes){(const uint8_t *)message, len});
        fputc('\n', stderr);
    }
    if (hint)
        cli_note("hint: %s", hint);
}

void output_error_json(struct json_writer *writer, int err)
{
    json_write_key(writer, "error");
    json_write_object_begin(writer);
    json_write_key(writer, "code");
    json_write_text(writer, error_name(err == CLI_USAGE ? E_INVALID : err));
    json_write_key(writer, "message");
    json_write_text(writer, error_message());
    json_write_key(writer, "hint");
    json_write_text(writer, error_hint_text());
    json_write_object_end(writer);
}

static int print_error_json(int err)
{
    struct json_writer writer;
    AUTO_BUF(buf);

    cli_json_begin(&writer, &buf);
    output_error_json(&writer, err);
    return cli_json_end(&writer);
}

void output_error(int err, bool json)
{
    print_error(error_message(), error_hint_text());
    /* A stdout that takes nothing was, or will be, an error of its own. */
    if (json)
        (void)!print_error_json(err);
}

static int stdout_error(void)
{
    if (errno == 0)
        return error_set(E_IO, "standard output: not everything could be written");
    return error_set(E_IO, "standard output: %s", strerror(errno));
}

/* stdio forgets why a write failed, and what it was to write: one more line tells the reason. */
static int lost_errno(void)
{
    clearerr(stdout);
    errno = 0;
    return fputc('\n', stdout) == EOF || fflush(stdout) != 0 ? errno : 0;
}

int output_finish(void)
{
    errno = 0;
    bool bad = fflush(stdout) != 0;
    int flush_errno = errno;
    if (!bad && ferror(stdout)) {
        bad = true;
        flush_errno = lost_errno();
    }
    if (fclose(stdout) != 0) {
        bad = true;
        flush_errno = flush_errno ? flush_errno : errno;
    }
    errno = flush_errno;
    return bad ? stdout_error() : 0;
}

int output_write(struct bytes result)
{
    errno = 0;
    fwrite(result.data, 1, result.len, stdout);
    return fflush(stdout) == 0 ? 0 : stdout_error();
}

void cli_json_begin(struct json_writer *writer, struct buf *buf)
{
    buf->len = 0;
    json_write_init(writer, buf);
    json_write_object_begin(writer);
}

/* The control characters that JSON lets pass (DEL and C1) may still be a terminal's: outside of
   strings there are none, so each becomes its escape. */
static int json_escape_controls(struct buf *out, struct bytes json)
{
    size_t done = 0;
    int err = 0;

    for (size_t i = 0; err == 0 && i < json.len; i++) {
        uint8_t byte = json.data[i], next = i + 1 < json.len ? json.data[i + 1] : 0;
        bool is_c1 = byte == 0xc2 && next >= 0x80 && next <= 0x9f;
        if (byte != 0x7f && !is_c1)
            continue;
        if ((err = buf_append(out, json.data + done, i - done)) == 0)
            err = buf_printf(out, "\\u%04x", (unsigned)(is_c1 ? next : byte));
        i += is_c1;
        done = i + 1;
    }
    return err < 0 ? err : buf_append(out, json.data + done, json.len - done);
}

int cli_json_end(struct json_writer *writer)
{
    AUTO_BUF(escaped);
    json_write_object_end(writer);
    int err = json_write_end(writer);
    if (err < 0 || (err = buf_append_byte(writer->out, '\n')) < 0 ||
        (err = json_escape_controls(&escaped, buf_bytes(writer->out))) < 0)
        return err;
    return output_write(buf_bytes(&escaped));
}

void cli_json_digest(
    struct json_writer *writer, const char *key, const struct digest *digest, bool is_snapshot
)
{
    char text[7 + DIGEST_HEX_SIZE] = "sha256:";

    json_write_key(writer, key);
    if (digest)
        digest_hex(text + 7, digest);
    json_write_text(writer, !digest ? NULL : is_snapshot ? text : text + 7);
}

void cli_json_commit(struct json_writer *writer, const char *key, const struct commit_id *id)
{
    char hex[COMMIT_HEX_SIZE];

    json_write_key(writer, key);
    if (id)
        commit_hex(hex, id);
    json_write_text(writer, id ? hex : NULL);
}

const char *cli_size(uint64_t bytes)
{
    static char texts[4][16];
    static unsigned next;
    const char *units = "kMGTPE";
    char *text = texts[next++ % 4];
    double value = (double)bytes / 1000;

    if (bytes < 1000) {
        snprintf(text, sizeof(texts[0]), "%" PRIu64 " B", bytes);
        return text;
    }
    /* What would be rounded to four digits takes the next unit. */
    while (value >= 999.95) {
        value /= 1000;
        units++;
    }
    snprintf(text, sizeof(texts[0]), "%.1f %cB", value, *units);
    return text;
}

void cli_time(char out[32], time_t time, int offset_minutes, bool json)
{
    bool is_day = offset_minutes >= -24 * 60 && offset_minutes <= 24 * 60;
    int minutes = !is_day ? 0 : offset_minutes < 0 ? -offset_minutes : offset_minutes;
    time_t local;
    struct tm tm;

    /* A commit may claim any time and offset. */
    if (!is_day || __builtin_add_overflow(time, (time_t)offset_minutes * 60, &local) ||
        !gmtime_r(&local, &tm) || tm.tm_year > 9999 - 1900 || tm.tm_year < 0) {
        snprintf(out, 32, "@%" PRIdMAX, (intmax_t)time);
        return;
    }
    size_t n = strftime(out, 32, json ? "%Y-%m-%dT%H:%M:%S" : "%Y-%m-%d %H:%M:%S ", &tm);
    snprintf(
        out + n, 32 - n, json ? "%c%02d:%02d" : "%c%02d%02d", offset_minutes < 0 ? '-' : '+',
        minutes / 60, minutes % 60
    );
}
