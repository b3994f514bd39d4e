/* Any bytes through the JSON parser: it ends, fails the same way twice, and what it takes as JSON
   it takes again when the writer has written it. */
#include <stdlib.h>

#include "format/json.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int event_copy(struct json_writer *writer, enum json_event event, struct json *json)
{
    struct json_int number;

    switch (event) {
    case JSON_OBJECT_BEGIN:
        json_write_object_begin(writer);
        break;
    case JSON_OBJECT_END:
        json_write_object_end(writer);
        break;
    case JSON_ARRAY_BEGIN:
        json_write_array_begin(writer);
        break;
    case JSON_ARRAY_END:
        json_write_array_end(writer);
        break;
    case JSON_KEY:
        json_write_key_bytes(writer, json->text);
        break;
    case JSON_STRING:
        json_write_bytes(writer, json->text);
        break;
    case JSON_NUMBER:
        if (json_get_int(&number, json) == 0)
            json_write_int(writer, number);
        else
            json_write_null(writer);
        break;
    case JSON_TRUE:
    case JSON_FALSE:
        json_write_bool(writer, event == JSON_TRUE);
        break;
    case JSON_NULL:
        json_write_null(writer);
        break;
    case JSON_END:
    default:
        break;
    }
    return 0;
}

/* Read all of it, and write it again. */
static int copy(struct buf *out, struct bytes input)
{
    AUTO_JSON(json);
    struct json_writer writer;
    enum json_event event = JSON_NULL;
    int err;

    json_init(&json, input);
    json_write_init(&writer, out);
    while ((err = json_next(&event, &json)) == 0 && event != JSON_END)
        event_copy(&writer, event, &json);
    if (err < 0 && json_next(&event, &json) >= 0)
        abort();
    return err < 0 ? err : json_write_end(&writer);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    AUTO_BUF(once);
    AUTO_BUF(twice);

    if (copy(&once, (struct bytes){data, size}) < 0)
        return 0;
    if (copy(&twice, buf_bytes(&once)) < 0 || !bytes_equal(buf_bytes(&once), buf_bytes(&twice)))
        abort();
    return 0;
}
