/* Requests to a registry. See oci_request.h. */
#include "store/oci_request.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "format/json.h"
#include "format/text.h"

#define PAUSE_MS       50u
#define PATIENCE_MS    30000u /* what a server may ask for */
#define PAUSE_SLICE_MS 100u

int oci_url(char **out, const struct oci_client *client, const char *what)
{
    AUTO_BUF(url);

    int err = buf_printf(&url, "%s/v2/%s/%s", client->name.origin, client->name.repository, what);
    if (err == 0)
        *out = (char *)buf_take(&url).data;
    return err;
}

static int moved(struct oci_client *client)
{
    uint64_t bytes = http_bytes(client->http);

    if (client->max_bytes && bytes > client->max_bytes) {
        int err = error_set(
            E_LIMIT, "more than %llu bytes come from there", (unsigned long long)client->max_bytes
        );
        return error_hint(err, "--max-bytes N allows more");
    }
    return client->moved ? client->moved(client->moved_context, bytes) : 0;
}

int oci_request_once(
    struct http_response *out, struct oci_client *client, const struct http_request *request
)
{
    struct http_request authorized = *request;
    bool is_there = http_same_origin(request->url, client->name.origin);

    for (unsigned answers = 0;; answers++) {
        authorized.authorization = is_there ? client->auth.header : NULL;
        int err = http_perform(out, client->http, &authorized);
        if (err < 0 || (err = moved(client)) < 0)
            return err;
        /* Once, and once more for a token that has ended, or does not allow this. */
        if (out->status != 401 || !is_there || answers == 2)
            return 0;
        if ((err = oci_auth_answer(&client->auth, out)) < 0)
            return err;
    }
}

bool oci_is_transient(int err, const struct http_response *response)
{
    if (err < 0)
        return err == E_IO && response->is_worth_retrying;
    return response->status == 429 || response->status == 408 ||
           (response->status >= 500 && response->status != 501 && response->status != 505);
}

/* Retry-After in seconds; dates are not worth the trouble. 0 where there is none. */
static unsigned wanted_ms(const struct http_response *response)
{
    struct bytes text;
    uint64_t seconds;

    if (!http_header(&text, response, "retry-after", 0) || !text_parse_uint64(&seconds, text))
        return 0;
    return seconds > PATIENCE_MS / 1000 ? PATIENCE_MS : (unsigned)seconds * 1000;
}

int oci_pause(unsigned tried, const struct http_response *response)
{
    unsigned ms = wanted_ms(response);
    int err = interrupt_check();

    if (ms == 0) {
        ms = PAUSE_MS;
        for (unsigned i = 1; i < tried && i < OCI_TRIES; i++)
            ms *= 3;
    }
    for (; err == 0 && ms; ms -= ms < PAUSE_SLICE_MS ? ms : PAUSE_SLICE_MS) {
        unsigned slice = ms < PAUSE_SLICE_MS ? ms : PAUSE_SLICE_MS;
        nanosleep(&(struct timespec){0, (long)slice * 1000000}, NULL);
        err = interrupt_check();
    }
    return err;
}

int oci_request(
    struct http_response *out,
    struct oci_client *client,
    const struct http_request *request,
    void (*again)(void *context)
)
{
    struct http_request hurried = *request;
    unsigned tries = client->hurry_seconds ? 1 : OCI_TRIES;

    if (client->hurry_seconds)
        hurried.seconds = client->hurry_seconds;
    for (unsigned tried = 1;; tried++) {
        int err = oci_request_once(out, client, &hurried);
        if (!oci_is_transient(err, out) || tried == tries)
            return err;
        if ((err = oci_pause(tried, out)) < 0)
            return err;
        if (again)
            again(request->context);
    }
}

/* The first "message" in {"errors": [{"code", "message"}]}; empty where there is none. */
static void said(struct buf *out, struct bytes answer)
{
    AUTO_JSON(json);
    enum json_event event = JSON_NULL;

    json_init(&json, answer);
    while (event != JSON_END && json_next(&event, &json) == 0) {
        if (event != JSON_KEY || !json_text_is(&json, "message"))
            continue;
        if (json_next(&event, &json) == 0 && event == JSON_STRING && json.text.len)
            (void)!buf_append(out, json.text.data, json.text.len);
        return;
    }
}

int oci_refused(
    const struct oci_client *client, const struct http_response *response, const char *what
)
{
    char quoted[TEXT_QUOTE_SIZE] = "";
    AUTO_BUF(text);
    unsigned status = response->status;
    int code = status == 404                                     ? E_NOTFOUND
               : status == 412 || status == 409                  ? E_CONFLICT
               : status == 405 || status == 501 || status == 415 ? E_UNSUPPORTED
               : status == 413 || status == 416                  ? E_LIMIT
               : status == 401 || status == 403                  ? E_INVALID
                                                                 : E_IO;

    said(&text, buf_bytes(&response->refusal));
    if (text.len)
        text_quote(quoted, buf_bytes(&text));
    int err = error_set(
        code, "%s/%s: %s: the registry answers %u%s%s", client->name.host, client->name.repository,
        what, status, *quoted ? ", " : "", quoted
    );
    if (status == 401 || status == 403)
        return error_hint(err, "docker login %s with a user who may do that", client->name.host);
    return err;
}
