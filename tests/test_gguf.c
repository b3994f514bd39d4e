/* Tests of format/gguf.c: golden bytes, places in the data, limits, memory that runs out. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "format/gguf.h"
#include "tests/fault.h"

#define NAME_63 "123456789012345678901234567890123456789012345678901234567890123"

static const struct gguf_value values[] = {
    {.key = "a", .type = GGUF_TEXT, .text = "bc"},
    {.key = "d.e", .type = GGUF_FLOAT32, .real = 1.5F},
    {.key = "f", .type = GGUF_UINT32, .number = 0x01020304},
};

/* G1 to G3: 192 bytes, then the data. */
static const uint8_t golden[] =
    "GGUF\3\0\0\0"                                        /* version */
    "\2\0\0\0\0\0\0\0\3\0\0\0\0\0\0\0"                    /* two tensors, three values */
    "\1\0\0\0\0\0\0\0a\10\0\0\0"                          /* a text */
    "\2\0\0\0\0\0\0\0bc"                                  /* */
    "\3\0\0\0\0\0\0\0d.e\6\0\0\0"                         /* a real number */
    "\0\0\300\77"                                         /* 1.5 */
    "\1\0\0\0\0\0\0\0f\4\0\0\0\4\3\2\1"                   /* an integer */
    "\1\0\0\0\0\0\0\0x\2\0\0\0"                           /* x, of two dimensions: */
    "\3\0\0\0\0\0\0\0\5\0\0\0\0\0\0\0"                    /* rows of 3 values, 5 rows */
    "\0\0\0\0\0\0\0\0\0\0\0\0"                            /* F32, at 0 */
    "\2\0\0\0\0\0\0\0yz\2\0\0\0"                          /* */
    "\1\0\0\0\0\0\0\0\1\0\0\0\0\0\0\0"                    /* one value */
    "\36\0\0\0\100\0\0\0\0\0\0\0"                         /* BF16, at 64: 60 bytes and 4 of zeros */
    "\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0"; /* up to a multiple of 32: the last is the
                                                             NUL */

static int encode(struct buf *out)
{
    struct gguf_tensor tensors[] = {
        {.name = "x", .dtype = DTYPE_F32, .rows = 5, .columns = 3},
        {.name = "yz", .dtype = DTYPE_BF16, .rows = 1, .columns = 1},
    };

    return gguf_encode(out, values, 3, tensors, 2);
}

static void test_a_header_has_the_golden_bytes(void **state)
{
    AUTO_BUF(header);

    (void)state;
    assert_int_equal(encode(&header), 0);
    assert_int_equal(sizeof(golden) % GGUF_ALIGNMENT, 0);
    assert_int_equal(header.len, sizeof(golden));
    assert_memory_equal(header.data, golden, sizeof(golden));
}

static void test_tensors_lie_one_after_the_other_at_multiples_of_32(void **state)
{
    struct gguf_tensor tensors[] = {
        {.name = "a", .dtype = DTYPE_F16, .rows = 1, .columns = 16},  /* 32 bytes */
        {.name = "b", .dtype = DTYPE_F16, .rows = 1, .columns = 17},  /* 34 */
        {.name = "c", .dtype = DTYPE_F32, .rows = 0, .columns = 17},  /* 0 */
        {.name = "d", .dtype = DTYPE_BF16, .rows = 2, .columns = 16}, /* 64 */
        {.name = "e", .dtype = DTYPE_F32, .rows = 1, .columns = 1},
    };
    static const uint64_t offsets[] = {0, 32, 96, 96, 160};
    AUTO_BUF(header);

    (void)state;
    assert_int_equal(gguf_encode(&header, NULL, 0, tensors, 5), 0);
    for (size_t i = 0; i < 5; i++)
        assert_int_equal(tensors[i].offset, offsets[i]);
    assert_int_equal(gguf_tensor_bytes(&tensors[1]), 34);
    assert_int_equal(gguf_tensor_room(&tensors[1]), 64);
}

static void test_a_name_has_at_most_63_bytes(void **state)
{
    struct gguf_tensor tensor = {.name = NAME_63, .dtype = DTYPE_F32, .rows = 1, .columns = 1};
    AUTO_BUF(header);

    (void)state;
    assert_int_equal(gguf_encode(&header, NULL, 0, &tensor, 1), 0);
    size_t len = header.len;
    tensor.name = NAME_63 "4";
    assert_int_equal(gguf_encode(&header, NULL, 0, &tensor, 1), E_LIMIT);
    assert_non_null(strstr(error_message(), NAME_63 "4"));
    assert_int_equal(header.len, len);
}

static void test_other_types_are_unsupported(void **state)
{
    AUTO_BUF(header);

    (void)state;
    for (enum dtype dtype = 0; dtype < DTYPE_COUNT; dtype++) {
        struct gguf_tensor tensor = {.name = "x", .dtype = dtype, .rows = 1, .columns = 1};
        int wanted = dtype == DTYPE_F32 || dtype == DTYPE_F16 || dtype == DTYPE_BF16
                         ? 0
                         : E_UNSUPPORTED;
        assert_int_equal(gguf_encode(&header, NULL, 0, &tensor, 1), wanted);
    }
}

static void test_sizes_that_no_file_has_are_refused(void **state)
{
    static const uint64_t sizes[][2] = {
        {UINT64_MAX, 2}, {UINT64_MAX, 1}, {UINT64_MAX / 4, 1}, {INT64_MAX / 4, 1}, {1, INT64_MAX},
    };
    AUTO_BUF(header);

    (void)state;
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        struct gguf_tensor tensors[] = {
            {.name = "x", .dtype = DTYPE_F32, .rows = 64, .columns = 64},
            {.name = "y", .dtype = DTYPE_F32, .rows = sizes[i][0], .columns = sizes[i][1]},
        };
        assert_int_equal(gguf_encode(&header, NULL, 0, tensors, 2), E_LIMIT);
        assert_int_equal(header.len, 0);
    }
}

static void test_where_memory_runs_out_nothing_is_appended(void **state)
{
    int err = E_NOMEM, n = 0;

    (void)state;
    for (; err; n++) {
        AUTO_BUF(header);
        fault_after = n;
        err = encode(&header);
        fault_after = -1;
        if (err) {
            assert_int_equal(err, E_NOMEM);
            assert_int_equal(header.len, 0);
        }
    }
    assert_true(n > 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_header_has_the_golden_bytes),
        cmocka_unit_test(test_tensors_lie_one_after_the_other_at_multiples_of_32),
        cmocka_unit_test(test_a_name_has_at_most_63_bytes),
        cmocka_unit_test(test_other_types_are_unsupported),
        cmocka_unit_test(test_sizes_that_no_file_has_are_refused),
        cmocka_unit_test(test_where_memory_runs_out_nothing_is_appended),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
