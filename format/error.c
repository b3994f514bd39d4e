#include "format/error.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MESSAGE_MAX 65536
#define WRAP_MAX    2048
#define HINT_MAX    1024

/* A thread's last error. It is taken when a thread has its first one, and ends with the thread:
   as a thread-local array all of it would be cleared at the start of every thread. */
struct text {
    char message[MESSAGE_MAX], kept_message[MESSAGE_MAX];
    char hint[HINT_MAX], kept_hint[HINT_MAX];
    unsigned dropped;
};
static _Thread_local struct text *own;

/* For threads that find no memory for their own. */
static struct text shared;

static pthread_once_t key_made = PTHREAD_ONCE_INIT;
static pthread_key_t key;

static void key_make(void)
{
    /* Without a key the text outlives its thread. */
    (void)!pthread_key_create(&key, free);
}

static struct text *text_take(void)
{
    if (own)
        return own;
    pthread_once(&key_made, key_make);
    if (!(own = malloc(sizeof(*own))))
        return own = &shared;
    own->message[0] = own->kept_message[0] = own->hint[0] = own->kept_hint[0] = '\0';
    own->dropped = 0;
    (void)!pthread_setspecific(key, own);
    return own;
}

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
    struct text *text = text_take();
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(text->message, WRAP_MAX, fmt, ap);
    va_end(ap);
    keep_one_line(text->message, WRAP_MAX);
    text->hint[0] = '\0';
    text->dropped = 0;
    return code;
}

int error_wrap(int code, const char *fmt, ...)
{
    struct text *text = text_take();
    char prefix[WRAP_MAX];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(prefix, sizeof(prefix) - 2, fmt, ap);
    va_end(ap);
    keep_one_line(prefix, sizeof(prefix) - 2);
    memcpy(prefix + strlen(prefix), ": ", 3);
    size_t n = strlen(prefix), len = strlen(text->message);
    if (len >= MESSAGE_MAX - n) {
        len = MESSAGE_MAX - n - 1;
    }
    memmove(text->message + n, text->message, len);
    text->message[n + len] = '\0';
    memcpy(text->message, prefix, n);
    return code;
}

int error_detail(int code, const char *fmt, ...)
{
    struct text *text = text_take();
    size_t len = strlen(text->message), room = MESSAGE_MAX - len;
    va_list ap;

    /* The last WRAP_MAX bytes are kept for the count of dropped lines. */
    if (text->dropped || room < 2 * WRAP_MAX) {
        char *last = text->dropped ? strrchr(text->message, '\n') : NULL;
        size_t at = last ? (size_t)(last - text->message) : len;
        snprintf(text->message + at, MESSAGE_MAX - at, "\n  ... and %u more", ++text->dropped);
        return code;
    }
    memcpy(text->message + len, "\n  ", 4);
    va_start(ap, fmt);
    vsnprintf(text->message + len + 3, WRAP_MAX - 3, fmt, ap);
    va_end(ap);
    keep_one_line(text->message + len + 3, WRAP_MAX - 3);
    return code;
}

int error_hint(int code, const char *fmt, ...)
{
    struct text *text = text_take();
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(text->hint, HINT_MAX, fmt, ap);
    va_end(ap);
    keep_one_line(text->hint, HINT_MAX);
    return code;
}

void error_keep(void)
{
    struct text *text = text_take();

    memcpy(text->kept_message, text->message, strlen(text->message) + 1);
    memcpy(text->kept_hint, text->hint, strlen(text->hint) + 1);
}

int error_restore(int code)
{
    struct text *text = text_take();
    memcpy(text->message, text->kept_message, strlen(text->kept_message) + 1);
    memcpy(text->hint, text->kept_hint, strlen(text->kept_hint) + 1);
    text->dropped = 0;
    return code;
}

const char *error_message(void)
{
    return own && own->message[0] ? own->message : "no error";
}

const char *error_hint_text(void)
{
    return own && own->hint[0] ? own->hint : NULL;
}

char *error_pack(void)
{
    const struct text *text = text_take();
    size_t message_size = strlen(text->message) + 1, hint_size = strlen(text->hint) + 1;
    char *packed = calloc(message_size + hint_size, 1);

    if (packed) {
        memcpy(packed, text->message, message_size);
        memcpy(packed + message_size, text->hint, hint_size);
    }
    return packed;
}

int error_unpack(int code, char *packed)
{
    struct text *text = text_take();
    code = error_set(code, "%s", error_name(code));
    if (packed) {
        size_t message_size = strlen(packed) + 1;
        memcpy(text->message, packed, message_size);
        memcpy(text->hint, packed + message_size, strlen(packed + message_size) + 1);
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
