#include "format/error.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MESSAGE_MAX 65536
#define WRAP_MAX    2048
#define HINT_MAX    1024

/* Zero at first: a thread without an error takes no memory for one. */
static _Thread_local char message[MESSAGE_MAX], kept_message[MESSAGE_MAX];
static _Thread_local char hint[HINT_MAX], kept_hint[HINT_MAX];
static _Thread_local unsigned dropped;

/* One text is one line, whatever name is in it: line feeds belong to error_detail(). */
static void keep_one_line(char *text, size_t size)
{
    size_t len = strlen(text);

    for (char *at = text; (at = strchr(at, '\n')); at++) {
        if (len + 4 > size) {
            *at = ' ';
            continue;
        }
        memmove(at + 4, at + 1, len - (size_t)(at - text));
        memcpy(at, "\\x0a", 4);
        len += 3;
    }
}

int error_set(int code, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(message, WRAP_MAX, fmt, ap);
    va_end(ap);
    keep_one_line(message, WRAP_MAX);
    hint[0] = '\0';
    dropped = 0;
    return code;
}

int error_wrap(int code, const char *fmt, ...)
{
    char prefix[WRAP_MAX];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(prefix, sizeof(prefix) - 2, fmt, ap);
    va_end(ap);
    keep_one_line(prefix, sizeof(prefix) - 2);
    memcpy(prefix + strlen(prefix), ": ", 3);
    size_t n = strlen(prefix), len = strlen(message);
    if (len >= MESSAGE_MAX - n) {
        len = MESSAGE_MAX - n - 1;
    }
    memmove(message + n, message, len);
    message[n + len] = '\0';
    memcpy(message, prefix, n);
    return code;
}

int error_detail(int code, const char *fmt, ...)
{
    size_t len = strlen(message), room = MESSAGE_MAX - len;
    va_list ap;

    /* The last WRAP_MAX bytes are kept for the count of dropped lines. */
    if (dropped || room < 2 * WRAP_MAX) {
        char *last = dropped ? strrchr(message, '\n') : NULL;
        size_t at = last ? (size_t)(last - message) : len;
        snprintf(message + at, MESSAGE_MAX - at, "\n  ... and %u more", ++dropped);
        return code;
    }
    memcpy(message + len, "\n  ", 4);
    va_start(ap, fmt);
    vsnprintf(message + len + 3, WRAP_MAX - 3, fmt, ap);
    va_end(ap);
    keep_one_line(message + len + 3, WRAP_MAX - 3);
    return code;
}

int error_hint(int code, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(hint, sizeof(hint), fmt, ap);
    va_end(ap);
    keep_one_line(hint, sizeof(hint));
    return code;
}

void error_keep(void)
{
    memcpy(kept_message, message, strlen(message) + 1);
    memcpy(kept_hint, hint, strlen(hint) + 1);
}

int error_restore(int code)
{
    memcpy(message, kept_message, strlen(kept_message) + 1);
    memcpy(hint, kept_hint, strlen(kept_hint) + 1);
    dropped = 0;
    return code;
}

const char *error_message(void)
{
    return message[0] ? message : "no error";
}

const char *error_hint_text(void)
{
    return hint[0] ? hint : NULL;
}

char *error_pack(void)
{
    size_t message_size = strlen(message) + 1, hint_size = strlen(hint) + 1;
    char *packed = calloc(message_size + hint_size, 1);

    if (packed) {
        memcpy(packed, message, message_size);
        memcpy(packed + message_size, hint, hint_size);
    }
    return packed;
}

int error_unpack(int code, char *packed)
{
    code = error_set(code, "%s", error_name(code));
    if (packed) {
        size_t message_size = strlen(packed) + 1;
        memcpy(message, packed, message_size);
        memcpy(hint, packed + message_size, strlen(packed + message_size) + 1);
        free(packed);
    }
    return code;
}

const char *error_name(int code)
{
    switch ((enum error_code)code) {
    case E_NOTFOUND:
        return "NOTFOUND";
    case E_EXISTS:
        return "EXISTS";
    case E_INVALID:
        return "INVALID";
    case E_CORRUPT:
        return "CORRUPT";
    case E_CONFLICT:
        return "CONFLICT";
    case E_LIMIT:
        return "LIMIT";
    case E_UNSUPPORTED:
        return "UNSUPPORTED";
    case E_IO:
        return "IO";
    case E_NOMEM:
        return "NOMEM";
    case E_DEVICE:
        return "DEVICE";
    case E_INTERRUPTED:
        return "INTERRUPTED";
    }
    return "IO";
}
