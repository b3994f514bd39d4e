/*
 * Tests of cli/options.c and format/nearest.c: a command line, and what is written into the struct
 * of arguments, or the error.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

#include "cli/options.h"
#include "fault.h"
#include "format/nearest.h"

struct sample {
    bool force, dry;
    const char *message, *device;
    struct cli_list metrics;
    struct cli_count count;
};
#define FIELD(field) offsetof(struct sample, field)

static const struct option options[] = {
    {"force", 'f', OPTION_FLAG, FIELD(force), NULL, COMPLETE_NOTHING, "Force"},
    {"dry-run", 'd', OPTION_FLAG, FIELD(dry), NULL, COMPLETE_NOTHING, "Dry"},
    {"message", 'm', OPTION_TEXT, FIELD(message), "MSG", COMPLETE_NOTHING, "Message"},
    {"metric", 0, OPTION_LIST, FIELD(metrics), "K=V", COMPLETE_NOTHING, "Metric"},
    {"device", 0, OPTION_TEXT, FIELD(device), "auto|cpu", COMPLETE_WORDS, "Device"},
    {"", 'n', OPTION_COUNT, FIELD(count), "N", COMPLETE_NOTHING, "Number"},
    {0},
};
static const struct operand two_operands[] = {
    {"REV", false, false, COMPLETE_REVISION, "Version"},
    {"DIR", true, false, COMPLETE_DIRECTORY, "Directory"},
    {0},
};
static const struct operand some_operands[] = {
    {"DIR", false, false, COMPLETE_DIRECTORY, "Directory"},
    {"REV", false, true, COMPLETE_REVISION, "Version"},
    {0},
};
static const struct command two = {
    .name = "two",
    .options = options,
    .operands = two_operands,
    .arguments_size = sizeof(struct sample),
};
static const struct command some = {
    .name = "some",
    .options = options,
    .operands = some_operands,
    .arguments_size = sizeof(struct sample),
};
static const struct command none = {.name = "none"};

#define WORDS_MAX 12

/* Split at single spaces; "_" stands for an empty argument. */
static int split(char *words[WORDS_MAX], char *line)
{
    int n = 0;

    for (char *word = line; word && *word; n++) {
        char *space = strchr(word, ' ');
        assert_true(n < WORDS_MAX);
        if (space)
            *space++ = '\0';
        words[n] = strcmp(word, "_") == 0 ? word + 1 : word;
        word = space;
    }
    return n;
}

/* What was understood, in one line: flags, values, operands. */
static void describe(char *out, size_t size, const struct arguments *arguments)
{
    const struct sample *own = arguments->own;
    int n = snprintf(
        out, size, "%s%s%s%s", own->force ? "f " : "", own->dry ? "d " : "",
        arguments->common.json ? "json " : "", arguments->common.help ? "help " : ""
    );

    if (own->message)
        n += snprintf(out + n, size - (size_t)n, "m=%s ", own->message);
    if (own->device)
        n += snprintf(out + n, size - (size_t)n, "device=%s ", own->device);
    if (own->count.given)
        n += snprintf(out + n, size - (size_t)n, "n=%ju ", (uintmax_t)own->count.value);
    for (size_t i = 0; i < own->metrics.count; i++)
        n += snprintf(out + n, size - (size_t)n, "metric=%s ", own->metrics.values[i]);
    n += snprintf(out + n, size - (size_t)n, ":");
    for (size_t i = 0; i < arguments->operand_count; i++)
        n += snprintf(out + n, size - (size_t)n, " %s", arguments->operands[i]);
}

static void command_lines_mean_what_they_mean_in_git(void **state)
{
    (void)state;
    static const struct {
        const struct command *command;
        const char *line, *meaning;
    } cases[] = {
        {&two, "main", ": main"},
        {&two, "main out", ": main out"},
        {&two, "-f main -d out", "f d : main out"},
        {&two, "main out -fd", "f d : main out"},
        {&two, "-fdm text main", "f d m=text : main"},
        {&two, "-fdmtext main", "f d m=text : main"},
        {&two, "-m=text main", "m==text : main"},
        {&two, "--message text main", "m=text : main"},
        {&two, "--message=text main", "m=text : main"},
        {&two, "--message=a=b main", "m=a=b : main"},
        {&two, "--message= main", "m= : main"},
        {&two, "--message _ main", "m= : main"},
        {&two, "--message --force main", "m=--force : main"},
        {&two, "-m -- main", "m=-- : main"},
        {&two, "-m one -m two main", "m=two : main"},
        {&two, "--metric a=1 main --metric=b=2", "metric=a=1 metric=b=2 : main"},
        {&two, "-n 5 main", "n=5 : main"},
        {&two, "-n0 main", "n=0 : main"},
        {&two, "-n 18446744073709551615 main", "n=18446744073709551615 : main"},
        {&two, "--device cpu main", "device=cpu : main"},
        {&two, "--device=auto main", "device=auto : main"},
        {&two, "--json main", "json : main"},
        {&two, "-- main --force", ": main --force"},
        {&two, "main -- -f", ": main -f"},
        {&two, "-- -- --", ": -- --"},
        {&two, "- -", ": - -"},
        {&two, "-1 -.5", ": -1 -.5"},
        {&two, "_", ": "},
        {&two, "--help", "help :"},
        {&two, "-fh --no-such-option", "f help :"},
        {&some, "dir a", ": dir a"},
        {&some, "dir a b c -f d", "f : dir a b c d"},
    };
    char line[128], meaning[256], *words[WORDS_MAX];

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        AUTO_ARGUMENTS(arguments);
        snprintf(line, sizeof(line), "%s", cases[i].line);
        int argc = split(words, line);
        assert_int_equal(arguments_parse(&arguments, cases[i].command, argc, words), 0);
        describe(meaning, sizeof(meaning), &arguments);
        assert_string_equal(meaning, cases[i].meaning);
    }
}

static void wrong_command_lines_say_what_is_wrong(void **state)
{
    (void)state;
    static const struct {
        const struct command *command;
        const char *line, *message, *hint;
    } cases[] = {
        {&two, "", "two: REV is missing", NULL},
        {&two, "-f", "two: REV is missing", NULL},
        {&two, "a b c", "two: one operand too many: 'c'", NULL},
        {&some, "dir", "some: REV is missing", NULL},
        {&some, "", "some: DIR is missing", NULL},
        {&none, "x", "none: one operand too many: 'x'", NULL},
        {&none, "--force", "none: unknown option '--force'", NULL},
        {&two, "a --forse", "two: unknown option '--forse'", "did you mean '--force'?"},
        {&two, "a --forse=x", "two: unknown option '--forse'", "did you mean '--force'?"},
        {&two, "a --mess x", "two: unknown option '--mess'", "did you mean '--message'?"},
        {&two, "a -x", "two: unknown option '-x'", NULL},
        {&two, "a -json", "two: unknown option '-json'", "did you mean '--json'?"},
        {&two, "a -fx", "two: unknown option '-fx'", NULL},
        {&two, "a --=x", "two: unknown option '--'", NULL},
        {&two, "a -m", "two: option '-m' needs a value, MSG", NULL},
        {&two, "a --message", "two: option '--message' needs a value, MSG", NULL},
        {&two, "a --force=yes", "two: option '--force' takes no value", NULL},
        {&two, "a -n -1", "two: option '-n' takes a number, not '-1'", NULL},
        {&two, "a -n _", "two: option '-n' takes a number, not ''", NULL},
        {&two, "a -n 1k", "two: option '-n' takes a number, not '1k'", NULL},
        {&two, "a -n 18446744073709551616",
         "two: option '-n' takes a number, not '18446744073709551616'", NULL},
        {&two, "a --device au", "two: option '--device' takes auto|cpu, not 'au'", NULL},
        {&two, "a --device auto|cpu", "two: option '--device' takes auto|cpu, not 'auto|cpu'",
         NULL},
        {&two, "a --device _", "two: option '--device' takes auto|cpu, not ''", NULL},
    };
    char line[128], *words[WORDS_MAX];

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        AUTO_ARGUMENTS(arguments);
        snprintf(line, sizeof(line), "%s", cases[i].line);
        int argc = split(words, line);
        assert_int_equal(arguments_parse(&arguments, cases[i].command, argc, words), CLI_USAGE);
        assert_string_equal(error_message(), cases[i].message);
        if (cases[i].hint)
            assert_string_equal(error_hint_text(), cases[i].hint);
        else
            assert_null(error_hint_text());
    }
}

static void every_failed_allocation_is_out_of_memory(void **state)
{
    (void)state;
    char line[] = "--metric a=1 --message=text main --metric=b=2", *words[WORDS_MAX];
    int argc = split(words, line);
    int err = E_NOMEM, failures = 0;

    for (int after = 0; err != 0; after++) {
        AUTO_ARGUMENTS(arguments);
        fault_after = after;
        err = arguments_parse(&arguments, &two, argc, words);
        fault_after = -1;
        if (err != 0)
            assert_int_equal(err, E_NOMEM);
        failures += err != 0;
    }
    assert_true(failures >= 4);
}

static void json_is_seen_where_the_rest_is_wrong(void **state)
{
    (void)state;
    char with[] = "log --bogus --json", after[] = "log -- --json", *words[WORDS_MAX];

    split(words, with);
    assert_true(arguments_want_json(3, words));
    assert_false(arguments_want_json(2, words));
    split(words, after);
    assert_false(arguments_want_json(3, words));
}

static void the_nearest_name_is_found_or_none(void **state)
{
    (void)state;
    static const char *const names[] = {"init", "commit", "show", "log", "branch", "tag", "stats"};
    static const struct {
        const char *text, *nearest;
    } cases[] = {
        {"comit", "commit"},
        {"commit", "commit"},
        {"lgo", "log"},
        {"lg", "log"},
        {"sho", "show"},
        {"shwo", "show"},
        {"brnch", "branch"},
        {"tags", "tag"},
        {"status", "stats"},
        {"branches", "branch"},
        {"frob", NULL},
        {"x", NULL},
        {"", NULL},
        {"checkout", NULL},
        {"a-name-of-more-than-32-characters", NULL},
    };

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct nearest nearest;
        nearest_init(&nearest, cases[i].text);
        for (size_t n = 0; n < sizeof(names) / sizeof(names[0]); n++)
            nearest_offer(&nearest, names[n]);
        if (cases[i].nearest)
            assert_string_equal(nearest.name, cases[i].nearest);
        else
            assert_null(nearest.name);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(command_lines_mean_what_they_mean_in_git),
        cmocka_unit_test(wrong_command_lines_say_what_is_wrong),
        cmocka_unit_test(every_failed_allocation_is_out_of_memory),
        cmocka_unit_test(json_is_seen_where_the_rest_is_wrong),
        cmocka_unit_test(the_nearest_name_is_found_or_none),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
