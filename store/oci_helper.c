/* Credential helpers. See oci_helper.h. */
#include "store/oci_helper.h"

#include <string.h>

#include <openssl/crypto.h>

#include "store/process.h"

#define ANSWER_MAX 16384

static int
answer_take(struct oci_credentials *out, const char *program, int status, struct bytes answer)
{
    static const char none[] = "credentials not found";

    if (status != 0) {
        bool is_none = answer.len >= sizeof(none) - 1 &&
                       memcmp(answer.data, none, sizeof(none) - 1) == 0;
        return is_none ? 0 : error_set(E_IO, "%s: fails with status %d", program, status);
    }
    int err = oci_helper_decode(out, answer);
    return err < 0 ? error_wrap(err, "%s", program) : 0;
}

int oci_helper_ask(struct oci_credentials *out, const char *name, const char *host)
{
    char answer[ANSWER_MAX] = "";
    AUTO_BUF(program);
    int status = 0;

    int err = buf_printf(&program, "docker-credential-%s", name);
    if (err < 0)
        return err;
    const char *const argv[] = {buf_text(&program), "get", NULL};
    if (!argv[0])
        return error_wrap(E_NOMEM, "credentials");
    static const char *const unchanged[] = {NULL};
    const struct process process = {
        .argv = argv,
        .environment = unchanged,
        .input = text_bytes(host),
        .output = answer,
        .output_size = sizeof(answer),
    };
    err = process_run(&status, &process);
    if (err == E_NOTFOUND) {
        err = error_set(E_UNSUPPORTED, "%s is not installed", argv[0]);
        err = error_hint(
            err, "the configuration of docker names it for %s; install it, or docker login %s anew",
            host, host
        );
    }
    if (err == 0)
        err = answer_take(out, argv[0], status, text_bytes(answer));
    OPENSSL_cleanse(answer, sizeof(answer));
    return err;
}
