#include "format/json.h"

/* Length of the sequence that `first` begins, 0 where nothing begins with it. */
static size_t sequence_length(uint8_t first)
{
    if (first < 0x80)
        return 1;
    if (first < 0xc2) /* a later byte, or an overlong form of ASCII */
        return 0;
    return first < 0xe0 ? 2 : first < 0xf0 ? 3 : first < 0xf5 ? 4 : 0;
}

/* The second byte decides about overlong forms, surrogates and what is above U+10FFFF. */
static bool second_is_valid(uint8_t first, uint8_t second)
{
    uint8_t low = first == 0xe0 ? 0xa0 : first == 0xf0 ? 0x90 : 0x80;
    uint8_t high = first == 0xed ? 0x9f : first == 0xf4 ? 0x8f : 0xbf;

    return second >= low && second <= high;
}

size_t utf8_length(struct bytes text)
{
    const uint8_t *p = text.data;
    size_t n = text.len ? sequence_length(p[0]) : 0;

    if (n > text.len || (n > 1 && !second_is_valid(p[0], p[1])))
        return 0;
    for (size_t i = 2; i < n; i++)
        if ((p[i] & 0xc0) != 0x80)
            return 0;
    return n;
}

bool utf8_valid(struct bytes text)
{
    for (size_t i = 0; i < text.len;) {
        size_t n = utf8_length((struct bytes){text.data + i, text.len - i});
        if (n == 0)
            return false;
        i += n;
    }
    return true;
}
