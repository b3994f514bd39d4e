/* vera swap: change the adapter of a running model, over the socket on which it listens. */
#include <inttypes.h>
#include <stddef.h>

#include "cli/asking.h"
#include "cli/describe.h"

#define TIMEOUT_DEFAULT 300
#define TIMEOUT_MOST    (UINT64_C(7) * 24 * 3600)

struct swap_arguments {
    const char *socket;
    bool detach, status;
    struct cli_count timeout;
};

static int swap_json(const struct control_state *state)
{
    struct json_writer writer;
    AUTO_BUF(json);

    cli_json_begin(&writer, &json);
    describe_uint_json(&writer, "epoch", state->epoch);
    cli_json_digest(&writer, "snapshot", state->attached ? &state->snapshot : NULL, true);
    cli_json_digest(&writer, "previous", state->had_previous ? &state->previous : NULL, true);
    json_write_key(&writer, "seconds");
    json_write_double(&writer, (double)state->nanoseconds / 1e9);
    json_write_key(&writer, "stopped");
    json_write_double(&writer, (double)state->stopped_nanoseconds / 1e9);
    describe_uint_json(&writer, "modules", state->modules);
    json_write_key(&writer, "pinned");
    json_write_bool(&writer, state->pinned);
    json_write_key(&writer, "torn");
    json_write_bool(&writer, state->torn);
    return cli_json_end(&writer);
}

/* "epoch 3: snapshot 2e6aef0a7578, on 36 modules in 21.05 ms, of these ..." */
static int state_say(struct cli *cli, const struct control_state *state)
{
    AUTO_BUF(line);
    int err = buf_printf(&line, "epoch %" PRIu64 ": ", state->epoch);

    if (!err && state->attached)
        err = buf_printf(
            &line, "snapshot %s on %" PRIu64 " modules", short_digest(&state->snapshot).text,
            state->modules
        );
    else if (!err)
        err = buf_append_text(&line, state->torn ? "a mixture" : "no adapter");
    if (!err && state->epoch)
        err = buf_printf(
            &line, " in %.2f ms, of these %.2f ms stopped; before it %s",
            (double)state->nanoseconds / 1e6, (double)state->stopped_nanoseconds / 1e6,
            state->had_previous ? short_digest(&state->previous).text : "none"
        );
    const char *text = err ? NULL : buf_text(&line);
    if (!text)
        return err ? err : E_NOMEM;
    cli_say(cli, "%s", text);
    if (!state->torn)
        return 0;
    cli_note(
        "vera: warning: torn: a GPU failed while the weights were written, and they are not to "
        "be used"
    );
    cli_note("hint: vera swap REV, or --detach, writes them all anew");
    return 0;
}

static int arguments_check(const struct cli *cli, const struct swap_arguments *arguments)
{
    bool named = cli->operand_count > 0;

    if (!arguments->socket)
        return cli_usage_error("--socket PATH is missing: where the running model listens");
    if (arguments->timeout.given &&
        (arguments->timeout.value < 1 || arguments->timeout.value > TIMEOUT_MOST))
        return cli_usage_error("--timeout takes 1 to %" PRIu64 " seconds", TIMEOUT_MOST);
    if (arguments->detach + arguments->status + named == 1)
        return 0;
    if (!named && !arguments->detach && !arguments->status)
        return cli_usage_error("REV is missing: a version or PEFT directory; or --detach, --status"
        );
    return cli_usage_error("REV, --detach and --status exclude each other");
}

static int
swap_ask(struct control_state *out, struct cli *cli, const struct swap_arguments *arguments)
{
    struct asking asking = {
        .path = arguments->socket,
        .verb = arguments->detach   ? CONTROL_DETACH
                : arguments->status ? CONTROL_STATUS
                                    : CONTROL_SWAP,
        .timeout = arguments->timeout.given ? arguments->timeout.value : TIMEOUT_DEFAULT,
        .progress = cli->progress,
    };
    AUTO_SOURCE(source);
    AUTO_BUF(bundle);
    int err;

    if (asking.verb == CONTROL_SWAP) {
        if ((err = source_load(&source, cli, cli->operands[0])) ||
            (err = bundle_encode(&bundle, &source.snapshot, false)))
            return err;
        asking.bundle = buf_bytes(&bundle);
    }
    return ask(out, &asking);
}

static int swap_run(struct cli *cli, const void *arguments_of)
{
    const struct swap_arguments *arguments = arguments_of;
    struct control_state state;
    int err = arguments_check(cli, arguments);

    if (err || (err = swap_ask(&state, cli, arguments)) || (err = state_say(cli, &state)))
        return err;
    if (!arguments->detach && !arguments->status && !state.pinned) {
        cli_note("vera: warning: unpinned: names, shapes and dtypes fit, the weights were not "
                 "compared");
        cli_note("hint: vera commit --base MODEL records the base model's weights with a version");
    }
    return cli->json ? swap_json(&state) : 0;
}

static const struct operand operands[] = {
    {"REV", true, false, COMPLETE_REVISION, "A version or PEFT directory"},
    {0},
};

#define FIELD(name) offsetof(struct swap_arguments, name)
static const struct option options[] = {
    {"socket", 's', OPTION_TEXT, FIELD(socket), "PATH", COMPLETE_FILE,
     "Where the running model listens"},
    {"detach", 0, OPTION_FLAG, FIELD(detach), NULL, COMPLETE_NOTHING,
     "Back to the model without an adapter"},
    {"status", 0, OPTION_FLAG, FIELD(status), NULL, COMPLETE_NOTHING,
     "Change nothing, tell what is there"},
    {"timeout", 0, OPTION_COUNT, FIELD(timeout), "SECONDS", COMPLETE_NOTHING,
     "Wait so long for the answer, else 300"},
    {0},
};

const struct command command_swap = {
    .name = "swap",
    .run = swap_run,
    .needs = MAY_USE_STORE,
    .summary = "Change the adapter of a running model",
    .details =
        "The program that has the model listens on a unix socket (libvera_apply, vera_apply(3); in "
        "Python verastore). It gets the adapter as a bundle, checks all of it against its weights, "
        "and goes from the weights without an adapter to those with this one, between two "
        "requests: they are, bit for bit, what vera apply writes. Where anything is wrong, the "
        "adapter before it stays, whole. Only a GPU that fails while it writes leaves a mixture; "
        "--status warns of it, and the next swap or --detach makes it right.\n\n"
        "Only the user who runs the model may: not even root. The adapter that is there already "
        "is left there, and the epoch stays.\n\n"
        "Once the request has left, Ctrl-C and --timeout end the waiting, not the swap; --status "
        "tells what became of it.",
    .examples = "vera swap main --socket /run/llm/vera.sock\n"
                "vera swap main~1 --socket /run/llm/vera.sock --json\n"
                "vera swap --status --socket /run/llm/vera.sock\n"
                "vera swap --detach --socket /run/llm/vera.sock",
    .operands = operands,
    .options = options,
    .arguments_size = sizeof(struct swap_arguments),
};
