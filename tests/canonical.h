/*
 * The canonical rule, tested from outside: a decoder takes a text only where encoding what it
 * decoded gives the same bytes. `recode` decodes and encodes again.
 */
#ifndef TESTS_CANONICAL_H
#define TESTS_CANONICAL_H

#include <stdlib.h>
#include <string.h>

#include "format/buf.h"
#include "tests/fault.h"

typedef int (*recode_fn)(struct buf *out, struct bytes text);

static void assert_text_equal(struct bytes actual, const char *expected)
{
    assert_int_equal(actual.len, strlen(expected));
    assert_memory_equal(actual.data, expected, actual.len);
}

static bool is_taken(recode_fn recode, struct bytes text)
{
    AUTO_BUF(again);
    int err = recode(&again, text);

    if (err < 0) {
        assert_true(err == E_CORRUPT || err == E_LIMIT);
        assert_null(again.data); /* out is untouched on failure */
        return false;
    }
    assert_true(bytes_equal(buf_bytes(&again), text));
    return true;
}

static void assert_corrupt(recode_fn recode, struct bytes text)
{
    AUTO_BUF(again);

    assert_int_equal(recode(&again, text), E_CORRUPT);
}

static void assert_every_flipped_bit_is_refused_or_canonical(recode_fn recode, const char *golden)
{
    size_t len = strlen(golden), refused = 0;
    AUTO_BUF(text);

    assert_int_equal(buf_append_text(&text, golden), 0);
    for (size_t bit = 0; bit < 8 * len; bit++) {
        text.data[bit / 8] ^= (uint8_t)(1 << bit % 8);
        refused += !is_taken(recode, buf_bytes(&text));
        text.data[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
    assert_true(refused > len); /* every high bit at least */
}

static void assert_every_cut_is_refused_or_canonical(recode_fn recode, const char *golden)
{
    for (size_t len = 0; len < strlen(golden); len++) {
        /* A copy of its own, so that the sanitizer sees a read behind its end. */
        char *cut = malloc(len ? len : 1);
        assert_non_null(cut);
        memcpy(cut, golden, len);
        bool taken = is_taken(recode, (struct bytes){(uint8_t *)cut, len});
        assert_false(taken && (len == 0 || cut[len - 1] != '\n'));
        free(cut);
    }
}

/* Every byte that could be slipped in, at every place; and every byte taken out. */
static void assert_every_edit_is_refused_or_canonical(recode_fn recode, const char *golden)
{
    static const char slipped[] = {' ', '\n', '\r', '\t', '\0', '0', '-', '+', 'x', (char)0xff};
    size_t len = strlen(golden);

    for (size_t at = 0; at <= len; at++) {
        for (size_t i = 0; i < sizeof(slipped); i++) {
            AUTO_BUF(text);
            assert_int_equal(buf_append(&text, golden, at), 0);
            assert_int_equal(buf_append(&text, &slipped[i], 1), 0);
            assert_int_equal(buf_append(&text, golden + at, len - at), 0);
            bool taken = is_taken(recode, buf_bytes(&text));
            assert_false(taken && i >= 2 && i <= 4); /* CR, tab, NUL: nowhere */
        }
        AUTO_BUF(without);
        assert_int_equal(buf_append(&without, golden, at), 0);
        if (at < len)
            assert_int_equal(buf_append(&without, golden + at + 1, len - at - 1), 0);
        (void)is_taken(recode, buf_bytes(&without));
    }
}

struct lines {
    struct bytes line[64];
    size_t count;
};

static struct lines split(const char *text)
{
    struct lines lines = {.count = 0};

    while (*text) {
        size_t n = (size_t)(strchr(text, '\n') - text) + 1;
        assert_true(lines.count < 64);
        lines.line[lines.count++] = (struct bytes){(const uint8_t *)text, n};
        text += n;
    }
    return lines;
}

static void join(struct buf *out, const struct lines *lines)
{
    for (size_t i = 0; i < lines->count; i++)
        assert_int_equal(buf_append(out, lines->line[i].data, lines->line[i].len), 0);
}

/* Two lines exchanged, a line twice, an unknown line in between: there is one order. */
static void assert_every_reordering_is_corrupt(recode_fn recode, const char *golden)
{
    const struct lines lines = split(golden);

    for (size_t i = 0; i < lines.count; i++) {
        for (size_t j = i + 1; j < lines.count; j++) {
            struct lines swapped = lines;
            AUTO_BUF(text);
            swapped.line[i] = lines.line[j];
            swapped.line[j] = lines.line[i];
            join(&text, &swapped);
            assert_corrupt(recode, buf_bytes(&text));
        }
        for (size_t insert = 0; insert < 3; insert++) {
            static const char *const unknown[] = {NULL, "unknown 1\n", "\n"};
            struct lines more = {.count = lines.count + 1};
            AUTO_BUF(text);
            memcpy(more.line, lines.line, (i + 1) * sizeof(lines.line[0]));
            more.line[i + 1] = unknown[insert] ? text_bytes(unknown[insert]) : lines.line[i];
            memcpy(
                more.line + i + 2, lines.line + i + 1, (lines.count - i - 1) * sizeof(lines.line[0])
            );
            join(&text, &more);
            assert_corrupt(recode, buf_bytes(&text));
        }
    }
}

static void assert_every_allocation_failure_is_reported(recode_fn recode, const char *golden)
{
    int err, faults = 0;

    do {
        AUTO_BUF(again);
        fault_after = faults++;
        err = recode(&again, text_bytes(golden));
        fault_after = -1;
        assert_true(err == 0 || err == E_NOMEM);
        assert_true(err == 0 || !again.data);
    } while (err != 0);
    assert_true(faults > 1); /* the loop did inject faults */
}

static void assert_canonical(recode_fn recode, const char *golden)
{
    assert_true(is_taken(recode, text_bytes(golden)));
    assert_every_flipped_bit_is_refused_or_canonical(recode, golden);
    assert_every_cut_is_refused_or_canonical(recode, golden);
    assert_every_edit_is_refused_or_canonical(recode, golden);
    assert_every_reordering_is_corrupt(recode, golden);
    assert_every_allocation_failure_is_reported(recode, golden);
}

#endif
