/*
 * Edit distance where exchanging two neighbouring letters counts once, since that is how people
 * mistype: insertions, deletions, replacements and such exchanges (the optimal string alignment).
 */
#include "format/nearest.h"

#include <stdint.h>
#include <string.h>

#define LENGTH_MAX 64 /* who types more than that has not mistyped a name */

static size_t least(size_t a, size_t b)
{
    return a < b ? a : b;
}

static size_t distance(const char *a, size_t a_len, const char *b, size_t b_len)
{
    size_t rows[LENGTH_MAX + 1][LENGTH_MAX + 1];

    for (size_t i = 0; i <= a_len; i++) {
        for (size_t j = 0; j <= b_len; j++) {
            if (i == 0 || j == 0) {
                rows[i][j] = i + j;
                continue;
            }
            size_t other = rows[i - 1][j - 1] + (a[i - 1] != b[j - 1]);
            rows[i][j] = least(other, least(rows[i - 1][j], rows[i][j - 1]) + 1);
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
                rows[i][j] = least(rows[i][j], rows[i - 2][j - 2] + 1);
        }
    }
    return rows[a_len][b_len];
}

void nearest_init(struct nearest *nearest, const char *text)
{
    *nearest = (struct nearest){.text = text, .distance = SIZE_MAX};
}

void nearest_offer(struct nearest *nearest, const char *name)
{
    size_t text_len = strlen(nearest->text), name_len = strlen(name), d;

    if (text_len == 0 || text_len > LENGTH_MAX || name_len > LENGTH_MAX)
        return;
    if (text_len >= 2 && strncmp(nearest->text, name, text_len) == 0)
        d = 0;
    else
        d = distance(nearest->text, text_len, name, name_len);
    if (2 * d <= (text_len > name_len ? text_len : name_len) && d < nearest->distance) {
        nearest->name = name;
        nearest->distance = d;
    }
}
