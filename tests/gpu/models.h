/*
 * Models for the programs that need a GPU: weights read from a checkpoint's files, laid out in a
 * device's memory in many ways, and registered with libvera_apply, there and in host memory.
 */
#ifndef TESTS_GPU_MODELS_H
#define TESTS_GPU_MODELS_H

#include <filesystem>
#include <fstream>
#include <map>
#include <string>
#include <vector>

#include "tests/gpu/calls.h"

/* In C a structure and a function may share a name. */
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wshadow"
#include "apply/vera_apply.h"
#pragma GCC diagnostic pop

extern "C" {
#include "format/safetensors.h"
}

static inline void must_vera(int code, const char *call)
{
    if (code == VERA_OK)
        return;
    const char *hint = vera_error_hint();
    fprintf(
        stderr, "gpu: %.*s: %s%s%s\n", (int)strcspn(call, "("), call, vera_error_message(),
        hint ? "\nhint: " : "", hint ? hint : ""
    );
    exit(1);
}

#define VERA(call) must_vera(call, #call)

/* A failure of format/'s, in words. */
static inline void must_format(int err)
{
    if (err == 0)
        return;
    fprintf(stderr, "gpu: %s\n", error_message());
    exit(1);
}

/* ---- Files ---- */

struct weight {
    std::string name;
    enum dtype dtype;
    std::vector<uint64_t> shape;
    std::vector<uint8_t> data;

    uint64_t rows() const
    {
        return shape[0];
    }
    uint64_t columns() const
    {
        return shape.size() == 2 ? shape[1] : 1;
    }
    size_t element() const
    {
        return dtype_bits(dtype) / 8;
    }
};

/* All matrices and vectors of the safetensors files in a folder. */
static inline std::vector<weight> weights_read(const std::filesystem::path &folder)
{
    std::vector<weight> weights;

    for (const auto &entry : std::filesystem::directory_iterator(folder)) {
        if (entry.path().extension() != ".safetensors")
            continue;
        std::ifstream file(entry.path(), std::ios::binary);
        std::string text((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
        const uint8_t *data = (const uint8_t *)text.data();
        struct safetensors table;
        must_format(safetensors_decode(&table, {data, text.size()}, text.size()));
        for (size_t i = 0; i < table.count; i++) {
            const struct tensor *tensor = &table.tensors[i];
            const uint8_t *from = data + table.header_bytes;
            if (!dtype_is_applicable(tensor->dtype) || tensor->dims < 1 || tensor->dims > 2)
                continue;
            weights.push_back(
                {tensor->name,
                 tensor->dtype,
                 {tensor->shape, tensor->shape + tensor->dims},
                 {from + tensor->begin, from + tensor->end}}
            );
        }
        safetensors_release(&table);
    }
    return weights;
}

static inline void
weights_write(const std::filesystem::path &path, const std::vector<weight> &weights)
{
    std::vector<tensor> tensors;
    struct buf header = {};
    uint64_t at = 0;

    for (const weight &one : weights) {
        struct tensor tensor = {};
        tensor.name = one.name.c_str();
        tensor.name_len = one.name.size();
        tensor.dtype = one.dtype;
        tensor.dims = (unsigned)one.shape.size();
        tensor.shape = one.shape.data();
        tensor.begin = at;
        tensor.end = at += one.data.size();
        tensors.push_back(tensor);
    }
    must_format(safetensors_encode(&header, tensors.data(), tensors.size()));
    std::ofstream file(path, std::ios::binary);
    file.write((const char *)header.data, (std::streamsize)header.len);
    for (const weight &one : weights)
        file.write((const char *)one.data.data(), (std::streamsize)one.data.size());
    buf_release(&header);
    if (!file.flush()) {
        fprintf(stderr, "gpu: cannot write %s\n", path.c_str());
        exit(1);
    }
}

/* ---- In a device's memory ---- */

/* LAYOUT_FUSED: q, k and v of a layer below each other, in one matrix. */
enum layout {
    LAYOUT_DENSE,
    LAYOUT_PADDED,
    LAYOUT_TURNED,
    LAYOUT_HALVES,
    LAYOUT_FUSED,
    LAYOUTS,
};

static const char *const layout_names[LAYOUTS] = {
    "dense", "padded rows", "columns after each other", "halves of rows", "fused qkv"};

/* Rows of a tensor, from an offset in a block on. */
struct placed {
    size_t weight, block, offset;
    uint64_t row_begin, row_count, row_stride, column_stride; /* strides in elements */
};

struct device_block {
    uint8_t *data = nullptr;
    size_t bytes = 0;
};

struct device_weights {
    std::vector<placed> parts;
    std::vector<device_block> blocks;
};

/* What no weight is. */
static const uint8_t BETWEEN = 0x5a;

static inline size_t block_of(
    std::map<std::string, size_t> *fused, device_weights *out, const weight &one, enum layout layout
)
{
    size_t at = one.name.find("self_attn."), next = out->blocks.size();
    bool joins = layout == LAYOUT_FUSED && at != std::string::npos && one.shape.size() == 2 &&
                 one.name.find("o_proj") == std::string::npos;

    if (joins)
        next = fused->insert({one.name.substr(0, at), next}).first->second;
    out->blocks.resize(next < out->blocks.size() ? out->blocks.size() : next + 1);
    return next;
}

static inline void
part_place(device_weights *out, const weight &one, placed part, enum layout layout)
{
    uint64_t columns = one.columns();
    device_block *block = &out->blocks[part.block];
    uint64_t elements = part.row_count * columns;

    part.row_stride = columns;
    part.column_stride = 1;
    if (layout == LAYOUT_PADDED && one.shape.size() == 2) {
        part.row_stride = columns + 3;
        elements = part.row_count * part.row_stride;
    } else if (layout == LAYOUT_TURNED && one.shape.size() == 2) {
        part.row_stride = 1;
        part.column_stride = part.row_count + 1;
        elements = columns * part.column_stride;
    }
    part.offset = block->bytes;
    block->bytes += (size_t)elements * one.element();
    out->parts.push_back(part);
}

/* What the blocks must hold, with everything between the weights. */
static inline std::vector<std::vector<uint8_t>>
images(const device_weights &on_device, const std::vector<weight> &weights)
{
    std::vector<std::vector<uint8_t>> images;

    for (const device_block &block : on_device.blocks)
        images.push_back(std::vector<uint8_t>(block.bytes, BETWEEN));
    for (const placed &part : on_device.parts) {
        const weight &one = weights[part.weight];
        uint8_t *to = images[part.block].data() + part.offset;
        for (uint64_t n = 0; n < part.row_count * one.columns(); n++) {
            uint64_t row = n / one.columns(), column = n % one.columns();
            memcpy(
                to + (row * part.row_stride + column * part.column_stride) * one.element(),
                &one.data[(part.row_begin * one.columns() + n) * one.element()], one.element()
            );
        }
    }
    return images;
}

static inline device_weights weights_place(const std::vector<weight> &weights, enum layout layout)
{
    std::map<std::string, size_t> fused;
    device_weights out;

    for (size_t i = 0; i < weights.size(); i++) {
        uint64_t rows = weights[i].rows(), top = layout == LAYOUT_HALVES ? (rows + 2) / 3 : rows;
        for (uint64_t row = 0; row < rows; row += top) {
            placed part = {};
            part.weight = i;
            part.block = block_of(&fused, &out, weights[i], layout);
            part.row_begin = row;
            part.row_count = top < rows - row ? top : rows - row;
            part_place(&out, weights[i], part, layout);
        }
    }
    std::vector<std::vector<uint8_t>> wanted = images(out, weights);
    for (size_t i = 0; i < out.blocks.size(); i++) {
        device_block *block = &out.blocks[i];
        MUST(cudaMalloc(&block->data, block->bytes));
        MUST(cudaMemcpy(block->data, wanted[i].data(), block->bytes, cudaMemcpyHostToDevice));
    }
    MUST(cudaDeviceSynchronize());
    return out;
}

static inline void weights_free(device_weights *on_device)
{
    for (const device_block &block : on_device->blocks)
        MUST(cudaFree(block.data));
    on_device->blocks.clear();
}

/* Is every byte on the device what the weights on the host say? */
static inline bool weights_are(const device_weights &on_device, const std::vector<weight> &weights)
{
    std::vector<std::vector<uint8_t>> wanted = images(on_device, weights);
    bool same = true;

    for (size_t i = 0; i < on_device.blocks.size(); i++) {
        const device_block &block = on_device.blocks[i];
        std::vector<uint8_t> found(block.bytes);
        MUST(cudaMemcpy(found.data(), block.data, block.bytes, cudaMemcpyDeviceToHost));
        same = same && found == wanted[i];
    }
    return same;
}

/* ---- Registered ---- */

static inline int32_t vera_dtype_of(enum dtype dtype)
{
    return dtype == DTYPE_F32 ? VERA_F32 : dtype == DTYPE_BF16 ? VERA_BF16 : VERA_F16;
}

static inline vera_tensor tensor_of(const weight &one, int32_t layer)
{
    vera_tensor tensor = {};

    tensor.size = sizeof(tensor);
    tensor.name = one.name.c_str();
    tensor.rows = one.rows();
    tensor.columns = one.shape.size() == 2 ? one.columns() : 0;
    tensor.dtype = vera_dtype_of(one.dtype);
    tensor.layer = one.shape.size() == 2 ? layer : VERA_LAYER_UNKNOWN;
    return tensor;
}

/* In the memory of `weights`. */
static inline struct vera_model *model_on_host(std::vector<weight> &weights, int32_t layer)
{
    struct vera_model *model;

    VERA(vera_model_new(&model, nullptr));
    for (weight &one : weights) {
        vera_tensor tensor = tensor_of(one, layer);
        tensor.data = one.data.data();
        VERA(vera_model_register(model, &tensor));
    }
    VERA(vera_model_seal(model));
    return model;
}

/* Used on `stream`. */
static inline struct vera_model *model_on_device(
    const device_weights &on_device,
    const std::vector<weight> &weights,
    const vera_options *options,
    int32_t layer,
    cudaStream_t stream
)
{
    struct vera_model *model;
    int device;

    MUST(cudaGetDevice(&device));
    VERA(vera_model_new(&model, options));
    for (const placed &part : on_device.parts) {
        vera_tensor tensor = tensor_of(weights[part.weight], layer);
        tensor.data = on_device.blocks[part.block].data + part.offset;
        if (tensor.columns) {
            tensor.row_stride = (int64_t)part.row_stride;
            tensor.column_stride = (int64_t)part.column_stride;
        }
        tensor.row_begin = part.row_begin;
        tensor.row_count = part.row_count;
        tensor.stream = stream;
        tensor.memory = VERA_CUDA;
        tensor.device = device;
        VERA(vera_model_register(model, &tensor));
    }
    VERA(vera_model_seal(model));
    return model;
}

#endif
