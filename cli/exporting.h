/* What `export --as lora`, `export --as gguf` and `publish` share: an adapter on its base model as
   LoRA's factors, what a form cannot hold, the files that came out. */
#ifndef CLI_EXPORTING_H
#define CLI_EXPORTING_H

#include "apply/lora_gguf.h"
#include "apply/lora_peft.h"
#include "cli/acting.h"

struct exporting {
    struct company company;
    struct lora lora; /* into `company` and the source */
    struct manifest files;
    struct lora_left left; /* what is not written */
};

#define AUTO_EXPORTING(name) __attribute__((cleanup(exporting_release))) struct exporting name = {0}

/* The values of --dtype, for the table of options. */
#define EXPORTING_DTYPES "fp32|bf16|fp16"

/* `text`: how `source` was named, for errors. `dtype`: one of EXPORTING_DTYPES; NULL: fp32. `out`
   stays where it is. company_load()'s errors. */
MUST_CHECK int exporting_load(
    struct exporting *out,
    struct source *source,
    const char *text,
    const char *base,
    const char *dtype,
    struct progress *progress
);
void exporting_release(struct exporting *exporting);

/* The adapter's biases and whole modules into exporting->left. */
MUST_CHECK int exporting_leave_others(struct exporting *exporting);

/* E_UNSUPPORTED, naming all that is left out, unless `drop` says that it may be. `form`: "LoRA for
   vLLM and SGLang". */
MUST_CHECK int exporting_check_left(const struct exporting *exporting, const char *form, bool drop);

/* What llama.cpp knows of the base model: from the config.json in `base`, else from the recorded
   one. E_INVALID with a hint where there is none. */
MUST_CHECK int
exporting_model(struct gguf_model *out, const struct exporting *exporting, const char *base);

/* Are these files in `dir`, byte for byte? */
MUST_CHECK int exporting_is_there(bool *out, const struct manifest *files, const char *dir);

uint64_t exporting_bytes(const struct manifest *files);

/* A line that names what was left out, where something was. */
MUST_CHECK int exporting_say_left(struct cli *cli, const struct exporting *exporting);
/* Keys "files" and "dropped". */
void exporting_json(struct json_writer *writer, const struct exporting *exporting);

#endif
