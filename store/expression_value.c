/* Keys, numbers and dates of the query language. See expression.h. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "format/nearest.h"
#include "format/text.h"
#include "store/expression.h"

#define METRIC_PREFIX "metric."

static const struct {
    const char *name;
    enum key_type type;
} keys[KEY_COUNT] = {
    [KEY_RANK] = {"rank", TYPE_NUMBER},
    [KEY_KIND] = {"kind", TYPE_TEXT},
    [KEY_BASE] = {"base", TYPE_TEXT},
    [KEY_SEED] = {"seed", TYPE_NUMBER},
    [KEY_DATE] = {"date", TYPE_DATE},
    [KEY_BRANCH] = {"branch", TYPE_TEXT},
    [KEY_D_INITIAL] = {"d_initial", TYPE_NUMBER},
    [KEY_TARGETS] = {"targets", TYPE_TEXT},
    [KEY_LAYERS] = {"layers", TYPE_NUMBER},
    [KEY_PARAMS] = {"params", TYPE_NUMBER},
    [KEY_METRIC] = {METRIC_PREFIX "NAME", TYPE_NUMBER},
};

enum key_type key_type(enum query_key key)
{
    return keys[key].type;
}

const char *key_name(enum query_key key)
{
    return keys[key].name;
}

bool key_parse(enum query_key *out, struct bytes *metric, struct bytes name)
{
    const size_t prefix = strlen(METRIC_PREFIX);

    *metric = (struct bytes){0};
    if (name.len > prefix && memcmp(name.data, METRIC_PREFIX, prefix) == 0) {
        *metric = (struct bytes){name.data + prefix, name.len - prefix};
        *out = KEY_METRIC;
        return true;
    }
    for (enum query_key key = 0; key < KEY_METRIC; key++) {
        if (bytes_equal(name, text_bytes(keys[key].name))) {
            *out = key;
            return true;
        }
    }
    return false;
}

int key_hint(int err, struct bytes name)
{
    AUTO_FREE(char, text);
    struct nearest nearest;

    if (!(text = bytes_dup(name)))
        return error_wrap(E_NOMEM, "query");
    nearest_init(&nearest, text);
    for (enum query_key key = 0; key < KEY_COUNT; key++)
        nearest_offer(&nearest, keys[key].name);
    if (nearest.name)
        return error_hint(err, "did you mean '%s'?", nearest.name);
    return error_hint(
        err,
        "keys are rank, kind, base, seed, date, branch, d_initial, targets, layers, params and "
        "metric.NAME"
    );
}

/* Numbers */

static size_t digits_skip(struct bytes text, size_t at)
{
    while (at < text.len && text.data[at] >= '0' && text.data[at] <= '9')
        at++;
    return at;
}

/* [+-] digits [. digits] [e [+-] digits], at least one digit before the exponent. */
static bool number_is_decimal(bool *has_fraction, struct bytes text)
{
    size_t at = text.len && strchr("+-", text.data[0]) ? 1 : 0, begin = at, digits;

    at = digits_skip(text, at);
    digits = at - begin;
    *has_fraction = at < text.len;
    if (at < text.len && text.data[at] == '.') {
        begin = at + 1;
        at = digits_skip(text, begin);
        digits += at - begin;
    }
    if (!digits)
        return false;
    if (at < text.len && (text.data[at] == 'e' || text.data[at] == 'E')) {
        begin = at + 1;
        if (begin < text.len && strchr("+-", text.data[begin]))
            begin++;
        at = digits_skip(text, begin);
        if (at == begin)
            return false;
    }
    return at == text.len;
}

static bool magnitude_parse(uint64_t *out, struct bytes digits)
{
    uint64_t value = 0;

    for (size_t i = 0; i < digits.len; i++) {
        if (__builtin_mul_overflow(value, 10, &value) ||
            __builtin_add_overflow(value, (uint64_t)(digits.data[i] - '0'), &value))
            return false;
    }
    *out = value;
    return true;
}

bool number_parse(struct number *out, struct bytes text)
{
    char digits[64];
    bool has_fraction;
    struct number number = {0};

    if (text.len >= sizeof(digits) || !number_is_decimal(&has_fraction, text))
        return false;
    memcpy(digits, text.data, text.len);
    digits[text.len] = '\0';
    number.real = strtod(digits, NULL);
    if (!isfinite(number.real))
        return false;
    size_t sign = digits[0] == '-' || digits[0] == '+';
    if (!has_fraction) {
        number.is_integer = magnitude_parse(
            &number.integer.magnitude, (struct bytes){text.data + sign, text.len - sign}
        );
    } else if (floor(number.real) == number.real && fabs(number.real) < 0x1p53) {
        number.is_integer = true;
        number.integer.magnitude = (uint64_t)fabs(number.real);
    }
    number.integer.negative = digits[0] == '-' && number.integer.magnitude != 0;
    *out = number;
    return true;
}

/* Dates */

struct date {
    int year, month, day, hour, minute, second;
    bool has_minute, has_second, has_zone;
    int zone_minutes; /* east of UTC */
};

/* Exactly `count` digits at *at. */
static bool take_digits(int *out, struct bytes text, size_t *at, size_t count)
{
    int value = 0;

    for (size_t i = 0; i < count; i++, ++*at) {
        if (*at >= text.len || text.data[*at] < '0' || text.data[*at] > '9')
            return false;
        value = value * 10 + (text.data[*at] - '0');
    }
    *out = value;
    return true;
}

static bool take_char(struct bytes text, size_t *at, char wanted)
{
    if (*at >= text.len || text.data[*at] != (uint8_t)wanted)
        return false;
    ++*at;
    return true;
}

static bool take_zone(struct date *date, struct bytes text, size_t *at)
{
    int hours, minutes;

    date->has_zone = true;
    if (take_char(text, at, 'Z'))
        return true;
    bool west = take_char(text, at, '-');
    if ((!west && !take_char(text, at, '+')) || !take_digits(&hours, text, at, 2))
        return false;
    (void)take_char(text, at, ':');
    if (!take_digits(&minutes, text, at, 2) || hours > 14 || minutes > 59)
        return false;
    date->zone_minutes = (hours * 60 + minutes) * (west ? -1 : 1);
    return true;
}

static bool is_leap(int year)
{
    return (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
}

static bool date_is_real(const struct date *date)
{
    static const int days[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};

    if (date->year < 1970 || date->month < 1 || date->month > 12 || date->day < 1)
        return false;
    return date->day <= days[date->month - 1] + (date->month == 2 && is_leap(date->year)) &&
           date->hour < 24 && date->minute < 60 && date->second < 60;
}

static bool date_take(struct date *out, struct bytes text)
{
    struct date date = {0};
    size_t at = 0;

    if (!take_digits(&date.year, text, &at, 4) || !take_char(text, &at, '-') ||
        !take_digits(&date.month, text, &at, 2) || !take_char(text, &at, '-') ||
        !take_digits(&date.day, text, &at, 2))
        return false;
    if (take_char(text, &at, 'T')) {
        date.has_minute = true;
        if (!take_digits(&date.hour, text, &at, 2) || !take_char(text, &at, ':') ||
            !take_digits(&date.minute, text, &at, 2))
            return false;
        date.has_second = take_char(text, &at, ':');
        if (date.has_second && !take_digits(&date.second, text, &at, 2))
            return false;
        if (at < text.len && !take_zone(&date, text, &at))
            return false;
    }
    *out = date;
    return at == text.len && date_is_real(&date);
}

/* Days since 1970-01-01 of the Gregorian calendar. */
static int64_t days_since_epoch(int year, int month, int day)
{
    static const int before[] = {0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334};
    int64_t past = year - 1;
    int64_t leaps = past / 4 - past / 100 + past / 400 - 477; /* those since 1970 */

    return (int64_t)(year - 1970) * 365 + leaps + before[month - 1] +
           (month > 2 && is_leap(year) ? 1 : 0) + day - 1;
}

static int64_t date_seconds(const struct date *date, int more_days)
{
    if (date->has_zone)
        return (days_since_epoch(date->year, date->month, date->day) + more_days) * 86400 +
               date->hour * 3600 + date->minute * 60 + date->second -
               (int64_t)date->zone_minutes * 60;
    struct tm local = {
        .tm_year = date->year - 1900,
        .tm_mon = date->month - 1,
        .tm_mday = date->day + more_days,
        .tm_hour = date->hour,
        .tm_min = date->minute,
        .tm_sec = date->second,
        .tm_isdst = -1,
    };
    return mktime(&local);
}

bool date_parse(int64_t *begin, int64_t *end, struct bytes text)
{
    struct date date;

    if (!date_take(&date, text))
        return false;
    *begin = date_seconds(&date, 0);
    if (!date.has_minute)
        *end = date_seconds(&date, 1);
    else
        *end = *begin + (date.has_second ? 1 : 60);
    return true;
}
