/* A JSON object as a flat list. See config_entries.h. */
#include "cli/config_entries.h"

#include <stdlib.h>
#include <string.h>

#include "format/error.h"
#include "format/json_meaning.h"
#include "format/peft.h"

void config_entries_release(struct config_entries *entries)
{
    for (size_t i = 0; i < entries->count; i++) {
        free(entries->entries[i].key);
        buf_release(&entries->entries[i].value);
        buf_release(&entries->entries[i].meaning);
    }
    free(entries->entries);
    *entries = (struct config_entries){0};
}

/* Takes the value over. */
static int entry_add(struct config_entries *entries, const char *key, struct buf *value)
{
    int err = array_grow(
        &entries->entries, &entries->capacity, entries->count + 1, sizeof(*entries->entries)
    );

    if (err < 0)
        return err;
    struct config_entry *entry = &entries->entries[entries->count];
    if (!(entry->key = bytes_dup(text_bytes(key))))
        return error_wrap(E_NOMEM, "configuration");
    entry->value = buf_take(value);
    entries->count++;
    return json_meaning(&entry->meaning, buf_bytes(&entry->value), peft_key_is_set(key));
}

static void scalar_write(struct json_writer *writer, const struct json *json, enum json_event event)
{
    if (event == JSON_STRING)
        json_write_bytes(writer, json->text);
    else if (event == JSON_NUMBER)
        json_write_raw(writer, json->text);
    else if (event == JSON_NULL)
        json_write_null(writer);
    else
        json_write_bool(writer, event == JSON_TRUE);
}

/* The value that `event` began, as the writer has it. */
static int value_copy(struct json_writer *writer, struct json *json, enum json_event event)
{
    unsigned depth = 0;
    int err = 0;

    do {
        if (event == JSON_OBJECT_BEGIN)
            json_write_object_begin(writer);
        else if (event == JSON_ARRAY_BEGIN)
            json_write_array_begin(writer);
        else if (event == JSON_OBJECT_END)
            json_write_object_end(writer);
        else if (event == JSON_ARRAY_END)
            json_write_array_end(writer);
        else if (event == JSON_KEY)
            json_write_key_bytes(writer, json->text);
        else
            scalar_write(writer, json, event);
        depth += event == JSON_OBJECT_BEGIN || event == JSON_ARRAY_BEGIN;
        depth -= event == JSON_OBJECT_END || event == JSON_ARRAY_END;
    } while (depth > 0 && (err = json_next(&event, json)) == 0);
    return err;
}

static int value_read(struct buf *out, struct json *json, enum json_event event)
{
    struct json_writer writer;

    json_write_init(&writer, out);
    int err = value_copy(&writer, json, event);
    int end = json_write_end(&writer);
    return err < 0 ? err : end;
}

static int entries_read(struct config_entries *entries, struct json *json, const char *prefix);

static int entry_read(struct config_entries *entries, struct json *json, const char *key)
{
    AUTO_BUF(value);
    enum json_event event;
    int err = json_next(&event, json);

    if (err < 0)
        return err;
    if (event == JSON_OBJECT_BEGIN)
        return entries_read(entries, json, key);
    err = value_read(&value, json, event);
    return err < 0 ? err : entry_add(entries, key, &value);
}

/* Behind its '{'. No deeper than the parser goes. */
static int entries_read(struct config_entries *entries, struct json *json, const char *prefix)
{
    enum json_event event;
    size_t keys = 0;
    int err;

    for (; (err = json_next(&event, json)) == 0 && event == JSON_KEY; keys++) {
        AUTO_BUF(key);
        if ((err = buf_printf(&key, "%s%s", prefix, *prefix ? "." : "")) < 0 ||
            (err = buf_append(&key, json->text.data, json->text.len)) < 0)
            return err;
        const char *text = buf_text(&key);
        if (!text)
            return error_wrap(E_NOMEM, "configuration");
        if ((err = entry_read(entries, json, text)) < 0)
            return err;
    }
    if (err < 0 || keys || !*prefix)
        return err;
    AUTO_BUF(empty);
    err = buf_append_text(&empty, "{}");
    return err < 0 ? err : entry_add(entries, prefix, &empty);
}

static int entry_compare(const void *a, const void *b)
{
    return strcmp(((const struct config_entry *)a)->key, ((const struct config_entry *)b)->key);
}

int config_entries_read(struct config_entries *out, struct bytes json_text)
{
    AUTO_CONFIG_ENTRIES(entries);
    AUTO_JSON(json);
    int err;

    json_init(&json, json_text);
    if ((err = json_expect(&json, JSON_OBJECT_BEGIN)) < 0 ||
        (err = entries_read(&entries, &json, "")) < 0 || (err = json_expect(&json, JSON_END)) < 0)
        return err;
    if (entries.count)
        qsort(entries.entries, entries.count, sizeof(*entries.entries), entry_compare);
    *out = entries;
    entries = (struct config_entries){0};
    return 0;
}
