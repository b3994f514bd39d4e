/*
 * Errors: a negative code for the program, a message for the person.
 *
 * error_set() is the only place a failure is born: it stores the message for
 * this thread and returns the code, so one statement does both:
 *
 *     return error_set(E_CORRUPT, "frame: %zu bytes, header needs %d", n, 20);
 *
 * Everyone else passes the code up unchanged. A layer that knows a name the
 * origin could not know (path, ref, tensor) adds it with error_wrap(). Where
 * several things are wrong, each is a line of its own, added with
 * error_detail(); where the person can do something, error_hint() says what.
 * Message, details and hint are meaningful only after a call has returned a
 * negative code, until the next error_set() of the same thread.
 */
#ifndef FORMAT_ERROR_H
#define FORMAT_ERROR_H

/* Named by what the caller can do. The names (without E_) are the "code" of --json. */
enum error_code {
    E_NOTFOUND = -1,    /* the named revision, repository or file does not exist */
    E_EXISTS = -2,      /* the target is there already; the tip is identical */
    E_INVALID = -3,     /* the caller's input is not acceptable */
    E_CORRUPT = -4,     /* stored bytes violate their format or their hash */
    E_CONFLICT = -5,    /* lost race, lock not free in time, base pin that does not match */
    E_LIMIT = -6,       /* a size, depth or count is above format/limits.h */
    E_UNSUPPORTED = -7, /* well-formed, and not something this program does */
    E_IO = -8,          /* the system refused; also another owner's repository */
    E_NOMEM = -9,
    E_DEVICE = -10,
    E_INTERRUPTED = -11, /* SIGINT or SIGTERM; exit status 130 */
};

#define PRINTF_LIKE(fmt, args) __attribute__((format(printf, fmt, args)))
#define MUST_CHECK             __attribute__((warn_unused_result))

/* Begin a new error: forget the old message, details and hint; return `code`. */
MUST_CHECK int error_set(int code, const char *fmt, ...) PRINTF_LIKE(2, 3);

/* Put "<text>: " before the message; return `code`. */
MUST_CHECK int error_wrap(int code, const char *fmt, ...) PRINTF_LIKE(2, 3);

/* Add one line to the list of what is wrong; return `code`. Lines that memory cannot hold are
   dropped and counted in a last line. */
MUST_CHECK int error_detail(int code, const char *fmt, ...) PRINTF_LIKE(2, 3);

/* Say what the person can do about it; return `code`. */
MUST_CHECK int error_hint(int code, const char *fmt, ...) PRINTF_LIKE(2, 3);

/* Keep what the error says while something is undone, which may fail too, and say it again, hint
   and details included. One is kept per thread. */
void error_keep(void);
MUST_CHECK int error_restore(int code);

/* The message with its details (each "\n  <line>"), and the hint or NULL. Valid until the thread's
   next error_* call. */
const char *error_message(void);
const char *error_hint_text(void);

/* Carry a failure from the thread in which it happened to another: its message, details and hint as
   one owned text (NULL when out of memory), which error_unpack() frees and makes that thread's.
   Returns `code`. Without a text, the message is the code's name. */
char *error_pack(void);
MUST_CHECK int error_unpack(int code, char *packed);

/* "CORRUPT" for E_CORRUPT. */
const char *error_name(int code);

#endif
