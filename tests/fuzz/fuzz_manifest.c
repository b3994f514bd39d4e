/* Any bytes as one of the canonical texts: what is taken, written again, is what was taken (T6). */
#include <stdlib.h>

#include "format/manifest.h"
#include "format/pin.h"
#include "format/recipe.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void must_equal(int err, const struct buf *again, struct bytes text)
{
    if (err < 0 || !bytes_equal(buf_bytes(again), text))
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const struct bytes text = {data, size};
    struct recipe recipe;
    AUTO_MANIFEST(manifest);
    AUTO_PIN(pin);
    AUTO_BUF(again);

    if (manifest_decode(&manifest, text) == 0)
        must_equal(manifest_encode(&again, &manifest), &again, text);
    else if (pin_decode(&pin, text) == 0)
        must_equal(pin_encode(&again, &pin), &again, text);
    else if (recipe_decode(&recipe, text) == 0)
        must_equal(recipe_encode(&again, &recipe), &again, text);
    return 0;
}
