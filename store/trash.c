/*
 * What a deleted branch or tag, or a branch that was reset, pointed to:
 * refs/vera/trash/<time>/<name> (G4). As a revision, trash/<name> is the newest one of that name,
 * trash/<time>/<name> any one.
 */
#include <string.h>

#include "store/refs.h"

#define TIME_LENGTH 23 /* 20260131T235959.123456Z */

static int time_print(struct buf *out, const struct timespec *now)
{
    char seconds[32];
    struct tm utc;

    if (!gmtime_r(&now->tv_sec, &utc) ||
        strftime(seconds, sizeof(seconds), "%Y%m%dT%H%M%S", &utc) != TIME_LENGTH - 8)
        return error_set(E_INVALID, "the clock shows no year of four digits");
    return buf_printf(out, "%s.%06ldZ", seconds, now->tv_nsec / 1000);
}

static int first_visit(void *context, const char *name, const git_oid *target)
{
    (void)name;
    (void)target;
    *(bool *)context = true;
    return 0;
}

int trash_name(char **out, struct store *store, const char *name)
{
    struct timespec now;

    clock_gettime(CLOCK_REALTIME, &now);
    for (;;) {
        AUTO_BUF(ref);
        bool taken = false;
        int err = buf_append_text(&ref, REF_TRASH);
        if (err < 0 || (err = time_print(&ref, &now)) < 0 || (err = buf_printf(&ref, "/")) < 0 ||
            (err = refs_each(store, (const char *)ref.data, first_visit, &taken)) < 0)
            return err;
        if (!taken) {
            if ((err = buf_printf(&ref, "%s", name)) == 0)
                *out = (char *)buf_take(&ref).data;
            return err;
        }
        /* A time is one name's, so that no name is a folder of another's. */
        now.tv_nsec += 1000;
        if (now.tv_nsec >= 1000000000) {
            now.tv_nsec -= 1000000000;
            now.tv_sec++;
        }
    }
}

static bool digits_read(int *out, const char **text, size_t count)
{
    *out = 0;
    for (; count > 0; count--, (*text)++) {
        if (**text < '0' || **text > '9')
            return false;
        *out = *out * 10 + (**text - '0');
    }
    return true;
}

static bool char_read(const char **text, char wanted)
{
    return *(*text)++ == wanted;
}

/* Days from 1970-01-01 to this date of the Gregorian calendar; POSIX has no inverse of gmtime(). */
static int64_t days_from_epoch(int year, int month, int day)
{
    int64_t y = month <= 2 ? year - 1 : year;
    int64_t m = (month + 9) % 12; /* from March, so that a leap day is a year's last */

    return 365 * y + y / 4 - y / 100 + y / 400 + (153 * m + 2) / 5 + day - 1 - 719468;
}

const char *trash_parse(time_t *out_time, const char *ref)
{
    int year, month, day, hour, minute, second, fraction;

    if (strncmp(ref, REF_TRASH, strlen(REF_TRASH)) != 0)
        return NULL;
    ref += strlen(REF_TRASH);
    if (strlen(ref) < TIME_LENGTH + 2 || !digits_read(&year, &ref, 4) ||
        !digits_read(&month, &ref, 2) || !digits_read(&day, &ref, 2) || !char_read(&ref, 'T') ||
        !digits_read(&hour, &ref, 2) || !digits_read(&minute, &ref, 2) ||
        !digits_read(&second, &ref, 2) || !char_read(&ref, '.') ||
        !digits_read(&fraction, &ref, 6) || !char_read(&ref, 'Z') || !char_read(&ref, '/'))
        return NULL;
    *out_time = (time_t
    )(days_from_epoch(year, month, day) * 86400 + hour * 3600 + minute * 60 + second);
    return ref;
}
