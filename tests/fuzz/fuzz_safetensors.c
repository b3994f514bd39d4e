/* Any bytes as a safetensors file: what is taken is a table that covers the file exactly, and the
   same header again after it was taken for an adapter's. */
#include <stdlib.h>
#include <string.h>

#include "format/frame.h"
#include "format/peft.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void table_check(const struct safetensors *table)
{
    uint64_t at = 0;

    for (size_t i = 0; i < table->count; i++) {
        const struct tensor *tensor = &table->tensors[i];
        if (tensor->begin != at || tensor->end < tensor->begin ||
            tensor_bytes(tensor) != tensor->end - tensor->begin)
            abort();
        if (strlen(tensor->name) == tensor->name_len &&
            safetensors_find(table, tensor->name) != tensor)
            abort();
        at = tensor->end;
    }
    if (at != table->data_bytes)
        abort();
}

static void vectors_check(const struct safetensors *table)
{
    AUTO_FREE(struct frame_vector, vectors);
    AUTO_FRAME_PARTS(parts);
    size_t count = 0;

    if (frame_vectors(&vectors, &count, table) == 0 &&
        frame_parts_cut(&parts, vectors, count, FRAME_PART_BYTES) == 0 && !parts.count)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char config[] = "{\"peft_type\":\"VERA\",\"r\":4}";
    AUTO_SAFETENSORS(table);
    AUTO_ADAPTER(adapter);
    struct bytes header = {data, size};
    uint64_t header_bytes = 0, file_bytes = size;

    /* The data is not looked at, so a few bytes can stand for a large file. */
    if (size > 8 && data[size - 1] == 1)
        file_bytes += UINT64_C(1) << (data[size - 2] % 32);
    if (safetensors_header_size(&header_bytes, header, file_bytes) < 0 || header_bytes > size)
        return 0;
    header.len = header_bytes;
    if (safetensors_decode(&table, header, file_bytes) < 0)
        return 0;
    table_check(&table);
    vectors_check(&table);
    if (adapter_decode(&adapter, text_bytes(config), header, file_bytes) == 0 &&
        adapter.payload_bytes > table.data_bytes)
        abort();
    return 0;
}
