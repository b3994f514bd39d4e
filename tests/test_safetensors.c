/*
 * Tests of format/safetensors.c. The tables of what is accepted and refused were compared with the
 * reference package, and so were 140,000 changed headers: they differ in duplicate keys alone. S1
 * to S5 are of docs/format.md.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "format/file.h"
#include "format/limits.h"
#include "format/peft.h"
#include "tests/fault.h"

static void must(int err)
{
    if (err < 0)
        fail_msg("%s", error_message());
}

static void put_length(uint8_t *out, uint64_t length)
{
    for (unsigned i = 0; i < 8; i++)
        out[i] = (uint8_t)(length >> (8 * i));
}

/* The table of a file with this text and so many bytes behind it. The copy has the exact size: a
   read behind its end is seen by the sanitizer. */
static int decode(struct safetensors *out, struct bytes text, uint64_t data_bytes)
{
    AUTO_FREE(uint8_t, header);

    header = malloc(8 + text.len);
    assert_non_null(header);
    put_length(header, text.len);
    if (text.len)
        memcpy(header + 8, text.data, text.len);
    return safetensors_decode(out, (struct bytes){header, 8 + text.len}, 8 + text.len + data_bytes);
}

/* Whatever a table is, it holds this. */
static void assert_whole(const struct safetensors *table)
{
    uint64_t at = 0;

    for (size_t i = 0; i < table->count; i++) {
        const struct tensor *tensor = &table->tensors[i];
        assert_int_equal(tensor->begin, at);
        at += tensor_bytes(tensor);
        assert_int_equal(
            tensor_values(tensor) * dtype_bits(tensor->dtype), 8 * tensor_bytes(tensor)
        );
        assert_int_equal(tensor->name[tensor->name_len], 0);
        if (strlen(tensor->name) == tensor->name_len)
            assert_ptr_equal(safetensors_find(table, tensor->name), tensor);
    }
    assert_int_equal(at, table->data_bytes);
}

struct header_case {
    const char *rule, *text;
    size_t len;
    uint64_t data_bytes;
    const char *says;
};

#define TEXT(text) text, sizeof(text) - 1
#define A          "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]"
#define U8(shape, from, to)                                                                        \
    "{\"dtype\":\"U8\",\"shape\":" shape ",\"data_offsets\":[" from "," to "]}"

static const struct header_case accepted[] = {
    {"S1 no tensors", TEXT("{}"), 0, NULL},
    {"S1 plain", TEXT(A "}}"), 4, NULL},
    {"S1 white space around", TEXT(" \t\r\n{} \t\r\n"), 0, NULL},
    {"S1 white space inside", TEXT("{ \"a\" : [ \"U8\" , [ 1 ] , [ 0 , 1 ] ] }"), 1, NULL},
    {"S1 length no multiple of 8", TEXT("{}   "), 0, NULL},
    {"S1 keys in any order",
     TEXT("{\"a\":{\"data_offsets\":[0,4],\"shape\":[1],\"dtype\":\"F32\"}}"), 4, NULL},
    {"S1 tensors in any order",
     TEXT("{\"a\":" U8("[2]", "3", "5") ",\"b\":" U8("[3]", "0", "3") "}"), 5, NULL},
    {"S1 metadata null", TEXT("{\"__metadata__\":null}"), 0, NULL},
    {"S1 metadata empty", TEXT("{\"__metadata__\":{}}"), 0, NULL},
    {"S1 metadata last", TEXT(A "},\"__metadata__\":{\"a\":\"b\",\"c\":\"\"}}"), 4, NULL},
    {"S1 metadata spelt with an escape", TEXT("{\"__met\\u0061data__\":{\"a\":\"b\"}}"), 0, NULL},
    {"S1 unknown fields", TEXT(A ",\"x\":[1,{\"y\":null}],\"z\":-1.5e3}}"), 4, NULL},
    {"S1 unknown small number", TEXT(A ",\"x\":1e-999999999999}}"), 4, NULL},
    {"S1 unknown zero", TEXT(A ",\"x\":0e999999999999}}"), 4, NULL},
    {"S1 unknown large integer", TEXT(A ",\"x\":123456789012345678901234567890}}"), 4, NULL},
    {"S1 array", TEXT("{\"a\":[\"F32\",[1],[0,4]]}"), 4, NULL},
    {"S1 dtype as serde's map", TEXT("{\"a\":[{\"F32\":null},[1],[0,4]]}"), 4, NULL},
    {"S1 scalar", TEXT("{\"a\":[\"F32\",[],[0,4]]}"), 4, NULL},
    {"S1 escapes in names", TEXT("{\"\\u00e9\\n\\/\\ud83d\\ude00\":" U8("[1]", "0", "1") "}"), 1,
     NULL},
    {"S1 NUL in a name", TEXT("{\"a\\u0000b\":" U8("[1]", "0", "1") "}"), 1, NULL},
    {"S1 empty name", TEXT("{\"\":" U8("[1]", "0", "1") "}"), 1, NULL},
    {"S1 no values between two",
     TEXT("{\"a\":" U8("[2]", "0", "2") ",\"z\":" U8("[0]", "2", "2") ",\"b\":" U8(
         "[2]", "2", "4"
     ) "}"),
     4, NULL},
    {"S1 no values first and last",
     TEXT("{\"a\":" U8("[2]", "0", "2") ",\"y\":" U8("[0]", "2", "2") ",\"z\":" U8(
         "[0,7]", "0", "0"
     ) "}"),
     2, NULL},
    {"S1 several without values",
     TEXT("{\"a\":" U8("[0]", "0", "0") ",\"b\":" U8("[0]", "0", "0") "}"), 0, NULL},
    {"S1 zero before an overflow", TEXT("{\"a\":" U8("[0,18446744073709551615,2]", "0", "0") "}"),
     0, NULL},
    {"S1 zero behind the largest", TEXT("{\"a\":" U8("[18446744073709551615,0]", "0", "0") "}"), 0,
     NULL},
    {"S1 sub-byte", TEXT("{\"a\":[\"F4\",[2,3],[0,3]],\"b\":[\"F6_E2M3\",[4],[3,6]]}"), 6, NULL},
};

static const struct header_case refused[] = {
    {"S2 empty", TEXT(""), 0, "ends early"},
    {"S2 not JSON", TEXT("{"), 0, "a key is expected"},
    {"S2 NUL behind", TEXT("{}\0"), 0, "something follows"},
    {"S2 bytes behind", TEXT("{}{}"), 0, "something follows"},
    {"S2 byte order mark", TEXT("\xef\xbb\xbf{}"), 0, "a value is expected"},
    {"S2 not UTF-8", TEXT("{\"a\xff\":" U8("[0]", "0", "0") "}"), 0, "not UTF-8"},
    {"S2 surrogate", TEXT("{\"\\ud800\":" U8("[0]", "0", "0") "}"), 0, "surrogate"},
    {"S2 no object", TEXT("[]"), 0, "an object is expected"},
    {"S2 null", TEXT("null"), 0, "an object is expected"},
    {"S2 metadata twice", TEXT("{\"__metadata__\":null,\"__metadata__\":{}}"), 0, "already"},
    {"S2 metadata list", TEXT("{\"__metadata__\":[]}"), 0, "__metadata__ is no object"},
    {"S2 metadata number", TEXT("{\"__metadata__\":{\"a\":1}}"), 0, "a string is expected"},
    {"S2 metadata null value", TEXT("{\"__metadata__\":{\"a\":null}}"), 0, "a string is expected"},
    {"S2 no entry", TEXT("{\"a\":null}"), 0, "tensor 'a': JSON, byte 5: a tensor's entry"},
    {"S2 no dtype", TEXT("{\"a\":{\"shape\":[0],\"data_offsets\":[0,0]}}"), 0, "no dtype"},
    {"S2 no shape", TEXT("{\"a\":{\"dtype\":\"U8\",\"data_offsets\":[0,0]}}"), 0, "no shape"},
    {"S2 no offsets", TEXT("{\"a\":{\"dtype\":\"U8\",\"shape\":[0]}}"), 0, "no data_offsets"},
    {"S2 array of two", TEXT("{\"a\":[\"U8\",[0]]}"), 0, "an array is expected"},
    {"S2 array of four", TEXT("{\"a\":[\"U8\",[0],[0,0],0]}"), 0, "end of the array"},
    {"S2 unknown dtype", TEXT("{\"a\":[\"F33\",[1],[0,4]]}"), 4, "unknown dtype 'F33'"},
    {"S2 dtype in lower case", TEXT("{\"a\":[\"f32\",[1],[0,4]]}"), 4, "unknown dtype 'f32'"},
    {"S2 dtype null", TEXT("{\"a\":[null,[1],[0,4]]}"), 4, "name of a dtype"},
    {"S2 dtype with a value", TEXT("{\"a\":[{\"F32\":0},[1],[0,4]]}"), 4, "null is expected"},
    {"S2 two dtypes", TEXT("{\"a\":[{\"F32\":null,\"U8\":null},[1],[0,4]]}"), 4,
     "end of the object"},
    {"S2 empty dtype", TEXT("{\"a\":[{},[1],[0,4]]}"), 4, "a key is expected"},
    {"S2 shape null", TEXT("{\"a\":[\"U8\",null,[0,1]]}"), 1, "an array is expected"},
    {"S2 shape text", TEXT("{\"a\":[\"U8\",[\"1\"],[0,1]]}"), 1, "an integer"},
    {"S2 negative", TEXT("{\"a\":[\"U8\",[-1],[0,1]]}"), 1, "an integer"},
    {"S2 minus zero", TEXT("{\"a\":[\"U8\",[-0],[0,0]]}"), 0, "an integer"},
    {"S2 fraction", TEXT("{\"a\":[\"U8\",[1.0],[0,1]]}"), 1, "an integer"},
    {"S2 exponent", TEXT("{\"a\":[\"U8\",[1e0],[0,1]]}"), 1, "an integer"},
    {"S2 above 64 bits", TEXT("{\"a\":[\"U8\",[0,18446744073709551616],[0,0]]}"), 0, "an integer"},
    {"S2 one offset", TEXT("{\"a\":[\"U8\",[0],[0]]}"), 0, "an integer"},
    {"S2 three offsets", TEXT("{\"a\":[\"U8\",[1],[0,1,1]]}"), 1, "end of the array"},
    {"S2 overflow", TEXT("{\"a\":[\"U8\",[4294967296,4294967296],[0,0]]}"), 0, "overflows"},
    {"S2 overflow before a zero", TEXT("{\"a\":[\"U8\",[18446744073709551615,2,0],[0,0]]}"), 0,
     "overflows"},
    {"S2 overflow in bits", TEXT("{\"a\":[\"U8\",[2305843009213693952],[0,0]]}"), 0, "overflows"},
    {"S2 longer than its offsets", TEXT("{\"a\":[\"F32\",[2],[0,4]]}"), 4,
     "takes 8 bytes, it has 4"},
    {"S2 shorter than its offsets", TEXT("{\"a\":[\"F32\",[1],[0,8]]}"), 8,
     "takes 4 bytes, it has 8"},
    {"S2 half a byte", TEXT("{\"a\":[\"F4\",[3],[0,2]]}"), 2, "no whole number of bytes"},
    {"S2 number out of range", TEXT(A ",\"x\":[1e400]}}"), 4, "out of range"},
    {"S2 exponent out of range", TEXT(A ",\"x\":1E999999999999}}"), 4, "out of range"},
    {"S3 hole", TEXT("{\"a\":" U8("[1]", "0", "1") ",\"b\":" U8("[1]", "2", "3") "}"), 3,
     "it is at 2 to 3, and 1 is the next byte"},
    {"S3 hole first", TEXT("{\"a\":" U8("[1]", "1", "2") "}"), 2, "0 is the next byte"},
    {"S3 overlap", TEXT("{\"a\":" U8("[2]", "0", "2") ",\"b\":" U8("[2]", "1", "3") "}"), 3,
     "2 is the next byte"},
    {"S3 the same bytes", TEXT("{\"a\":" U8("[2]", "0", "2") ",\"b\":" U8("[2]", "0", "2") "}"), 2,
     "2 is the next byte"},
    {"S3 end before begin", TEXT("{\"a\":" U8("[0]", "1", "0") "}"), 1, "at 1 to 0"},
    {"S3 end before begin, behind another",
     TEXT("{\"a\":" U8("[1]", "0", "1") ",\"b\":" U8("[0]", "1", "0") "}"), 1,
     "at 1 to 0, and 1 is"},
    {"S3 no values inside another",
     TEXT("{\"a\":" U8("[2]", "0", "2") ",\"b\":" U8("[0]", "1", "1") "}"), 2, "at 1 to 1"},
    {"S3 no values behind the end", TEXT("{\"a\":" U8("[0]", "1", "1") "}"), 1, "at 1 to 1"},
    {"S3 bytes behind", TEXT(A "}}"), 5, "take 4 bytes, the file has 5"},
    {"S3 file ends before", TEXT(A "}}"), 3, "take 4 bytes, the file has 3"},
    {"S3 data without tensors", TEXT("{}"), 1, "take 0 bytes, the file has 1"},
    {"S3 ends wrap", TEXT("{\"a\":[\"F64\",[288230376151711743],[0,2305843009213693944]]}"), 4,
     "the file has 4"},
    {"S4 tensor twice", TEXT("{\"a\":" U8("[1]", "0", "1") ",\"a\":" U8("[1]", "0", "1") "}"), 1,
     "already"},
    {"S4 tensor twice by an escape",
     TEXT("{\"a\":" U8("[1]", "0", "1") ",\"\\u0061\":" U8("[1]", "1", "2") "}"), 2, "already"},
    {"S4 metadata key twice", TEXT("{\"__metadata__\":{\"a\":\"1\",\"a\":\"2\"}}"), 0, "already"},
    {"S4 field twice", TEXT(A ",\"shape\":[1]}}"), 4, "already"},
    {"S4 unknown field twice", TEXT(A ",\"x\":1,\"x\":2}}"), 4, "already"},
};

static void what_the_reference_code_accepts_is_accepted_S1(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(accepted) / sizeof(accepted[0]); i++) {
        const struct header_case *row = &accepted[i];
        AUTO_SAFETENSORS(table);
        struct bytes text = {(const uint8_t *)row->text, row->len};
        if (decode(&table, text, row->data_bytes) < 0)
            fail_msg("%s: %s", row->rule, error_message());
        assert_int_equal(table.header_bytes, 8 + row->len);
        assert_int_equal(table.data_bytes, row->data_bytes);
        assert_whole(&table);
    }
}

static void what_it_refuses_is_refused_S2_S3_and_duplicates_too_S4(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(refused) / sizeof(refused[0]); i++) {
        const struct header_case *row = &refused[i];
        AUTO_SAFETENSORS(table);
        struct bytes text = {(const uint8_t *)row->text, row->len};
        int err = decode(&table, text, row->data_bytes);
        if (err != E_INVALID || !strstr(error_message(), row->says))
            fail_msg("%s: %d, %s", row->rule, err, err ? error_message() : "accepted");
        assert_null(table.tensors);
        assert_int_equal(table.header_bytes, 0);
    }
}

static void every_known_dtype_has_its_size(void **state)
{
    (void)state;
    for (unsigned i = 0; i < DTYPE_COUNT; i++) {
        AUTO_BUF(text);
        AUTO_SAFETENSORS(table);
        unsigned bytes = dtype_bits((enum dtype)i); /* of eight values */
        must(buf_printf(&text, "{\"a\":[\"%s\",[8],[0,%u]]}", dtype_name((enum dtype)i), bytes));
        must(decode(&table, buf_bytes(&text), bytes));
        assert_int_equal(table.tensors[0].dtype, i);
        assert_int_equal(table.tensors[0].shape[0], 8);
    }
}

static void tensors_are_in_file_order_and_found_by_name(void **state)
{
    static const char text[] =
        "{\"b\":[\"U8\",[2,3],[4,10]],\"ab\":[\"F32\",[],[0,4]],\"a\":[\"I8\",[0,5],[4,4]],"
        "\"a\\u0000c\":[\"BF16\",[1],[10,12]],\"\\u00e9\":[\"U8\",[0],[4,4]]}";
    static const char *const names[] = {"ab", "a", "\xc3\xa9", "b", "a\0c"};
    AUTO_SAFETENSORS(table);

    (void)state;
    must(decode(&table, text_bytes(text), 12));
    assert_int_equal(table.count, 5);
    for (size_t i = 0; i < 5; i++) {
        assert_int_equal(table.tensors[i].name_len, i == 4 ? 3 : strlen(names[i]));
        assert_memory_equal(table.tensors[i].name, names[i], table.tensors[i].name_len + 1);
    }
    assert_whole(&table);
    assert_int_equal(table.tensors[0].dims, 0);
    assert_int_equal(tensor_values(&table.tensors[0]), 1);
    assert_int_equal(tensor_values(&table.tensors[1]), 0);
    assert_int_equal(table.tensors[3].shape[1], 3);
    assert_int_equal(tensor_bytes(&table.tensors[3]), 6);
    assert_null(safetensors_find(&table, ""));
    assert_null(safetensors_find(&table, "aa"));
    assert_null(safetensors_find(&table, "c"));
    assert_null(safetensors_find(&table, "\xc3\xa9\xc3\xa9"));
    AUTO_SAFETENSORS(empty);
    assert_null(safetensors_find(&empty, "a"));
}

/* Writing */

/* As the reference package writes it. */
static void a_header_has_its_golden_bytes(void **state)
{
    static const uint64_t shape[] = {2, 3};
    static const struct tensor tensors[] = {
        {.name = "q\"\n\x01\xc3\xa9",
         .name_len = 6,
         .dtype = DTYPE_F32,
         .dims = 2,
         .shape = shape,
         .begin = 0,
         .end = 24},
        {.name = "s", .name_len = 1, .dtype = DTYPE_F16, .dims = 0, .begin = 24, .end = 26},
    };
    static const char golden[] =
        "\xa0\0\0\0\0\0\0\0"
        "{\"__metadata__\":{\"format\":\"pt\"},"
        "\"q\\\"\\n\\u0001\xc3\xa9\":{\"dtype\":\"F32\",\"shape\":[2,3],\"data_offsets\":[0,24]},"
        "\"s\":{\"dtype\":\"F16\",\"shape\":[],\"data_offsets\":[24,26]}}      ";
    AUTO_BUF(out);
    AUTO_BUF(none);

    (void)state;
    must(buf_append_text(&out, "before"));
    must(safetensors_encode(&out, tensors, 2));
    assert_int_equal(out.len, 6 + sizeof(golden) - 1);
    assert_memory_equal(out.data, "before", 6);
    assert_memory_equal(out.data + 6, golden, sizeof(golden) - 1);
    must(safetensors_encode(&none, NULL, 0));
    assert_int_equal(none.len, 8 + 32);
    assert_memory_equal(none.data + 8, "{\"__metadata__\":{\"format\":\"pt\"}}", 32);
}

static void header_of_file(struct buf *out, uint64_t *file_bytes, const char *path)
{
    AUTO_FREE(char, full);
    AUTO_BUF(file);
    uint64_t size;

    must(path_join(&full, FIXTURES, path));
    must(file_read(&file, full, LIMIT_FILE));
    must(safetensors_header_size(&size, buf_bytes(&file), file.len));
    must(buf_append(out, file.data, (size_t)size));
    *file_bytes = file.len;
}

static size_t files_tried;

/* PEFT and Transformers write through the reference code: what it wrote comes out again. */
static void file_trip(const char *path)
{
    AUTO_BUF(header);
    AUTO_BUF(encoded);
    AUTO_SAFETENSORS(table);
    uint64_t file_bytes;

    header_of_file(&header, &file_bytes, path);
    must(safetensors_decode(&table, buf_bytes(&header), file_bytes));
    assert_whole(&table);
    must(safetensors_encode(&encoded, table.tensors, table.count));
    if (!bytes_equal(buf_bytes(&header), buf_bytes(&encoded)))
        fail_msg("%s: another header", path);
    files_tried++;
}

static void files_try(const char *below)
{
    AUTO_FREE(char, dir);
    const char *name = NULL;

    must(path_join(&dir, FIXTURES, below));
    DIR *entries = opendir(dir);
    if (!entries) {
        if (strlen(below) > 12 && strcmp(below + strlen(below) - 12, ".safetensors") == 0)
            file_trip(below);
        return;
    }
    while (dir_next(&name, entries, dir) == 0 && name) {
        AUTO_FREE(char, next);
        must(path_join(&next, below, name));
        files_try(next);
    }
    closedir(entries);
}

static void every_real_header_is_written_as_it_was(void **state)
{
    (void)state;
    files_tried = 0;
    files_try("adapter");
    assert_int_equal(files_tried, 83);
    files_try("base");
    assert_true(files_tried > 83);
}

/* Damage */

static void every_truncation_is_refused(void **state)
{
    AUTO_BUF(header);
    uint64_t file_bytes;

    (void)state;
    header_of_file(&header, &file_bytes, "adapter/llama-vectors-only/adapter_model.safetensors");
    for (size_t len = 0; len < header.len; len++) {
        AUTO_FREE(uint8_t, copy);
        AUTO_SAFETENSORS(table);
        copy = malloc(len + 1);
        assert_non_null(copy);
        memcpy(copy, header.data, len);
        /* The file is as short as that; or it is not, and only the bytes given are. */
        assert_int_equal(safetensors_decode(&table, (struct bytes){copy, len}, len), E_INVALID);
        assert_int_equal(
            safetensors_decode(&table, (struct bytes){copy, len}, file_bytes), E_INVALID
        );
        /* The header says itself that it is shorter. */
        if (len >= 8) {
            put_length(copy, len - 8);
            int err = safetensors_decode(&table, (struct bytes){copy, len}, file_bytes);
            assert_int_equal(err, E_INVALID);
        }
    }
    for (uint64_t bytes = header.len; bytes < file_bytes; bytes++) {
        AUTO_SAFETENSORS(table);
        assert_int_equal(safetensors_decode(&table, buf_bytes(&header), bytes), E_INVALID);
    }
}

static void every_flipped_bit_is_refused_or_gives_a_whole_table(void **state)
{
    AUTO_BUF(header);
    uint64_t file_bytes;
    size_t accepted_bits = 0;

    (void)state;
    header_of_file(&header, &file_bytes, "adapter/llama/step-120/adapter_model.safetensors");
    for (size_t bit = 0; bit < 8 * header.len; bit++) {
        AUTO_SAFETENSORS(table);
        header.data[bit / 8] ^= (uint8_t)(1 << bit % 8);
        int err = safetensors_decode(&table, buf_bytes(&header), file_bytes);
        if (err == 0) {
            accepted_bits++;
            assert_whole(&table);
        } else {
            assert_null(table.tensors);
            assert_true(err == E_INVALID || (err == E_LIMIT && bit < 64));
        }
        header.data[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
    /* A letter of a name may change, what stands for nothing not. */
    assert_true(accepted_bits > 100 && accepted_bits < 8 * header.len / 2);
}

/* Limits */

static void sizes_have_their_limit_S5(void **state)
{
    static const struct {
        uint64_t length, file_bytes;
        int err;
    } cases[] = {
        {0, 8, 0},
        {2, 10, 0},
        {2, 9, E_INVALID},
        {3, 10, E_INVALID},
        {0, 7, E_INVALID},
        {0, 0, E_INVALID},
        {LIMIT_SAFETENSORS_HEADER, LIMIT_SAFETENSORS_HEADER + 8, 0},
        {LIMIT_SAFETENSORS_HEADER, LIMIT_SAFETENSORS_HEADER + 7, E_INVALID},
        {LIMIT_SAFETENSORS_HEADER, UINT64_MAX, 0},
        {LIMIT_SAFETENSORS_HEADER + 1, LIMIT_SAFETENSORS_HEADER + 9, E_LIMIT},
        {LIMIT_SAFETENSORS_HEADER + 1, 8, E_LIMIT},
        {UINT64_C(1) << 63, 8, E_LIMIT},
        {UINT64_MAX - 7, UINT64_MAX, E_LIMIT},
        {UINT64_MAX, UINT64_MAX, E_LIMIT},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        uint8_t prefix[8];
        uint64_t size = 77;
        put_length(prefix, cases[i].length);
        int err = safetensors_header_size(&size, (struct bytes){prefix, 8}, cases[i].file_bytes);
        assert_int_equal(err, cases[i].err);
        assert_int_equal(size, err ? 77 : 8 + cases[i].length);
    }
    for (size_t len = 0; len < 8; len++) {
        uint64_t size;
        const uint8_t prefix[8] = {0};
        assert_int_equal(
            safetensors_header_size(&size, (struct bytes){prefix, len}, 100), E_INVALID
        );
    }
}

static void nesting_has_the_reference_codes_limit(void **state)
{
    (void)state;
    for (int depth = 124; depth <= 128; depth++) {
        AUTO_BUF(text);
        AUTO_SAFETENSORS(table);
        must(buf_append_text(&text, A ",\"x\":"));
        for (int i = 0; i < depth; i++)
            must(buf_append_text(&text, "["));
        for (int i = 0; i < depth; i++)
            must(buf_append_text(&text, "]"));
        must(buf_append_text(&text, "}}"));
        assert_int_equal(decode(&table, buf_bytes(&text), 4), depth <= 125 ? 0 : E_LIMIT);
    }
}

/* `count` tensors of `size` bytes, in an order that is neither that of names nor of offsets. */
static void many_tensors(struct buf *text, size_t count, size_t size)
{
    must(buf_append_byte(text, '{'));
    for (size_t i = 0; i < count; i++) {
        char entry[64];
        size_t at = i * 7919 % count, begin = at * size;
        int len = snprintf(
            entry, sizeof(entry), "%s\"%zx\":[\"U8\",[%zu],[%zu,%zu]]", i ? "," : "",
            at * 31 % count, size, begin, begin + size
        );
        must(buf_append(text, entry, (size_t)len));
    }
    must(buf_append_byte(text, '}'));
}

/* What a decoding may take at once, in bytes of its text. */
static void decode_measured(struct bytes text, uint64_t data_bytes, int wanted, size_t times)
{
    AUTO_SAFETENSORS(table);
    clock_t begun = clock();

    fault_largest = 0;
    int err = decode(&table, text, data_bytes);
    if (err != wanted)
        fail_msg("%d: %s", err, err < 0 ? error_message() : "accepted");
    assert_true(fault_largest <= times * text.len);
    assert_true(clock() - begun < 20 * CLOCKS_PER_SEC);
}

static void a_million_tensors_are_the_limit(void **state)
{
    (void)state;
    for (size_t more = 0; more < 2; more++) {
        AUTO_BUF(text);
        many_tensors(&text, (size_t)LIMIT_TENSORS + more, 0);
        decode_measured(buf_bytes(&text), 0, more ? E_LIMIT : 0, 3);
    }
}

static void tensors_out_of_order_take_no_quadratic_time(void **state)
{
    AUTO_BUF(text);

    (void)state;
    many_tensors(&text, 500000, 9);
    decode_measured(buf_bytes(&text), 4500000, 0, 3);
}

/* LIMIT_SAFETENSORS_HEADER bytes that begin and end so, and repeat `unit` in between. */
static void
fill(struct buf *text, const char *begin, const char *unit, const char *end, char padding)
{
    size_t limit = (size_t)LIMIT_SAFETENSORS_HEADER, n = strlen(unit);

    must(buf_append_text(text, begin));
    must(buf_resize(text, limit));
    size_t at = strlen(begin), stop = limit - strlen(end);
    for (; at + n <= stop; at += n)
        memcpy(text->data + at, unit, n);
    memset(text->data + at, padding, stop - at);
    memcpy(text->data + stop, end, limit - stop);
}

static void the_longest_header_is_read_in_bounded_memory_S5(void **state)
{
    static const struct {
        const char *begin, *unit, *end;
        uint64_t data_bytes;
        size_t times;
        int err;
    } cases[] = {
        {"{", " ", "}", 0, 1, 0},
        {"{\"", "n", "\":[\"U8\",[],[0,1]]}", 1, 1, 0},
        {"{\"\\u0061", "\\n", "\":[\"U8\",[],[0,1]]}", 1, 1, 0},
        {"{\"a\":[\"U8\",[1", ",1", "],[0,1]]}", 1, 4, 0},
        {"{\"__metadata__\":{\"a\":\"", "v", "\"}}", 0, 1, 0},
        {"{\"a\":{\"x\":[1", ",1", "],\"dtype\":\"U8\",\"shape\":[],\"data_offsets\":[0,1]}}", 1, 1,
         0},
        {"{\"a\":{\"x\":1", "0", ".0,\"dtype\":\"U8\",\"shape\":[],\"data_offsets\":[0,1]}}", 1, 2,
         E_INVALID},
        {"{\"a\":{\"x\":0.", "0", ",\"dtype\":\"U8\",\"shape\":[],\"data_offsets\":[0,1]}}", 1, 2,
         0},
        {"{\"a\":[\"U8\",[],[0,1]]", ",\"\":0", "}", 1, 1, E_INVALID},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        AUTO_BUF(text);
        fill(
            &text, cases[i].begin, cases[i].unit, cases[i].end,
            cases[i].unit[0] == ',' ? ' ' : cases[i].unit[0]
        );
        decode_measured(buf_bytes(&text), cases[i].data_bytes, cases[i].err, cases[i].times);
    }
}

static void a_header_that_is_too_long_is_not_written_S5(void **state)
{
    AUTO_BUF(out);
    AUTO_FREE(char, name);
    struct tensor tensor = {.name_len = (size_t)LIMIT_SAFETENSORS_HEADER};

    (void)state;
    name = array_new(tensor.name_len + 1, 1);
    assert_non_null(name);
    memset(name, 'n', tensor.name_len);
    tensor.name = name;
    assert_int_equal(safetensors_encode(&out, &tensor, 1), E_LIMIT);
    assert_int_equal(out.len, 0);
    /* Around the name there are 86 bytes. */
    tensor.name_len -= 86;
    must(safetensors_encode(&out, &tensor, 1));
    assert_int_equal(out.len, 8 + LIMIT_SAFETENSORS_HEADER);
}

/* Faults */

static const char rich[] =
    "{\"__metadata__\":{\"k\\n\":\"v\"},\"a\\u0062\":{\"x\":1e1,\"dtype\":\"F32\",\"shape\":[1,2],"
    "\"data_offsets\":[0,8]},\"z\":[\"U8\",[0],[8,8]]}";

static void every_allocation_failure_is_reported_while_reading(void **state)
{
    int err, n = 0;

    (void)state;
    do {
        AUTO_SAFETENSORS(table);
        fault_after = n++;
        err = decode(&table, text_bytes(rich), 8);
        fault_after = -1;
        assert_true(err == 0 || err == E_NOMEM);
        assert_int_equal(table.tensors == NULL, err < 0);
    } while (err < 0);
    assert_true(n > 7);
}

static void every_allocation_failure_is_reported_while_writing(void **state)
{
    AUTO_SAFETENSORS(table);
    int err, n = 0;

    (void)state;
    must(decode(&table, text_bytes(rich), 8));
    do {
        AUTO_BUF(out);
        fault_after = n++;
        err = safetensors_encode(&out, table.tensors, table.count);
        fault_after = -1;
        assert_true(err == 0 || err == E_NOMEM);
        assert_int_equal(out.len == 0, err < 0);
    } while (err < 0);
    assert_true(n > 4);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_the_reference_code_accepts_is_accepted_S1),
        cmocka_unit_test(what_it_refuses_is_refused_S2_S3_and_duplicates_too_S4),
        cmocka_unit_test(every_known_dtype_has_its_size),
        cmocka_unit_test(tensors_are_in_file_order_and_found_by_name),
        cmocka_unit_test(a_header_has_its_golden_bytes),
        cmocka_unit_test(every_real_header_is_written_as_it_was),
        cmocka_unit_test(every_truncation_is_refused),
        cmocka_unit_test(every_flipped_bit_is_refused_or_gives_a_whole_table),
        cmocka_unit_test(sizes_have_their_limit_S5),
        cmocka_unit_test(nesting_has_the_reference_codes_limit),
        cmocka_unit_test(a_million_tensors_are_the_limit),
        cmocka_unit_test(tensors_out_of_order_take_no_quadratic_time),
        cmocka_unit_test(the_longest_header_is_read_in_bounded_memory_S5),
        cmocka_unit_test(a_header_that_is_too_long_is_not_written_S5),
        cmocka_unit_test(every_allocation_failure_is_reported_while_reading),
        cmocka_unit_test(every_allocation_failure_is_reported_while_writing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
